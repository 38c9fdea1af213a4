"""A request's body as JSON that every reader understands alike."""

import json
from typing import Any

import orjson

from proxy.entry.api_errors import ApiError


def read_json(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`. Raises ApiError, also for what readers of JSON understand differently.

    What is sent on is encoded anew. NaN, lone surrogates and absurd nesting are refused by orjson.
    """
    try:
        body = orjson.loads(payload)
        again = orjson.dumps(body)
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_json", f"the body is not valid JSON: {error}") from None
    except orjson.JSONEncodeError:
        raise ApiError("invalid_json", "the body is nested too deeply") from None
    if type(body) is not dict:
        raise ApiError("invalid_json", "the body must be a JSON object")
    # Of a key that stands twice orjson keeps the last: then a colon is missing, unless one was spelt as an escape.
    if payload.count(b":") != again.count(b":") or b"\\u003a" in payload or b"\\u003A" in payload:
        refuse_duplicate_keys(payload)
    return body


def refuse_duplicate_keys(payload: bytes) -> None:
    """Refuse an object in which a key stands twice: of its two values, each reader may take another one."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ApiError("invalid_json", f"the key {name[:64]!r} stands twice in one object")
            seen.add(name)

    try:
        json.loads(payload, object_pairs_hook=unique)
    except RecursionError:
        raise ApiError("invalid_json", "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError("invalid_json", f"the body is not valid JSON: {error}") from None
