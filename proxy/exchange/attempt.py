"""One try of one endpoint: the sink of its response, and the meter of what it delivered.

Called by the connection for every read, so nothing here awaits; the coroutine that owns the attempt is woken when there
is something for it to do: the first content, the end, a client that does not keep pace.
"""

import logging
import time
from asyncio import Future, get_running_loop
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

from providers.answer import AnswerReader
from providers.events import Delta, Event, Failure, FailureKind
from providers.failures import classify
from providers.seam import Echo, Seam
from providers.tools.text import CallReader
from proxy.routing.route import Candidate
from proxy.upstream.client import Connection

log = logging.getLogger("caduceus.attempt")

ERROR_BODY_BYTES = 65_536
WHOLE_BODY_BYTES = 32 << 20


class Outlet(Protocol):
    """Where the events of an answer go. `delivers`: straight to the client, so that they cannot be taken back."""

    delivers: bool

    def write(self, delta: Delta) -> None: ...
    def flush(self) -> bool:
        """Send what was written; True when the owner must look after it (open the answer, wait for the client)."""


class Attempt:
    """Everything there is to know about a try, during it and after."""

    __slots__ = (
        "_body_bytes",
        "_echo",
        "_error_body",
        "_events_seen",
        "_headers",
        "_loop",
        "_waiter",
        "added",
        "attention",
        "calls",
        "candidate",
        "connection",
        "cut_short",
        "emulation",
        "ended_s",
        "failure",
        "first_content_s",
        "fresh",
        "our_limits",
        "outlet",
        "pieces",
        "plain",
        "progress_s",
        "reader",
        "reasoning_pieces",
        "repairs",
        "said",
        "seam",
        "shown",
        "started_s",
        "status",
        "thought",
    )

    def __init__(
        self,
        candidate: Candidate,
        outlet: Outlet,
        *,
        plain: bool,
        seam: Seam | None = None,
        our_limits: frozenset[str] = frozenset(),
        added: str = "",
        repairs: bool = False,
        emulation: CallReader | None = None,
    ) -> None:
        """`seam`: it continues an answer. `our_limits`: the finish reasons that end this part and not the answer.

        `added` is what its prompt has beyond the request's; `repairs`: it makes good what another attempt got wrong.
        `emulation`: what makes of the deltas that come those that are written.
        """
        self._loop = get_running_loop()
        self._waiter: Future[None] | None = None
        self._body_bytes = 0
        self._error_body = bytearray()
        self._events_seen = 0
        self._headers: dict[str, str] = {}
        self.candidate = candidate
        self.outlet = outlet
        self.plain = plain
        self.connection: Connection | None = None
        self.fresh = True
        self.seam = seam
        self.our_limits = our_limits
        self.added = added or (seam.prefix if seam is not None else "")
        self.repairs = repairs
        self.emulation = emulation
        self.shown = False
        self.cut_short = False
        self._echo = Echo(seam.echo) if seam is not None and seam.echo else None
        self.reader: AnswerReader = candidate.endpoint.adapter.reader(plain=plain, seam=seam)
        self.started_s = self.progress_s = self._loop.time()
        self.first_content_s: float | None = None
        self.ended_s: float | None = None
        self.status: int | None = None
        self.failure: Failure | None = None
        self.attention = False
        # The meter: how many pieces came, and their text for whoever must count tokens or continue the answer.
        self.pieces = 0
        self.reasoning_pieces = 0
        self.thought = bytearray()
        self.said = bytearray()
        self.calls = bytearray()

    @property
    def committed(self) -> bool:
        return self.first_content_s is not None

    @property
    def delivered(self) -> bool:
        """The client has some of the content."""
        return (self.committed if self.emulation is None else self.shown) and self.outlet.delivers

    @property
    def text(self) -> bytes:
        """All that was generated, as far as it was shown."""
        return bytes(self.thought + self.said + self.calls)

    @property
    def text_bytes(self) -> int:
        return len(self.thought) + len(self.said) + len(self.calls)

    @property
    def ended(self) -> bool:
        return self.ended_s is not None

    async def wake(self) -> None:
        """Wait until there is something to do. One coroutine waits at a time."""
        if not self.ended and not self.attention:
            self._waiter = self._loop.create_future()
            await self._waiter
        self.attention = False

    def call_attention(self) -> None:
        self.attention = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    @property
    def stale(self) -> bool:
        """The connection had been used before, and was gone when it was needed: that tells nothing of the endpoint."""
        return self.failure is not None and self.failure.kind is FailureKind.NO_RESPONSE and not self.fresh

    def silent_s(self, now_s: float) -> float:
        """For how long no event has come, as seen from the last time that this was asked. A comment is no event."""
        if self.reader.events_read != self._events_seen:
            self._events_seen, self.progress_s = self.reader.events_read, now_s
        return now_s - self.progress_s

    def end(self, failure: Failure | None) -> None:
        """The first end is the end. A failure leaves the connection, so that the provider stops."""
        if self.ended:
            return
        if failure is not None and self.connection is not None:
            self.connection.abort()
        self._conclude(failure)

    def _conclude(self, failure: Failure | None) -> None:
        """The response is over, or left: the connection is none of our business any more."""
        self.ended_s = self._loop.time()
        self.failure = failure
        if failure is None and not self.cut_short:
            self.release()
        self.call_attention()

    def release(self) -> None:
        """No more of this answer comes: write what the emulation holds back."""
        try:
            if self.emulation is not None:
                self._write(self.emulation.release())
        except Exception:
            self._blame_us()

    def leave(self) -> None:
        """End it where it stands, without blame: the client left, or there is nothing more to come."""
        if self.connection is not None and not self.ended:
            self.connection.abort()
        self.end(None)

    def finish(self) -> None:
        """All was said, though nobody says so: the connection stays open. Take it for the end."""
        if self.connection is not None and not self.ended:
            self.connection.abort()
        self.completed()

    # The connection's side

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self._headers = headers
        if status != 200:
            return
        kind = headers.get("content-type", "")
        if kind.startswith("text/html"):
            self.end(Failure(FailureKind.PROTOCOL, "a web page instead of an answer", status))
        elif not self.plain and kind.startswith("application/json"):
            # Asked to stream, it answers whole: an error at status 200, or an engine that does not stream.
            self.plain = True
            self.reader = self.candidate.endpoint.adapter.reader(plain=True, seam=self.seam)

    def body(self, chunk: bytes) -> None:
        if self.status != 200:
            self._error_body += chunk
            if len(self._error_body) > ERROR_BODY_BYTES:
                self.end(self._refusal())
        elif self.plain and self._outgrows(len(chunk)):
            self.end(Failure(FailureKind.PROTOCOL, f"the answer is larger than {WHOLE_BODY_BYTES} bytes", self.status))
        else:
            self._take(self.reader.feed(chunk))

    def read(self) -> None:
        if self.outlet.flush():
            self.call_attention()

    def completed(self) -> None:
        if self.ended:
            return
        if self.status != 200:
            self._conclude(self._refusal())
            return
        self._take(self.reader.end())
        if not self.ended:
            self._conclude(self._judge(None))
        self.read()

    def failed(self, failure: Failure) -> None:
        if self.ended:
            return
        if self.status == 200 and not self.plain:
            self._take(self.reader.end())
        if not self.ended:
            self.end(self._judge(failure))
        self.read()

    def _outgrows(self, more_bytes: int) -> bool:
        self._body_bytes += more_bytes
        return self._body_bytes > WHOLE_BODY_BYTES

    def _refusal(self) -> Failure:
        return classify(self.status or 0, self._headers, bytes(self._error_body), time.time())

    def _judge(self, failure: Failure | None) -> Failure | None:
        """The bytes are over: was it an answer? A finish reason makes it whole, whatever became of the connection."""
        if self.reader.finished or (self.reader.done and self.committed):
            return None
        if failure is not None:
            return failure
        if not self.committed:
            return Failure(FailureKind.PROTOCOL, "status 200 without an answer", self.status)
        return Failure(FailureKind.CUT, "the answer ended without a finish reason", self.status)

    def _take(self, events: list[Event]) -> None:
        """Within a callback of the connection, which would swallow what is raised here."""
        if self.ended:
            return
        try:
            self._hand_on(events)
        except Exception:
            self.end(self._blame_us())

    def _blame_us(self) -> Failure:
        log.exception("an answer of %s could not be handed on", self.candidate.endpoint.name)
        self.failure = Failure(FailureKind.OURS, "the answer could not be handed on")
        return self.failure

    def _hand_on(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is Delta:
                if self.our_limits or self._echo is not None:
                    event = self._at_the_seam(event)
                self._meter(event)
                if self.emulation is None:
                    self.outlet.write(event)
                else:
                    self._write(self.emulation.feed(event))
            elif type(event) is Failure:
                self.end(event)

    def _write(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            self.shown = self.shown or delta.has_content
            self.outlet.write(delta)

    def _at_the_seam(self, delta: Delta) -> Delta:
        """Without what was said before the seam; without the end that only our own limit made."""
        if self._echo is not None:
            delta = self._echo.swallow(delta)
        if delta.finish_reason in self.our_limits and not (self.calls or delta.tool_calls):
            self.cut_short = True
            delta = replace(delta, finish_reason=None, extra=None)
        return delta

    def _meter(self, delta: Delta) -> None:
        if delta.reasoning:
            self.pieces += 1
            self.reasoning_pieces += 1
            self.thought += delta.reasoning.encode()
        if delta.content:
            self.pieces += 1
            self.said += delta.content.encode()
        if delta.tool_calls:
            self.pieces += 1
            self.calls += written_calls(delta.tool_calls)
        if self.first_content_s is None and delta.has_content:
            self.first_content_s = self._loop.time()


def written_calls(calls: list[dict[str, Any]]) -> bytes:
    """What the model wrote of them: names and arguments; ids and keys are the engine's."""
    functions = [call["function"] for call in calls if isinstance(call.get("function"), dict)]
    return "".join(f"{one.get('name') or ''}{one.get('arguments') or ''}" for one in functions).encode()
