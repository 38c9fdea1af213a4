"""What an answer consists of, whatever shape it had on the wire.

An answer is any number of deltas, and a failure where it breaks off. The usage is no event: the reader knows the last.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


@dataclass(slots=True)
class Delta:
    """A piece of one choice. A None says that this piece does not speak of it.

    `tool_calls` is OpenAI's list of call deltas; `extra` holds further fields of the choice (`logprobs`,
    `stop_reason`), `details` OpenRouter's `reasoning_details` as they came. Nobody changes a delta once it is made; it
    is not frozen because one is made for each token, and a frozen one takes longer to make.
    """

    index: int = 0
    reasoning: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    finish_reason: str | None = None
    extra: dict[str, Any] | None = None
    details: list[Any] | None = None

    @property
    def has_content(self) -> bool:
        """Whether it holds something that a client could be shown: thought, text or a tool call."""
        return bool(self.reasoning or self.content or self.tool_calls)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the provider reports them. None for a detail that it did not report, which is not the same as zero."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class FailureKind(StrEnum):
    CONNECT = "connect"  # no connection: refused, DNS, TLS
    NO_RESPONSE = "no_response"  # the connection ended before a byte of the response
    TIMEOUT = "timeout"  # no first token in time
    STALLED = "stalled"  # silence between two events
    CUT = "cut"  # the answer ended before its end
    PROTOCOL = "protocol"  # what came is no answer: HTML, nothing, broken framing
    RATE_LIMITED = "rate_limited"
    UNAVAILABLE = "unavailable"  # 502, 503, 529: not now
    SERVER_ERROR = "server_error"
    UNAUTHORIZED = "unauthorized"  # our credentials there, or our credit
    NOT_FOUND = "not_found"  # the model is not there
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    BAD_REQUEST = "bad_request"
    OURS = "internal"  # what came could not be put into words: a mistake of this program


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt gave no (whole) answer. `message` is the provider's and goes to operators, not to tenants."""

    kind: FailureKind
    message: str
    status: int | None = None
    retry_after_s: float | None = None


Event = Delta | Failure
