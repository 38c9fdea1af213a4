"""What a provider's refusal means. Its body may be a string, an object, a `detail`, a web page, or missing."""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from math import isnan
from typing import Any

import orjson

from providers.events import Failure, FailureKind

BY_STATUS = {
    400: FailureKind.BAD_REQUEST,
    401: FailureKind.UNAUTHORIZED,
    402: FailureKind.UNAUTHORIZED,
    403: FailureKind.UNAUTHORIZED,
    404: FailureKind.NOT_FOUND,
    405: FailureKind.NOT_FOUND,
    408: FailureKind.TIMEOUT,
    410: FailureKind.NOT_FOUND,
    413: FailureKind.CONTEXT_LENGTH,
    422: FailureKind.BAD_REQUEST,
    425: FailureKind.UNAVAILABLE,
    429: FailureKind.RATE_LIMITED,
    451: FailureKind.CONTENT_FILTER,
    502: FailureKind.UNAVAILABLE,
    503: FailureKind.UNAVAILABLE,
    504: FailureKind.TIMEOUT,
    529: FailureKind.UNAVAILABLE,
}
# vLLM: "This model's maximum context length is N tokens. However, you requested …"; OpenAI's code says the same.
CONTEXT = re.compile(
    r"context[_ ]length|maximum context|max_model_len|context window|too many tokens|prompt is too long", re.I
)
FILTER = re.compile(r"content[_ ](filter|policy)|moderation|flagged", re.I)
# OpenRouter, when none of what stands behind it takes a parameter: a 404 that is about the request.
NO_ROUTE = re.compile(r"no endpoints found that", re.I)
# Where no status says it: the `code` or `type` of an error in a stream that began with 200.
BY_WORD = (
    (re.compile(r"rate.?limit|too many requests", re.I), FailureKind.RATE_LIMITED),
    (re.compile(r"overloaded|unavailable", re.I), FailureKind.UNAVAILABLE),
    (re.compile(r"time.?out", re.I), FailureKind.TIMEOUT),
    (re.compile(r"invalid.?request|bad.?request", re.I), FailureKind.BAD_REQUEST),
)
STATUS = re.compile(r"[45]\d\d", re.ASCII)
TITLE = re.compile(r"<title[^>]*>\s*(.*?)\s*</title>", re.I | re.S)
MESSAGE_BYTES = 2_000


def classify(status: int, headers: Mapping[str, str], body: bytes, now_s: float) -> Failure:
    """What a response means whose status is not 200.

    `headers` have lower-case names; `now_s` is the Unix time, from which a date in `Retry-After` counts.
    """
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        parsed = body[:MESSAGE_BYTES].decode("utf-8", "replace")
    failure = read_error(status, parsed)
    kind = failure.kind
    if kind is FailureKind.BAD_REQUEST and body.lstrip()[:1] == b"<":
        kind = FailureKind.PROTOCOL  # a web page: something in front of the API spoke, and not about the request
    return Failure(kind, failure.message, status, retry_after_s(headers, now_s))


def read_error(status: int | None, body: Any) -> Failure:
    """What an error body means. Where no status says it (in a stream, in a 200), the body's `code` takes its place."""
    error, code = body, None
    if isinstance(body, dict):
        error = body.get("error") or body.get("detail") or body.get("message")
        code = body.get("code") or body.get("statusCode") or body.get("status")
    if isinstance(error, dict):
        code = error.get("code") or error.get("type")
    message = reason_of(error).strip()[:MESSAGE_BYTES] or "no reason given"
    if status is None and (stated := STATUS.fullmatch(str(code))):
        status = int(stated[0])
    return Failure(kind_of(status, code, message), message, status)


def reason_of(error: Any) -> str:
    """The text of an error that came as a text, a page, an object, or a list of what was wrong."""
    if isinstance(error, str):
        page = TITLE.search(error) if error.lstrip()[:1] == "<" else None
        return page[1] if page else error
    if isinstance(error, dict):
        message = str(error.get("message") or orjson.dumps(error).decode())
        metadata = error.get("metadata")
        if isinstance(metadata, dict) and metadata.get("raw"):  # OpenRouter: what the provider behind it said
            return f"{message}: {metadata['raw']}"
        return message
    return "" if error is None else orjson.dumps(error).decode()


def kind_of(status: int | None, code: Any, message: str) -> FailureKind:
    text = f"{code or ''} {message}"
    if status in (None, 400, 413, 422) and CONTEXT.search(text):
        return FailureKind.CONTEXT_LENGTH
    if status in (None, 400, 403) and FILTER.search(text):
        return FailureKind.CONTENT_FILTER
    if status == 404 and NO_ROUTE.search(text):
        return FailureKind.BAD_REQUEST
    if status is None:
        return next((kind for words, kind in BY_WORD if words.search(str(code))), FailureKind.SERVER_ERROR)
    return BY_STATUS.get(status, FailureKind.SERVER_ERROR)


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """`Retry-After` in seconds or as a date, else when the emptied bucket that Nous reports is full again.

    Never negative, never more than an hour; None where nothing says it.
    """
    value = headers.get("retry-after")
    if value is None:
        value = next((headers.get(f"x-ratelimit-reset-{name}") for name in emptied_buckets(headers)), None)
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now_s
        except (ValueError, OverflowError):
            return None
    return None if isnan(seconds) else min(max(seconds, 0.0), 3_600.0)


def emptied_buckets(headers: Mapping[str, str]) -> list[str]:
    """The rate limits that are used up, in the order of how late they are full again, the latest first."""
    names = ("requests-1h", "tokens-1h", "requests", "tokens")
    return [name for name in names if headers.get(f"x-ratelimit-remaining-{name}") == "0"]
