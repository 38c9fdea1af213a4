"""Answers as an endpoint words them on the wire."""

from typing import Any

import orjson

DONE = b"data: [DONE]\n\n"


def event(body: Any) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def chunk(finish_reason: str | None = None, index: int = 0, **delta: Any) -> bytes:
    """One chunk of a stream."""
    return event({"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]})


def text(content: str, index: int = 0) -> bytes:
    return chunk(index=index, content=content)


def thought(reasoning: str) -> bytes:
    return chunk(reasoning_content=reasoning)


def call(name: str, arguments: str) -> bytes:
    """A whole call of a tool."""
    return chunk(tool_calls=[called(name, arguments)])


def called(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"index": 0, "id": "call_1", "type": "function", "function": function}


def end(finish_reason: str = "stop", index: int = 0) -> bytes:
    return chunk(finish_reason, index)


def used(prompt_tokens: int, completion_tokens: int) -> bytes:
    """The event of a stream that holds the provider's count."""
    return event({"choices": [], "usage": usage(prompt_tokens, completion_tokens)})


def whole(content: str, finish_reason: str | None = "stop", **more: Any) -> bytes:
    """A plain answer."""
    message = {"role": "assistant", "content": content}
    return orjson.dumps({"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}], **more})


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
