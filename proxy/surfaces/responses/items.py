"""The output items of one answer: which of them a delta adds to, when one begins, and when it is over.

Thoughts and text go to one item as long as nothing else comes between. An item is over as soon as another one begins;
only a call whose arguments are not whole yet stays open, because calls may come interleaved.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Any, NamedTuple, assert_never
from uuid import UUID

import orjson

from providers.events import Delta
from providers.thinking import CLOSE, OPEN


class Kind(Enum):
    """A kind of items: its type, what its ids begin with, and the field that holds its text."""

    REASONING = "reasoning", "rs", "content"
    SUMMARY = "reasoning", "rs", "summary"
    MESSAGE = "message", "msg", "content"
    CALL = "function_call", "fc", "arguments"


class Item:
    """One item of the output.

    `position` is its place there, -1 until it begins. `status` is `in_progress`, `completed` or `incomplete`.
    """

    __slots__ = ("call_id", "id", "kind", "logprobs", "name", "pieces", "position", "status")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.id = self.call_id = self.name = ""
        self.position = -1
        self.pieces: list[str] = []
        self.logprobs: list[Any] = []
        self.status = "in_progress"

    @property
    def text(self) -> str:
        """The thought, the text or the call's arguments, as far as they have come."""
        return "".join(self.pieces)

    @property
    def part(self) -> dict[str, Any]:
        """The one part of a thought or a text; empty for a call, which has none."""
        match self.kind:
            case Kind.MESSAGE:
                return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}
            case Kind.SUMMARY:
                return {"type": "summary_text", "text": self.text}
            case Kind.REASONING:
                return {"type": "reasoning_text", "text": self.text}
            case Kind.CALL:
                return {}
            case _:
                assert_never(self.kind)

    @property
    def begun(self) -> dict[str, Any]:
        """The item as the event that announces it shows it: without its text, in progress."""
        return self._shown([], "", "in_progress")

    @property
    def shown(self) -> dict[str, Any]:
        return self._shown([self.part], self.text, self.status)

    def _shown(self, parts: list[dict[str, Any]], arguments: str, status: str) -> dict[str, Any]:
        kind, _, place = self.kind.value
        item: dict[str, Any] = {"id": self.id, "type": kind, "status": status}
        match self.kind:
            case Kind.REASONING | Kind.SUMMARY:
                return {**item, "summary": [], place: parts}
            case Kind.MESSAGE:
                return {**item, "role": "assistant", place: parts}
            case Kind.CALL:
                return {**item, "call_id": self.call_id, "name": self.name, place: arguments}
            case _:
                assert_never(self.kind)


class Act(Enum):
    BEGIN = 0
    PIECE = 1
    END = 2


class Step(NamedTuple):
    """What a delta did to an item. `piece` is what a PIECE adds, `logprobs` those of its tokens."""

    act: Act
    item: Item
    piece: str = ""
    logprobs: Sequence[Any] = ()


class Items:
    """`take` every delta, then `end`. `begun` holds the items in order.

    `shape` is a reasoning format, `thoughts` the kind of items that thoughts become.
    """

    __slots__ = (
        "_calls",
        "_inline",
        "_inside",
        "_open",
        "_request_id",
        "_thoughts",
        "begun",
        "current",
        "finish_reason",
        "schema_error",
    )

    def __init__(self, request_id: UUID, shape: str, thoughts: Kind) -> None:
        self._request_id = request_id
        self._inline = shape == "inline"
        self._thoughts = thoughts if shape != "none" else None
        self._inside = False  # an inline thought that is not closed
        self._calls: dict[int, Item] = {}
        self._open: list[Item] = []
        self.begun: list[Item] = []
        self.current: Item | None = None
        """The thought or the text that was last spoken, while it is open."""
        self.finish_reason: str | None = None
        self.schema_error: Any = None  # why the answer does not fit the format that was asked for

    @property
    def cut_by(self) -> str | None:
        """Why the answer is incomplete, in OpenAI's words."""
        return {"length": "max_output_tokens", "content_filter": "content_filter"}.get(self.finish_reason or "")

    def take(self, delta: Delta) -> list[Step]:
        steps: list[Step] = []
        if delta.index:
            return steps  # this API knows one choice only
        thought, text = delta.reasoning, delta.content
        if self._inline:
            thought, text = None, self._with_tags(delta)
        if thought and self._thoughts:
            self._speak(self._thoughts, thought, (), steps)
        if text:
            self._speak(Kind.MESSAGE, text, ((delta.extra or {}).get("logprobs") or {}).get("content") or (), steps)
        for call in delta.tool_calls or ():
            self._call(call, steps)
        if delta.finish_reason:
            self.finish_reason = delta.finish_reason
            self.schema_error = (delta.extra or {}).get("schema_error")
            steps += self.end()
        return steps

    def extend(self, delta: Delta) -> Item | None:
        """The quick way for nearly every delta, which only adds to the thought or text that is open: its item.

        None for any other delta: that has to be taken.
        """
        item = self.current
        if item is None or delta.finish_reason or delta.tool_calls or delta.extra or delta.index or self._inline:
            return None
        if item.kind is Kind.MESSAGE:
            text, other = delta.content, delta.reasoning
        else:
            text, other = delta.reasoning, delta.content
        if not text or other:
            return None
        item.pieces.append(text)
        return item

    def end(self) -> list[Step]:
        """Nothing more comes: what is open is completed, or incomplete where a limit cut the answer short."""
        steps: list[Step] = []
        if self._inside:
            self._inside = False
            self._speak(Kind.MESSAGE, CLOSE, (), steps)
        for item in self._calls.values():
            if item.position < 0:
                self._begin(item, steps)
        self._close(steps, last=True)
        return steps

    def abandon(self) -> None:
        """The answer broke off: what is open becomes incomplete, and no step says that it is over."""
        for item in self._open:
            item.status = "incomplete"

    def _with_tags(self, delta: Delta) -> str:
        text = ""
        if delta.reasoning:
            text = delta.reasoning if self._inside else OPEN + delta.reasoning
            self._inside = True
        if self._inside and (delta.content or delta.tool_calls):
            self._inside = False
            text += CLOSE
        return text + (delta.content or "")

    def _speak(self, kind: Kind, text: str, logprobs: Sequence[Any], steps: list[Step]) -> None:
        item = self.current
        if item is None or item.kind is not kind:
            item = Item(kind)
            self._begin(item, steps)
            self.current = item
        item.pieces.append(text)
        item.logprobs += logprobs
        steps.append(Step(Act.PIECE, item, text, logprobs))

    def _call(self, delta: dict[str, Any], steps: list[Step]) -> None:
        """Add to a call, which the delta names by its index. It begins when its name is known."""
        index = delta.get("index")
        if not isinstance(index, int):
            index = len(self._calls)
        item = self._calls.setdefault(index, Item(Kind.CALL))
        if item.position < 0 and isinstance(call_id := delta.get("id"), str):
            item.call_id = call_id
        function = delta.get("function")
        fields = function if isinstance(function, dict) else {}
        name, piece = (value if isinstance(value := fields.get(key), str) else "" for key in ("name", "arguments"))
        item.name += name
        if item.status != "in_progress":
            return  # white space after the arguments
        if piece:
            item.pieces.append(piece)
        if item.position < 0:
            if item.name:
                self._begin(item, steps)
        elif piece:
            steps.append(Step(Act.PIECE, item, piece))

    def _begin(self, item: Item, steps: list[Step]) -> None:
        self._close(steps, last=False)
        item.position = len(self.begun)
        item.id = f"{item.kind.value[1]}_{self._request_id.hex}_{item.position}"
        if item.kind is Kind.CALL:
            item.call_id = item.call_id or f"call_{self._request_id.hex}_{item.position}"
        self.begun.append(item)
        self._open.append(item)
        steps.append(Step(Act.BEGIN, item))
        if item.pieces:
            steps.append(Step(Act.PIECE, item, item.text))

    def _close(self, steps: list[Step], *, last: bool) -> None:
        still_open = []
        for item in self._open:
            whole = item.kind is Kind.CALL and is_whole(item.text)
            if item.kind is Kind.CALL and not whole and not last:
                still_open.append(item)
                continue
            cut = last and not whole and self.cut_by is not None
            item.status = "incomplete" if cut else "completed"
            steps.append(Step(Act.END, item))
        self._open = still_open
        self.current = None


def is_whole(arguments: str) -> bool:
    """Whether the arguments are a whole JSON object, so that nothing but white space can follow."""
    try:
        return isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return False
