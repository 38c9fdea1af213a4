"""OpenAI's Completions: a raw prompt in, pieces of text or one body out."""
