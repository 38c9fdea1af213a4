"""Keep what a caller writes from being taken for a control token or a tag, by a tokenizer, a template or our readers.

`neutralise` changes a text that goes into a prompt; `restore` changes it back where the model repeats it.

Between the `<` and the rest of what looks like a control token goes a WORD JOINER (U+2060), which people do not see,
the model ignores and every tokenizer keeps. A `<` that has one behind it already gets another, so that
`restore` is the exact inverse of `neutralise`.
"""

import re

MARK = "\u2060"
# Llama 3's special tokens (and ChatML's, which Hermes's documents use), Hermes 4's tags.
CONTROL = re.compile(rf"<(?={MARK}|\|[a-z0-9_]+\|>|/?(?:think|tools|tool_call|tool_response)>)", re.IGNORECASE)


def neutralise(text: str) -> str:
    return CONTROL.sub("<" + MARK, text) if "<" in text else text


def restore(text: str) -> str:
    return text.replace("<" + MARK, "<") if MARK in text else text
