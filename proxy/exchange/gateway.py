"""What all requests of a process share, and the one clock hand that watches over them."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from aiohttp import web

from ledger.journal.store import Store
from proxy.config import Settings
from proxy.entry.admission import Admission
from proxy.entry.silent_clients import SilentClients
from proxy.exchange.schemas import Schemas
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation, RetryBudget
from proxy.routing.route import Offer
from proxy.surfaces.suffixes import suffix_of
from proxy.upstream.client import Origin, UpstreamClient

TICK_S = 0.1

log = logging.getLogger("caduceus.gateway")


class Watched(Protocol):
    """A running exchange, as the ticker sees it."""

    def tick(self, now_s: float) -> None: ...


@dataclass(slots=True)
class Gateway:
    """Made by the composition root (`proxy.serving.app`)."""

    settings: Settings
    secret_key: bytes
    store: Store
    upstream: UpstreamClient
    endpoints: tuple[Endpoint, ...]
    origins: dict[str, Origin]
    observations: dict[str, Observation]
    silent_clients: SilentClients
    admission: Admission = field(default_factory=Admission)
    budget: RetryBudget = field(default_factory=RetryBudget)
    schemas: Schemas = field(default_factory=Schemas)
    running: set[Watched] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    draining: bool = False
    roll: random.Random = field(default_factory=random.Random)

    def now(self) -> datetime:
        """The database's clock, as far as this process knows it."""
        return self.store.instant()

    def suffix_of(self, model: str) -> str | None:
        return suffix_of(model, (self.settings.model, *self.settings.aliases))

    def offers(self, plan: str | None) -> list[Offer]:
        """Every endpoint with what a tenant on `plan` pays there and what it costs, as of now."""
        now, book = self.now(), self.store.prices
        return [
            Offer(one, book.tenant_price(plan, one.name, now), book.endpoint_price(one.name, now))
            for one in self.endpoints
        ]

    def adopt(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish `work` although the request that began it is over; `finish` waits for all of it."""
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
        """Timeouts, comments and checkpoints of every running exchange; one timer for all of them."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = loop.time()
            for exchange in tuple(self.running):
                try:
                    exchange.tick(now_s)
                except Exception:  # one request's trouble must not take away everybody's timeouts
                    log.exception("a running request could not be looked after")

    async def finish(self, timeout_s: float) -> None:
        """Wait for what was adopted, at most so long."""
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=timeout_s)


GATEWAY = web.AppKey("gateway", Gateway)
