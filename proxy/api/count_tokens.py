"""`POST /v1/messages/count_tokens`: how long a prompt is. It reaches no endpoint and costs nothing."""

import asyncio

from aiohttp import web

from providers.tokenizer import count_request
from proxy.entry.authentication import authenticate
from proxy.entry.body import read_body
from proxy.exchange.gateway import Gateway
from proxy.surfaces.messages.request import read_count_request


async def count_tokens(gateway: Gateway, request: web.Request) -> dict[str, int]:
    """By our own tokenizer, off the event loop. It is a request as far as the key's limits go. Raises ApiError."""
    key = await authenticate(request.headers, gateway.store, gateway.secret_key, gateway.now())
    prompt = read_count_request(await read_body(request, gateway.settings.limits), gateway.suffix_of)
    with gateway.admission.admit(key, 0, asyncio.get_running_loop().time()):
        return {"input_tokens": await asyncio.to_thread(count_request, prompt)}
