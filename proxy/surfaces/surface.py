"""What a surface is: an API that apps speak, translated into canonical requests and out of canonical events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from providers.chat_request import ChatRequest
from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import Preferences

SuffixOf = Callable[[str], str | None]
"""What suffix a model name carries ("" for none), or None where the model is not served."""


@dataclass(frozen=True, slots=True)
class SurfaceRequest:
    """What a surface reads out of a request's body.

    `chat` is what the model is asked, `preferences` say which endpoints may be asked. `reasoning_format` is one of
    `reasoning.FORMATS`, or None where the caller leaves it to the key. `ignored` are the names of the fields that no
    endpoint could understand, `echoed` the fields that the answer repeats.
    """

    chat: ChatRequest
    preferences: Preferences
    reasoning_format: str | None
    ignored: tuple[str, ...]
    echoed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the wording of one answer depends on beside its deltas.

    `created` is a Unix time in seconds, `reasoning_format` one of `reasoning.FORMATS`, `echoed` the request's.
    """

    request_id: UUID
    created: int
    model: str
    reasoning_format: str
    echoed: Mapping[str, Any] = field(default_factory=dict)


class AnswerStream(Protocol):
    """Words one streamed answer: a delta in, bytes of an event stream out.

    `provider` is set before each attempt, and not any more once content was encoded. `comment` are bytes that keep a
    silent stream open.
    """

    provider: str
    comment: bytes

    def encode(self, delta: Delta) -> bytes: ...
    def finish(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None, *, show_usage: bool) -> bytes:
        """The end of a whole answer. `usage` is worded as in Chat Completions, and empty where nothing was billed."""

    def error(self, error: ApiError, usage: Mapping[str, Any]) -> bytes:
        """The end of an answer that could not be finished."""


class AnswerMessage(Protocol):
    """Words one plain answer: `add` its deltas, then take its `body`."""

    provider: str

    def add(self, delta: Delta) -> None: ...
    def body(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Surface:
    """One API: how a request's body is read, and how an answer and an error are worded.

    `read` raises ApiError. `schema_param` names the field of a body that holds the schema of the answer, for errors.
    """

    name: str
    read: Callable[[bytes, SuffixOf], SurfaceRequest]
    stream: Callable[[Identity], AnswerStream]
    message: Callable[[Identity], AnswerMessage]
    error_body: Callable[[ApiError], dict[str, Any]]
    schema_param: str = "response_format.json_schema.schema"
