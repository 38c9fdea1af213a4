"""The composition root: settings and an open ledger in, a running server out."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import certifi
from aiohttp import web

from ledger.accounts.file_prices import sync_file_prices
from ledger.journal.store import Store
from proxy.api.account import show_credits, show_key, show_usage
from proxy.api.cors import allow_origins
from proxy.api.count_tokens import count_tokens
from proxy.api.generations import show_generation
from proxy.api.models import list_models, show_endpoints, show_model
from proxy.api.paths import Api, add_routes
from proxy.config import Settings
from proxy.entry.admission import Admission
from proxy.entry.authentication import Keyring
from proxy.entry.silent_clients import SilentClients
from proxy.exchange.formats.schemas import Schemas
from proxy.exchange.planning import Planner
from proxy.exchange.pursuit import Environment
from proxy.exchange.relay import Relay
from proxy.exchange.running import Running
from proxy.routing.catalogue import Catalogue
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation, RetryBudget
from proxy.upstream.client import Origin, UpstreamClient

HEADER_BYTES = 16_384
LINGER_S = 1.0  # after an answer that did not wait for the whole body, so that its sender gets to read it
SETTLE_S = 10.0


@dataclass(frozen=True, slots=True)
class Service:
    """Everything of a serving process that requests share, put together by `open_service`."""

    settings: Settings
    store: Store
    catalogue: Catalogue
    observations: dict[str, Observation]
    retry_budget: RetryBudget
    running: Running
    silent_clients: SilentClients
    api: Api


@asynccontextmanager
async def open_service(
    settings: Settings,
    store: Store,
    secret_key: bytes,
    endpoints: tuple[Endpoint, ...],
    dice: random.Random | None = None,
) -> AsyncIterator[Service]:
    """Put the parts together and start the ticker that watches over requests. Leaving waits for adopted work."""
    async with store.reading() as connection:
        await sync_file_prices(connection, file_prices(endpoints))
    await store.refresh()
    limits, tls = settings.limits, ssl.create_default_context(cafile=certifi.where())
    upstream = UpstreamClient(
        {endpoint.name: origin_of(endpoint) for endpoint in endpoints}, limits.connect_timeout_s, tls
    )
    schemas = Schemas()
    service = make_service(settings, store, secret_key, endpoints, upstream, schemas, dice or random.Random())
    ticker = asyncio.create_task(service.running.watch())
    try:
        yield service
    finally:
        await service.running.finish(limits.drain_upstream_s + SETTLE_S)
        ticker.cancel()
        with suppress(asyncio.CancelledError):
            await ticker
        upstream.close()
        await schemas.close()


def make_service(
    settings: Settings,
    store: Store,
    secret_key: bytes,
    endpoints: tuple[Endpoint, ...],
    upstream: UpstreamClient,
    schemas: Schemas,
    dice: random.Random,
) -> Service:
    limits, clock = settings.limits, asyncio.get_running_loop().time
    catalogue = Catalogue(settings.model, settings.aliases, endpoints, prices=lambda: store.prices, now=store.instant)
    observations = {endpoint.name: Observation() for endpoint in endpoints}
    retry_budget, running, admission = RetryBudget(), Running(), Admission()
    keyring, silent_clients = Keyring(store, secret_key), SilentClients(limits.header_timeout_s)
    environment = Environment(upstream, observations, retry_budget, schemas, limits, clock, dice)
    planner = Planner(catalogue, observations, limits.default_output_tokens, clock=clock, dice=dice)
    relay = Relay(keyring, admission, catalogue, planner, store, environment, running, limits, secret_key)

    def health() -> dict[str, bool]:
        return {"accepting": not running.draining, "ledger": store.healthy, "endpoints": bool(endpoints)}

    api = Api(
        relay=relay,
        keyring=keyring,
        reads={
            "/v1/models/{id:.+}/endpoints": partial(show_endpoints, catalogue, observations),
            "/v1/models/{id:.+}": partial(show_model, catalogue),
            "/v1/generations/{id}": partial(show_generation, store),
            "/v1/generation": partial(show_generation, store),
            "/v1/key": partial(show_key, store),
            "/v1/usage": partial(show_usage, store, settings.billing.timezone),
            "/v1/credits": partial(show_credits, store),
        },
        models=partial(list_models, catalogue),
        count_tokens=partial(count_tokens, keyring, admission, catalogue, limits),
        running=running,
        silent_clients=silent_clients,
        health=health,
    )
    return Service(settings, store, catalogue, observations, retry_budget, running, silent_clients, api)


def origin_of(endpoint: Endpoint) -> Origin:
    return Origin(endpoint.base_url, endpoint.api_key, dict(endpoint.adapter.dialect.headers))


def file_prices(endpoints: tuple[Endpoint, ...]) -> dict[str, tuple[str, str, str | None]]:
    """What the configuration says that each endpoint costs: input, output, cached input; USD per million tokens."""
    return {
        endpoint.name: (endpoint.price.input, endpoint.price.output, endpoint.price.cached_input)
        for endpoint in endpoints
        if endpoint.price
    }


def make_app(service: Service) -> web.Application:
    app = web.Application(client_max_size=service.settings.limits.body_bytes)
    if service.settings.server.cors_origins:
        allow_origins(app, service.settings.server.cors_origins)
    add_routes(app, service.api)
    return app


@asynccontextmanager
async def serving(service: Service, *, reuse_port: bool = False) -> AsyncIterator[str]:
    """Listen; the value is the address. Leaving drains: no new requests, running answers end in the grace period."""
    settings = service.settings.server
    runner = web.AppRunner(
        make_app(service),
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
    watching = asyncio.create_task(service.silent_clients.watch(runner.server), name="silent clients")
    site = web.TCPSite(runner, settings.host, settings.port, reuse_port=reuse_port or None, backlog=1_024)
    try:
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        service.running.draining = True
        await site.stop()
        await service.running.drained(service.settings.limits.drain_s)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await runner.cleanup()
