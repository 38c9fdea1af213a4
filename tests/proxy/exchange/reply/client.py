"""A client without a socket, and a surface whose words are easily told apart."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import HttpVersion, HttpVersion11
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_writer import StreamWriter
from aiohttp.test_utils import make_mocked_request

from providers.events import Delta
from proxy.entry.api_errors import ApiError
from tests.proxy.upstream.wire import Wire


class Handler(BaseProtocol):
    """aiohttp's side of the connection, as far as writing goes."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(asyncio.get_running_loop())
        self.transport = wire
        self.peername = self.sockname = self.ssl_context = None
        self.max_field_size = self.max_line_size = 8_190
        self.max_headers = 128


class Client(Wire):
    """Asks with `request`. `status`, `headers` and `body` are what it was sent, `body` by the write."""

    def __init__(self, version: HttpVersion = HttpVersion11) -> None:
        super().__init__()
        self.protocol = Handler(self)
        writer = StreamWriter(self.protocol, asyncio.get_running_loop())
        self.request = make_mocked_request(
            "POST", "/v1/chat/completions", version=version, protocol=self.protocol, transport=self, writer=writer
        )

    @property
    def status(self) -> str:
        return self._head[0]

    @property
    def headers(self) -> Mapping[str, str]:
        lines = (line.partition(": ") for line in self._head[1:])
        return {name.lower(): value for name, _, value in lines}

    @property
    def body(self) -> list[bytes]:
        """What came with the head is its first piece."""
        with_head = self.sent[0].partition(b"\r\n\r\n")[2]
        return [with_head, *self.sent[1:]] if with_head else self.sent[1:]

    @property
    def _head(self) -> list[str]:
        return self.sent[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")

    def stops_reading(self) -> None:
        self.protocol.pause_writing()

    def reads_on(self) -> None:
        self.protocol.resume_writing()

    def leaves(self) -> None:
        self.close()
        self.protocol.connection_lost(None)


def chunk(data: bytes) -> bytes:
    """As HTTP/1.1 frames it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


class Words:
    """A surface's stream of which only the text of an answer is left, its end in brackets. Thoughts are hidden."""

    comment = b"[here]"

    def __init__(self) -> None:
        self.provider = ""
        self.endings = 0

    def encode(self, delta: Delta) -> bytes:
        return (delta.content or "").encode()

    def finish(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None, *, show_usage: bool) -> bytes:
        self.endings += 1
        return ending(self.provider, usage if show_usage else {}, route)

    def error(self, error: ApiError, usage: Mapping[str, Any]) -> bytes:
        return b"[" + error.code.encode() + b"]"


class Message:
    """The same of a plain answer."""

    def __init__(self) -> None:
        self.provider = ""
        self.text = b""
        self.endings = 0

    def add(self, delta: Delta) -> None:
        self.text += (delta.content or "").encode()

    def body(self, usage: Mapping[str, Any], route: Mapping[str, Any] | None) -> bytes:
        self.endings += 1
        return self.text + ending(self.provider, usage, route)


def ending(provider: str = "", usage: Mapping[str, Any] | None = None, route: Mapping[str, Any] | None = None) -> bytes:
    tokens = "".join(f" {usage['total_tokens']} tokens" for usage in (usage,) if usage)
    explained = " explained" if route else ""
    return f"[end{' of ' + provider if provider else ''}{tokens}{explained}]".encode()
