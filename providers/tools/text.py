"""Calls written as text: `<tool_call>{"name": …, "arguments": {…}}</tool_call>` in thought or answer becomes calls.

Text flows on at once; of what may be the opening tag at most its length less one character is held back. A call is held
until it is whole. What turns out to be none is handed on as the text that it is, with a warning.
"""

from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import count
from typing import Any

import orjson

from providers.events import Delta
from providers.formats.lenient_json import read_values
from providers.neutral import restore
from providers.thinking import overlap
from providers.tools.tool_set import ToolSet

OPEN, CLOSE = "<tool_call>", "</tool_call>"
BEGINS = "{[`"  # a call, several in a list, either in a code block
MOST_CALL_CHARACTERS = 262_144
MOST_BLANK_CHARACTERS = 1_024
ARGUMENT_CHARACTERS = 1_024  # of a piece of arguments
MOST_WARNINGS = 16

Call = tuple[str, str]  # the name, and the arguments as JSON


class Found(Enum):
    TEXT = 0
    CALL = 1  # what stands between the tags
    NO_CALL = 2  # an opening tag that begins none
    TOO_LONG = 3  # a call that was given up, with its tag


class CallReader:
    """Delta in, deltas out, for one answer of an endpoint that was shown `tools` in its prompt.

    `seed` makes the ids of calls unique. `opening` is the beginning of the answer that the endpoint was given to go on
    from. An answer that goes on elsewhere is fed to the same reader.
    """

    __slots__ = ("_choices", "_ids", "_opening", "_tools")

    def __init__(self, tools: ToolSet, *, seed: str, opening: str = "") -> None:
        self._tools = tools
        self._opening = opening
        self._ids = (f"call_{seed}{number}" for number in count())
        self._choices: dict[int, Choice] = {}

    def feed(self, delta: Delta) -> Sequence[Delta]:
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = Choice(delta.index, self._tools, self._ids, self._opening)
        return (delta,) if choice.lets_pass(delta) else choice.take(delta)

    def release(self) -> list[Delta]:
        """The answer is over, and did not say so: what was held back."""
        return [delta for choice in self._choices.values() for delta in choice.release()]

    @property
    def inside_call(self) -> bool:
        return any(choice.thought.inside or choice.said.inside for choice in self._choices.values())


class Choice:
    """One choice of an answer: two texts in which calls may stand."""

    __slots__ = (
        "_blank",
        "_calls",
        "_ended",
        "_ids",
        "_index",
        "_made",
        "_space",
        "_tools",
        "_warnings",
        "said",
        "thought",
    )

    def __init__(self, index: int, tools: ToolSet, ids: Iterator[str], opening: str) -> None:
        self._index = index
        self._tools = tools
        self._ids = ids
        self.thought = Tags()
        self.said = Tags(opening)
        self._blank = True  # nothing but white space since the answer began, or since a call
        self._space = ""
        self._calls: list[str] = []
        self._warnings: list[dict[str, str]] = []
        self._made: list[Delta] = []
        self._ended = False

    def lets_pass(self, delta: Delta) -> bool:
        """Nearly every delta: text with no tag in sight."""
        if delta.finish_reason is not None or delta.tool_calls is not None or self.thought.busy:
            return False
        if delta.content:
            return not (delta.reasoning or self._blank or self.said.busy or "<" in delta.content)
        return not delta.reasoning or "<" not in delta.reasoning

    def take(self, delta: Delta) -> list[Delta]:
        made = self._made = []
        if delta.reasoning:
            self._cut(self.thought, delta.reasoning)
        if delta.content:
            self._end(self.thought)
            self._cut(self.said, delta.content)
        if delta.tool_calls:  # the endpoint reads calls itself after all
            self._end(self.thought)
            self._end(self.said)
            self._calls += ["" for call in delta.tool_calls if call.get("id")]
            made.append(Delta(self._index, tool_calls=delta.tool_calls))
        finish, extra = delta.finish_reason, delta.extra
        if finish:
            finish = self._finish(finish)
            extra = self._with_warnings(extra)
        details = [one for one in delta.details or () if not has_text(one)]
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
        """An answer that was cut off may have been cut within a call: of that nothing is guessed."""
        complete = reason in ("stop", "tool_calls")
        self._end(self.thought, complete=complete)
        self._end(self.said, complete=complete)
        if self._space and not self._calls:
            self._made.append(Delta(self._index, content=self._space))
        self._space = ""
        self._ended = True
        wanted = self._tools.must_call
        if self._tools.required and not (wanted in self._calls if wanted else self._calls):
            self._warn("tool_choice", "the model did not call the tool that tool_choice asks for")
        return "tool_calls" if self._calls and reason == "stop" else reason

    def _with_warnings(self, extra: dict[str, Any] | None) -> dict[str, Any] | None:
        return {**(extra or {}), "warnings": self._warnings} if self._warnings else extra

    def _cut(self, tags: "Tags", text: str) -> None:
        for found, piece in tags.feed(text):
            match found:
                case Found.TEXT:
                    self._pass(tags, piece)
                case Found.CALL:
                    self._resolve(tags, piece, CLOSE)
                case Found.NO_CALL:
                    self._pass(tags, piece)
                    self._warn_of_no_call()
                case Found.TOO_LONG:
                    self._pass(tags, piece)
                    self._warn(
                        "tool_call_too_long",
                        f"a tool call of more than {MOST_CALL_CHARACTERS} characters was handed on as text",
                    )

    def _end(self, tags: "Tags", *, complete: bool = True) -> None:
        """One text is over, perhaps within a call."""
        inside, held = tags.take()
        if inside:
            self._resolve(tags, held, "", complete=complete)
        elif held:
            self._pass(tags, held)

    def _resolve(self, tags: "Tags", body: str, closing: str, *, complete: bool = True) -> None:
        """What stood behind an opening tag: a call, several, or text."""
        calls = calls_in(read_values(body, complete=complete))
        if calls is not None:
            for name, arguments in calls:
                self._call(name, arguments)
        elif OPEN in body:  # a closing tag was forgotten
            *firsts, last = body.split(OPEN)
            for first in firsts:
                self._resolve(tags, first, "")
            self._resolve(tags, last, closing, complete=complete)
        else:
            self._pass(tags, OPEN + body + closing)
            self._warn_of_no_call()

    def _pass(self, tags: "Tags", text: str) -> None:
        """Text as text. White space at the beginning of an answer and behind a call waits for what follows."""
        text = restore(text)
        if tags is self.thought:
            self._made.append(Delta(self._index, text))
            return
        if self._blank:
            text = self._space + text
            self._space = ""
            if text.isspace() and len(text) <= MOST_BLANK_CHARACTERS:
                self._space = text
                return
            self._blank = False
        self._made.append(Delta(self._index, None, text))

    def _call(self, name: str, arguments: str) -> None:
        if self._calls and not self._tools.parallel:
            self._warn("parallel_tool_calls", "a further tool call was dropped: parallel_tool_calls is false")
            return
        if name not in self._tools.names:
            self._warn("unknown_tool", f"the model called {name[:64]!r}, which is not among the tools")
        index = len(self._calls)
        self._calls.append(name)
        self._blank, self._space = True, ""
        function = {"name": name, "arguments": ""}
        head = {"index": index, "id": next(self._ids), "type": "function", "function": function}
        self._made.append(Delta(self._index, tool_calls=[head]))
        for at in range(0, len(arguments), ARGUMENT_CHARACTERS):
            piece = {"index": index, "function": {"arguments": arguments[at : at + ARGUMENT_CHARACTERS]}}
            self._made.append(Delta(self._index, tool_calls=[piece]))

    def _warn_of_no_call(self) -> None:
        self._warn("malformed_tool_call", "a <tool_call> that the model wrote is no call; it was handed on as text")

    def _warn(self, code: str, message: str) -> None:
        if len(self._warnings) < MOST_WARNINGS:
            self._warnings.append({"code": code, "message": message})


class Tags:
    """Finds calls in one text. `opening` stands before the text: a tag, and how the call begins.

    The first character behind a tag tells a call from prose that mentions the tag; behind an `opening` it tells whether
    that is what the text goes on from.
    """

    __slots__ = ("_awaited", "_held", "_opened", "_pieces", "_size", "_tail", "inside")

    def __init__(self, opening: str = "") -> None:
        self._held = ""  # what may become an opening tag
        self.inside = False
        self._opened = ""  # how a call begins that we have begun
        self._awaited = ""  # the characters that a call may go on with; empty once it does
        self._pieces: list[str] = []
        self._size = 0
        self._tail = ""
        if opening:
            self._open(opening.removeprefix(OPEN), '"' if opening.endswith('"name":') else "{")

    @property
    def busy(self) -> bool:
        return self.inside or bool(self._held)

    def feed(self, text: str) -> Iterator[tuple[Found, str]]:
        while text:
            if self.inside and self._awaited:
                found, text = self._begin(text)
            elif self.inside:
                found, text = self._go_on(text)
            else:
                found, text = self._look(text)
            if found is not None and found[1]:
                yield found

    def take(self) -> tuple[bool, str]:
        """Whether it is a call that is held back, and what stands behind its tag, or the text."""
        if not self.inside:
            held, self._held = self._held, ""
            return False, held
        self.inside = False
        unused = self._opened and self._awaited  # nobody has gone on from it
        return not unused, "".join(self._pieces if unused else [self._opened, *self._pieces])

    def _look(self, text: str) -> tuple[tuple[Found, str] | None, str]:
        """Outside: the text before a tag, and the rest behind it."""
        text = self._held + text
        before, tag, rest = text.partition(OPEN)
        if tag:
            self._held = ""
            self._open("", BEGINS)
            return (Found.TEXT, before), rest
        keep = overlap(text, OPEN)
        self._held = text[len(text) - keep :]
        return (Found.TEXT, text[: len(text) - keep]), ""

    def _open(self, opened: str, awaited: str) -> None:
        self.inside = True
        self._opened, self._awaited = opened, awaited
        self._pieces, self._size, self._tail = [], 0, ""

    def _begin(self, text: str) -> tuple[tuple[Found, str] | None, str]:
        """Behind a tag, so far only white space: is this a call?"""
        text = self.take()[1] + text
        start = text.lstrip()[:1]
        if not start and len(text) <= MOST_BLANK_CHARACTERS:
            self.inside, self._pieces = True, [text]
            return None, ""
        if start and start in self._awaited:
            self._awaited, self.inside, self._pieces = "", True, []
            return None, text
        return (None if self._opened else (Found.NO_CALL, OPEN)), text

    def _go_on(self, text: str) -> tuple[tuple[Found, str] | None, str]:
        """Inside: the call once its closing tag has come, and the rest behind it."""
        probe = self._tail + text
        at = probe.find(CLOSE)
        if at >= 0:
            end = self._size - len(self._tail) + at
            whole = "".join([*self._pieces, text])
            self.inside = False
            return (Found.CALL, self._opened + whole[:end]), whole[end + len(CLOSE) :]
        self._pieces.append(text)
        self._size += len(text)
        self._tail = probe[1 - len(CLOSE) :]
        if self._size > MOST_CALL_CHARACTERS:
            return (Found.TOO_LONG, OPEN + self.take()[1]), ""
        return None, ""


def has_text(detail: Any) -> bool:
    """Whether one of OpenRouter's `reasoning_details` says again what the reasoning says, calls and all."""
    return isinstance(detail, dict) and bool(detail.get("text") or detail.get("summary"))


def calls_in(values: list[Any] | None) -> list[Call] | None:
    """The calls that JSON spells, one or several; None where any of it is no call."""
    calls: list[Call] = []
    for value in values or ():
        for one in value if isinstance(value, list) else [value]:
            call = read_call(one)
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
