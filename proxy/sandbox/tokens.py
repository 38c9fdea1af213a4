"""The sandbox's tokenizer: a token is a run of white space with the word that follows it.

It never counts more than a model's own vocabulary would, so its usage stands up to a gateway's own count.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

PIECE = re.compile(r"\s*\S+|\s+")
MESSAGE_TOKENS = 4  # what a chat template puts around a message
CONVERSATION_TOKENS = 5
CACHE_BLOCK_TOKENS = 16  # an engine's prefix cache holds whole blocks


def pieces(text: str) -> list[str]:
    """The tokens of `text`; joined they are the text again."""
    return PIECE.findall(text)


def count_tokens(text: str) -> int:
    return len(pieces(text))


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """What the prompt of a chat completion, or of a raw one, counts."""
    if "prompt" in body:
        return count_tokens(str(body["prompt"]))
    return CONVERSATION_TOKENS + _tools(body) + sum(map(_message, body["messages"]))


def cached_tokens(body: Mapping[str, Any]) -> int:
    """The tokens of the prompt that an engine has cached: all messages but the last, in whole blocks."""
    if len(body.get("messages") or ()) < 2:
        return 0
    earlier = CONVERSATION_TOKENS + _tools(body) + sum(map(_message, body["messages"][:-1]))
    return earlier // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS


def content_text(content: Any) -> str:
    """The text of a message's content: a string, a list of parts, or nothing."""
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _message(message: Mapping[str, Any]) -> int:
    calls = message.get("tool_calls")
    return MESSAGE_TOKENS + count_tokens(content_text(message.get("content"))) + (_json(calls) if calls else 0)


def _tools(body: Mapping[str, Any]) -> int:
    return _json(body["tools"]) if body.get("tools") else 0


def _json(value: Any) -> int:
    return count_tokens(orjson.dumps(value).decode())
