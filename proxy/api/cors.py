"""Pages of listed origins may call the API (`server.cors_origins`); without a list nothing is added anywhere."""

from collections.abc import Sequence

from aiohttp import web

EXPOSED = (
    "x-request-id, x-caduceus-endpoint, x-caduceus-region, x-caduceus-attempts, x-caduceus-cost,"
    " x-caduceus-idempotent-replay, retry-after"
)


def allow_origins(app: web.Application, origins: Sequence[str]) -> None:
    """`*` stands for every origin; credentials travel in a header, never in a cookie."""
    allowed = frozenset(origins)

    def granted(request: web.BaseRequest) -> str | None:
        origin = request.headers.get("Origin")
        return origin if origin is not None and ("*" in allowed or origin in allowed) else None

    async def mark(request: web.Request, response: web.StreamResponse) -> None:
        if (origin := granted(request)) is not None:
            response.headers["access-control-allow-origin"] = origin
            response.headers["access-control-expose-headers"] = EXPOSED
            response.headers["vary"] = "Origin"

    async def preflight(request: web.Request) -> web.Response:
        headers = {}
        if granted(request) is not None:
            headers["access-control-allow-methods"] = "GET, POST"
            headers["access-control-allow-headers"] = request.headers.get("Access-Control-Request-Headers", "")
            headers["access-control-max-age"] = "600"
        return web.Response(status=204, headers=headers)

    app.on_response_prepare.append(mark)
    app.router.add_route("OPTIONS", "/{path:.*}", preflight)
