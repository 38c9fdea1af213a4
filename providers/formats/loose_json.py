"""Read JSON that a model wrote, and repair it where only its syntax is wrong.

Repaired: trailing, doubled and missing commas, single quotes, bare keys, Python's literals, line breaks within strings,
stray backslashes, brackets too many, and brackets missing at the end. Nothing is guessed: a string without an end, a
key without a value or a bare word is no JSON. Numbers are kept as they were written, to the last digit.
"""

import json
import re
from typing import Any, NoReturn

import orjson

DEEPEST = 64
MOST_REPAIRED = 65_536  # characters; a repair of so many takes some 50 ms
SPACE = re.compile(r"\s*")
KEY = re.compile(r"[A-Za-z_$][\w$-]*")
NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?(?![\w.])")
WORD = re.compile(r"[A-Za-z]+")
PLAIN = {'"': re.compile(r'[^"\\]*'), "'": re.compile(r"[^'\\]*")}
WORDS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
ESCAPES = frozenset('"\\/bfnrtu')
CODED = frozenset("xUN01234567")  # Python's escapes by number or name, which JSON has not


def read(text: str, *, complete: bool = True) -> list[Any] | None:
    """The values that stand in `text` one after another; None where it is not JSON, even after repair.

    Numbers come as `orjson.Fragment`s. A text that is not `complete` was cut off: it must be right as it stands.
    """
    try:
        return [STRICT.decode(text)]
    except (ValueError, RecursionError):
        pass
    try:
        return Loose(text).values() if complete and len(text) <= MOST_REPAIRED else None
    except (ValueError, IndexError):
        return None


def refuse(what: str) -> NoReturn:
    raise ValueError(what)


STRICT = json.JSONDecoder(parse_float=orjson.Fragment, parse_int=orjson.Fragment, parse_constant=refuse)
STRING = json.JSONDecoder(strict=False)


class Loose:
    """A descent through the text. What cannot be repaired is a ValueError, what ends too early an IndexError."""

    def __init__(self, text: str) -> None:
        self._text = without_fence(text)
        self._at = 0

    def values(self) -> list[Any]:
        found: list[Any] = []
        while self._more():
            if found and self._text[self._at] in "}],;":
                self._at += 1
            else:
                found.append(self._value(0))
        return found or refuse("nothing")

    def _more(self) -> bool:
        match = SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        return self._at < len(self._text)

    def _value(self, depth: int) -> Any:
        self._more()
        first = self._text[self._at]
        if depth > DEEPEST:
            refuse("too deep")
        if first in "\"'":
            return self._string(first)
        if first in "{[":
            self._at += 1
            return self._object(depth) if first == "{" else self._array(depth)
        if number := NUMBER.match(self._text, self._at):
            self._at = number.end()
            return orjson.Fragment(number[0])
        word = WORD.match(self._text, self._at)
        if word is None or word[0] not in WORDS:
            refuse("a bare word")
        self._at = word.end()
        return WORDS[word[0]]

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._closed("}"):
            key = self._key()
            self._more()
            if self._text[self._at] != ":":
                refuse("a key without a value")
            self._at += 1
            found[key] = self._value(depth + 1)
            self._separated("}")
        return found

    def _array(self, depth: int) -> list[Any]:
        found: list[Any] = []
        while not self._closed("]"):
            found.append(self._value(depth + 1))
            self._separated("]")
        return found

    def _closed(self, bracket: str) -> bool:
        """At the end of the text everything is."""
        if not self._more():
            return True
        if self._text[self._at] == bracket:
            self._at += 1
            return True
        return False

    def _separated(self, bracket: str) -> None:
        """Commas, or none where what follows cannot be taken for a part of what stands before it."""
        commas = 0
        while self._more() and self._text[self._at] == ",":
            self._at += 1
            commas += 1
        if not commas and self._at < len(self._text) and self._text[self._at] not in bracket + "\"'{[":
            refuse("two values without a comma")

    def _key(self) -> str:
        if self._text[self._at] in "\"'":
            return self._string(self._text[self._at])
        bare = KEY.match(self._text, self._at)
        if bare is None:
            refuse("no key")
        self._at = bare.end()
        return bare[0]

    def _string(self, quote: str) -> str:
        """Put into JSON's words piece by piece, which then says what it means."""
        at, pieces = self._at + 1, ['"']
        while True:
            plain = PLAIN[quote].match(self._text, at)
            assert plain is not None
            pieces.append(plain[0].replace('"', '\\"'))
            at = plain.end() + 1
            if self._text[at - 1] == quote:
                self._at = at
                return str(STRING.decode("".join([*pieces, '"'])))
            escaped = self._text[at]
            if escaped in CODED:
                refuse("an escape of another language")
            pieces.append(escaped if escaped == "'" else "\\" + escaped if escaped in ESCAPES else "\\\\" + escaped)
            at += 1


def without_fence(text: str) -> str:
    """What stands in a code block of Markdown."""
    text = text.strip()
    if not text.startswith("```"):
        return text
    first, _, rest = text.partition("\n")
    return rest.rstrip().removesuffix("```") if first.strip("`").isalpha() or not first.strip("`") else text
