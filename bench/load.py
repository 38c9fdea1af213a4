"""The load generator: `python -m bench.load OPTIONS`, a raw protocol that counts answers and parses little.

Every connection sends the same request again and again, each after the answer to the one before it, at most `--rate` a
second over all of them. A line on standard input is a mark: the counters so far come back as one line of JSON, with the
quantiles of what finished since the last mark. When standard input ends, nothing new is sent and the answers still
running are read to their end, within `--drain` seconds.
"""

import argparse
import asyncio
import contextlib
import json
import random
import re
import sys
from dataclasses import dataclass, field
from typing import TypedDict

from bench import wire

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
LAST_CHUNK = b"0\r\n\r\n"  # neither an event nor a JSON document can end so inside a body
EVENT = b"data:"


class Mark(TypedDict):
    """One line of the output."""

    requests: int
    events: int
    reads: int
    body_bytes: int
    open: int
    reconnects: int
    errors: int
    first_error: str
    first_byte_ms: dict[str, float] | None
    whole_ms: dict[str, float] | None


@dataclass(slots=True)
class Counters:
    """What happened since the start; latencies only since the last mark."""

    requests: int = 0
    events: int = 0
    reads: int = 0
    body_bytes: int = 0
    open: int = 0
    reconnects: int = 0
    errors: int = 0
    first_error: str = ""
    first_byte_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)

    def failed(self, what: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or what

    def mark(self) -> Mark:
        first_byte_ms, whole_ms = quantiles_ms(self.first_byte_s), quantiles_ms(self.whole_s)
        self.first_byte_s.clear()
        self.whole_s.clear()
        return Mark(
            requests=self.requests,
            events=self.events,
            reads=self.reads,
            body_bytes=self.body_bytes,
            open=self.open,
            reconnects=self.reconnects,
            errors=self.errors,
            first_error=self.first_error,
            first_byte_ms=first_byte_ms,
            whole_ms=whole_ms,
        )


def quantiles_ms(values_s: list[float]) -> dict[str, float] | None:
    if not values_s:
        return None
    ordered = sorted(values_s)
    return {
        name: ordered[min(len(ordered) - 1, int(len(ordered) * q))] * 1000 for name, q in (("p50", 0.5), ("p99", 0.99))
    }


class Load:
    """The connections, the request they send, and when each may send the next one."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.loop = asyncio.get_running_loop()
        self.port: int = args.port
        self.request = wire.request(
            port=args.port, key=args.key, stream=args.stream, tokens=args.tokens, pace=args.pace
        )
        self.interval_s = args.connections / args.rate if args.rate else 0.0
        self.once: bool = args.once
        self.counters = Counters()
        self.ending = False
        self.answered = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self, connections: int, ramp_s: float) -> None:
        """Begin at instants spread at random over the ramp, so that the streams do not march in step."""
        begin = self.loop.time()
        chance = random.Random(1)
        for _ in range(connections):
            await self.connect(begin + chance.uniform(0, ramp_s))

    async def connect(self, send_at: float) -> None:
        await self.loop.create_connection(lambda: Connection(self, send_at), "127.0.0.1", self.port)

    def reconnect(self, send_at: float) -> None:
        """A server may close an idle connection."""
        self.counters.reconnects += 1
        task = self.loop.create_task(self.connect(send_at))
        self.tasks.add(task)
        task.add_done_callback(self.reconnected)

    def reconnected(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.counters.failed(f"cannot connect: {error}")

    async def drain(self, limit_s: float) -> None:
        """Return when no answer is running any more, or at the limit; what is then open shows in the counters."""
        self.ending = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.counters.open:
                    self.answered.clear()
                    await self.answered.wait()


class Connection(asyncio.Protocol):
    """One request at a time; `remaining` counts the body's bytes down, or is None while it comes chunked."""

    __slots__ = ("head", "in_request", "load", "remaining", "send_at", "sent_at", "tail", "transport")

    head: bytes | None  # None: read
    remaining: int | None

    def __init__(self, load: Load, send_at: float) -> None:
        self.load = load
        self.send_at = send_at
        self.in_request = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.load.loop.call_at(self.send_at, self.send)

    def send(self) -> None:
        if self.load.ending or self.transport.is_closing():
            return
        self.sent_at = self.load.loop.time()
        self.in_request, self.head, self.tail = True, b"", b""
        self.load.counters.open += 1
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        counters = self.load.counters
        counters.reads += 1
        if self.head is None:
            self.body(data, counters)
            return
        if not self.head:
            counters.first_byte_s.append(self.load.loop.time() - self.sent_at)
        self.head += data
        end = self.head.find(b"\r\n\r\n")
        if end < 0:
            return
        head, rest, self.head = self.head[: end + 4], self.head[end + 4 :], None
        if not head.startswith(b"HTTP/1.1 200"):
            counters.failed((head + rest).decode(errors="replace"))
        length = CONTENT_LENGTH.search(head)
        self.remaining = int(length[1]) if length else None
        self.body(rest, counters)

    def body(self, data: bytes, counters: Counters) -> None:
        counters.body_bytes += len(data)
        if self.remaining is not None:
            self.remaining -= len(data)
            if self.remaining <= 0:
                self.finished(counters)
            return
        data = self.tail + data  # the tail is a byte shorter than what is looked for, so nothing is found twice
        counters.events += data.count(EVENT)
        self.tail = data[-4:]
        if data.endswith(LAST_CHUNK):
            self.finished(counters)

    def finished(self, counters: Counters) -> None:
        now = self.load.loop.time()
        counters.requests += 1
        counters.open -= 1
        counters.whole_s.append(now - self.sent_at)
        self.in_request = False
        self.load.answered.set()
        if self.load.once:
            return
        self.send_at = max(now, self.send_at + self.load.interval_s)
        if self.load.interval_s:
            self.load.loop.call_at(self.send_at, self.send)
        else:
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.in_request:
            self.load.counters.open -= 1
            self.load.counters.failed(f"connection lost in an answer: {exc}")
            self.load.answered.set()
        elif not self.load.ending and not self.load.once:
            self.load.reconnect(self.send_at)


async def main(args: argparse.Namespace) -> None:
    load = Load(args)
    lines = asyncio.StreamReader()
    await load.loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    await load.start(args.connections, args.ramp)
    while await lines.readline():
        print(json.dumps(load.counters.mark()), flush=True)
    await load.drain(args.drain)
    print(json.dumps(load.counters.mark()), flush=True)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--key", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--tokens", type=int, required=True, help="of an answer")
    parser.add_argument("--pace", type=int, default=0, help="events per second of a stream; 0: all at once")
    parser.add_argument("--rate", type=float, default=0, help="requests per second over all connections; 0: no limit")
    parser.add_argument("--ramp", type=float, default=0, help="seconds over which the connections begin")
    parser.add_argument("--drain", type=float, default=40, help="seconds to wait for running answers at the end")
    parser.add_argument("--once", action="store_true", help="one request a connection")
    return parser.parse_args(argv)


if __name__ == "__main__":
    asyncio.run(main(parse(sys.argv[1:])))
