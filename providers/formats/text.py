"""The JSON in a text that a model wrote, found as the text comes and written without what stands around it.

What comes out grows by appending only, whatever comes in and wherever it is cut, and is JSON once it is over. Left out:
words and Markdown's fences before the value, everything behind it. Repaired: trailing, doubled and missing commas,
single quotes, bare keys, Python's literals, control characters within strings, stray backslashes, brackets missing.
Nothing is guessed: a name whose value has not begun is held back, and where the text turns out to be no JSON, the rest
of it comes as it is. Of a text without any JSON nothing is left out.
"""

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any

DEEPEST = 64
MOST_WORDS = 4_096  # characters before the value; then it is taken for a text
MOST_HELD = 4_096  # characters of a name or a number
OBJECT, ARRAY, ANY = "{", "[", "{[\"'-0123456789tfnTFN"
SPACE = re.compile(r"[ \t\r\n]*")
FENCE = re.compile(r"\s*```[^\n`]*\n")
TOKEN = re.compile(r"[^\s,:{}\[\]\"']*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
KEY = re.compile(r"[A-Za-z_$][\w$-]*", re.ASCII)
WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
PLAIN = {'"': re.compile(r'[^"\\\x00-\x1f]*'), "'": re.compile(r"[^'\"\\\x00-\x1f]*")}
# Where in a prose an object, or an array where only one is wanted, begins: an opening bracket alone is no sign.
SIGNS = {OBJECT: re.compile(r"\{(?=\s*[\"'}])"), ARRAY: re.compile(r"\[(?=\s*[\"'{\[\]\d-])")}
CLOSERS = {"{": "}", "[": "]"}
OPENERS = {"}": "{", "]": "["}
ESCAPES = frozenset('"\\/bfnrt')
CODED = frozenset("xUN01234567")  # Python's escapes by number or name, which JSON has not
HEX = frozenset("0123456789abcdefABCDEF")
CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNKNOWN = "\\ufffd"


class Outcome(Enum):
    NONE = "no JSON in it"
    OPEN = "not over"
    COMPLETE = "a whole value"
    CLOSED = "a value that was not whole"
    BROKEN = "no JSON any more"


class Part(Enum):
    """What is read, or looked for, next."""

    KEY = 0
    COLON = 1
    VALUE = 2
    COMMA = 3
    STRING = 4
    ESCAPE = 5
    TOKEN = 6  # a number, a literal, a bare key


class JsonText:
    """`feed` the text as it comes, then `end` it once: what they return, joined, is what may be shown.

    `roots` are the characters that the value may begin with, one of `OBJECT`, `ARRAY` and `ANY`.
    """

    __slots__ = (
        "_begun",
        "_escape",
        "_held",
        "_key",
        "_out",
        "_part",
        "_pending",
        "_quote",
        "_roots",
        "_stack",
        "_token",
        "outcome",
    )

    def __init__(self, roots: str = OBJECT) -> None:
        self._roots = roots
        self._begun = False
        self._held = ""  # of what stands before the value
        self._out: list[str] = []
        self._stack: list[str] = []
        self._part = Part.VALUE
        self._pending = ""  # what may only come out with the value that follows it: white space, a comma, a name
        self._key = False  # the string or token is a name
        self._quote = ""
        self._escape = ""
        self._token = ""
        self.outcome = Outcome.NONE

    def feed(self, text: str) -> str:
        if not self._begun:
            text = self._seek(text)
        at = 0
        while self.outcome is Outcome.OPEN and at < len(text):
            at = self._step(text, at)
        if self._begun and self.outcome in (Outcome.NONE, Outcome.BROKEN):
            self._out.append(text[at:])
        return self._flush()

    def end(self, *, cut: bool) -> str:
        """`cut`: there was no more room, so that a number or a word at the end may not be whole, and is left out."""
        if not self._begun:
            self._out.append(self._held)
            self._held = ""
        if self.outcome is Outcome.OPEN and self._part is Part.TOKEN and not cut:
            self._finish_token()
        if self.outcome is Outcome.OPEN:
            if self._part in (Part.STRING, Part.ESCAPE) and not self._key:
                self._out.append('"')
            self._out += [CLOSERS[opener] for opener in reversed(self._stack)]
            self.outcome = Outcome.CLOSED
        return self._flush()

    def _flush(self) -> str:
        text = "".join(self._out)
        self._out.clear()
        return text

    def _seek(self, text: str) -> str:
        """What is to be read, from where the value begins; from the very beginning where there is none."""
        self._held += text
        start = self._start()
        if start is None and len(self._held) <= MOST_WORDS:
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

    def _step(self, text: str, at: int) -> int:
        """Read a piece of `text` from `at`; where the next one begins."""
        match self._part:
            case Part.STRING:
                return self._read_string(text, at)
            case Part.ESCAPE:
                return self._read_escape(text, at)
            case Part.TOKEN:
                return self._read_token(text, at)
        end = after_space(text, at)
        if end > at:
            if len(self._pending) < MOST_HELD:
                self._pending += text[at:end]
            return end
        first = text[at]
        if first in OPENERS:
            return self._close(first, at)
        match self._part:
            case Part.KEY:
                return self._begin_key(first, at)
            case Part.VALUE:
                return self._begin_value(first, at)
            case Part.COLON if first == ":":
                self._pending += ":"
                self._part = Part.VALUE
                return at + 1
            case Part.COMMA if first in ",\"'{[":
                self._pending = self._pending + "," if first == "," else "," + self._pending
                self._part = self._member
                return at + 1 if first == "," else at
        return self._break(at)

    @property
    def _member(self) -> Part:
        return Part.KEY if self._stack[-1] == "{" else Part.VALUE

    def _begin_key(self, first: str, at: int) -> int:
        if first == ",":  # one too many
            return at + 1
        if first in "\"'":
            self._pending += '"'
            self._key, self._quote, self._part = True, first, Part.STRING
            return at + 1
        if KEY.match(first):
            self._key, self._token, self._part = True, "", Part.TOKEN
            return at
        return self._break(at)

    def _begin_value(self, first: str, at: int) -> int:
        self._key = False
        if first == "," and self._stack[-1:] == ["["]:  # one too many
            return at + 1
        if first in "\"'":
            self._out.append(self._take_pending() + '"')
            self._quote, self._part = first, Part.STRING
            return at + 1
        if first in CLOSERS and len(self._stack) < DEEPEST:
            self._out.append(self._take_pending() + first)
            self._stack.append(first)
            self._part = self._member
            return at + 1
        if first in ",:{[":
            return self._break(at)
        self._token, self._part = "", Part.TOKEN
        return at

    def _close(self, closer: str, at: int) -> int:
        """Also of what was left open inside it."""
        opener = OPENERS[closer]
        inside = self._part in (Part.KEY, Part.COMMA) or (self._part is Part.VALUE and self._stack[-1:] == ["["])
        if not inside or opener not in self._stack:
            return self._break(at)
        while self._stack[-1] != opener:
            self._out.append(CLOSERS[self._stack.pop()])
        self._stack.pop()
        self._out.append(self._take_pending().replace(",", "") + closer)
        self._after_value()
        return at + 1

    def _after_value(self) -> None:
        if self._stack:
            self._part = Part.COMMA
        else:
            self.outcome = Outcome.COMPLETE

    def _read_token(self, text: str, at: int) -> int:
        match = TOKEN.match(text, at)
        assert match is not None
        self._token += match[0]
        if match.end() < len(text):
            self._finish_token()
        elif len(self._token) > MOST_HELD:
            return self._break(match.end())
        return match.end()

    def _finish_token(self) -> None:
        token = self._token
        if self._key and KEY.fullmatch(token):
            self._pending += f'"{token}"'
            self._token, self._part = "", Part.COLON
        elif not self._key and (literal := WORDS.get(token) or (token if NUMBER.fullmatch(token) else None)):
            self._out.append(self._take_pending() + literal)
            self._token = ""
            self._after_value()
        else:
            self._break(0)

    def _read_string(self, text: str, at: int) -> int:
        plain = PLAIN[self._quote].match(text, at)
        assert plain is not None
        self._put(plain[0])
        at = plain.end()
        if at == len(text):
            return self._break(at) if self._key and len(self._pending) > 2 * MOST_HELD else at
        first = text[at]
        if first == self._quote:
            self._put('"')
            if self._key:
                self._part = Part.COLON
            else:
                self._after_value()
        elif first == "\\":
            self._escape, self._part = first, Part.ESCAPE
        else:
            self._put('\\"' if first == '"' else CONTROL.get(first) or f"\\u{ord(first):04x}")
        return at + 1

    def _read_escape(self, text: str, at: int) -> int:
        """One character of it. What turns out to be none is spelt out, and read again as what it is."""
        first, escape = text[at], self._escape
        if escape == "\\":
            if first in CODED:
                return self._break(at)
            if first == "u":
                self._escape += first
                return at + 1
            self._unescape("'" if first == "'" else escape + first if first in ESCAPES else "\\\\")
            return at + 1 if first in ESCAPES or first == "'" else at
        if len(escape) % 6 == 0:  # half of a character, which needs another
            if first == "\\":
                self._escape += first
                return at + 1
            self._unescape(UNKNOWN)
        elif len(escape) == 7 and first == "u":
            self._escape += first
            return at + 1
        elif len(escape) != 7 and first in HEX:
            self._escape += first
            if len(self._escape) % 6 == 0:
                self._finish_escape()
            return at + 1
        elif len(escape) > 6:
            self._put(UNKNOWN)
            self._escape = escape[6:]
        else:
            self._unescape("\\" + escape)
        return at

    def _finish_escape(self) -> None:
        escape = self._escape
        if len(escape) == 12:
            if is_low(escape[8:]):
                self._unescape(escape)
                return
            self._put(UNKNOWN)
            escape = self._escape = escape[6:]
        if is_low(escape[2:]):
            self._unescape(UNKNOWN)
        elif not is_high(escape[2:]):
            self._unescape(escape)

    def _unescape(self, text: str) -> None:
        self._put(text)
        self._escape, self._part = "", Part.STRING

    def _put(self, text: str) -> None:
        """A piece of the string."""
        if self._key:
            self._pending += text
        else:
            self._out.append(text)

    def _take_pending(self) -> str:
        pending, self._pending = self._pending, ""
        return pending

    def _break(self, at: int) -> int:
        """It is no JSON from here on."""
        self._out.append(self._take_pending() + self._token + self._escape)
        self.outcome = Outcome.BROKEN
        return at


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


def is_high(digits: str) -> bool:
    return 0xD800 <= int(digits, 16) < 0xDC00


def is_low(digits: str) -> bool:
    return 0xDC00 <= int(digits, 16) < 0xE000
