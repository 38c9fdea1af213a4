"""OpenAI's Responses API, outwards: deltas become typed events, or one Response."""

from collections.abc import Mapping
from typing import Any, NamedTuple, assert_never

import orjson

from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.surfaces.responses.items import Act, Item, Items, Kind, Step
from proxy.surfaces.surface import Identity


class Wording(NamedTuple):
    """What the events of an item's text and of its one part are called, and the field that numbers the part."""

    text: str
    part: str = ""
    numbered: str = ""


WORDINGS = {
    Kind.REASONING: Wording("response.reasoning_text", "response.content_part", "content_index"),
    Kind.SUMMARY: Wording("response.reasoning_summary_text", "response.reasoning_summary_part", "summary_index"),
    Kind.MESSAGE: Wording("response.output_text", "response.content_part", "content_index"),
    Kind.CALL: Wording("response.function_call_arguments"),
}
RENAMED = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "prompt_tokens_details": "input_tokens_details",
    "completion_tokens_details": "output_tokens_details",
}
# The only codes that a Response's own error may have, and ours that mean as much.
ERROR_CODES = {
    "upstream_rate_limited": "rate_limit_exceeded",
    "context_length_exceeded": "invalid_prompt",
    "content_filter": "invalid_prompt",
    "upstream_rejected_request": "invalid_prompt",
}


class ResponseStream:
    """The stream of one answer: a delta in, the bytes of its events out, each with its name and number. No `[DONE]`."""

    __slots__ = ("_framed", "_head", "_identity", "_items", "_sequence", "_started", "_tail", "provider")

    comment = b": caduceus\n\n"

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._items = items_of(identity)
        self._sequence = 0
        self._started = False
        self._framed: Item | None = None  # the item that `_head` and `_tail` were made for
        self._head = self._tail = b""
        self.provider = ""

    def encode(self, delta: Delta) -> bytes:
        if item := self._items.extend(delta):
            return self._piece(item, item.pieces[-1])
        start = self._start()  # while there is no output yet
        return b"".join([start, *map(self._word, self._items.take(delta))])

    def finish(
        self,
        usage: Mapping[str, Any],
        route: Mapping[str, Any] | None,
        *,
        show_usage: bool,  # noqa: ARG002 (this API always shows it)
    ) -> bytes:
        """The end of what is open, and the whole Response once more, with its usage."""
        frames = [self._start(), *map(self._word, self._items.end())]
        response = self._response(status_of(self._items), usage, route)
        return b"".join([*frames, self._event(f"response.{response['status']}", response=response)])

    def error(self, error: ApiError, usage: Mapping[str, Any]) -> bytes:
        """Why the answer breaks off. What is open gets no `done`, so that nobody acts on half a call.

        OpenAI's clients raise the last event, `error`.
        """
        self._items.abandon()
        response = self._response("failed", usage, None)
        told = error.body()["error"]
        response["error"] = {**told, "code": ERROR_CODES.get(error.code, "server_error")}
        fields = {"code": error.code, "message": error.message, "param": error.param, "error": told}
        return self._start() + self._event("response.failed", response=response) + self._event("error", **fields)

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        response = self._response("in_progress", None, None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def _response(
        self, status: str, usage: Mapping[str, Any] | None, route: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        return response_of(self._identity, self.provider, self._items, status, usage, route)

    def _word(self, step: Step) -> bytes:
        match step.act:
            case Act.BEGIN:
                return self._begin(step.item)
            case Act.PIECE:
                return self._piece(step.item, step.piece) if not step.logprobs else self._likely(step)
            case Act.END:
                return self._end(step.item)
            case _:
                assert_never(step.act)

    def _begin(self, item: Item) -> bytes:
        frame = self._event("response.output_item.added", output_index=item.position, item=item.begun)
        part = WORDINGS[item.kind].part
        return frame + self._event(f"{part}.added", **place_of(item), part=Item(item.kind).part) if part else frame

    def _piece(self, item: Item, piece: str) -> bytes:
        if item is not self._framed:
            self._framed = item
            name = f"{WORDINGS[item.kind].text}.delta".encode()
            fields = {**place_of(item), "logprobs": []} if item.kind is Kind.MESSAGE else place_of(item)
            self._head = b'event: %b\ndata: {"type":"%b","sequence_number":' % (name, name)
            self._tail = b',%b,"delta":' % orjson.dumps(fields)[1:-1]
        sequence = self._sequence
        self._sequence = sequence + 1
        return b"%b%d%b%b}\n\n" % (self._head, sequence, self._tail, orjson.dumps(piece))

    def _likely(self, step: Step) -> bytes:
        """A piece of text with the probabilities of its tokens."""
        return self._event(
            "response.output_text.delta", **place_of(step.item), delta=step.piece, logprobs=step.logprobs
        )

    def _end(self, item: Item) -> bytes:
        wording = WORDINGS[item.kind]
        fields: dict[str, Any] = {"text": item.text}
        if item.kind is Kind.MESSAGE:
            fields["logprobs"] = item.logprobs
        elif item.kind is Kind.CALL:
            fields = {"name": item.name, "arguments": item.text}
        frames = [self._event(f"{wording.text}.done", **place_of(item), **fields)]
        if wording.part:
            frames.append(self._event(f"{wording.part}.done", **place_of(item), part=item.part))
        frames.append(self._event("response.output_item.done", output_index=item.position, item=item.shown))
        return b"".join(frames)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        sequence = self._sequence
        self._sequence += 1
        data = orjson.dumps({"type": name, "sequence_number": sequence, **fields})
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


class ResponseMessage:
    """A plain answer: `add` its deltas, then take its `body`, a Response."""

    __slots__ = ("_identity", "_items", "provider")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._items = items_of(identity)
        self.provider = ""

    def add(self, delta: Delta) -> None:
        if self._items.extend(delta) is None:
            self._items.take(delta)

    def body(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        self._items.end()
        status = status_of(self._items)
        return orjson.dumps(response_of(self._identity, self.provider, self._items, status, usage, route))


def items_of(identity: Identity) -> Items:
    summary = (identity.echoed.get("reasoning") or {}).get("summary")
    return Items(identity.request_id, identity.reasoning_format, Kind.SUMMARY if summary else Kind.REASONING)


def response_of(
    identity: Identity,
    provider: str,
    items: Items,
    status: str,
    usage: Mapping[str, Any] | None,
    route: Mapping[str, Any] | None,
) -> dict[str, Any]:
    cut_by = items.cut_by if status == "incomplete" else None
    response = {
        "id": f"resp_{identity.request_id}",
        "object": "response",
        "created_at": identity.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": cut_by} if cut_by else None,
        "model": identity.model,
        "provider": provider,
        "output": [item.shown for item in items.begun],
        **identity.echoed,
        "usage": usage_of(usage) if usage else None,
    }
    if items.schema_error:
        response["schema_error"] = items.schema_error
    return {**response, "route": route} if route else response


def status_of(items: Items) -> str:
    return "incomplete" if items.cut_by else "completed"


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage under this API's names. Engines do not say what was written to their cache: it counts as zero."""
    shown = {RENAMED.get(name, name): value for name, value in usage.items()}
    shown["input_tokens_details"] = {**shown["input_tokens_details"], "cache_write_tokens": 0}
    return shown


def place_of(item: Item) -> dict[str, Any]:
    """The fields of an event that say to which item it belongs, and to which part of it; a call has no parts."""
    place: dict[str, Any] = {"item_id": item.id, "output_index": item.position}
    numbered = WORDINGS[item.kind].numbered
    return {**place, numbered: 0} if numbered else place
