"""Calls written as text: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` in thought or answer becomes calls.

Text flows on at once, a call when it is whole. What turns out to be no call is handed on as the text that it is, with a
warning.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, assert_never

import orjson

from providers.events import Delta
from providers.formats.lenient_json import read_values
from providers.neutral import restore
from providers.tools.call_tags import BLANK_CHARACTERS, CALL_CHARACTERS, CLOSE, OPEN, CallTags, Found
from providers.tools.tool_set import ToolSet

PIECE_CHARACTERS = 1_024  # of a call's arguments in one delta
MAX_WARNINGS = 16

Call = tuple[str, str]
"""A call's name, and its arguments as JSON."""


class CallReader:
    """`feed` each delta of an answer, and send on the deltas that come; `release` when no more come.

    The answer is one of an endpoint that was shown `tools` in its prompt, and `opening` as the beginning of its answer.
    An answer that goes on at another endpoint is fed to the same reader. `seed` makes the ids of calls unique.
    """

    __slots__ = ("_choices", "_ids", "_opening", "_tools")

    def __init__(self, tools: ToolSet, *, seed: str, opening: str = "") -> None:
        self._tools = tools
        self._opening = opening
        self._ids = (f"call_{seed}{number}" for number in count())
        self._choices: dict[int, ChoiceCalls] = {}

    def feed(self, delta: Delta) -> Sequence[Delta]:
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = ChoiceCalls(delta.index, self._tools, self._ids, self._opening)
        return (delta,) if choice.lets_pass(delta) else choice.feed(delta)

    def release(self) -> list[Delta]:
        """The answer broke off, without saying so: what was held back."""
        return [delta for choice in self._choices.values() for delta in choice.release()]

    @property
    def inside_call(self) -> bool:
        return any(choice.inside_call for choice in self._choices.values())


class ChoiceCalls:
    """The calls in one choice of an answer: in its thought, and in what it says."""

    __slots__ = (
        "_blank",
        "_called",
        "_ended",
        "_ids",
        "_index",
        "_made",
        "_said",
        "_space",
        "_thought",
        "_tools",
        "_warnings",
    )

    def __init__(self, index: int, tools: ToolSet, ids: Iterator[str], opening: str) -> None:
        self._index = index
        self._tools = tools
        self._ids = ids
        self._thought = CallTags()
        self._said = CallTags(opening)
        self._blank = True  # nothing but white space was said since the answer began, or since a call
        self._space = ""  # that white space, which is dropped before a call
        self._called: list[str] = []  # the names, in order
        self._warnings: list[dict[str, str]] = []
        self._made: list[Delta] = []  # what the delta that is read comes to
        self._ended = False

    @property
    def inside_call(self) -> bool:
        return self._thought.inside or self._said.inside

    def lets_pass(self, delta: Delta) -> bool:
        """The quick way for nearly every delta: text with no tag in sight stays what it is."""
        if delta.finish_reason is not None or delta.tool_calls is not None or self._thought.busy:
            return False
        if delta.content:
            return not (delta.reasoning or self._blank or self._said.busy or "<" in delta.content)
        return not delta.reasoning or "<" not in delta.reasoning

    def feed(self, delta: Delta) -> list[Delta]:
        made = self._made = []
        if delta.reasoning:
            self._read(self._thought, delta.reasoning)
        if delta.content:
            self._end(self._thought)
            self._read(self._said, delta.content)
        if delta.tool_calls:  # the endpoint reads calls itself after all
            self._end(self._thought)
            self._end(self._said)
            self._called += ["" for call in delta.tool_calls if call.get("id")]
            made.append(Delta(self._index, tool_calls=delta.tool_calls))
        finish, extra = delta.finish_reason, delta.extra
        if finish:
            finish = self._finish(finish)
            extra = self._with_warnings(extra)
        details = [detail for detail in delta.details or () if not has_text(detail)]
        if finish or extra or details:
            made.append(Delta(self._index, None, None, None, finish, extra, details or None))
        return made

    def release(self) -> list[Delta]:
        made = self._made = []
        if not self._ended:
            self._finish("")
            if extra := self._with_warnings(None):
                made.append(Delta(self._index, extra=extra))
        return made

    def _finish(self, reason: str) -> str:
        """The choice is over; its finish reason. Of a call that was cut off with it nothing is guessed."""
        complete = reason in ("stop", "tool_calls")
        self._end(self._thought, complete=complete)
        self._end(self._said, complete=complete)
        if self._space and not self._called:
            self._made.append(Delta(self._index, content=self._space))
        self._space = ""
        self._ended = True
        wanted = self._tools.must_call
        if self._tools.required and not (wanted in self._called if wanted else self._called):
            self._warn("tool_choice", "the model did not call the tool that tool_choice asks for")
        return "tool_calls" if self._called and reason == "stop" else reason

    def _read(self, tags: CallTags, text: str) -> None:
        for found, piece in tags.feed(text):
            match found:
                case Found.TEXT:
                    self._put(tags, piece)
                case Found.CALL:
                    self._resolve(tags, piece, CLOSE)
                case Found.NO_CALL:
                    self._put(tags, piece)
                    self._warn_of_no_call()
                case Found.TOO_LONG:
                    self._put(tags, piece)
                    self._warn(
                        "tool_call_too_long",
                        f"a tool call of more than {CALL_CHARACTERS} characters was handed on as text",
                    )
                case _:
                    assert_never(found)

    def _end(self, tags: CallTags, *, complete: bool = True) -> None:
        """One of the texts is over, perhaps within a call."""
        behind_tag, held = tags.take()
        if behind_tag:
            self._resolve(tags, held, "", complete=complete)
        elif held:
            self._put(tags, held)

    def _resolve(self, tags: CallTags, body: str, closing: str, *, complete: bool = True) -> None:
        """What stood behind an opening tag: a call, several, or text."""
        calls = calls_in(read_values(body, complete=complete))
        if calls is not None:
            for name, arguments in calls:
                self._put_call(name, arguments)
        elif OPEN in body:  # a closing tag was forgotten
            *firsts, last = body.split(OPEN)
            for first in firsts:
                self._resolve(tags, first, "")
            self._resolve(tags, last, closing, complete=complete)
        else:
            self._put(tags, OPEN + body + closing)
            self._warn_of_no_call()

    def _put(self, tags: CallTags, text: str) -> None:
        """Text as text. White space at the beginning of an answer and behind a call waits for what follows."""
        text = restore(text)
        if tags is self._thought:
            self._made.append(Delta(self._index, text))
            return
        if self._blank:
            text = self._space + text
            self._space = ""
            if text.isspace() and len(text) <= BLANK_CHARACTERS:
                self._space = text
                return
            self._blank = False
        self._made.append(Delta(self._index, None, text))

    def _put_call(self, name: str, arguments: str) -> None:
        if self._called and not self._tools.parallel:
            self._warn("parallel_tool_calls", "a further tool call was dropped: parallel_tool_calls is false")
            return
        if name not in self._tools.names:
            self._warn("unknown_tool", f"the model called {name[:64]!r}, which is not among the tools")
        index = len(self._called)
        self._called.append(name)
        self._blank, self._space = True, ""
        function = {"name": name, "arguments": ""}
        head = {"index": index, "id": next(self._ids), "type": "function", "function": function}
        self._made.append(Delta(self._index, tool_calls=[head]))
        for at in range(0, len(arguments), PIECE_CHARACTERS):
            piece = {"index": index, "function": {"arguments": arguments[at : at + PIECE_CHARACTERS]}}
            self._made.append(Delta(self._index, tool_calls=[piece]))

    def _with_warnings(self, extra: dict[str, Any] | None) -> dict[str, Any] | None:
        return {**(extra or {}), "warnings": self._warnings} if self._warnings else extra

    def _warn_of_no_call(self) -> None:
        self._warn("malformed_tool_call", "a <tool_call> that the model wrote is no call; it was handed on as text")

    def _warn(self, code: str, message: str) -> None:
        if len(self._warnings) < MAX_WARNINGS:
            self._warnings.append({"code": code, "message": message})


def has_text(detail: Any) -> bool:
    """Whether one of OpenRouter's `reasoning_details` repeats the thought, and the calls in it."""
    return isinstance(detail, dict) and bool(detail.get("text") or detail.get("summary"))


def calls_in(values: list[Any] | None) -> list[Call] | None:
    """The calls that JSON spells, one or several; None where any of it is no call."""
    calls: list[Call] = []
    for value in values or ():
        for spelt in value if isinstance(value, list) else [value]:
            call = read_call(spelt)
            if call is None:
                return None
            calls.append(call)
    return calls or None


def read_call(value: Any) -> Call | None:
    """Hermes's words for a call, or OpenAI's or Llama's; arguments may be JSON within a string."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    name = value.get("name") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        arguments = (read_values(arguments) or [None])[0]
        if arguments is None:
            return None
    if not isinstance(arguments, dict) and arguments:
        return None
    try:
        return restore(name), restore(orjson.dumps(arguments or {}).decode())
    except orjson.JSONEncodeError:  # half a surrogate pair, or too deep
        return None
