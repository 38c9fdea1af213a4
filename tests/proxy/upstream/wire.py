"""A connection without a socket: the clock, the other end and the listener are played by the test."""

import asyncio
from dataclasses import dataclass, field

from providers.events import Failure
from proxy.upstream.client import Connection


class Clock:
    """Seconds that pass when a test sets them."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Wire(asyncio.Transport):
    """A transport that notes every write in `sent`, and in `end` how it was closed: "closed" or "aborted"."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.end: str | None = None
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))

    def is_closing(self) -> bool:
        return self.end is not None

    def close(self) -> None:
        self.end = self.end or "closed"

    def abort(self) -> None:
        self.end = "aborted"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Server(Wire):
    """The endpoint at the other end of `connection`. What it says after the connection was closed reaches nobody."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection = connection
        connection.connection_made(self)

    def says(self, *reads: bytes) -> None:
        """Each of `reads` is one read of the socket."""
        for data in reads:
            if not self.is_closing():
                self.connection.data_received(data)

    def hangs_up(self, error: Exception | None = None) -> None:
        self.close()
        self.connection.connection_lost(error)


@dataclass(frozen=True)
class Head:
    status: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Body:
    data: bytes


@dataclass(frozen=True)
class Completed:
    """All of the response came."""


Heard = Head | Body | Completed | Failure


class Listener:
    """A sink that notes what it hears; `reads` counts the reads of the socket."""

    def __init__(self) -> None:
        self.heard: list[Heard] = []
        self.reads = 0

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.heard.append(Head(status, headers))

    def body(self, chunk: bytes) -> None:
        self.heard.append(Body(chunk))

    def read(self) -> None:
        self.reads += 1

    def completed(self) -> None:
        self.heard.append(Completed())

    def failed(self, failure: Failure) -> None:
        self.heard.append(failure)

    @property
    def whole(self) -> list[Heard]:
        """The same with its body in one piece."""
        pieces = [event.data for event in self.heard if isinstance(event, Body)]
        others: list[Heard] = [event for event in self.heard if not isinstance(event, Body)]
        return [*others[:1], Body(b"".join(pieces)), *others[1:]] if pieces else others
