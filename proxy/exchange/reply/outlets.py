"""Where an answer goes: down an open HTTP response as it comes, or together and whole at the end.

A stream's response headers wait for the first content; from then on every read upstream is one write downstream,
straight to the transport, framed as one chunk of HTTP/1.1.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from aiohttp import HttpVersion11, web

from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.exchange.reply.idempotency import Recording
from proxy.surfaces.surface import AnswerMessage, AnswerStream

HELD_BYTES = 65_536
FIRST_WRITE_BYTES = 16_384


class ClientOutlet(Protocol):
    """An answer on its way to the client: attempts write to it, a `Reply` opens and ends it."""

    delivers: bool
    """Whether what is written reaches the client as it comes, so that it cannot be taken back."""
    content_type: str

    def write(self, delta: Delta) -> None: ...
    def flush(self) -> bool:
        """Send what was written; True when the owner must look after it (open the answer, wait for the client)."""

    def name_provider(self, endpoint: str) -> None:
        """Say who answers; before each attempt."""

    def restart(self) -> None:
        """Forget what was written and not delivered: the answer begins again elsewhere."""

    @property
    def wanted(self) -> bool:
        """Whether something waits for the head of the response."""

    @property
    def congested(self) -> bool:
        """Whether the client reads more slowly than the answer comes."""

    async def open(self, headers: Mapping[str, str]) -> None:
        """Send the head of the response, and what waits for it."""

    async def drain(self) -> None:
        """Wait until the client has read most of what it was sent."""

    def keep_alive(self, now_s: float, interval_s: float) -> bool:
        """After so long a silence tell the client (and what stands between) that somebody is here."""

    def ending(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        """The end of a stream, or the whole of a plain answer. Worded once: it may change the surface's state."""

    def copy(self, ending: bytes, limit_bytes: int) -> bytes | None:
        """The whole answer as it was sent, with its end; None where that is more than `limit_bytes`."""

    async def close(self, headers: Mapping[str, str], ending: bytes) -> web.StreamResponse:
        """Send the end, and the head before it where nothing was sent yet."""

    async def fail(self, error: ApiError, usage: Mapping[str, Any]) -> web.StreamResponse:
        """Say within the answer why it ends. Raises `error` where nothing has been sent."""

    def abort(self) -> None:
        """Drop the client."""


class StreamOutlet:
    """The client's event stream. `open`, `drain` and `close` are for the coroutine that owns the exchange."""

    delivers = True
    content_type = "text/event-stream"

    __slots__ = (
        "_chunked",
        "_clock",
        "_held",
        "_held_bytes",
        "_last_write_s",
        "_pending",
        "_protocol",
        "_recording",
        "_request",
        "_response",
        "_show_usage",
        "_surface",
        "wanted",
    )

    def __init__(
        self,
        request: web.Request,
        surface: AnswerStream,
        *,
        clock: Callable[[], float],
        show_usage: bool = False,
        recording: Recording | None = None,
    ) -> None:
        """`recording`: whatever belongs to the answer is also written there. `clock` tells seconds."""
        self._request = request
        self._protocol = request.protocol
        self._chunked = request.version >= HttpVersion11
        self._surface = surface
        self._clock = clock
        self._show_usage = show_usage
        self._recording = recording
        self._response: web.StreamResponse | None = None
        self._pending: list[bytes] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._last_write_s = clock()
        self.wanted = False

    def write(self, delta: Delta) -> None:
        if data := self._surface.encode(delta):
            self._pending.append(data)

    def flush(self) -> bool:
        if not self._pending:
            return False
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        if self._recording is not None:
            self._recording.add(data)
        return self._send(data)

    def name_provider(self, endpoint: str) -> None:
        self._surface.provider = endpoint

    def restart(self) -> None:
        """Keep what was written: it holds no content, and may have been sent."""

    @property
    def congested(self) -> bool:
        return self._protocol.writing_paused or self._held_bytes > HELD_BYTES

    async def open(self, headers: Mapping[str, str]) -> None:
        response = web.StreamResponse(headers=headers)
        response.content_type = self.content_type
        if self._chunked:
            response.enable_chunked_encoding()
        await response.prepare(self._request)
        held = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        # It is too little for aiohttp to wait for the client: that is the owner's affair.
        await response.write(held[:FIRST_WRITE_BYTES])
        self._response = response
        self.wanted = False
        if len(held) > FIRST_WRITE_BYTES:
            self._send(held[FIRST_WRITE_BYTES:])

    async def drain(self) -> None:
        await self._request.writer.drain()

    def keep_alive(self, now_s: float, interval_s: float) -> bool:
        return now_s - self._last_write_s > interval_s and self._send(self._surface.comment)

    def ending(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        return self._surface.finish(usage, route, show_usage=self._show_usage)

    def copy(self, ending: bytes, limit_bytes: int) -> bytes | None:  # noqa: ARG002 (the recording has its own limit)
        self.flush()
        return None if self._recording is None else self._recording.whole(ending)

    async def close(self, headers: Mapping[str, str], ending: bytes) -> web.StreamResponse:
        if self._response is None:
            await self.open(headers)
            assert self._response is not None
        self.flush()
        await self._response.write(ending)
        await self._response.write_eof()
        return self._response

    async def fail(self, error: ApiError, usage: Mapping[str, Any]) -> web.StreamResponse:
        if self._response is None:
            raise error
        return await self.close({}, self._surface.error(error, usage))

    def abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()

    def _send(self, data: bytes) -> bool:
        self._last_write_s = self._clock()
        if self._response is None:
            self._held.append(data)
            self._held_bytes += len(data)
            self.wanted = True
            return True
        protocol = self._protocol
        transport = protocol.transport
        if transport is None or transport.is_closing():
            return False  # the client left; its handler is being cancelled
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return protocol.writing_paused


class PlainOutlet:
    """The whole answer, put together. Of an answer that breaks off nothing was delivered."""

    delivers = False
    content_type = "application/json"
    wanted = False
    congested = False

    __slots__ = ("_make", "_request", "_surface")

    def __init__(self, request: web.Request, make: Callable[[], AnswerMessage]) -> None:
        """`make`: an empty answer of the surface."""
        self._request = request
        self._make = make
        self._surface = make()

    def write(self, delta: Delta) -> None:
        self._surface.add(delta)

    def flush(self) -> bool:
        return False

    def name_provider(self, endpoint: str) -> None:
        self._surface.provider = endpoint

    def restart(self) -> None:
        self._surface = self._make()

    async def open(self, headers: Mapping[str, str]) -> None:
        """A plain answer is opened with its end."""

    async def drain(self) -> None:
        """Nothing was sent."""

    def keep_alive(self, now_s: float, interval_s: float) -> bool:  # noqa: ARG002
        return False

    def ending(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        return self._surface.body(usage, route)

    def copy(self, ending: bytes, limit_bytes: int) -> bytes | None:
        return ending if len(ending) <= limit_bytes else None

    async def close(self, headers: Mapping[str, str], ending: bytes) -> web.StreamResponse:
        """Send it all: here and not by aiohttp, so that somebody watches over a client that does not take it."""
        response = web.Response(body=ending, headers=headers, content_type=self.content_type)
        await response.prepare(self._request)
        await response.write_eof()
        return response

    async def fail(self, error: ApiError, usage: Mapping[str, Any]) -> web.StreamResponse:  # noqa: ARG002
        raise error

    def abort(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
