"""Anthropic's Messages: content blocks in, block events or one message out."""
