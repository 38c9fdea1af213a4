"""The public HTTP API: which path is served by what, and what an error looks like."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from uuid import UUID

import orjson
from aiohttp import web

from ledger.errors import LedgerUnavailable
from ledger.keys import KeyRecord
from ledger.request_ids import new_request_id
from proxy.entry.api_errors import ApiError
from proxy.entry.authentication import Keyring, bearer
from proxy.entry.silent_clients import SilentClients
from proxy.exchange.relay import Relay
from proxy.exchange.running import Running
from proxy.surfaces.chat.surface import CHAT
from proxy.surfaces.completions.surface import COMPLETIONS
from proxy.surfaces.messages.surface import MESSAGES
from proxy.surfaces.responses.surface import RESPONSES
from proxy.surfaces.surface import Surface

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Read = Callable[[KeyRecord, web.Request], Awaitable[object]]

CONCURRENT_READS = 2  # reports must not take every connection to Postgres

CLIENT_CLOSED_REQUEST = 499  # nginx's word for it

log = logging.getLogger("caduceus.api")


@dataclass(frozen=True, slots=True)
class Api:
    """What the paths lead to.

    `reads` shows a key something, by path; `models` lists them, also without a key; `count_tokens` measures a prompt.
    `health` tells what must be so for this process to take traffic.
    """

    relay: Relay
    keyring: Keyring
    reads: Mapping[str, Read]
    models: Callable[[KeyRecord | None], object]
    count_tokens: Callable[[web.Request], Awaitable[object]]
    running: Running
    silent_clients: SilentClients
    health: Callable[[], Mapping[str, bool]]


API = web.AppKey("api", Api)


def add_routes(app: web.Application, api: Api) -> None:
    app[API] = api
    app.router.add_post("/v1/chat/completions", answering(CHAT))
    app.router.add_post("/v1/completions", answering(COMPLETIONS))
    app.router.add_post("/v1/messages", answering(MESSAGES))
    app.router.add_post("/v1/messages/count_tokens", counting)
    app.on_response_prepare.append(name_for_anthropic)
    app.router.add_post("/v1/responses", answering(RESPONSES))
    app.router.add_get("/v1/models", models)
    readers = asyncio.Semaphore(CONCURRENT_READS)
    for path, read in api.reads.items():
        app.router.add_get(path, showing(read, readers))
    app.router.add_get("/openapi.json", openapi)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_route("*", "/{path:.*}", nothing_here)


def answering(surface: Surface) -> Handler:
    """The handler of one surface: everything that a request does is `Relay.answer`'s."""

    async def handle(request: web.Request) -> web.StreamResponse:
        api, request_id = heard(request), new_request_id()
        return await answer(relay_unless_draining(api, surface, request, request_id), request, request_id, surface)

    return handle


async def relay_unless_draining(
    api: Api, surface: Surface, request: web.Request, request_id: UUID
) -> web.StreamResponse:
    if api.running.draining:
        raise ApiError("draining", "this server is shutting down; try again", None, 1.0)
    return await api.relay.answer(surface, request, request_id)


def showing(read: Read, readers: asyncio.Semaphore) -> Handler:
    """The handler of a path that shows its caller something: a valid key in, JSON out."""

    async def show(request: web.Request) -> web.Response:
        key = await heard(request).keyring.authenticate(request.headers)
        async with readers:
            return json_response(await read(key, request))

    async def handle(request: web.Request) -> web.StreamResponse:
        return await answer(show(request), request, new_request_id())

    return handle


async def answer(
    work: Awaitable[web.StreamResponse], request: web.Request, request_id: UUID, surface: Surface = CHAT
) -> web.StreamResponse:
    """What `work` comes to, or why it does not, in the surface's words."""
    try:
        return await work
    except ApiError as error:
        return error_response(error, request_id, request, surface)
    except ConnectionError:
        # The client is gone, and nobody reads this; what is raised here aiohttp would log as a mistake.
        return web.Response(status=CLIENT_CLOSED_REQUEST)
    except LedgerUnavailable:
        away = ApiError("ledger_unavailable", "the ledger cannot be reached; try again", None, 5.0)
        return error_response(away, request_id, request, surface)
    except Exception:
        log.exception("request %s failed", request_id)
        broken = ApiError("internal_error", f"something broke here; the request was {request_id}")
        return error_response(broken, request_id, request, surface)


async def models(request: web.Request) -> web.StreamResponse:
    async def show() -> web.Response:
        api, key = heard(request), None
        if bearer(request.headers) is not None:
            key = await api.keyring.authenticate(request.headers)
        return json_response(api.models(key))

    return await answer(show(), request, new_request_id())


async def name_for_anthropic(request: web.Request, response: web.StreamResponse) -> None:
    """Its clients look for the request's id under a name of their own."""
    if request.path.startswith("/v1/messages") and (name := response.headers.get("x-request-id")):
        response.headers["request-id"] = name


async def counting(request: web.Request) -> web.StreamResponse:
    async def count() -> web.Response:
        return json_response(await heard(request).count_tokens(request))

    return await answer(count(), request, new_request_id(), MESSAGES)


async def openapi(request: web.Request) -> web.Response:
    heard(request)
    return web.Response(body=document(), content_type="application/json")


@cache
def document() -> bytes:
    """What is served here, as OpenAPI describes an API. Written by hand; a test holds it against the code."""
    return Path(__file__).with_name("openapi.json").read_bytes()


async def healthz(request: web.Request) -> web.Response:
    heard(request)
    return json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Able to take traffic: not draining, the ledger reachable, at least one endpoint."""
    checks = heard(request).health()
    ready = all(checks.values())
    return json_response({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)


async def nothing_here(request: web.Request) -> web.Response:
    heard(request)
    surface = MESSAGES if request.path.startswith("/v1/messages") else CHAT
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        allowed |= (await resource.resolve(request))[1] - {"*"}
    if allowed:
        names = ", ".join(sorted(allowed))
        response = error_response(
            ApiError("method_not_allowed", f"{request.path} takes {names}"), new_request_id(), request, surface
        )
        response.headers["allow"] = names
        return response
    nothing = ApiError("not_found", f"nothing is served at {request.path}")
    return error_response(nothing, new_request_id(), request, surface)


def heard(request: web.Request) -> Api:
    """What the paths lead to; noted is that this client has said something."""
    api = request.app[API]
    api.silent_clients.heard(request.protocol)
    return api


def error_response(error: ApiError, request_id: UUID, request: web.Request, surface: Surface = CHAT) -> web.Response:
    body = surface.error_body(error)
    if surface is MESSAGES:  # Anthropic's have it in the body as well
        body["request_id"] = str(request_id)
    response = json_response(body, error.status)
    response.headers["x-request-id"] = str(request_id)
    response.headers.update(error.headers())
    if error.code in ("request_timeout", "request_too_large", "draining") or not request.content.is_eof():
        response.force_close()  # what is left of the body is not worth reading
    return response


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type="application/json")
