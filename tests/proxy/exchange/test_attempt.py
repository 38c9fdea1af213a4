"""What an attempt hears of its connection, what it writes to its outlet, and what it reports."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.events import Delta, Failure, Usage
from providers.events import FailureKind as K
from providers.seam import Seam
from providers.tools.call_reader import CallReader
from providers.tools.tool_set import ToolSet
from proxy.exchange.attempt import ERROR_BODY_BYTES, WHOLE_BODY_BYTES, Assignment, Attempt, Progress
from proxy.exchange.meter import AttemptReport, Reading
from tests.proxy.exchange.answers import DONE, call, called, chunk, end, event, text, thought, usage, used, whole
from tests.proxy.exchange.reports import reading
from tests.proxy.routing.routes import candidate
from tests.proxy.upstream.wire import Clock, Completed, Head

STREAM = Head(200, {"content-type": "text/event-stream; charset=utf-8"})
JSON = Head(200, {"content-type": "application/json"})
COMPLETED = Completed()
CUT = Failure(K.CUT, "the connection ended within the response (closed)")
OURS = Failure(K.OURS, "the answer could not be handed on")


class Line:
    """The connection: notes what the attempt does with it."""

    def __init__(self, uses: int) -> None:
        self.uses = uses
        self.aborts = 0
        self.reading = True

    def abort(self) -> None:
        self.aborts += 1

    def pause(self) -> None:
        self.reading = False

    def resume(self) -> None:
        self.reading = True


class Outlet:
    """Notes what is written. `wants_attention` is what `flush` answers."""

    def __init__(self, *, delivers: bool) -> None:
        self.delivers = delivers
        self.written: list[Delta] = []
        self.flushed = 0
        self.wants_attention = False

    def write(self, delta: Delta) -> None:
        self.written.append(delta)

    def flush(self) -> bool:
        self.flushed = len(self.written)
        return self.wants_attention


class Asked:
    """An attempt whose request was sent, with its outlet, its line and its clock, which stands at 100 s."""

    def __init__(
        self,
        *,
        plain: bool = False,
        delivers: bool = True,
        uses: int = 0,
        emulation: CallReader | None = None,
        outlet: Outlet | None = None,
        **assignment: Any,
    ) -> None:
        self.clock = Clock(100.0)
        self.line = Line(uses)
        self.outlet = outlet or Outlet(delivers=delivers)
        self.calls = 0
        self.attempt = Attempt(
            Assignment(candidate("here"), plain, streams=self.outlet.delivers, **assignment),
            self.outlet,
            clock=self.clock,
            attention=self._call,
            emulation=emulation,
        )
        self.attempt.begin(self.line)

    def _call(self) -> None:
        self.calls += 1

    def hears(self, *events: Head | bytes | Completed | Failure) -> AttemptReport:
        """What the connection says, and the report after it. Bytes are one read; a line that was left says no more."""
        for heard in events:
            if self.line.aborts:
                break
            match heard:
                case Head():
                    self.attempt.head(heard.status, dict(heard.headers))
                case bytes():
                    self.attempt.body(heard)
                    self.attempt.read()
                case Completed():
                    self.attempt.completed()
                case Failure():
                    self.attempt.failed(heard)
        return self.attempt.report()

    @property
    def written(self) -> list[Delta]:
        return self.outlet.written

    @property
    def said(self) -> str:
        """The text that was written."""
        return "".join(delta.content or "" for delta in self.written)


# Whole answers


def test_an_answer_comes_in_several_reads() -> None:
    asked = Asked()
    report = asked.hears(
        STREAM, chunk(role="assistant"), text("Hel"), text("lo"), end("stop"), used(9, 2), DONE, COMPLETED
    )
    assert asked.written == [Delta(content="Hel"), Delta(content="lo"), Delta(finish_reason="stop")]
    assert (report.failure, report.finish_reason, report.usage) == (None, "stop", Usage(9, 2))
    assert (report.done, report.finished, report.answered) == (True, True, True)
    assert report.reading == Reading(pieces=2, content=b"Hello")
    assert asked.line.aborts == 0


def test_a_thought_a_text_and_a_call_are_read_apart() -> None:
    asked = Asked()
    report = asked.hears(
        STREAM, thought("Hm."), text("I look."), call("look", "{}"), end("tool_calls"), DONE, COMPLETED
    )
    assert asked.written == [
        Delta(reasoning="Hm."),
        Delta(content="I look."),
        Delta(tool_calls=[called("look", "{}")]),
        Delta(finish_reason="tool_calls"),
    ]
    assert report.reading == Reading(3, 1, b"Hm.", b"I look.", b"look{}")


def test_every_read_is_one_write() -> None:
    asked = Asked()
    asked.hears(STREAM)
    asked.attempt.body(text("Hel"))
    asked.attempt.body(text("lo"))
    assert asked.outlet.flushed == 0
    asked.attempt.read()
    assert asked.outlet.flushed == 2


def test_a_whole_answer() -> None:
    asked = Asked(plain=True, delivers=False)
    body = whole("Hello", usage=usage(9, 2))
    assert asked.hears(JSON, body[:20], body[20:]).committed is False
    report = asked.hears(COMPLETED)
    assert asked.written == [Delta(content="Hello", finish_reason="stop")]
    assert (report.failure, report.usage, report.plain, report.streamed) == (None, Usage(9, 2), True, False)


def test_a_whole_answer_where_a_stream_was_asked_for() -> None:
    asked = Asked()
    report = asked.hears(JSON, whole("Hello"), COMPLETED)
    assert asked.written == [Delta(content="Hello", finish_reason="stop")]
    assert (report.failure, report.plain, report.streamed, report.delivered) == (None, True, True, True)


def test_a_finish_reason_makes_an_answer_whole_though_its_connection_is_cut() -> None:
    report = Asked().hears(STREAM, text("Hello"), end("length"), CUT)
    assert (report.failure, report.finish_reason, report.answered) == (None, "length", True)


def test_done_makes_an_answer_whole_though_it_has_no_finish_reason() -> None:
    report = Asked().hears(STREAM, text("Hello"), DONE, COMPLETED)
    assert (report.failure, report.finish_reason, report.done, report.finished) == (None, None, True, False)


def test_an_answer_that_is_done_while_its_connection_stays_open_is_completed() -> None:
    asked = Asked()
    asked.hears(STREAM, text("Hello"), DONE)
    assert asked.attempt.running
    assert asked.attempt.progress(100.0).done
    asked.attempt.complete()
    assert asked.line.aborts == 1
    assert (asked.attempt.report().failure, asked.attempt.ended) == (None, True)


def test_what_may_be_half_a_tag_is_text_when_the_answer_is_over() -> None:
    asked = Asked()
    assert asked.hears(STREAM, text("<thi"), DONE).committed is False
    asked.attempt.complete()
    assert (asked.said, asked.attempt.report().failure) == ("<thi", None)


def test_an_answer_may_be_empty() -> None:
    asked = Asked()
    report = asked.hears(STREAM, end("stop"), DONE, COMPLETED)
    assert (report.failure, report.first_content_s, report.delivered) == (None, None, False)
    assert asked.written == [Delta(finish_reason="stop")]


@pytest.mark.parametrize(
    ("ends", "failure"),
    [(COMPLETED, Failure(K.CUT, "the answer ended without a finish reason", 200)), (CUT, CUT)],
    ids=["completed", "cut"],
)
def test_the_last_event_may_lack_its_blank_line(ends: Completed | Failure, failure: Failure) -> None:
    asked = Asked()
    report = asked.hears(STREAM, text("Hel"), text("lo").rstrip(), ends)
    assert (asked.said, asked.outlet.flushed, report.failure) == ("Hello", 2, failure)


# No answer


def test_a_web_page_is_no_answer() -> None:
    asked = Asked()
    report = asked.hears(Head(200, {"content-type": "text/html; charset=utf-8"}), b"<html>", COMPLETED)
    assert report.failure == Failure(K.PROTOCOL, "a web page instead of an answer", 200)
    assert asked.line.aborts == 1


@pytest.mark.parametrize("body", [b"", DONE, chunk(role="assistant"), b"data: nonsense\n\n", b": a comment\n\n"])
def test_a_stream_without_an_answer(body: bytes) -> None:
    report = Asked().hears(STREAM, body, COMPLETED)
    assert report.failure == Failure(K.PROTOCOL, "status 200 without an answer", 200)


@pytest.mark.parametrize("body", [b"", b"nonsense", b"[]", b'{"choices": []}'])
def test_a_body_without_an_answer(body: bytes) -> None:
    report = Asked(plain=True).hears(JSON, body, COMPLETED)
    assert report.failure == Failure(K.PROTOCOL, "status 200 without an answer", 200)


def test_a_refusal_says_why_and_for_how_long() -> None:
    asked = Asked()
    headers = {"content-type": "application/json", "retry-after": "7"}
    report = asked.hears(Head(429, headers), b'{"error": {"mess', b'age": "slow down"}}', COMPLETED)
    assert report.failure == Failure(K.RATE_LIMITED, "slow down", 429, 7.0)
    assert (report.status, report.committed, asked.written) == (429, False, [])


def test_a_request_that_is_refused() -> None:
    report = Asked().hears(Head(400), b'{"detail": "temperature must be at most 2"}', COMPLETED)
    assert report.failure == Failure(K.BAD_REQUEST, "temperature must be at most 2", 400)


def test_a_refusal_that_says_too_much_is_read_no_further() -> None:
    asked = Asked()
    more = b"x" * (ERROR_BODY_BYTES // 2)
    assert asked.hears(Head(500), more, more).failure is None
    report = asked.hears(b"x")
    assert report.failure is not None
    assert (report.failure.kind, report.failure.status, asked.line.aborts) == (K.SERVER_ERROR, 500, 1)


def test_a_refusal_that_is_cut_off_is_a_cut() -> None:
    assert Asked().hears(Head(503), b'{"error": ', CUT).failure == CUT


def test_an_error_within_a_stream_ends_it() -> None:
    asked = Asked()
    report = asked.hears(STREAM, text("Hel") + event({"error": {"message": "out of memory", "code": 500}}) + text("lo"))
    assert report.failure == Failure(K.SERVER_ERROR, "out of memory", 500)
    assert (asked.written, asked.outlet.flushed, asked.line.aborts) == ([Delta(content="Hel")], 1, 1)


def test_an_error_in_a_whole_answer() -> None:
    report = Asked(plain=True).hears(JSON, b'{"error": {"message": "overloaded", "code": 503}}', COMPLETED)
    assert report.failure == Failure(K.UNAVAILABLE, "overloaded", 503)


def test_a_whole_answer_that_does_not_end() -> None:
    asked = Asked(plain=True)
    mebibyte = b" " * (1 << 20)
    assert asked.hears(JSON, *[mebibyte] * (WHOLE_BODY_BYTES // len(mebibyte))).failure is None
    report = asked.hears(b" ")
    assert report.failure == Failure(K.PROTOCOL, f"the answer is larger than {WHOLE_BODY_BYTES} bytes", 200)
    assert asked.line.aborts == 1


def test_a_failure_before_the_first_content() -> None:
    nothing = Failure(K.NO_RESPONSE, "closed")
    report = Asked(uses=1).hears(nothing)
    assert (report.failure, report.status, report.committed, report.fresh) == (nothing, None, False, False)
    assert Asked().hears(STREAM, chunk(role="assistant"), CUT).failure == CUT


def test_a_failure_after_the_first_content() -> None:
    asked = Asked()
    report = asked.hears(STREAM, text("Hel"), CUT)
    assert (report.failure, report.delivered, report.reading) == (CUT, True, reading("Hel"))
    assert asked.said == "Hel"


@pytest.mark.parametrize("came", [whole("Hello")[:30], whole("Hello")], ids=["half", "all"])
def test_a_whole_answer_that_is_cut_off_is_none(came: bytes) -> None:
    asked = Asked(plain=True)
    report = asked.hears(JSON, came, CUT)
    assert (report.failure, asked.written) == (CUT, [])


def test_an_answer_is_not_over_when_one_of_its_choices_is() -> None:
    report = Asked().hears(STREAM, text("a", 0), text("b", 1), end("stop", 0), CUT)
    assert report.failure == CUT


# When


def test_the_first_content_is_noted_and_not_the_preamble() -> None:
    asked = Asked()
    asked.clock.now_s = 101.0
    assert asked.hears(STREAM, chunk(role="assistant")).first_content_s is None
    asked.clock.now_s = 102.0
    assert asked.hears(thought("Hm.")).first_content_s == 102.0
    asked.clock.now_s = 103.0
    report = asked.hears(text("Hello"), end(), DONE, COMPLETED)
    assert (report.started_s, report.first_content_s, report.ended_s) == (100.0, 102.0, 103.0)


def test_silence_is_counted_from_the_last_event_and_a_comment_is_none() -> None:
    asked = Asked()
    asked.hears(STREAM)
    assert asked.attempt.progress(104.0) == Progress(100.0, committed=False, done=False, silent_s=4.0)
    asked.hears(b": still working\n\n")
    assert asked.attempt.progress(105.0).silent_s == 5.0
    asked.hears(text("Hello"))
    assert asked.attempt.progress(106.0) == Progress(100.0, committed=True, done=False, silent_s=0.0)
    assert asked.attempt.progress(108.0).silent_s == 2.0


def test_a_pause_of_the_client_is_no_silence_of_the_endpoint() -> None:
    asked = Asked()
    asked.hears(STREAM, text("Hel"))
    asked.attempt.progress(100.0)
    asked.attempt.pause()
    assert not asked.line.reading
    asked.clock.now_s = 150.0
    asked.attempt.resume()
    assert asked.line.reading
    assert asked.attempt.progress(151.0).silent_s == 1.0


def test_the_owner_is_called_when_there_is_something_to_do() -> None:
    asked = Asked()
    asked.hears(STREAM, text("Hel"))
    assert asked.calls == 0
    asked.outlet.wants_attention = True
    asked.hears(text("lo"))
    assert asked.calls == 1
    asked.outlet.wants_attention = False
    asked.hears(end(), DONE)
    assert asked.calls == 1
    asked.hears(COMPLETED)
    assert asked.calls == 2


# What the client has of it


def test_what_a_stream_shows_is_delivered_and_what_a_plain_answer_collects_is_not() -> None:
    for delivers in (True, False):
        asked = Asked(delivers=delivers)
        assert asked.hears(STREAM, chunk(role="assistant")).delivered is False
        report = asked.hears(text("Hello"))
        assert (report.committed, report.delivered, report.streamed) == (True, delivers, delivers)


def reader_of_calls() -> CallReader:
    return CallReader(ToolSet(schemas=[], names=frozenset({"look"})), seed="7-")


def test_a_call_in_the_text_is_not_delivered_before_it_is_one() -> None:
    asked = Asked(emulation=reader_of_calls())
    report = asked.hears(STREAM, text('<tool_call>{"name": "look", '))
    assert (report.committed, report.delivered, report.inside_call, asked.written) == (True, False, True, [])
    report = asked.hears(text('"arguments": {"at": 1}}</tool_call>'), end())
    assert asked.written == [
        Delta(
            tool_calls=[
                {"index": 0, "id": "call_7-0", "type": "function", "function": {"name": "look", "arguments": ""}}
            ]
        ),
        Delta(tool_calls=[{"index": 0, "function": {"arguments": '{"at":1}'}}]),
        Delta(finish_reason="tool_calls"),
    ]
    assert (report.delivered, report.inside_call, report.finish_reason) == (True, False, "stop")
    assert report.reading.content == b'<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'


def test_an_answer_that_breaks_off_within_a_call_keeps_what_is_held_back() -> None:
    asked = Asked(emulation=reader_of_calls())
    report = asked.hears(STREAM, text('<tool_call>{"name": '), CUT)
    assert (report.failure, report.delivered, asked.written) == (CUT, False, [])
    asked.attempt.release()
    assert asked.said == '<tool_call>{"name": '


def test_an_answer_that_is_whole_gives_what_was_held_back() -> None:
    asked = Asked(emulation=reader_of_calls())
    report = asked.hears(STREAM, text("2 <tool"), DONE)
    assert asked.said == "2 "
    report = asked.hears(COMPLETED)
    assert asked.said == "2 <tool"
    assert (report.failure, asked.outlet.flushed) == (None, len(asked.written))


# A part of an answer


def test_the_white_space_before_a_seam_is_not_said_twice() -> None:
    asked = Asked(seam=Seam("", "Hello, \n"))
    report = asked.hears(STREAM, text(" "), text("\n wor"), text(" ld"), end(), DONE, COMPLETED)
    assert asked.said == " wor ld"
    assert report.reading.content == b" wor ld"
    assert (report.continues, report.added_prompt) == (True, "Hello,")


def test_an_answer_that_goes_on_within_its_thought() -> None:
    asked = Asked(seam=Seam("Hm,", None))
    asked.hears(STREAM, text(" yes.</think>Hel"), text("lo <think>"), end(), DONE, COMPLETED)
    assert [(delta.reasoning, delta.content) for delta in asked.written[:2]] == [(" yes.", "Hel"), (None, "lo <think>")]


def test_a_limit_of_ours_ends_a_part_and_not_the_answer() -> None:
    asked = Asked(our_limits=frozenset({"length"}))
    last = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length", "stop_reason": "</think>"}]})
    report = asked.hears(STREAM, thought("Hm"), last, DONE, COMPLETED)
    assert asked.written == [Delta(reasoning="Hm"), Delta()]
    assert (report.cut_short, report.finish_reason, report.failure) == (True, "length", None)


def test_any_other_finish_reason_ends_the_answer() -> None:
    asked = Asked(our_limits=frozenset({"length"}))
    report = asked.hears(STREAM, thought("Hm"), end("stop"), DONE, COMPLETED)
    assert asked.written[-1] == Delta(finish_reason="stop")
    assert report.cut_short is False


@pytest.mark.parametrize(
    "last", [(call("look", "{}"), end("length")), (chunk("length", tool_calls=[called("look", "{}")]),)]
)
def test_a_limit_of_ours_after_a_call_ends_the_answer(last: tuple[bytes, ...]) -> None:
    asked = Asked(our_limits=frozenset({"length"}))
    report = asked.hears(STREAM, *last, DONE, COMPLETED)
    assert asked.written[-1].finish_reason == "length"
    assert report.cut_short is False


def test_what_is_held_back_waits_for_the_next_part() -> None:
    asked = Asked(our_limits=frozenset({"length"}), emulation=reader_of_calls())
    asked.hears(STREAM, thought("Hm <tool"), end("length"), DONE, COMPLETED)
    assert [delta.reasoning for delta in asked.written if delta.reasoning] == ["Hm "]


# Mistakes of ours


class Broken(Outlet):
    """Cannot word what has `word` in it; cannot send anything where `sends` is False."""

    def __init__(self, word: str | None = None, *, sends: bool = True) -> None:
        super().__init__(delivers=True)
        self.word, self.sends = word, sends

    def write(self, delta: Delta) -> None:
        if self.word is not None and self.word in (delta.content or ""):
            raise ValueError("no words for it")
        super().write(delta)

    def flush(self) -> bool:
        if not self.sends:
            raise ValueError("no way to send it")
        return super().flush()


def test_an_outlet_that_raises_is_a_mistake_of_ours() -> None:
    asked = Asked(outlet=Broken("lo"))
    report = asked.hears(STREAM, text("Hel"), text("lo"), text("!"))
    assert (report.failure, asked.written, asked.line.aborts) == (OURS, [Delta(content="Hel")], 1)


def test_an_outlet_that_raises_at_the_end_is_a_mistake_of_ours() -> None:
    asked = Asked(outlet=Broken("lo"), plain=True)
    assert asked.hears(JSON, whole("Hello"), COMPLETED).failure == OURS

    asked = Asked(outlet=Broken("<tool"), emulation=reader_of_calls())
    assert asked.hears(STREAM, text("2 <tool"), DONE, COMPLETED).failure == OURS


def test_an_outlet_that_cannot_send_is_a_mistake_of_ours() -> None:
    asked = Asked(outlet=Broken(sends=False))
    report = asked.hears(STREAM, text("Hello"))
    assert (report.failure, asked.line.aborts, asked.calls) == (OURS, 1, 1)

    asked = Asked(outlet=Broken(sends=False), plain=True)
    asked.hears(JSON)
    asked.attempt.body(whole("Hello"))
    assert asked.hears(COMPLETED).failure == OURS


# Its end


def test_an_attempt_ends_once() -> None:
    asked = Asked()
    late = Failure(K.TIMEOUT, "late")
    asked.attempt.end(late)
    asked.clock.now_s = 200.0
    asked.attempt.end(None)
    asked.attempt.completed()
    asked.attempt.failed(CUT)
    asked.attempt.body(text("Hello"))
    asked.attempt.complete()
    asked.attempt.leave()
    report = asked.attempt.report()
    assert (report.failure, report.ended_s, report.committed) == (late, 100.0, False)
    assert (asked.line.aborts, asked.calls, asked.written) == (1, 1, [])


def test_a_failure_leaves_the_connection_and_a_whole_answer_does_not() -> None:
    asked = Asked()
    asked.attempt.end(Failure(K.STALLED, "silence"))
    assert asked.line.aborts == 1
    asked = Asked()
    asked.hears(STREAM, text("Hello"), end(), DONE, COMPLETED)
    assert asked.line.aborts == 0


def test_an_attempt_without_connection_has_nothing_to_leave() -> None:
    refused = Failure(K.CONNECT, "refused")
    attempt = Attempt(
        Assignment(candidate("here"), plain=False), Outlet(delivers=True), clock=Clock(), attention=lambda: None
    )
    assert not attempt.running
    attempt.pause()
    attempt.resume()
    attempt.end(refused)
    report = attempt.report()
    assert (report.failure, report.connected, report.status, attempt.ended) == (refused, False, None, True)


def test_when_the_client_leaves_nobody_is_to_blame() -> None:
    asked = Asked()
    asked.hears(STREAM, text("Hel"))
    asked.attempt.leave()
    report = asked.attempt.report()
    assert (report.failure, report.ended_s, report.answered) == (None, 100.0, False)
    assert (asked.line.aborts, asked.attempt.running) == (1, False)


# Its report


def test_a_report_says_how_the_attempt_stood_and_does_not_change() -> None:
    asked = Asked(repairs=True, added_prompt="Once more.")
    before = asked.hears(STREAM, text("Hel"))
    asked.hears(text("lo"), end(), DONE, COMPLETED)
    assert before == AttemptReport(
        candidate("here"),
        100.0,
        reading=Reading(1, 0, b"", b"Hel", b""),
        first_content_s=100.0,
        status=200,
        delivered=True,
        connected=True,
        fresh=True,
        streamed=True,
        repairs=True,
        added_prompt="Once more.",
    )
    with pytest.raises(FrozenInstanceError):
        before.status = 500  # type: ignore[misc]


# The cuts between reads


@dataclass(frozen=True)
class Scene:
    """An attempt and what it hears; `body` can be cut anywhere."""

    head: Head
    body: bytes
    ends: Completed | Failure = COMPLETED
    asked: Callable[[], Asked] = field(default=Asked)


HERMES = "Ἑρμῆς – 🪽"
SCENES = {
    "a stream": Scene(STREAM, thought("Hm") + text(HERMES) + text("!") + end() + used(9, 4) + DONE),
    "a thought in the text": Scene(STREAM, text("<thi") + text(f"nk>{HERMES}</th") + text("ink>Yes.") + end() + DONE),
    "two choices": Scene(STREAM, text("a", 0) + text("b", 1) + end("stop", 1) + end("length", 0)),
    "lines as others end them": Scene(STREAM, (text("a\r\n") + end() + DONE).replace(b"\n\n", b"\r\n\r\n")),
    "no end": Scene(STREAM, text("Hel") + text("lo").rstrip()),
    "a cut": Scene(STREAM, text("Hel") + text("lo"), CUT),
    "an error": Scene(STREAM, text("Hel") + event({"error": {"message": "no", "code": 500}}) + text("lo")),
    "a call": Scene(
        STREAM,
        text("See: <tool_call>") + text('{"name": "look"}</tool_call>') + end() + DONE,
        asked=lambda: Asked(emulation=reader_of_calls()),
    ),
    "a seam": Scene(
        STREAM, text(" \n") + text("\n world") + end() + DONE, asked=lambda: Asked(seam=Seam("", "Hello \n"))
    ),
    "a limit of ours": Scene(
        STREAM, thought("Hm") + end("length") + DONE, asked=lambda: Asked(our_limits=frozenset({"length"}))
    ),
    "a whole answer": Scene(JSON, whole(HERMES, usage=usage(9, 4)), asked=lambda: Asked(plain=True, delivers=False)),
    "a whole answer to a stream": Scene(JSON, whole(HERMES)),
    "a refusal": Scene(Head(429, {"retry-after": "7"}), orjson.dumps({"error": {"message": HERMES}})),
    "a web page": Scene(Head(200, {"content-type": "text/html"}), b"<html></html>"),
}


@given(st.sampled_from(sorted(SCENES)), st.data())
def test_the_cuts_between_reads_change_nothing(name: str, data: st.DataObject) -> None:
    scene = SCENES[name]
    places = sorted(data.draw(st.sets(st.integers(1, len(scene.body) - 1))))
    reads = [scene.body[start:end] for start, end in zip([0, *places], [*places, None], strict=True)]
    cut, together = scene.asked(), scene.asked()
    assert cut.hears(scene.head, *reads, scene.ends) == together.hears(scene.head, scene.body, scene.ends)
    assert cut.written == together.written
    assert cut.outlet.flushed == together.outlet.flushed == len(cut.written)
