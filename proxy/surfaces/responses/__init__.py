"""OpenAI's Responses: input items in, typed events or one response object out."""
