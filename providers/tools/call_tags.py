"""Where calls stand in a text: between `<tool_call>` and `</tool_call>`, found as the text comes."""

from collections.abc import Callable, Iterator
from enum import Enum

from providers.thinking import overlap

OPEN, CLOSE = "<tool_call>", "</tool_call>"
BEGINNINGS = "{[`"  # of a call, of several in a list, of either in a code block
CALL_CHARACTERS = 262_144  # a longer one is given up
BLANK_CHARACTERS = 1_024  # of white space that is held back until it is known what it belongs to


class Found(Enum):
    TEXT = "text outside of calls"
    CALL = "what stands between the tags"
    NO_CALL = "an opening tag that begins no call"
    TOO_LONG = "a call that was given up, with its opening tag"


class CallTags:
    """`feed` a text in any pieces: what is found comes in order, text at once and a call when it is whole.

    Call `take` when the text is over, or something else comes between, for what is held back: of what may be an opening
    tag its length less one character, or a call that has begun. The first character behind an opening tag tells a call
    from prose that mentions the tag.

    `opening` is how the text begins that the endpoint was given to go on from: a tag, and the beginning of a call.
    Where the first character shows that the endpoint begins anew, it counts for nothing.
    """

    __slots__ = ("_beginnings", "_begun", "_call", "_call_characters", "_held", "_read", "_tail")

    def __init__(self, opening: str = "") -> None:
        self._read: Callable[[CallTags, str], tuple[tuple[Found, str] | None, str]] = CallTags._outside
        self._held = ""  # what is not decided: outside of calls half a tag, behind a tag white space
        self._begun = ""  # what of the call stands before the text
        self._beginnings = ""  # the characters that a call may begin with, or go on with
        self._call: list[str] = []
        self._call_characters = 0
        self._tail = ""  # the end of the call so far, as much of it as may belong to the closing tag
        if opening:
            self._begun = opening.removeprefix(OPEN)
            self._beginnings = '"' if opening.endswith('"name":') else "{"
            self._read = CallTags._behind_tag

    @property
    def busy(self) -> bool:
        """Whether anything is held back."""
        return self.inside or bool(self._held)

    @property
    def inside(self) -> bool:
        """Whether the text is within a call, or behind a tag that may begin one."""
        return self._read is not CallTags._outside

    def feed(self, text: str) -> Iterator[tuple[Found, str]]:
        while text:
            found, text = self._read(self, text)
            if found is not None and found[1]:
                yield found

    def take(self) -> tuple[bool, str]:
        """What is held back, and whether it stands behind an opening tag. The text is outside of calls again."""
        began = self._read is CallTags._inside
        behind_tag = began or (self.inside and not self._begun)
        held = "".join([self._begun, *self._call]) if began else self._held
        self._read, self._held = CallTags._outside, ""
        return behind_tag, held

    # Each of these takes text and returns what it has found in it, and the rest, which is still to be read

    def _outside(self, text: str) -> tuple[tuple[Found, str] | None, str]:
        text = self._held + text
        before, tag, rest = text.partition(OPEN)
        if tag:
            self._begun, self._beginnings = "", BEGINNINGS
            self._read, self._held = CallTags._behind_tag, ""
            return (Found.TEXT, before), rest
        keep = overlap(text, OPEN)
        self._held = text[len(text) - keep :]
        return (Found.TEXT, text[: len(text) - keep]), ""

    def _behind_tag(self, text: str) -> tuple[tuple[Found, str] | None, str]:
        text = self._held + text
        first = text.lstrip()[:1]
        if not first and len(text) <= BLANK_CHARACTERS:
            self._held = text
            return None, ""
        self._held = ""
        if first and first in self._beginnings:
            self._read = CallTags._inside
            self._call, self._call_characters, self._tail = [], 0, ""
            return None, text
        self._read = CallTags._outside
        return (None if self._begun else (Found.NO_CALL, OPEN)), text

    def _inside(self, text: str) -> tuple[tuple[Found, str] | None, str]:
        probe = self._tail + text
        at = probe.find(CLOSE)
        self._call.append(text)
        if at >= 0:
            end = self._call_characters - len(self._tail) + at
            call = "".join(self._call)
            self._read = CallTags._outside
            return (Found.CALL, self._begun + call[:end]), call[end + len(CLOSE) :]
        self._call_characters += len(text)
        self._tail = probe[1 - len(CLOSE) :]
        if self._call_characters > CALL_CHARACTERS:
            return (Found.TOO_LONG, OPEN + self.take()[1]), ""
        return None, ""
