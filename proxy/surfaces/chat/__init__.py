"""OpenAI's Chat Completions, as OpenRouter extends it: a body in, chunks or one body out."""
