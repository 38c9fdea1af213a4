"""One serving process: an open ledger, the endpoints, a listener, until a signal says stop."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from ledger.journal.store import Store
from proxy.config import Settings
from proxy.routing.endpoints import Endpoint, load_endpoints
from proxy.serving.app import open_service, serving
from proxy.serving.demo import sandbox_endpoints


@dataclass(frozen=True, slots=True)
class Worker:
    """What a worker needs to know; it is sent to other processes."""

    settings: Settings
    database_url: str
    secret_key: bytes
    sandboxed: bool
    number: int | None = None

    def numbered(self, number: int) -> "Worker":
        return replace(self, number=number)

    @property
    def server_name(self) -> str:
        """Whose holds these are: the same after a restart, so that it can sweep its own."""
        place = f"{socket.gethostname()}:{self.settings.data_dir}"
        return place if self.number is None else f"{place}:{self.number}"


async def serve_forever(worker: Worker, *, ready: Callable[[str], None]) -> None:
    """Until SIGINT or SIGTERM; a second one does not wait for running answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    current = asyncio.current_task()
    assert current is not None

    def on_signal() -> None:
        if stop.is_set():
            current.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    with suppress(asyncio.CancelledError):
        async with (
            ended_with_parent(worker, stop),
            endpoints_of(worker) as endpoints,
            Store.open(worker.database_url, server_name=worker.server_name) as store,
            open_service(worker.settings, store, worker.secret_key, endpoints) as service,
            serving(service, reuse_port=worker.number is not None) as address,
        ):
            spare_the_collector()
            ready(address)
            await stop.wait()


def spare_the_collector() -> None:
    """What was loaded until now stays: cyclic garbage need not be looked for in it, nor after every 700 objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


@asynccontextmanager
async def ended_with_parent(worker: Worker, stop: asyncio.Event) -> AsyncIterator[None]:
    """One of several workers stops when its parent is gone: nobody would keep Postgres alive for it."""
    parent = os.getppid()

    async def watch() -> None:
        while os.getppid() == parent:  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(1.0)
        stop.set()

    watching = asyncio.create_task(watch(), name="parent") if worker.number is not None else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.wait([watching])


@asynccontextmanager
async def endpoints_of(worker: Worker) -> AsyncIterator[tuple[Endpoint, ...]]:
    if not worker.sandboxed:
        yield load_endpoints(worker.settings, os.environ)
        return
    async with sandbox_endpoints() as endpoints:
        yield endpoints
