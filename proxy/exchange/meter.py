"""What an attempt has delivered, counted as it comes, and the frozen report of an attempt that everybody else reads."""

from dataclasses import dataclass
from typing import Any

from providers.events import Delta, Failure, Usage
from proxy.routing.route import Candidate


@dataclass(frozen=True, slots=True)
class Reading:
    """What a meter shows. `pieces` counts deltas that carried something; the texts are UTF-8.

    `calls` holds what the model wrote of tool calls: names and arguments, one after another.
    """

    pieces: int = 0
    reasoning_pieces: int = 0
    reasoning: bytes = b""
    content: bytes = b""
    calls: bytes = b""

    @property
    def text(self) -> bytes:
        """All that the provider let us see: thought, text and calls."""
        return self.reasoning + self.content + self.calls

    @property
    def text_bytes(self) -> int:
        return len(self.reasoning) + len(self.content) + len(self.calls)


class Meter:
    """Counts the deltas of one attempt, and keeps their text for whoever must count tokens or continue the answer."""

    __slots__ = ("_calls", "_content", "_reasoning", "pieces", "reasoning_pieces")

    def __init__(self) -> None:
        self.pieces = 0
        self.reasoning_pieces = 0
        self._reasoning = bytearray()
        self._content = bytearray()
        self._calls = bytearray()

    def add(self, delta: Delta) -> None:
        if delta.reasoning:
            self.pieces += 1
            self.reasoning_pieces += 1
            self._reasoning += delta.reasoning.encode()
        if delta.content:
            self.pieces += 1
            self._content += delta.content.encode()
        if delta.tool_calls:
            self.pieces += 1
            self._calls += written_calls(delta.tool_calls)

    @property
    def has_calls(self) -> bool:
        return bool(self._calls)

    def read(self) -> Reading:
        return Reading(
            self.pieces, self.reasoning_pieces, bytes(self._reasoning), bytes(self._content), bytes(self._calls)
        )


def written_calls(calls: list[dict[str, Any]]) -> bytes:
    """What the model wrote of OpenAI's call deltas: names and arguments; ids and keys are the engine's."""
    functions = [call["function"] for call in calls if isinstance(call.get("function"), dict)]
    return "".join(f"{each.get('name') or ''}{each.get('arguments') or ''}" for each in functions).encode()


@dataclass(frozen=True, slots=True)
class AttemptReport:
    """One attempt as far as it has come. Settlement, headers, explanation and the stored attempts are made of these.

    Instants (`…_s`) are seconds of the event loop's clock. `usage` is what the provider reported, None where it
    reported none. `done`: it said `[DONE]`; `finished`: every choice has its finish reason. `delivered`: the client
    has some of its content. `connected`: a connection to the endpoint was had. `streamed`: its answer goes to the
    client as it comes, whichever way it came here. `cut_short`: it ended by a limit of ours, and another part follows.
    `continues`: it went on from a seam. `added_prompt` is what its prompt had beyond the request's.
    """

    candidate: Candidate
    started_s: float
    reading: Reading = Reading()
    first_content_s: float | None = None
    ended_s: float | None = None
    status: int | None = None
    failure: Failure | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    done: bool = False
    finished: bool = False
    delivered: bool = False
    connected: bool = False
    fresh: bool = True
    plain: bool = False
    streamed: bool = False
    cut_short: bool = False
    continues: bool = False
    inside_call: bool = False
    repairs: bool = False
    added_prompt: str = ""

    @property
    def committed(self) -> bool:
        """Whether content has come."""
        return self.first_content_s is not None

    @property
    def answered(self) -> bool:
        """Whether all of the answer came."""
        return self.ended_s is not None and self.failure is None and (self.done or self.finished)

    @property
    def generated_tokens(self) -> int:
        """By the provider's count where it came, else a piece for a token."""
        return self.reading.pieces if self.usage is None else max(self.usage.completion_tokens, 0)
