"""An OpenAI-compatible answer, streamed or plain, read into canonical events as its bytes come."""

from typing import Any

import orjson

from providers.answers.choice import ChoiceReader
from providers.answers.fields import integer_of, is_error, read_usage
from providers.answers.sse import EventSplitter, TooLarge, WholeBody
from providers.events import Delta, Event, Failure, FailureKind, Usage
from providers.failures import read_error
from providers.thinking import State

EVENT_BYTES = 4 << 20
PLAIN_BYTES = 64 << 20
BROKEN = ("error", "abort")  # finish reasons of an answer that is none: OpenRouter's, and vLLM's when it is stopped


class AnswerReader:
    """Reads one 200 response: a stream of server-sent events, or where it is `plain` one JSON body.

    Give `feed` the bytes as they come, and call `end` when there are no more. Both return events in order, and nothing
    more after a `Failure`. Whether the answer was whole is for the caller to judge, who may read at any time:

    - `done`: the server said that nothing more comes (`[DONE]`; of a plain body, that it is a finished answer)
    - `finished`: at least one choice has begun, and each that has begun has its finish reason
    - `finish_reason`: the last that came
    - `usage`: the last that the provider reported
    - `events_read` and, of these, `skipped_events`, which were no JSON object

    `starts`: where in the answer the first choice's text stands, if it goes on from what another endpoint wrote.
    """

    __slots__ = (
        "_choices",
        "_failed",
        "_plain",
        "_source",
        "_starts",
        "_usage",
        "done",
        "events_read",
        "finish_reason",
        "skipped_events",
    )

    def __init__(self, *, plain: bool = False, starts: State = State.START, plain_bytes: int = PLAIN_BYTES) -> None:
        self._plain = plain
        self._source = WholeBody(plain_bytes) if plain else EventSplitter(EVENT_BYTES)
        self._starts = starts
        self._choices: dict[int, ChoiceReader] = {}
        self._failed = False
        self._usage: Any = None
        self.done = False
        self.finish_reason: str | None = None
        self.events_read = 0
        self.skipped_events = 0

    def feed(self, chunk: bytes) -> list[Event]:
        events: list[Event] = []
        if self._failed:
            return events
        try:
            payloads = self._source.feed(chunk)
        except TooLarge as error:
            self._fail(Failure(FailureKind.PROTOCOL, str(error)), events)
            return events
        for payload in payloads:
            self._read_payload(payload, events)
        return events

    def end(self) -> list[Event]:
        """The response is over: what was held back comes out."""
        events: list[Event] = []
        if self._failed:
            return events
        for payload in self._source.end():
            self._read_payload(payload, events)
        if self._plain:
            self.done = self.finished
        if not self._failed:
            events += [held for choice in self._choices.values() if (held := choice.end()) is not None]
        return events

    @property
    def finished(self) -> bool:
        return bool(self._choices) and all(choice.finished for choice in self._choices.values())

    @property
    def usage(self) -> Usage | None:
        """None where no event has reported a usage that says anything."""
        return read_usage(self._usage)

    def _read_payload(self, payload: bytes, events: list[Event]) -> None:
        if self._failed:
            return
        if payload == b"[DONE]":
            self.done = True
            return
        self.events_read += 1
        try:
            body = orjson.loads(payload)
        except orjson.JSONDecodeError:
            body = None
        delta = bare_delta(body, self._choices)
        if delta is None:
            self._read_body(body, events)
            return
        events.append(delta)
        if body.get("usage"):
            self._usage = body["usage"]

    def _read_body(self, body: Any, events: list[Event]) -> None:
        if type(body) is not dict:
            self.skipped_events += 1
            return
        usage = body.get("usage")
        if type(usage) is dict and "prompt_tokens" in usage:
            self._usage = usage
        choices = body.get("choices")
        if body.get("error") or (type(choices) is not list and is_error(body)):
            self._fail(read_error(None, body), events)
        elif type(choices) is list:
            for choice in choices:
                if type(choice) is dict and not self._failed:
                    self._read_choice(choice, events)

    def _read_choice(self, choice: dict[str, Any], events: list[Event]) -> None:
        broke = choice.get("finish_reason") in BROKEN or choice.get("native_finish_reason") == "error"
        if broke or choice.get("error"):
            self._fail(read_error(None, {"error": choice.get("error")}), events)
            return
        index = integer_of(choice.get("index")) or 0
        reader = self._choices.get(index)
        if reader is None:
            reader = self._choices[index] = ChoiceReader(index, State.START if index else self._starts)
        delta = reader.read(choice, plain=self._plain)
        if delta is not None:
            self.finish_reason = delta.finish_reason or self.finish_reason
            events.append(delta)

    def _fail(self, failure: Failure, events: list[Event]) -> None:
        self._failed = True
        events.append(failure)


def bare_delta(body: Any, choices: dict[int, ChoiceReader]) -> Delta | None:
    """The quick way for nearly every event: one piece of text or of a thought, and nothing else. None for any other.

    Its choice must have begun, and need no more looking for tags.
    """
    try:
        (choice,) = body["choices"]
        index = choice["index"]
        ((name, text),) = choice["delta"].items()
        bare = type(text) is str and text and choices[index].passes_text and choice.get("finish_reason") is None
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    if not bare or choice.get("logprobs") is not None or "error" in choice or body.get("error"):
        return None
    if name == "content":
        return Delta(index, None, text)
    return Delta(index, text) if name in ("reasoning", "reasoning_content") else None
