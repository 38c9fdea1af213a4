"""Anthropic's Messages, outwards: events become content blocks, one after another, or one message."""

from collections.abc import Mapping
from typing import Any

import orjson

from providers.answers.assembly import Assembler, Choice
from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.surfaces.surface import Identity

Key = str | int
"""Of a block: "thinking", "text", or the index of a tool call."""

START = b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,"content_block":%b}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":%b:'
DELTA_END = b"}}\n\n"
STOP = b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n'
PIECES = {"thinking": b'"thinking_delta","thinking"', "text": b'"text_delta","text"'}
ARGUMENTS = b'"input_json_delta","partial_json"'
SIGNATURE = b'"signature_delta","signature"'

# Anthropic's error type for each status; others of 4xx are `invalid_request_error`, of 5xx `api_error`.
ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
OPENAI_USAGE = frozenset(
    {"prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "completion_tokens_details"}
)


class MessagesStream:
    """The stream of one answer: a delta in, the bytes of its events out.

    One block is open at a time, as Anthropic's clients expect.
    A tool call whose arguments are not whole yet keeps its block open; what comes for other blocks meanwhile is held
    until they are, or until the answer ends, so that nothing is lost when an engine writes two calls at once.
    """

    __slots__ = (
        "_arguments",
        "_calls",
        "_finish_reason",
        "_head",
        "_held",
        "_hidden",
        "_identity",
        "_index",
        "_key",
        "_schema_error",
        "_started",
        "_stopped_by",
        "provider",
    )

    comment = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._hidden = identity.reasoning_format == "none"
        self._started = False
        self._key: Key | None = None  # of the open block
        self._index = 0  # of the open block, or of the next one
        self._head = b""
        self._calls: set[int] = set()  # that were seen
        self._arguments: list[str] = []
        self._held: dict[Key, list[Any]] = {}
        self._finish_reason: str | None = None
        self._stopped_by: Any = None
        self._schema_error: Any = None
        self.provider = ""

    def encode(self, delta: Delta) -> bytes:
        text, thought = delta.content, delta.reasoning
        if delta.tool_calls is None and delta.finish_reason is None and delta.extra is None:
            # Nearly every event: more of the block that is open.
            if self._key == "text" and text and not thought:
                return self._head + orjson.dumps(text) + DELTA_END
            if self._key == "thinking" and thought and not text:
                return self._head + orjson.dumps(thought) + DELTA_END
        out: list[bytes] = []
        if not self._started and delta.has_content:
            out.append(self._start())
        if thought and not self._hidden:
            self._put("thinking", thought, out)
        if text:
            self._put("text", text, out)
        for call in delta.tool_calls or ():
            self._put_call(call, out)
        self._finish_reason = delta.finish_reason or self._finish_reason
        if extra := delta.extra:
            self._stopped_by = extra.get("stop_reason", self._stopped_by)
            self._schema_error = extra.get("schema_error", self._schema_error)
        return b"".join(out)

    def finish(
        self,
        usage: Mapping[str, Any],
        route: Mapping[str, Any] | None,
        *,
        show_usage: bool,  # noqa: ARG002 (the surface's signature)
    ) -> bytes:
        """The end of the message, always with its usage: Anthropic's clients know no stream without it."""
        out = [] if self._started else [self._start()]
        self._release(out, everything=True)
        self._close(out)
        ended: dict[str, Any] = {
            "type": "message_delta",
            "delta": stopped(self._finish_reason, self._stopped_by, called=bool(self._calls)),
            "usage": usage_of(usage),
        }
        if self._schema_error:
            ended["schema_error"] = self._schema_error
        if route:
            ended["route"] = route
        out.append(event("message_delta", ended))
        out.append(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')
        return b"".join(out)

    def error(self, error: ApiError, usage: Mapping[str, Any]) -> bytes:
        """What was held, and why the answer breaks off. No `message_stop` follows."""
        out: list[bytes] = []
        self._release(out, everything=True)
        told = {**error_body(error), "request_id": str(self._identity.request_id), "usage": usage_of(usage)}
        return b"".join([*out, event("error", told)])

    def _start(self) -> bytes:
        """The event that begins the message, without its usage: the prompt's length is known only at the end."""
        self._started = True
        message = {
            **skeleton(self._identity, self.provider),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of({}),
        }
        return event("message_start", {"type": "message_start", "message": message})

    def _put_call(self, call: dict[str, Any], out: list[bytes]) -> None:
        place = call.get("index")
        key = place if type(place) is int else max(self._calls, default=-1) + 1
        if key in self._calls and key != self._key and key not in self._held:
            return  # its block was closed because its arguments were whole: what comes late is no part of them
        self._calls.add(key)
        self._put(key, call, out)

    def _put(self, key: Key, value: Any, out: list[bytes]) -> None:
        if key == self._key:
            self._write(value, out)
            self._release(out)
        elif self._held or self._calling():
            self._held.setdefault(key, []).append(value)
        else:
            self._open(key, value, out)
            self._write(value, out)

    def _release(self, out: list[bytes], *, everything: bool = False) -> None:
        """Write what was held, block by block, until one of them is a call that is not whole; or `everything`."""
        while self._held and (everything or not self._calling()):
            key = next(iter(self._held))
            values = self._held.pop(key)
            self._open(key, values[0], out)
            for value in values:
                self._write(value, out)

    def _calling(self) -> bool:
        """Whether the open block is a call whose arguments are not whole."""
        if type(self._key) is not int:
            return False
        text = "".join(self._arguments)
        return not text.rstrip().endswith("}") or input_of(text) is None

    def _write(self, value: Any, out: list[bytes]) -> None:
        piece = value
        if type(value) is dict:
            piece = (value.get("function") or {}).get("arguments")
            self._arguments.append(piece or "")
        if piece:
            out.append(self._head + orjson.dumps(piece) + DELTA_END)

    def _open(self, key: Key, value: Any, out: list[bytes]) -> None:
        self._close(out)
        if type(key) is int:
            block = tool_use(value, self._identity, key, {})
            kind = ARGUMENTS
        else:
            assert type(key) is str
            block = {"type": "text", "text": ""} if key == "text" else {"type": key, key: "", "signature": ""}
            kind = PIECES[key]
        out.append(START % (self._index, orjson.dumps(block)))
        self._key = key
        self._head = DELTA % (self._index, kind)

    def _close(self, out: list[bytes]) -> None:
        if self._key is None:
            return
        if self._key == "thinking":
            out.append(DELTA % (self._index, SIGNATURE) + orjson.dumps(signature(self._identity)) + DELTA_END)
        out.append(STOP % self._index)
        self._key = None
        self._index += 1
        self._arguments.clear()


class MessagesMessage:
    """A plain answer: `add` its deltas, then take its `body`, a message with its thought, its text and its calls."""

    __slots__ = ("_assembler", "_hidden", "_identity", "add", "provider")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._hidden = identity.reasoning_format == "none"
        self._assembler = Assembler()
        self.add = self._assembler.add
        self.provider = ""

    def body(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        choices = self._assembler.choices
        choice = choices[0] if choices else Choice(0)
        answer = {
            **skeleton(self._identity, self.provider),
            "content": self._content(choice),
            **stopped(choice.finish_reason, choice.extra.get("stop_reason"), called=bool(choice.tool_calls)),
            "usage": usage_of(usage),
        }
        if problem := choice.extra.get("schema_error"):
            answer["schema_error"] = problem
        if route:
            answer["route"] = route
        return orjson.dumps(answer)

    def _content(self, choice: Choice) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        if choice.reasoning and not self._hidden:
            thought = {"type": "thinking", "thinking": choice.reasoning, "signature": signature(self._identity)}
            blocks.append(thought)
        if choice.content:
            blocks.append({"type": "text", "text": choice.content})
        for call in choice.tool_calls:
            text = call["function"]["arguments"]
            arguments = input_of(text or "{}")
            # Anthropic's own advice for input that is no object: a name that says so, and the text as it came.
            wrapped = {"INVALID_JSON": text} if arguments is None else arguments
            blocks.append(tool_use(call, self._identity, call["index"], wrapped))
        return blocks


def skeleton(identity: Identity, provider: str) -> dict[str, Any]:
    """The fields that a message has before it has content."""
    return {
        "id": f"msg_{identity.request_id}",
        "type": "message",
        "role": "assistant",
        "model": identity.model,
        "provider": provider,
    }


def tool_use(call: Mapping[str, Any], identity: Identity, index: int, arguments: Any) -> dict[str, Any]:
    function = call.get("function") or {}
    name = call.get("id") or f"toolu_{identity.request_id.hex}_{index}"
    return {"type": "tool_use", "id": name, "name": function.get("name") or "", "input": arguments}


def input_of(arguments: str) -> dict[str, Any] | None:
    """A call's arguments; None where they are not the JSON of an object."""
    try:
        found = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return None
    return found if type(found) is dict else None


def signature(identity: Identity) -> str:
    """What clients must hand back with a thought. It signs nothing: any signature is accepted."""
    return f"caduceus-{identity.request_id.hex}"


def stopped(finish_reason: str | None, stopped_by: Any, *, called: bool) -> dict[str, Any]:
    """Why the message ended, in Anthropic's words.

    `stopped_by` is vLLM's `stop_reason`: the stop string that matched, or a token's id, or nothing. `called`: there are
    calls of tools in the message.
    """
    sequence = None
    if finish_reason == "length":
        reason = "max_tokens"
    elif finish_reason == "content_filter":
        reason = "refusal"
    elif called:  # also where an engine, made to call, says "stop"
        reason = "tool_use"
    elif type(stopped_by) is str:
        reason, sequence = "stop_sequence", stopped_by
    else:
        reason = "end_turn"
    return {"stop_reason": reason, "stop_sequence": sequence}


def usage_of(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The usage in Anthropic's words, from OpenAI's: `input_tokens` are those that no cache served."""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    thinking = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    return {
        "input_tokens": usage.get("prompt_tokens", 0) - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.get("completion_tokens", 0),
        "output_tokens_details": {"thinking_tokens": thinking},
        **{name: value for name, value in usage.items() if name not in OPENAI_USAGE},
    }


def error_body(error: ApiError) -> dict[str, Any]:
    """An error in Anthropic's shape, with the fields that our own errors have beside it."""
    kind = ERROR_TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")
    return {"type": "error", "error": {**error.body()["error"], "type": kind}}


def event(name: str, value: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value))
