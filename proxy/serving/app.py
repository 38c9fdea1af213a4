"""The composition root: settings and an open ledger in, a running server out."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import certifi
from aiohttp import web

from ledger.journal.store import Store
from proxy.api.cors import allow_origins
from proxy.api.paths import add_routes
from proxy.config import Settings
from proxy.entry.silent_clients import SilentClients
from proxy.exchange.gateway import GATEWAY, Gateway
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation
from proxy.upstream.client import Origin, UpstreamClient

HEADER_BYTES = 16_384
LINGER_S = 1.0  # after an answer that did not wait for the whole body, so that its sender gets to read it
SETTLE_S = 10.0


@asynccontextmanager
async def open_gateway(
    settings: Settings, store: Store, secret_key: bytes, endpoints: tuple[Endpoint, ...]
) -> AsyncIterator[Gateway]:
    """Everything a request needs, and the ticker that watches over all of them. Leaving waits for adopted work."""
    await store.sync_file_prices(file_prices(endpoints))
    upstream = UpstreamClient(settings.limits.connect_timeout_s, ssl.create_default_context(cafile=certifi.where()))
    gateway = Gateway(
        settings=settings,
        secret_key=secret_key,
        store=store,
        upstream=upstream,
        endpoints=endpoints,
        origins={one.name: Origin(one.base_url, one.api_key, dict(one.adapter.dialect.headers)) for one in endpoints},
        observations={one.name: Observation() for one in endpoints},
        silent_clients=SilentClients(settings.limits.header_timeout_s),
    )
    ticker = asyncio.create_task(gateway.watch())
    try:
        yield gateway
    finally:
        await gateway.finish(settings.limits.drain_upstream_s + SETTLE_S)
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        upstream.close()
        gateway.schemas.close()


def file_prices(endpoints: tuple[Endpoint, ...]) -> dict[str, tuple[str, str, str | None]]:
    """What the configuration says that each endpoint costs: input, output, cached input; USD per million tokens."""
    return {one.name: (one.price.input, one.price.output, one.price.cached_input) for one in endpoints if one.price}


def make_app(gateway: Gateway) -> web.Application:
    app = web.Application(client_max_size=gateway.settings.limits.body_bytes)
    app[GATEWAY] = gateway
    if gateway.settings.server.cors_origins:
        allow_origins(app, gateway.settings.server.cors_origins)
    add_routes(app)
    return app


@asynccontextmanager
async def serving(gateway: Gateway, *, reuse_port: bool = False) -> AsyncIterator[str]:
    """Listen; the value is the address. Leaving drains: no new requests, running answers end in the grace period."""
    settings = gateway.settings.server
    runner = web.AppRunner(
        make_app(gateway),
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=75,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        shutdown_timeout=1.0,
        lingering_time=LINGER_S,
    )
    await runner.setup()
    assert runner.server is not None
    watching = asyncio.create_task(gateway.silent_clients.watch(runner.server), name="silent clients")
    site = web.TCPSite(runner, settings.host, settings.port, reuse_port=reuse_port or None, backlog=1_024)
    try:
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        gateway.draining = True
        await site.stop()
        await drained(gateway)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await runner.cleanup()


async def drained(gateway: Gateway) -> None:
    """Wait until nothing runs any more, at most the grace period."""
    deadline_s = asyncio.get_running_loop().time() + gateway.settings.limits.drain_s
    while gateway.running and asyncio.get_running_loop().time() < deadline_s:  # noqa: ASYNC110 (once, at the end)
        await asyncio.sleep(0.05)
