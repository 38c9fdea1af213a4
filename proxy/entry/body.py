"""Reading a request's body within its limits."""

import asyncio

from aiohttp import web

from proxy.config import LimitSettings
from proxy.entry.api_errors import ApiError


async def read_body(request: web.Request, limits: LimitSettings) -> bytes:
    """413 where it is too large (also once unpacked), 408 where it takes too long; the connection closes then."""
    if (request.content_length or 0) > limits.body_bytes:
        raise too_large(limits)
    try:
        if request.content.is_eof():  # it is here already, as nearly always: nothing to wait for
            return await request.read()
        async with asyncio.timeout(limits.body_timeout_s):
            return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise too_large(limits) from None
    except TimeoutError:
        raise ApiError("request_timeout", f"the body did not arrive within {limits.body_timeout_s:g} s") from None
    except web.RequestPayloadError:
        raise ApiError("invalid_request", "the body is not what its headers say") from None


def too_large(limits: LimitSettings) -> ApiError:
    return ApiError("request_too_large", f"the body is larger than {limits.body_bytes} bytes")
