"""One choice of an answer, as its deltas come: its thoughts apart from its text, and its end."""

from typing import Any

from providers.answers.fields import read_calls, read_extra, read_texts, text_of
from providers.events import Delta
from providers.thinking import State, ThinkSplitter


class ChoiceReader:
    """`read` each of the choice's events; `end` it when no more come, which lets out what was held back.

    `passes_text`: its text needs no more looking for the tags of a thought, so that a delta of text alone may go past
    this reader. `finished`: its finish reason has come; what still comes does not reopen it.
    """

    __slots__ = ("_index", "_thoughts", "finished", "passes_text")

    def __init__(self, index: int, starts: State = State.START) -> None:
        """`starts`: where in the answer the first text stands."""
        self._index = index
        self._thoughts = ThinkSplitter(starts)
        self.passes_text = False
        self.finished = False

    def read(self, choice: dict[str, Any], *, plain: bool) -> Delta | None:
        """What an event says of the choice; None where that is nothing. `plain`: it says all of it at once."""
        delta = choice.get("message" if plain else "delta")
        if type(delta) is not dict:
            delta = self._raw_text(choice)
        reasoning, content, details = read_texts(delta)
        tool_calls = read_calls(delta.get("tool_calls"), whole=plain)
        finish_reason = text_of(choice.get("finish_reason")) or None
        if not self.passes_text:
            last = finish_reason is not None or tool_calls is not None
            reasoning, content = self._split_thoughts(reasoning, content, last=last)
        if finish_reason:
            self.finished = True
        extra = read_extra(choice)
        if reasoning or content or tool_calls or finish_reason or extra or details:
            return Delta(self._index, reasoning or None, content or None, tool_calls, finish_reason, extra, details)
        return None

    def end(self) -> Delta | None:
        """What was held back as the possible beginning of a tag."""
        reasoning, content = self._thoughts.end()
        return Delta(self._index, reasoning or None, content or None) if reasoning or content else None

    def _raw_text(self, choice: dict[str, Any]) -> dict[str, Any]:
        """The delta of a raw completion, in whose text no tag means anything."""
        text = choice.get("text")
        if type(text) is not str:
            return {}
        self.passes_text = True
        return {"content": text}

    def _split_thoughts(self, reasoning: str, content: str, *, last: bool) -> tuple[str, str]:
        """`last`: a call or the end follows this text, so that nothing may be held back beyond it."""
        thoughts = self._thoughts
        if reasoning and thoughts.state is State.START:  # the engine parses thoughts itself
            content = thoughts.end()[1] + content
            thoughts.state = State.ANSWERING
        if thoughts.state is not State.ANSWERING and content:
            thought, content = thoughts.feed(content)
            reasoning += thought
        if last:
            thought, text = thoughts.end()
            reasoning, content = reasoning + thought, content + text
            if thoughts.state is State.START:
                thoughts.state = State.ANSWERING
        self.passes_text = thoughts.state is State.ANSWERING
        return reasoning, content
