"""The exchanges that run in this process, the one ticker that watches over them, and work that outlives its request."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

TICK_S = 0.1

log = logging.getLogger("caduceus.running")


class Watched(Protocol):
    """A running exchange, as the ticker sees it."""

    def tick(self, now_s: float) -> None: ...


class Running:
    """`watch` visits every exchange; `adopt` finishes work whose request is over; `finish` waits for that."""

    def __init__(self) -> None:
        self.exchanges: set[Watched] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        """Whether this process takes no new requests."""

    def add(self, exchange: Watched) -> None:
        self.exchanges.add(exchange)

    def remove(self, exchange: Watched) -> None:
        self.exchanges.discard(exchange)

    def adopt(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish `work` although the request that began it is over."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._adopted_is_done)

    def _adopted_is_done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "work after a request failed", "exception": error, "task": task}
            )

    async def watch(self) -> None:
        """Visit every running exchange some times a second, for ever: one timer for all of them."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = loop.time()
            for exchange in tuple(self.exchanges):
                try:
                    exchange.tick(now_s)
                except Exception:  # one request's trouble must not take away everybody's timeouts
                    log.exception("a running request could not be looked after")

    async def drained(self, timeout_s: float) -> None:
        """Wait until no exchange runs any more, at most so long."""
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while self.exchanges and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110 (once, at the end)
            await asyncio.sleep(0.05)

    async def finish(self, timeout_s: float) -> None:
        """Wait for what was adopted, at most so long."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout_s)
