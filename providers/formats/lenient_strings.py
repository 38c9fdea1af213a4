"""The inside of a string in JSON that a model wrote, put into JSON's own words as it comes.

Repaired: single quotes, control characters, stray backslashes, `\\'`. An escape of another language is no JSON.
"""

import re

PLAIN = {
    '"': re.compile(r'[^"\\\x00-\x1f]*(?:\\["\\/bfnrt][^"\\\x00-\x1f]*)*'),
    "'": re.compile(r"""[^'"\\\x00-\x1f]*(?:\\["\\/bfnrt][^'"\\\x00-\x1f]*)*"""),
}
"""By the quote around a string: a run of what means the same within JSON's quotes, simple escapes among it."""
ESCAPES = frozenset('"\\/bfnrt')
FOREIGN_ESCAPES = frozenset("xUN01234567")  # Python's escapes by number or name, which JSON has not
HEX = frozenset("0123456789abcdefABCDEF")
CONTROL = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
UNKNOWN = "\\ufffd"


class LenientString:
    """Call `begin` behind the opening quote, then `read` each piece of text until the string is `over` or `broken`.

    An `exact` reader breaks where an escape is cut short or half of a surrogate pair stands alone. Others guess: they
    take the one for text, and the other for U+FFFD.
    """

    __slots__ = ("_escape", "_exact", "_quote", "broken", "over")

    def __init__(self, *, exact: bool) -> None:
        self._exact = exact
        self._quote = '"'
        self._escape = ""  # the escape that is read, its backslash included; two for a surrogate pair
        self.over = False
        self.broken = False

    def begin(self, quote: str) -> None:
        self._quote, self._escape = quote, ""
        self.over = self.broken = False

    def read(self, text: str, at: int) -> tuple[str, int]:
        """The string from `at` on in JSON's words, without quotes, and where reading stopped.

        It stops at the end of `text`, behind the closing quote, and where the string is broken.
        """
        pieces: list[str] = []
        while at < len(text) and not self.over and not self.broken:
            at = self._read_escape(text[at], at, pieces) if self._escape else self._read_plain(text, at, pieces)
        if self.broken:
            pieces.append(self._escape)
        return "".join(pieces), at

    def _read_plain(self, text: str, at: int, pieces: list[str]) -> int:
        plain = PLAIN[self._quote].match(text, at)
        assert plain is not None
        pieces.append(plain[0])
        at = plain.end()
        if at == len(text):
            return at
        first = text[at]
        if first == self._quote:
            self.over = True
        elif first == "\\":
            self._escape = first
        else:
            pieces.append('\\"' if first == '"' else CONTROL.get(first) or f"\\u{ord(first):04x}")
        return at + 1

    def _read_escape(self, first: str, at: int, pieces: list[str]) -> int:
        """Read the character `first` of an escape; what turns out not to belong to it is read again, as text."""
        known = len(self._escape)
        if known == 1:
            return self._read_kind(first, at, pieces)
        if known == 6:
            belongs = first == "\\"  # the second half of a surrogate pair begins
        elif known == 7:
            belongs = first == "u"
        else:
            belongs = first in HEX
        if not belongs:
            return self._guess(at, pieces)
        self._escape += first
        return at + 1 if known not in (5, 11) else self._finish(at + 1, pieces)

    def _read_kind(self, first: str, at: int, pieces: list[str]) -> int:
        """The character behind the backslash."""
        if first == "u":
            self._escape += first
            return at + 1
        if first in FOREIGN_ESCAPES:
            self.broken = True
            return at
        self._escape = ""
        if first in ESCAPES or first == "'":
            pieces.append("'" if first == "'" else "\\" + first)
            return at + 1
        pieces.append("\\\\")
        return at

    def _finish(self, at: int, pieces: list[str]) -> int:
        """The last digit of `\\uXXXX` has been read: it is a character, or one half of a surrogate pair."""
        is_second, digits = len(self._escape) == 12, self._escape[-4:]
        if is_second and not is_low(digits):
            if self._exact:
                self.broken = True
                return at
            pieces.append(UNKNOWN)
            self._escape = self._escape[6:]
            is_second = False
        if is_low(digits) and not is_second:
            return self._guess(at, pieces)
        if is_second or not is_high(digits):
            pieces.append(self._escape)
            self._escape = ""
        return at

    def _guess(self, at: int, pieces: list[str]) -> int:
        """What was begun is no escape: half of a surrogate pair, or `\\u` without its digits."""
        if self._exact:
            self.broken = True
            return at
        if len(self._escape) < 6:
            pieces.append("\\" + self._escape)
            self._escape = ""
        else:
            pieces.append(UNKNOWN)
            self._escape = self._escape[6:]
        return at


def is_high(digits: str) -> bool:
    """Whether four hexadecimal digits are the first half of a surrogate pair."""
    return 0xD800 <= int(digits, 16) < 0xDC00


def is_low(digits: str) -> bool:
    """Whether four hexadecimal digits are the second half of a surrogate pair."""
    return 0xDC00 <= int(digits, 16) < 0xE000
