"""Answers that have to be JSON where no engine sees to it: what is shown of them, and what is wrong with them.

A stream is written as it comes, by appending only; a plain answer is held, since it may be replaced by a better one.
"""

from dataclasses import dataclass, field

from providers.events import Delta
from providers.formats.lenient_json import JsonText, roots_of
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from proxy.exchange.attempt import Outlet


@dataclass(slots=True)
class Shaping:
    """One choice: what was read of it, what was made of that, and the delta that ended it."""

    reader: JsonText
    shown: list[str] = field(default_factory=list)
    called: bool = False
    ending: Delta | None = None

    @property
    def finish_reason(self) -> str | None:
        return self.ending.finish_reason if self.ending else None


class JsonOutlet:
    """Before the outlet of an answer: deltas in, deltas without what stands around the JSON out.

    When the attempt is over call `close`, check its texts, then `conclude`.
    """

    __slots__ = ("_choices", "_holds", "_outlet", "_roots", "delivers")

    def __init__(self, outlet: Outlet, wanted: JsonFormat) -> None:
        self._outlet = outlet
        self._holds = not outlet.delivers
        self._roots = roots_of(wanted.schema)
        self._choices: dict[int, Shaping] = {}
        self.delivers = False
        """Whether anything has passed that cannot be taken back."""

    def write(self, delta: Delta) -> None:
        choice = self._choices.get(delta.index)
        if choice is None:
            choice = self._choices[delta.index] = Shaping(JsonText(self._roots))
        text = delta.content or ""
        if text and not choice.called:
            text = choice.reader.feed(text)
        if delta.tool_calls and not choice.called:  # what is said beside a call is no answer
            choice.called = True
            text = "".join(choice.shown if self._holds else ()) + text + choice.reader.end(cut=False)
        if text:
            choice.shown.append(text)
        ends = delta.finish_reason is not None
        if ends:
            choice.ending = delta
        if self._holds and not choice.called:
            text = ""
        extra = None if ends else delta.extra
        if text or delta.reasoning or delta.tool_calls or delta.details or extra:
            self.delivers = not self._holds
            self._outlet.write(
                Delta(delta.index, delta.reasoning, text or None, delta.tool_calls, None, extra, delta.details)
            )

    def flush(self) -> bool:
        return self._outlet.flush()

    def close(self) -> dict[int, str]:
        """No more comes: what is open is closed. The texts that are to be checked, by choice."""
        texts = {}
        for index, choice in self._choices.items():
            if not choice.called:
                if rest := choice.reader.end(cut=choice.finish_reason == "length"):
                    choice.shown.append(rest)
                    if not self._holds:
                        self._outlet.write(Delta(index, None, rest))
                texts[index] = "".join(choice.shown)
        return texts

    @property
    def repairable(self) -> bool:
        """Whether there is one answer, which the model ended, and nobody has it yet."""
        choices = list(self._choices.values())
        return self._holds and len(choices) == 1 and choices[0].finish_reason == "stop"

    def conclude(self, texts: dict[int, str], problems: dict[int, Problem]) -> None:
        """The end of every choice: its text where it was held, and what is wrong with it."""
        for index, choice in self._choices.items():
            extra = dict(choice.ending.extra or {}) if choice.ending else {}
            if problem := problems.get(index):
                extra["schema_error"] = {"message": problem.message, "path": problem.path}
            text = texts.get(index) if self._holds else None
            self._outlet.write(Delta(index, None, text or None, None, choice.finish_reason, extra or None))


class Nowhere:
    """The outlet of an answer that nobody is shown as it is."""

    delivers = False

    def write(self, delta: Delta) -> None: ...

    def flush(self) -> bool:
        return False
