"""HTTP/1.1 to the endpoints: pooled connections that hand what they read straight to a sink, with no object between.

A response costs no task, queue or future per event: `data_received` parses, the sink is told, and it writes. The parser
is llhttp (`httptools`). Everything that can go wrong reaches the sink as a `Failure`.
"""

import asyncio
import errno
import ssl
import zlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import httptools

from providers.events import Failure, FailureKind

IDLE_S = 4.0  # vLLM's server closes an idle connection after 5 s
MAX_IDLE_AN_ORIGIN = 256
HEADER_BYTES = 65_536
RACE_S = 0.25  # between the addresses of a name (RFC 8305); a lone address runs no race
DECOMPRESSED_BYTES = 64 << 20
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
RETRY_AFTER_S = 1.0  # when this machine has no connection to spare


class NoConnection(Exception):
    """No connection to an endpoint is to be had; `failure` says why, and whether that is our fault."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.message)


class Sink(Protocol):
    """Who reads a response. After `failed` or `completed` comes at most one more `read`."""

    def head(self, status: int, headers: dict[str, str]) -> None: ...
    def body(self, chunk: bytes) -> None: ...
    def read(self) -> None:
        """One read of the socket is over: now is the time for one write."""

    def completed(self) -> None: ...
    def failed(self, failure: Failure) -> None: ...


class Origin:
    """Scheme, host and port of an endpoint, with the constant part of its requests."""

    __slots__ = ("head", "host", "port", "prefix", "race_s", "tls")

    def __init__(self, base_url: str, api_key: str | None, headers: dict[str, str]) -> None:
        parts = urlsplit(base_url)
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.race_s = None if is_address(self.host) else RACE_S
        self.port = parts.port or (443 if self.tls else 80)
        self.prefix = parts.path.rstrip("/")
        lines = [f"host: {parts.netloc.rpartition('@')[2]}", "accept-encoding: identity", "user-agent: caduceus"]
        if api_key:
            lines.append(f"authorization: Bearer {api_key}")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.head = "\r\n".join(lines).encode("latin-1")

    def post(self, path: str, body: bytes, request_id: str) -> bytes:
        """A whole request, ready to be written."""
        return (
            b"POST %b%b HTTP/1.1\r\n%b\r\nx-request-id: %b\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (self.prefix.encode(), path.encode(), self.head, request_id.encode(), len(body), body)
        )


def is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class Connection(asyncio.Protocol):
    """One connection; at most one exchange at a time, then it goes back to its pool."""

    __slots__ = (
        "_clock",
        "_decoder",
        "_head_bytes",
        "_headers",
        "_parser",
        "_pool",
        "_reading_head",
        "_sink",
        "_transport",
        "answered",
        "idle_since_s",
        "uses",
    )

    def __init__(self, pool: list["Connection"], clock: Callable[[], float]) -> None:
        """`pool`: where it goes between two exchanges. `clock` tells seconds."""
        self._pool = pool
        self._clock = clock
        self._sink: Sink | None = None
        self._transport: asyncio.Transport
        self._parser: Any = None
        self._headers: dict[str, str] = {}
        self._decoder: Any = None
        self._reading_head = True
        self._head_bytes = 0
        self.answered = False
        self.uses = 0
        self.idle_since_s = 0.0

    @property
    def lost(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, request: bytes, sink: Sink) -> None:
        """Send a whole request; what comes back is told to `sink`."""
        self._sink = sink
        self._headers = {}
        self._decoder = None
        self._parser = httptools.HttpResponseParser(self)
        self._reading_head = True
        self._head_bytes = 0
        self.answered = False
        self.uses += 1
        self._transport.write(request)

    def pause(self) -> None:
        if not self.lost:
            self._transport.pause_reading()

    def resume(self) -> None:
        if not self.lost:
            self._transport.resume_reading()

    def abort(self) -> None:
        """Leave the exchange: the sink hears no more, the server sees the connection go."""
        self._sink = None
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        sink = self._sink
        if sink is None:  # a server that talks out of turn
            self._transport.abort()
            return
        self.answered = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(FailureKind.CUT, f"the response is malformed: {error.__context__ or error}")
            return
        if self._reading_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEADER_BYTES:
                self._fail(FailureKind.PROTOCOL, f"the headers are longer than {HEADER_BYTES} bytes")
                return
        sink.read()

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._pool:
            self._pool.remove(self)
        sink = self._sink
        if sink is None:
            return
        if not self.answered:
            self._fail(FailureKind.NO_RESPONSE, f"the connection ended before a response ({exc or 'closed'})")
        elif exc is None and not self._reading_head and self._ends_with_connection():
            self._sink = None
            sink.completed()
        else:
            self._fail(FailureKind.CUT, f"the connection ended within the response ({exc or 'closed'})")

    # llhttp's callbacks

    def on_message_begin(self) -> None:
        if self._sink is None:  # more than one response to a request
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise ValueError("another protocol was not asked for")
        if status < 200:
            self._headers = {}
            return
        self._reading_head = False
        encoding = self._headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "deflate", "x-gzip"):
            self._decoder = zlib.decompressobj(wbits=47)
        elif encoding != "identity":
            raise ValueError(f"content-encoding {encoding} was not asked for")
        if self._sink is not None:
            self._sink.head(status, self._headers)

    def on_body(self, chunk: bytes) -> None:
        if self._decoder is not None:
            chunk = self._decoder.decompress(chunk, DECOMPRESSED_BYTES)
        if self._sink is not None:
            self._sink.body(chunk)

    def on_message_complete(self) -> None:
        sink, self._sink = self._sink, None
        if sink is None or self._parser.get_status_code() < 200:
            self._sink = sink
            return
        keep_alive = self._parser.should_keep_alive()
        sink.completed()  # it may leave the connection
        if keep_alive and not self.lost and len(self._pool) < MAX_IDLE_AN_ORIGIN:
            self.idle_since_s = self._clock()
            self._pool.append(self)
        else:
            self._transport.close()

    def _ends_with_connection(self) -> bool:
        return "content-length" not in self._headers and "chunked" not in self._headers.get("transfer-encoding", "")

    def _fail(self, kind: FailureKind, message: str) -> None:
        sink, self._sink = self._sink, None
        self._transport.abort()
        if sink is not None:
            sink.failed(Failure(kind, message))


class UpstreamClient:
    """Connections to every endpoint, by its name. `close` when done."""

    def __init__(self, origins: Mapping[str, Origin], connect_timeout_s: float, tls: ssl.SSLContext) -> None:
        self._origins = origins
        self._connect_timeout_s = connect_timeout_s
        self._tls = tls
        self._idle: dict[tuple[str, int, bool], list[Connection]] = defaultdict(list)

    async def connect(self, endpoint: str, *, fresh: bool = False) -> Connection:
        """An idle connection (the youngest), or a new one; `fresh`: a new one. Raises NoConnection."""
        origin = self._origins[endpoint]
        pool = self._idle[(origin.host, origin.port, origin.tls)]
        now_s = asyncio.get_running_loop().time()
        while pool and not fresh:
            connection = pool.pop()
            if not connection.lost and now_s - connection.idle_since_s < IDLE_S:
                return connection
            connection.abort()
        try:
            return await self._open(origin, pool)
        except (OSError, TimeoutError) as error:
            if error.errno in EXHAUSTED:
                kind, message = FailureKind.OURS, f"no connection is to be had here: {error}"
                raise NoConnection(Failure(kind, message, None, RETRY_AFTER_S)) from error
            raise NoConnection(Failure(FailureKind.CONNECT, f"{type(error).__name__}: {error}")) from error

    def request(self, endpoint: str, path: str, body: bytes, request_id: str) -> bytes:
        """A POST to an endpoint, ready to be sent on a connection to it. `path` is below its base URL."""
        return self._origins[endpoint].post(path, body, request_id)

    async def _open(self, origin: Origin, pool: list[Connection]) -> Connection:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(pool, loop.time),
                origin.host,
                origin.port,
                ssl=self._tls if origin.tls else None,
                happy_eyeballs_delay=origin.race_s,
            )
        return connection

    def close(self) -> None:
        for pool in self._idle.values():
            for connection in pool[:]:
                connection.abort()
            pool.clear()
