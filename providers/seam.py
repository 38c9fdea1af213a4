"""Where the first part of an answer ends and another endpoint goes on, with nothing lost or doubled between the two.

The text so far goes to the endpoint as the beginning of the assistant's message (`Seam.prefix`). Templates trim white
space at its end, so it goes without; where the endpoint writes that white space again, `Echo` takes it out.
"""

from dataclasses import dataclass

from providers.events import Delta
from providers.thinking import CLOSE, OPEN


@dataclass(frozen=True, slots=True)
class Seam:
    """The answer so far: its thought and its text. `content` is None while the thought is open."""

    reasoning: str
    content: str | None

    @property
    def prefix(self) -> str:
        """The assistant's message so far, as the model wrote it, without white space at its end."""
        return self._written().rstrip()

    @property
    def echo(self) -> str:
        """The white space at the end of the answer so far, which the prefix leaves out."""
        written = self._written()
        return written[len(written.rstrip()) :]

    @property
    def inside_thought(self) -> bool:
        return self.content is None

    def _written(self) -> str:
        if self.content is None:
            return OPEN + self.reasoning
        return f"{OPEN}{self.reasoning}{CLOSE}{self.content}" if self.reasoning else self.content


class Echo:
    """Takes out of the deltas behind a seam the white space `expected`, as far as it comes again: the client has it."""

    __slots__ = ("_expected",)

    def __init__(self, expected: str) -> None:
        self._expected = expected

    def swallow(self, delta: Delta) -> Delta:
        """The delta without what was expected; that may be all of its text."""
        if not self._expected or not (delta.reasoning or delta.content):
            return delta
        reasoning = self._known(delta.reasoning)
        content = self._known(delta.content)
        return Delta(delta.index, reasoning, content, delta.tool_calls, delta.finish_reason, delta.extra, delta.details)

    def _known(self, text: str | None) -> str | None:
        if not text or not self._expected:
            return text
        length = 0
        while length < min(len(text), len(self._expected)) and text[length] == self._expected[length]:
            length += 1
        # Whatever differs from the echo is new, and so is everything behind it.
        self._expected = self._expected[length:] if length == len(text) else ""
        return text[length:] or None
