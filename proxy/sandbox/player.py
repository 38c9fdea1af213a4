"""Performs a play on a socket: every byte, its time, and how it ends."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import assert_never

from proxy.sandbox.play import Ending, Head, Piece, Play
from proxy.sandbox.script import Script

PIECES_AT_ONCE = 64  # then the event loop serves other connections
RESET_AFTER_S = 0.005  # so that what was sent before is read before the reset is noticed
DRIBBLE_S = 0.005
NO_LINGER = struct.pack("ii", 1, 0)
GARBAGE = b"ZZ\r\nThis is no chunk.\r\n"


class Player:
    """One play on one transport. `tokens` were generated so far; `on_over(finished)` is called once.

    The owner calls `begin`, `pause` and `resume` (as its transport's buffer fills and empties), and `abandon` when the
    connection is lost. A client that reads slowly slows the play down: only the transport buffers, up to its limit.
    """

    __slots__ = (
        "_drip_bytes",
        "_drip_s",
        "_drops",
        "_loop",
        "_next_at",
        "_on_over",
        "_paused",
        "_pieces",
        "_play",
        "_split_bytes",
        "_timer",
        "_transport",
        "over",
        "tokens",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        play: Play,
        script: Script,
        on_over: Callable[[bool], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._play = play
        self._pieces: Iterator[Piece] = iter(play.pieces)
        self._on_over = on_over
        self._timer: asyncio.Handle | None = None
        self._paused = False
        self._drops = b""
        self._split_bytes = script.split_bytes
        dribbled = play.head is Head.DRIBBLED
        self._drip_bytes = 1 if dribbled else script.split_bytes
        self._drip_s = max(script.interval_s, DRIBBLE_S) if dribbled else 0.0
        self._next_at = 0.0
        self.tokens = 0
        self.over = False

    def begin(self) -> None:
        self._next_at = self._loop.time()
        if self._play.head is Head.WITHHELD:
            self._end()
            return
        self._write(head_bytes(self._play))
        self._go_on()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._go_on()

    def abandon(self) -> None:
        """The connection is gone; nothing more is generated."""
        self._finish(False)

    def _go_on(self) -> None:
        """Write all that is due; come back by a timer for what is not."""
        for _ in range(PIECES_AT_ONCE):
            if self._paused or self.over or self._timer is not None:  # a timer is a wait or a drip under way
                return
            piece = next(self._pieces, None)
            if piece is None:
                self._end()
                return
            self._next_at += piece.wait_s
            if piece.wait_s and self._next_at > self._loop.time():
                self._timer = self._loop.call_at(self._next_at, self._due, piece)
                return
            self._emit(piece)
        if self._timer is None:
            self._timer = self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._timer = None
        self._go_on()

    def _due(self, piece: Piece) -> None:
        self._timer = None
        self._emit(piece)
        self._go_on()

    def _emit(self, piece: Piece) -> None:
        self.tokens += piece.tokens
        if piece.data:
            self._write(piece.data if self._play.length is not None else chunk(piece.data))

    def _write(self, data: bytes) -> None:
        if self._drip_bytes is None:
            self._transport.write(data)
            return
        self._drops += data
        if self._timer is None:
            self._drip()

    def _drip(self) -> None:
        """Write a few bytes in each turn of the event loop, so that the client reads each write separately."""
        self._timer = None
        drop, self._drops = self._drops[: self._drip_bytes], self._drops[self._drip_bytes or 0 :]
        self._transport.write(drop)
        if self._drops and self._drip_s:
            self._timer = self._loop.call_later(self._drip_s, self._drip)
        elif self._drops:
            self._timer = self._loop.call_soon(self._drip)
        else:  # only the head is dribbled
            self._drip_bytes, self._drip_s = self._split_bytes, 0.0
            self._timer = self._loop.call_soon(self._turn)

    def _end(self) -> None:
        match self._play.ending:
            case Ending.CLEAN:
                if self._play.length is None:
                    self._transport.write(b"0\r\n\r\n")
                self._finish(True)
            case Ending.HANG:
                pass  # until the other side leaves
            case Ending.CUT:
                self._finish(False)
                self._transport.close()
            case Ending.RESET:
                self._timer = self._loop.call_later(RESET_AFTER_S, self._reset)
            case Ending.GARBLED:
                self._transport.write(GARBAGE)
                self._finish(False)
                self._transport.close()
            case _:
                assert_never(self._play.ending)

    def _reset(self) -> None:
        self._finish(False)
        reset(self._transport)

    def _finish(self, finished: bool) -> None:
        if self.over:
            return
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._on_over(finished)


def reset(transport: asyncio.Transport) -> None:
    """End the connection with a RST."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    transport.abort()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def head_bytes(play: Play) -> bytes:
    try:
        phrase = HTTPStatus(play.status).phrase
    except ValueError:
        phrase = "Unknown"
    framing = ("transfer-encoding", "chunked") if play.length is None else ("content-length", str(play.length))
    lines = [f"HTTP/1.1 {play.status} {phrase}", *(f"{name}: {value}" for name, value in (*play.headers, framing))]
    return "\r\n".join((*lines, "", "")).encode("latin-1")
