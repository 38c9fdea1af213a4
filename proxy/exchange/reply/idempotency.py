"""Idempotency-Key: the same answer again, and one charge.

A request that carries the header claims it with its hold (`ledger.journal.writes.Claim`). Its finished answer is
sealed here and kept with its settlement; whoever comes later with the same key and body gets it opened again: nothing
is held then, and no endpoint asked. Only digests and ciphertext reach the ledger, under keys that are derived from the
secret key.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from uuid import UUID

import orjson
from aiohttp import web
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from multidict import CIMultiDictProxy

from ledger.journal.store import Store
from ledger.journal.writes import Claim
from proxy.entry.api_errors import ApiError

HEADER = "Idempotency-Key"
REPLAYED = "x-caduceus-idempotent-replay"
KEY_CHARACTERS = 255
RETRY_AFTER_S = 1.0
NONCE_BYTES = 12
# Of this moment, and not of the answer.
PASSING_HEADERS = ("server-timing", "x-ratelimit-")


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole answer as it was sent, but for keep-alive comments."""

    headers: Mapping[str, str]
    body: bytes


class Recording:
    """A copy of what a stream sends, of at most `limit_bytes`."""

    __slots__ = ("_bytes", "_limit_bytes", "_parts")

    def __init__(self, limit_bytes: int) -> None:
        self._parts: list[bytes] = []
        self._bytes, self._limit_bytes = 0, limit_bytes

    def add(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._limit_bytes:
            self._parts.clear()
        else:
            self._parts.append(data)

    def whole(self, last: bytes) -> bytes | None:
        """All of it and `last`; None where that is more than the limit."""
        return None if self._bytes + len(last) > self._limit_bytes else b"".join((*self._parts, last))


def claim_of(headers: CIMultiDictProxy[str], key_id: int, route: str, body: bytes, secret_key: bytes) -> Claim | None:
    """What a request claims, if anything. `body` is JSON; order and white space do not matter. Raises ApiError."""
    given: Sequence[str] = headers.getall(HEADER, ())
    if not given:
        return None
    name = given[0]
    if len(given) > 1 or not (0 < len(name) <= KEY_CHARACTERS and name.isascii() and name.isprintable()):
        message = f"{HEADER} is given once and has 1 to {KEY_CHARACTERS} printable ASCII characters"
        raise ApiError("invalid_request", message, HEADER)
    canonical = orjson.dumps(orjson.loads(body), option=orjson.OPT_SORT_KEYS)
    return Claim(digest(orjson.dumps([key_id, route, name]), secret_key), digest(canonical, secret_key))


async def find_answer(store: Store, claim: Claim, secret_key: bytes) -> KeptAnswer | None:
    """The answer to the same key and body; None where the key is free.

    Raises ApiError where it runs, was used with another body, or its answer was not kept; LedgerUnavailable.
    """
    found = await store.find_claim(claim.id)
    if found is None:
        return None
    if found.body != claim.body:
        message = f"this {HEADER} was used for another body; use a new key for a new request"
        raise ApiError("idempotency_key_reused", message, HEADER)
    if not found.finished:
        raise in_use()
    if found.sealed is None:
        message = (
            f"request {found.request_id} with this {HEADER} was answered, but its answer was too large to be kept;"
            " use a new key to ask again"
        )
        raise ApiError("idempotent_answer_not_kept", message, HEADER)
    return unseal(found.sealed, claim, found.request_id, secret_key)


def in_use() -> ApiError:
    message = f"a request with this {HEADER} is still running; try again for its answer"
    return ApiError("idempotency_key_in_use", message, HEADER, RETRY_AFTER_S)


async def replay(request: web.Request, kept: KeptAnswer, timeout_s: float) -> web.StreamResponse:
    """Send it again; a client that does not take it within `timeout_s` is dropped."""
    response = web.Response(body=kept.body, headers={**kept.headers, REPLAYED: "1"})
    transport = request.transport
    if transport is None:
        return response  # it is gone
    dropping = asyncio.get_running_loop().call_later(timeout_s, transport.abort)
    try:
        await response.prepare(request)
        await response.write_eof()
    finally:
        dropping.cancel()
    return response


def kept_headers(headers: Mapping[str, str], content_type: str) -> dict[str, str]:
    lasting = {name: value for name, value in headers.items() if not name.startswith(PASSING_HEADERS)}
    return {**lasting, "content-type": content_type}


def seal(answer: KeptAnswer, claim: Claim, request_id: UUID, secret_key: bytes) -> bytes:
    """A nonce and what AES-GCM makes of the answer; it opens for this claim and request alone."""
    nonce = os.urandom(NONCE_BYTES)
    plain = orjson.dumps(dict(answer.headers)) + b"\n" + answer.body
    return nonce + AESGCM(derived(secret_key, b"caduceus answer")).encrypt(nonce, plain, bound_to(claim, request_id))


def unseal(sealed: bytes, claim: Claim, request_id: UUID, secret_key: bytes) -> KeptAnswer:
    """Raises cryptography's InvalidTag for what `seal` did not make for just this."""
    cipher = AESGCM(derived(secret_key, b"caduceus answer"))
    plain = cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound_to(claim, request_id))
    headers, _, body = plain.partition(b"\n")
    return KeptAnswer(orjson.loads(headers), body)


def bound_to(claim: Claim, request_id: UUID) -> bytes:
    return claim.id + claim.body + request_id.bytes


def digest(data: bytes, secret_key: bytes) -> bytes:
    return blake2b(data, digest_size=32, key=derived(secret_key, b"caduceus claim")).digest()


@lru_cache(maxsize=8)
def derived(secret_key: bytes, person: bytes) -> bytes:
    """A key of 32 bytes for one purpose (`person`, at most 16 bytes)."""
    return blake2b(secret_key, digest_size=32, person=person).digest()
