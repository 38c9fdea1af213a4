"""OpenAI's Chat Completions, outwards: events become chunks of a stream, or one message."""

from collections.abc import Mapping
from typing import Any

import orjson

from providers.answers.assembly import Assembler, Choice
from providers.events import Delta
from providers.thinking import CLOSE, OPEN
from proxy.entry.api_errors import ApiError
from proxy.surfaces.surface import Identity

DONE = b"data: [DONE]\n\n"
EXTRA_FIELDS = ("logprobs", "stop_reason", "warnings", "schema_error")


class ChatStream:
    """The stream of one answer: a delta in, the bytes of its chunk out.

    `provider` may change until the first chunk is encoded.
    """

    __slots__ = ("_format", "_head", "_identity", "_inline", "_inside", "_plain_head", "_provider", "_started")

    comment = b": caduceus\n\n"

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._format = identity.reasoning_format
        self._inline = identity.reasoning_format == "inline"
        self._started: set[int] = set()
        self._inside: set[int] = set()
        self.provider = ""

    @property
    def provider(self) -> str:
        return self._provider

    @provider.setter
    def provider(self, name: str) -> None:
        self._provider = name
        identity = self._identity
        self._head = (
            b'data: {"id":"gen-%b","object":"chat.completion.chunk","created":%d,"model":%b,"provider":%b,"choices":['
            % (str(identity.request_id).encode(), identity.created, orjson.dumps(identity.model), orjson.dumps(name))
        )
        self._plain_head = self._head + b'{"index":0,"delta":{'

    def encode(self, delta: Delta) -> bytes:
        index, content = delta.index, delta.content
        fields: list[bytes] = []
        if self._inline:
            content = self._with_tags(delta)
        elif delta.reasoning or delta.details:
            fields = self._thoughts(delta)
        if content is not None:
            fields.append(b'"content":' + orjson.dumps(content))
        if delta.tool_calls is not None:
            fields.append(b'"tool_calls":' + orjson.dumps(delta.tool_calls))
        if index not in self._started:
            self._started.add(index)
            fields.insert(0, b'"role":"assistant"')
            if content is None:
                fields.insert(1, b'"content":""')
        elif not fields and not delta.finish_reason and not delta.extra:
            return b""  # a hidden thought
        if index == 0 and delta.extra is None and delta.finish_reason is None:
            return self._plain_head + b",".join(fields) + b'},"finish_reason":null}]}\n\n'
        extra = b"".join(b",%b:%b" % (orjson.dumps(k), orjson.dumps(v)) for k, v in (delta.extra or {}).items())
        return b'%b{"index":%d,"delta":{%b},"finish_reason":%b%b}]}\n\n' % (
            self._head,
            index,
            b",".join(fields),
            orjson.dumps(delta.finish_reason),
            extra,
        )

    def _thoughts(self, delta: Delta) -> list[bytes]:
        if self._format == "details":
            return [b'"reasoning_details":' + orjson.dumps(details_of(delta.details, delta.reasoning))]
        if not delta.reasoning:
            return []
        text = orjson.dumps(delta.reasoning)
        match self._format:
            case "both":
                return [b'"reasoning":' + text, b'"reasoning_content":' + text]
            case "reasoning" | "reasoning_content" as name:
                return [b'"%b":%b' % (name.encode(), text)]
        return []

    def _with_tags(self, delta: Delta) -> str | None:
        """The delta's thought and text as one text, with a tag where the thought begins and where it ends."""
        index, text = delta.index, ""
        if delta.reasoning:
            text = delta.reasoning if index in self._inside else OPEN + delta.reasoning
            self._inside.add(index)
        if index in self._inside and (delta.content or delta.tool_calls or delta.finish_reason):
            self._inside.discard(index)
            text += CLOSE
        return text + (delta.content or "") or None

    def finish(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None, *, show_usage: bool) -> bytes:
        """The end of the stream: a chunk with the usage and the route, where one of them is shown, and `[DONE]`."""
        if not show_usage and route is None:
            return DONE
        more = b',"usage":' + orjson.dumps(usage) if show_usage else b""
        more += b',"route":' + orjson.dumps(route) if route else b""
        return b"%b]%b}\n\n%b" % (self._head, more, DONE)

    def error(self, error: ApiError, usage: Mapping[str, Any]) -> bytes:
        """The chunk that says why the answer breaks off. No `[DONE]` follows."""
        return b'%b{"index":0,"delta":{},"finish_reason":"error"}],"error":%b,"usage":%b}\n\n' % (
            self._head,
            orjson.dumps(error.body()["error"]),
            orjson.dumps(usage),
        )


class ChatMessage:
    """A plain answer: `add` its deltas, then take its `body`."""

    __slots__ = ("_assembler", "_format", "_identity", "add", "provider")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._format = identity.reasoning_format
        self._assembler = Assembler()
        self.add = self._assembler.add
        self.provider = ""

    def body(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        answer: dict[str, Any] = {
            "id": f"gen-{self._identity.request_id}",
            "object": "chat.completion",
            "created": self._identity.created,
            "model": self._identity.model,
            "provider": self.provider,
            "choices": [self._choice(choice) for choice in self._assembler.choices],
            "usage": usage,
        }
        if route:
            answer["route"] = route
        return orjson.dumps(answer)

    def _choice(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": choice.content, "refusal": None}
        if not choice.tool_calls:
            message["content"] = choice.content or ""
        self._add_thoughts(choice, message)
        if choice.tool_calls:
            message["tool_calls"] = [
                {name: value for name, value in call.items() if name != "index"} for call in choice.tool_calls
            ]
        extra = {name: choice.extra.get(name) for name in EXTRA_FIELDS if name == "logprobs" or name in choice.extra}
        return {"index": choice.index, "message": message, "finish_reason": choice.finish_reason, **extra}

    def _add_thoughts(self, choice: Choice, message: dict[str, Any]) -> None:
        if self._format == "details" and (choice.reasoning or choice.details):
            message["reasoning_details"] = details_of(choice.details, choice.reasoning)
        if not choice.reasoning:
            return
        match self._format:
            case "both":
                message["reasoning"] = message["reasoning_content"] = choice.reasoning
            case "reasoning" | "reasoning_content" as name:
                message[name] = choice.reasoning
            case "inline":
                message["content"] = OPEN + choice.reasoning + CLOSE + (choice.content or "")


def details_of(details: list[Any] | None, reasoning: str | None) -> list[Any]:
    """A thought as OpenRouter's `reasoning_details`: the provider's own where there are any."""
    return details or [{"type": "reasoning.text", "text": reasoning, "format": "unknown", "index": 0}]
