"""JSON that a model wrote: found in its text as the text comes, and repaired where only its syntax is wrong.

Repaired: trailing, doubled and missing commas, single quotes, bare names, Python's literals, control characters within
strings, stray backslashes, missing brackets, white space that is none to JSON. Left out: words and Markdown's fences
before a value, everything behind it. A bare word and a name without a value are no JSON.

`JsonText` reads piece by piece, for an answer that is shown while it comes; `read_values` reads a whole text by it, for
calls of tools.
"""

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NoReturn

import orjson

from providers.formats.lenient_strings import PLAIN, LenientString

MAX_DEPTH = 64
WORDS_CHARACTERS = 4_096  # before the value; a text with more of them is taken for one without JSON
HELD_CHARACTERS = 4_096  # of a name or a number
REPAIRED_CHARACTERS = 65_536  # of a text that `read_values` repairs, which may take it some 50 ms

OBJECT, ARRAY, ANY = "{", "[", "{[\"'-0123456789tfnTFN"
SPACE = re.compile(r"\s*")
NO_JSON_SPACE = re.compile(r"[^ \t\r\n]")
FENCE = re.compile(r"\s*```[\w+#.-]*[ \t]*\r?\n")
TOKEN = re.compile(r"[^\s,;:{}\[\]\"']*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
NAME = re.compile(r"[A-Za-z_$][\w$-]*")
LITERALS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
# Where among words an object, or an array where only one is wanted, begins: an opening bracket alone is no sign.
SIGNS = {OBJECT: re.compile(r"\{(?=\s*[\"'}])"), ARRAY: re.compile(r"\[(?=\s*[\"'{\[\]\d-])")}
CLOSERS = {"{": "}", "[": "]"}
OPENERS = {"}": "{", "]": "["}
BETWEEN_VALUES = "}],;"  # what may stand there beside white space


class Outcome(Enum):
    NONE = "no JSON in it"
    OPEN = "not over"
    COMPLETE = "a whole value"
    CLOSED = "a value that was not whole"
    BROKEN = "no JSON any more"


class JsonText:
    """Give `feed` the text as it comes and call `end` once; what they return, joined, is the repaired JSON.

    What was returned is never taken back, and does not depend on where the text was cut. Once the `outcome` is BROKEN
    the rest of the text comes as it is; where it is NONE, all of it does. `roots` are the characters that the value may
    begin with, one of `OBJECT`, `ARRAY` and `ANY`.

    An `exact` reader serves callers that act on what they read, as on a tool's arguments. To it a string without an
    end, a name without a value at the end, half an escape and half a surrogate pair are BROKEN, since they would have
    to be completed by a guess, and so are words behind a value; further values are read, and come with commas between
    them. Other readers guess, because what they have returned is shown already, and is checked against its schema.
    """

    __slots__ = (
        "_begun",
        "_exact",
        "_held",
        "_in_name",
        "_out",
        "_pending",
        "_read",
        "_roots",
        "_stack",
        "_string",
        "_token",
        "outcome",
    )

    def __init__(self, roots: str = OBJECT, *, exact: bool = False) -> None:
        self._roots = roots
        self._exact = exact
        self._begun = False
        self._held = ""  # the text so far, until it is known where the value begins
        self._out: list[str] = []
        self._stack: list[str] = []  # the open brackets
        self._read: Callable[[JsonText, str, int], int] = JsonText._value  # the method that reads what comes next
        self._pending = ""  # what may only come out with the value that follows it: white space, a comma, a name
        self._in_name = False  # the string or token that is read is a name
        self._string = LenientString(exact=exact)
        self._token = ""
        self.outcome = Outcome.NONE

    def feed(self, text: str) -> str:
        if not self._begun:
            text = self._seek(text)
        at = 0
        if self.outcome is Outcome.OPEN:
            at = self._read_on(text)
        if self._begun and self.outcome in (Outcome.NONE, Outcome.BROKEN):
            self._out.append(text[at:])
        return self._flush()

    def end(self, *, cut: bool) -> str:
        """`cut`: a limit cut the text, so that a number or a word at its end may not be whole; then it is left out."""
        if not self._begun:
            self._out.append(self._held)
            self._held = ""
        if self.outcome is Outcome.OPEN and self._read is JsonText._more_token and not cut:
            self._finish_token()
        if self.outcome is Outcome.OPEN:
            self._finish()
        return self._flush()

    def _finish(self) -> None:
        """The text is over before the value is: close what is open."""
        if self._read is JsonText._next_value:
            self.outcome = Outcome.COMPLETE
        elif self._exact and not self._between_members:
            self._break(0)
        else:
            if self._read is JsonText._more_string and not self._in_name:
                self._out.append('"')
            self._out += [CLOSERS[opener] for opener in reversed(self._stack)]
            self.outcome = Outcome.CLOSED

    def _flush(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    # Before the value

    def _seek(self, text: str) -> str:
        """What is to be read, from where the value begins; from the very beginning where there is none."""
        self._held += text
        start = self._start()
        if start is None and len(self._held) <= WORDS_CHARACTERS:
            return ""
        found, self._held, self._begun = self._held[start or 0 :], "", True
        self.outcome = Outcome.NONE if start is None else Outcome.OPEN
        return found

    def _start(self) -> int | None:
        fence = FENCE.match(self._held)
        at = after_space(self._held, fence.end() if fence else 0)
        if self._held[at : at + 1] in self._roots and at < len(self._held):
            return at
        sign = SIGNS[self._roots].search(self._held) if self._roots in SIGNS else None
        return sign.start() if sign else None

    # Within the value. Each of these methods reads a piece of `text` from `at`, returns where the next one begins, and
    # leaves in `_read` the method that reads it.

    def _read_on(self, text: str) -> int:
        at, open_ = 0, Outcome.OPEN  # looked up once: the members of an enum are slow to reach
        while self.outcome is open_ and at < len(text):
            at = self._read(self, text, at)
        return at

    def _name(self, text: str, at: int) -> int:
        """A member's name, or the end of its object."""
        at = self._skip_space(text, at)
        first = text[at : at + 1]
        if not first or first == ",":  # a comma too many
            return at + len(first)
        if first in "\"'":
            self._in_name = True
            return self._begin_string(first, text, at + 1)
        if first in OPENERS:
            return self._close(first, at)
        if NAME.match(first):
            self._in_name = True
            return self._begin_token(text, at)
        return self._break(at)

    def _colon(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        first = text[at : at + 1]
        if first != ":":
            return self._break(at) if first else at
        self._pending += ":"
        self._read = JsonText._value
        return at + 1

    def _value(self, text: str, at: int) -> int:
        """A value, or the end of an array."""
        at = self._skip_space(text, at)
        first = text[at : at + 1]
        if not first or (first == "," and self._stack[-1:] == ["["]):  # a comma too many
            return at + len(first)
        if first in "\"'":
            self._in_name = False
            return self._begin_string(first, text, at + 1)
        if first in CLOSERS and len(self._stack) < MAX_DEPTH:
            self._out.append(self._take_pending() + first)
            self._stack.append(first)
            self._read = JsonText._name if first == "{" else JsonText._value
            return at + 1
        if first in OPENERS:
            return self._close(first, at)
        if first in ",:{[":
            return self._break(at)
        self._in_name = False
        return self._begin_token(text, at)

    def _comma(self, text: str, at: int) -> int:
        """A comma, the end of an object or array, or what no value goes on with: then a comma is missing."""
        at = self._skip_space(text, at)
        first = text[at : at + 1]
        if first in OPENERS:
            return self._close(first, at)
        if first not in ",\"'{[":
            return self._break(at)
        if first:
            self._read = JsonText._name if self._stack[-1] == "{" else JsonText._value
            self._pending = self._pending + first if first == "," else "," + self._pending
        return at + 1 if first == "," else at

    def _next_value(self, text: str, at: int) -> int:
        """A further value behind a whole one."""
        at = self._skip_space(text, at)
        first = text[at : at + 1]
        if first in BETWEEN_VALUES:
            return at + len(first)
        self._pending = ","
        return self._value(text, at)

    def _skip_space(self, text: str, at: int) -> int:
        """Where the white space at `at` ends; it comes out with the value that follows."""
        if not text[at].isspace():
            return at
        end = after_space(text, at)
        left_characters = max(0, HELD_CHARACTERS - len(self._pending))
        self._pending += NO_JSON_SPACE.sub(" ", text[at : min(end, at + left_characters)])
        return end

    @property
    def _between_members(self) -> bool:
        """Whether no name and no value has begun that is not over, so that a bracket may close."""
        in_array = self._read is JsonText._value and self._stack[-1:] == ["["]
        return in_array or self._read in (JsonText._name, JsonText._comma)

    def _close(self, closer: str, at: int) -> int:
        """Close an object or array, and what was left open inside it."""
        opener = OPENERS[closer]
        if not self._between_members or opener not in self._stack:
            return self._break(at)
        while self._stack[-1] != opener:
            self._out.append(CLOSERS[self._stack.pop()])
        self._stack.pop()
        self._out.append(self._take_pending().replace(",", "") + closer)
        self._after_value()
        return at + 1

    def _after_value(self) -> None:
        if self._stack:
            self._read = JsonText._comma
        elif self._exact:
            self._read = JsonText._next_value
        else:
            self.outcome = Outcome.COMPLETE

    # Numbers, literals, bare names

    def _begin_token(self, text: str, at: int) -> int:
        self._token, self._read = "", JsonText._more_token
        return self._more_token(text, at)

    def _more_token(self, text: str, at: int) -> int:
        match = TOKEN.match(text, at)
        assert match is not None
        self._token += match[0]
        if len(self._token) > HELD_CHARACTERS:
            return self._break(match.end())
        if match.end() < len(text):
            self._finish_token()
        return match.end()

    def _finish_token(self) -> None:
        token = self._token
        if self._in_name and NAME.fullmatch(token):
            self._pending += f'"{token}"'
            self._token, self._read = "", JsonText._colon
        elif not self._in_name and (literal := LITERALS.get(token) or (token if NUMBER.fullmatch(token) else None)):
            self._out.append(self._take_pending() + literal)
            self._token = ""
            self._after_value()
        else:
            self._break(0)

    # Strings

    def _begin_string(self, quote: str, text: str, at: int) -> int:
        plain = PLAIN[quote].match(text, at)
        assert plain is not None
        end = plain.end()
        if text[end : end + 1] == quote and end - at <= HELD_CHARACTERS:  # nearly every string
            return self._end_string(f'"{plain[0]}"', end + 1)
        self._string.begin(quote)
        self._read = JsonText._more_string
        self._put('"')
        return at

    def _more_string(self, text: str, at: int) -> int:
        piece, at = self._string.read(text, at)
        if self._string.over:
            return self._end_string(piece + '"', at)
        self._put(piece)
        return self._break(at) if self._string.broken or len(self._pending) > 2 * HELD_CHARACTERS else at

    def _end_string(self, piece: str, at: int) -> int:
        self._put(piece)
        if self._in_name:
            self._read = JsonText._colon
        else:
            self._after_value()
        return at

    def _put(self, piece: str) -> None:
        """Write a piece of the string. Its value lets out what is pending; its name is pending itself."""
        if self._in_name:
            self._pending += piece
        else:
            self._out.append(self._take_pending() + piece)

    def _take_pending(self) -> str:
        pending, self._pending = self._pending, ""
        return pending

    def _break(self, at: int) -> int:
        """It is no JSON from `at` on."""
        self._out.append(self._take_pending() + self._token)
        self.outcome = Outcome.BROKEN
        return at


def read_values(text: str, *, complete: bool = True) -> list[Any] | None:
    """The values that stand in `text` one after another; None where it is not JSON, even after repair.

    Numbers come as `orjson.Fragment`s, to the last digit as they were written. A text that is not `complete` was cut
    off: it must be right as it stands.
    """
    try:
        return [STRICT.decode(text)]
    except (ValueError, RecursionError):
        pass
    if not complete or len(text) > REPAIRED_CHARACTERS:
        return None
    reader = JsonText(ANY, exact=True)
    repaired = reader.feed(without_fence(text)) + reader.end(cut=False)
    if reader.outcome not in (Outcome.COMPLETE, Outcome.CLOSED):
        return None
    values: list[Any] = STRICT.decode(f"[{repaired}]")
    return values


def refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


STRICT = json.JSONDecoder(parse_float=orjson.Fragment, parse_int=orjson.Fragment, parse_constant=refuse)


def without_fence(text: str) -> str:
    """What stands in a code block of Markdown; the text itself where it is none."""
    fence = FENCE.match(text)
    return text[fence.end() :].rstrip().removesuffix("```") if fence else text


def roots_of(schema: Any) -> str:
    """What a value that fits `schema` may begin with; an object where there is no schema."""
    if not isinstance(schema, Mapping):
        return OBJECT if schema is None else ANY
    kind = schema.get("type", "object" if "properties" in schema else None)
    return {"object": OBJECT, "array": ARRAY}.get(kind, ANY) if isinstance(kind, str) else ANY


def after_space(text: str, at: int) -> int:
    match = SPACE.match(text, at)
    assert match is not None
    return match.end()
