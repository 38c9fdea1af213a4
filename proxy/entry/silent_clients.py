"""Connections that never finish the headers of their first request: 408, closed.

aiohttp bounds the size of headers and the idleness between requests, not the time that the first headers may take.
"""

import asyncio

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

LOOK_S = 0.5
TIMEOUT_RESPONSE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class SilentClients:
    """`heard` is told of every connection that sent a request; `watch` closes those of which it never was."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._since_s: dict[RequestHandler, float] = {}
        self._heard: set[RequestHandler] = set()

    def heard(self, connection: RequestHandler) -> None:
        self._heard.add(connection)

    async def watch(self, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_S)
            self._look(server.connections, loop.time())

    def _look(self, connections: list[RequestHandler], now_s: float) -> None:
        self._heard.intersection_update(connections)
        since_s = {
            connection: self._since_s.get(connection, now_s)
            for connection in connections
            if connection not in self._heard
        }
        self._since_s = since_s
        for connection, at_s in since_s.items():
            if now_s - at_s > self._timeout_s and connection.transport is not None:
                connection.transport.write(TIMEOUT_RESPONSE)
                connection.transport.close()
