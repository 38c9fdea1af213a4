"""OpenAI's Completions, outwards: events become chunks of text, or one text. There are no thoughts in it."""

from collections.abc import Mapping
from typing import Any

import orjson

from providers.answers.assembly import Assembler, Choice
from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.surfaces.chat.answer import DONE
from proxy.surfaces.surface import Identity


class CompletionStream:
    """The stream of one answer: a delta in, the bytes of its chunk out.

    `provider` may change until the first chunk is encoded.
    """

    __slots__ = ("_head", "_identity", "_provider")

    comment = b": caduceus\n\n"

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.provider = ""

    @property
    def provider(self) -> str:
        return self._provider

    @provider.setter
    def provider(self, name: str) -> None:
        self._provider = name
        identity = self._identity
        self._head = (
            b'data: {"id":"cmpl-%b","object":"text_completion","created":%d,"model":%b,"provider":%b,"choices":['
            % (str(identity.request_id).encode(), identity.created, orjson.dumps(identity.model), orjson.dumps(name))
        )

    def encode(self, delta: Delta) -> bytes:
        if delta.index == 0 and delta.extra is None and delta.finish_reason is None:
            if not delta.content:
                return b""
            text = orjson.dumps(delta.content)
            return b'%b{"text":%b,"index":0,"logprobs":null,"finish_reason":null}]}\n\n' % (self._head, text)
        choice = choice_of(delta.index, delta.content, delta.finish_reason, delta.extra or {})
        return b"%b%b]}\n\n" % (self._head, orjson.dumps(choice))

    def finish(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None, *, show_usage: bool) -> bytes:
        """The end of the stream: a chunk with the usage and the route, where one of them is shown, and `[DONE]`."""
        if not show_usage and route is None:
            return DONE
        more = b',"usage":' + orjson.dumps(usage) if show_usage else b""
        more += b',"route":' + orjson.dumps(route) if route else b""
        return b"%b]%b}\n\n%b" % (self._head, more, DONE)

    def error(self, error: ApiError, usage: Mapping[str, Any]) -> bytes:
        """The chunk that says why the answer breaks off. No `[DONE]` follows."""
        return b'%b%b],"error":%b,"usage":%b}\n\n' % (
            self._head,
            orjson.dumps(choice_of(0, None, "error", {})),
            orjson.dumps(error.body()["error"]),
            orjson.dumps(usage),
        )


class CompletionMessage:
    """A plain answer: `add` its deltas, then take its `body`."""

    __slots__ = ("_assembler", "_identity", "add", "provider")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._assembler = Assembler()
        self.add = self._assembler.add
        self.provider = ""

    def body(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        answer: dict[str, Any] = {
            "id": f"cmpl-{self._identity.request_id}",
            "object": "text_completion",
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
        return choice_of(choice.index, choice.content, choice.finish_reason, choice.extra)


def choice_of(index: int, text: str | None, finish_reason: str | None, extra: Mapping[str, Any]) -> dict[str, Any]:
    choice = {"text": text or "", "index": index, "logprobs": extra.get("logprobs"), "finish_reason": finish_reason}
    return {**choice, "stop_reason": extra["stop_reason"]} if "stop_reason" in extra else choice
