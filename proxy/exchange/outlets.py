"""Where an answer goes: down an open HTTP response as it comes, or together and whole at the end.

A stream's response headers wait for the first content; from then on every read upstream is one write downstream,
straight to the transport, framed as one chunk of HTTP/1.1.
"""

import asyncio
from collections.abc import Mapping

from aiohttp import HttpVersion11, web

from providers.events import Delta
from proxy.exchange.idempotency import Recording
from proxy.surfaces.surface import AnswerMessage, AnswerStream

HELD_BYTES = 65_536
FIRST_WRITE_BYTES = 16_384


class StreamOutlet:
    """The client's stream. `open`, `drain` and `close` are for the coroutine that owns the exchange."""

    delivers = True

    __slots__ = (
        "_chunked",
        "_clock",
        "_held",
        "_held_bytes",
        "_pending",
        "_protocol",
        "_request",
        "_response",
        "last_write_s",
        "opened",
        "recording",
        "surface",
        "wanted",
    )

    def __init__(self, request: web.Request, surface: AnswerStream, recording: Recording | None = None) -> None:
        """`recording`: whatever belongs to the answer is also written there."""
        self._request = request
        self._protocol = request.protocol
        self._clock = asyncio.get_running_loop().time
        self._response: web.StreamResponse | None = None
        self._pending: list[bytes] = []
        self._held: list[bytes] = []
        self._held_bytes = 0
        self.surface = surface
        self.recording = recording
        self._chunked = request.version >= HttpVersion11
        self.opened = False
        self.wanted = False
        self.last_write_s = self._clock()

    def write(self, delta: Delta) -> None:
        if data := self.surface.encode(delta):
            self._pending.append(data)

    def flush(self) -> bool:
        if not self._pending:
            return False
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        if self.recording is not None:
            self.recording.add(data)
        return self.send(data)

    def send(self, data: bytes) -> bool:
        self.last_write_s = self._clock()
        if not self.opened:
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

    @property
    def congested(self) -> bool:
        return self._protocol.writing_paused or self._held_bytes > HELD_BYTES

    async def open(self, headers: Mapping[str, str]) -> None:
        """Send the response's head and what was held until now."""
        response = web.StreamResponse(headers=headers)
        response.content_type = "text/event-stream"
        if self._chunked:
            response.enable_chunked_encoding()
        await response.prepare(self._request)
        self._response = response
        held = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        # With this goes the head. It is too little for aiohttp to wait for the client: that is the owner's affair.
        await response.write(held[:FIRST_WRITE_BYTES])
        self.opened = True
        if len(held) > FIRST_WRITE_BYTES:
            self.send(held[FIRST_WRITE_BYTES:])

    async def drain(self) -> None:
        """Wait until the client has read most of what it was sent."""
        await self._request.writer.drain()

    def keep_alive(self, now_s: float, interval_s: float) -> bool:
        """After so long a silence tell the client (and what stands between) that somebody is here."""
        return now_s - self.last_write_s > interval_s and self.send(self.surface.comment)

    async def close(self, last: bytes) -> web.StreamResponse:
        """The last bytes."""
        assert self._response is not None
        self.flush()
        await self._response.write(last)
        await self._response.write_eof()
        return self._response


class PlainOutlet:
    """The whole answer, put together. Of an answer that breaks off nothing was delivered."""

    delivers = False

    __slots__ = ("surface",)

    def __init__(self, surface: AnswerMessage) -> None:
        self.surface = surface

    def write(self, delta: Delta) -> None:
        self.surface.add(delta)

    def flush(self) -> bool:
        return False

    async def finish(
        self,
        request: web.Request,
        headers: Mapping[str, str],
        body: bytes,
    ) -> web.Response:
        """Send it all: here and not by aiohttp, so that somebody watches over a client that does not take it."""
        response = web.Response(body=body, headers=headers, content_type="application/json")
        await response.prepare(request)
        await response.write_eof()
        return response
