"""`POST /v1/messages/count_tokens`: how long a prompt is. It reaches no endpoint and costs nothing."""

import asyncio
from functools import partial

from aiohttp import web

from proxy.config import LimitSettings
from proxy.entry.admission import Admission
from proxy.entry.authentication import Keyring
from proxy.entry.body import read_body
from proxy.exchange.planning import count_in_thread
from proxy.routing.catalogue import Catalogue
from proxy.surfaces.messages.request import read_count_request
from proxy.surfaces.suffixes import suffix_of


async def count_tokens(
    keyring: Keyring, admission: Admission, catalogue: Catalogue, limits: LimitSettings, request: web.Request
) -> dict[str, int]:
    """By our own tokenizer, off the event loop. It is a request as far as the key's limits go. Raises ApiError."""
    key = await keyring.authenticate(request.headers)
    chat = read_count_request(await read_body(request, limits), partial(suffix_of, names=catalogue.names))
    with admission.admit(key, 0, asyncio.get_running_loop().time()):
        return {"input_tokens": await count_in_thread(chat)}
