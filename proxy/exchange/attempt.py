"""One try of one endpoint: the sink of its response.

The connection calls it for every read, so nothing here awaits. Whoever owns the attempt is called (`attention`) when
there is something to do: the first content, the end, a client that does not keep pace.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from providers.answers.reader import AnswerReader
from providers.events import Delta, Event, Failure, FailureKind
from providers.failures import classify
from providers.seam import Echo, Seam
from providers.tools.call_reader import CallReader
from proxy.exchange.meter import AttemptReport, Meter
from proxy.routing.route import Candidate

log = logging.getLogger("caduceus.attempt")

ERROR_BODY_BYTES = 65_536
WHOLE_BODY_BYTES = 32 << 20


class Outlet(Protocol):
    """Where the events of an answer go. `delivers`: straight to the client, so that they cannot be taken back."""

    delivers: bool

    def write(self, delta: Delta) -> None: ...
    def flush(self) -> bool:
        """Send what was written; True when the owner must look after it (open the answer, wait for the client)."""


class Line(Protocol):
    """A connection to an endpoint, as far as an attempt uses it."""

    uses: int

    def abort(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """What an attempt is to do.

    `plain`: a whole body is asked for, no stream. `streams`: its answer goes to the client as it comes. `seam`: it
    continues an answer there. `our_limits`: the finish reasons that end this part and not the answer. `added_prompt`:
    what its prompt has beyond the request's; `repairs`: it makes good what another attempt got wrong.
    """

    candidate: Candidate
    plain: bool
    streams: bool = False
    seam: Seam | None = None
    our_limits: frozenset[str] = frozenset()
    added_prompt: str = ""
    repairs: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """A running attempt as its deadlines see it. `silent_s`: since the last event; a comment is no event."""

    started_s: float
    committed: bool
    done: bool
    silent_s: float


class Attempt:
    """One response, its reader and its meter."""

    __slots__ = (
        "_assignment",
        "_attention",
        "_body_bytes",
        "_clock",
        "_connection",
        "_cut_short",
        "_echo",
        "_ended_s",
        "_error_body",
        "_events_seen",
        "_failure",
        "_first_content_s",
        "_fresh",
        "_headers",
        "_meter",
        "_outlet",
        "_progress_s",
        "_reader",
        "_report",
        "_shown",
        "_started_s",
        "_status",
        "emulation",
        "plain",
    )

    def __init__(
        self,
        assignment: Assignment,
        outlet: Outlet,
        *,
        clock: Callable[[], float],
        attention: Callable[[], None],
        emulation: CallReader | None = None,
    ) -> None:
        """`clock` tells seconds. `emulation` makes of the deltas that come those that are written to `outlet`."""
        self._assignment = assignment
        self._outlet = outlet
        self._clock = clock
        self._attention = attention
        self.emulation = emulation
        seam = assignment.seam
        self._echo = Echo(seam.echo) if seam is not None and seam.echo else None
        self.plain = assignment.plain
        self._reader = self._new_reader()
        self._meter = Meter()
        self._connection: Line | None = None
        self._fresh = True
        self._headers: dict[str, str] = {}
        self._error_body = bytearray()
        self._body_bytes = 0
        self._events_seen = 0
        self._started_s = self._progress_s = clock()
        self._first_content_s: float | None = None
        self._ended_s: float | None = None
        self._status: int | None = None
        self._failure: Failure | None = None
        self._cut_short = False
        self._shown = False
        self._report: AttemptReport | None = None

    @property
    def candidate(self) -> Candidate:
        return self._assignment.candidate

    @property
    def ended(self) -> bool:
        return self._ended_s is not None

    @property
    def committed(self) -> bool:
        """Whether content has come."""
        return self._first_content_s is not None

    @property
    def running(self) -> bool:
        """Whether the endpoint was asked and has not ended."""
        return self._connection is not None and self._ended_s is None

    def report(self) -> AttemptReport:
        """The attempt as it stands. Of one that has ended it is made once, and again after `release`."""
        if self._report is not None:
            return self._report
        report = self._make_report()
        # An outlet that has delivered nothing of a stream yet may do so later.
        if self.ended and (self._outlet.delivers or not self._assignment.streams):
            self._report = report
        return report

    def _make_report(self) -> AttemptReport:
        assignment, reader = self._assignment, self._reader
        seen = self.committed if self.emulation is None else self._shown
        return AttemptReport(
            candidate=assignment.candidate,
            started_s=self._started_s,
            reading=self._meter.read(),
            first_content_s=self._first_content_s,
            ended_s=self._ended_s,
            status=self._status,
            failure=self._failure,
            finish_reason=reader.finish_reason,
            usage=reader.usage,
            done=reader.done,
            finished=reader.finished,
            delivered=seen and self._outlet.delivers,
            connected=self._connection is not None,
            fresh=self._fresh,
            plain=self.plain,
            streamed=assignment.streams,
            cut_short=self._cut_short,
            continues=assignment.seam is not None,
            inside_call=self.emulation is not None and self.emulation.inside_call,
            repairs=assignment.repairs,
            added_prompt=assignment.added_prompt or (assignment.seam.prefix if assignment.seam is not None else ""),
        )

    def progress(self, now_s: float) -> Progress:
        """How it stands with the time, for the ticker alone: it notes new events as of `now_s`."""
        if self._reader.events_read != self._events_seen:
            self._events_seen, self._progress_s = self._reader.events_read, now_s
        return Progress(self._started_s, self._first_content_s is not None, self._reader.done, now_s - self._progress_s)

    # The owner's side

    def begin(self, connection: Line) -> None:
        """Take a connection; the owner sends the request on it, with this attempt as its sink."""
        self._connection = connection
        self._fresh = connection.uses == 0

    def pause(self) -> None:
        """Read no more for now: the client does not keep pace."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """Read on; the time of the pause is no silence of the endpoint."""
        self._progress_s = self._clock()
        if self._connection is not None:
            self._connection.resume()

    def end(self, failure: Failure | None) -> None:
        """End it, unless it has ended. A failure leaves the connection, so that the provider stops."""
        if self.ended:
            return
        if failure is not None and self._connection is not None:
            self._connection.abort()
        self._conclude(failure)

    def leave(self) -> None:
        """End it where it stands, and blame nobody: the client left."""
        if self.running and self._connection is not None:
            self._connection.abort()
        self.end(None)

    def complete(self) -> None:
        """Take what came for all of the answer, although the server keeps the connection open."""
        if self.running and self._connection is not None:
            self._connection.abort()
        self.completed()

    def release(self) -> None:
        """Write what the emulation holds back: no more of this answer comes."""
        try:
            if self.emulation is not None:
                self._write(self.emulation.release())
        except Exception:
            self._failure = self._blame_us()
        self._report = None

    # The connection's side

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._status = status
        self._headers = headers
        if status != 200:
            return
        kind = headers.get("content-type", "")
        if kind.startswith("text/html"):
            self.end(Failure(FailureKind.PROTOCOL, "a web page instead of an answer", status))
        elif not self.plain and kind.startswith("application/json"):
            # Asked to stream, it answers whole: an error at status 200, or an engine that does not stream.
            self.plain = True
            self._reader = self._new_reader()

    def body(self, chunk: bytes) -> None:
        if self._status != 200:
            self._error_body += chunk
            if len(self._error_body) > ERROR_BODY_BYTES:
                self.end(self._refusal())
        elif self.plain and self._outgrows(len(chunk)):
            self.end(Failure(FailureKind.PROTOCOL, f"the answer is larger than {WHOLE_BODY_BYTES} bytes", self._status))
        else:
            self._take(self._reader.feed(chunk))

    def read(self) -> None:
        try:
            if self._outlet.flush():
                self._attention()
        except Exception:
            failure = self._blame_us()
            self.end(failure)
            self._failure = failure  # also of an answer that had come to its end
            self._report = None

    def completed(self) -> None:
        if self.ended:
            return
        if self._status != 200:
            self._conclude(self._refusal())
            return
        self._take(self._reader.end())
        if not self.ended:
            self._conclude(self._judge(None))
        self.read()

    def failed(self, failure: Failure) -> None:
        if self.ended:
            return
        if self._status == 200 and not self.plain:
            self._take(self._reader.end())
        if not self.ended:
            self.end(self._judge(failure))
        self.read()

    def _new_reader(self) -> AnswerReader:
        adapter = self._assignment.candidate.endpoint.adapter
        return adapter.reader(plain=self.plain, seam=self._assignment.seam)

    def _conclude(self, failure: Failure | None) -> None:
        """The response is over, or left: the connection is none of our business any more."""
        self._ended_s = self._clock()
        self._failure = failure
        if failure is None and not self._cut_short:
            self.release()
        self._attention()

    def _outgrows(self, more_bytes: int) -> bool:
        self._body_bytes += more_bytes
        return self._body_bytes > WHOLE_BODY_BYTES

    def _refusal(self) -> Failure:
        return classify(self._status or 0, self._headers, bytes(self._error_body), time.time())

    def _judge(self, failure: Failure | None) -> Failure | None:
        """Whether the bytes that came were an answer. A finish reason makes it whole, however the connection ended."""
        if self._reader.finished or (self._reader.done and self.committed):
            return None
        if failure is not None:
            return failure
        if not self.committed:
            return Failure(FailureKind.PROTOCOL, "status 200 without an answer", self._status)
        return Failure(FailureKind.CUT, "the answer ended without a finish reason", self._status)

    def _take(self, events: list[Event]) -> None:
        """Within a callback of the connection, which would swallow what is raised here."""
        if self.ended:
            return
        try:
            self._hand_on(events)
        except Exception:
            self.end(self._blame_us())

    def _blame_us(self) -> Failure:
        log.exception("an answer of %s could not be handed on", self._assignment.candidate.endpoint.name)
        return Failure(FailureKind.OURS, "the answer could not be handed on")

    def _hand_on(self, events: list[Event]) -> None:
        at_seam = bool(self._assignment.our_limits) or self._echo is not None
        for event in events:
            if type(event) is Delta:
                if at_seam:
                    event = self._at_the_seam(event)
                self._meter.add(event)
                if self._first_content_s is None and event.has_content:
                    self._first_content_s = self._clock()
                if self.emulation is None:
                    self._outlet.write(event)
                else:
                    self._write(self.emulation.feed(event))
            elif type(event) is Failure:
                self.end(event)

    def _write(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self._shown = self._shown or delta.has_content
            self._outlet.write(delta)

    def _at_the_seam(self, delta: Delta) -> Delta:
        """Without what was said before the seam; without the end that only our own limit made."""
        if self._echo is not None:
            delta = self._echo.swallow(delta)
        if delta.finish_reason in self._assignment.our_limits and not (self._meter.has_calls or delta.tool_calls):
            self._cut_short = True
            delta = replace(delta, finish_reason=None, extra=None)
        return delta
