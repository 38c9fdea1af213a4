"""Thoughts that a model writes into its text: `<think>…</think>` at its beginning, cut anywhere.

The tag counts only there (after white space), so that prose or code that mentions it stays text. What stands between
the tags is the thought, to the letter, and what follows is the text.
"""

from enum import Enum

OPEN, CLOSE = "<think>", "</think>"

# Nous Research's system prompt that switches Hermes 4's reasoning on (model card of NousResearch/Hermes-4-405B).
THINKING_PROMPT = (
    "You are a deep thinking AI, you may use extremely long chains of thought to deeply consider the problem and "
    "deliberate with yourself via systematic reasoning processes to help come to a correct solution prior to "
    "answering. You should enclose your thoughts and internal monologue inside <think> </think> tags, and then "
    "provide your solution or response to the problem."
)


class State(Enum):
    """Where in an answer a text stands."""

    START = 0
    THINKING = 1
    ANSWERING = 2


class ThinkSplitter:
    """`feed` the text of one choice in any pieces: each comes back as (reasoning, content). Then `end` it.

    What may be the beginning of a tag is held back, and white space before it.
    """

    __slots__ = ("_held", "state")

    def __init__(self, state: State = State.START) -> None:
        self.state = state
        self._held = ""

    def feed(self, text: str) -> tuple[str, str]:
        if self.state is State.ANSWERING:
            return "", text
        text = self._held + text
        self._held = ""
        if self.state is State.START:
            start = text.lstrip()
            if len(start) < len(OPEN) and OPEN.startswith(start):
                self._held = text
                return "", ""
            if not start.startswith(OPEN):
                self.state = State.ANSWERING
                return "", text
            self.state = State.THINKING
            text = start[len(OPEN) :]
        return self._think(text)

    def end(self) -> tuple[str, str]:
        """The text is over: what was held back is no tag, but belongs to the thought or to the text."""
        held, self._held = self._held, ""
        return (held, "") if self.state is State.THINKING else ("", held)

    def _think(self, text: str) -> tuple[str, str]:
        thought, closed, answer = text.partition(CLOSE)
        if closed:
            self.state = State.ANSWERING
            return thought, answer
        keep = overlap(text, CLOSE)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], ""


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
