"""Who is calling: a bearer token becomes a key of a tenant, or an ApiError."""

from collections.abc import Mapping
from datetime import datetime

from ledger.journal.store import Store
from ledger.keys import KeyRecord, digest
from proxy.entry.api_errors import ApiError


async def authenticate(headers: Mapping[str, str], store: Store, secret: bytes, now: datetime) -> KeyRecord:
    """`headers` are case-insensitive. A key can never do more than its tenant."""
    token = bearer(headers)
    if token is None:
        raise ApiError("invalid_api_key", "send your key as `Authorization: Bearer sk-cad-…`")
    # Bytes that are no text come as lone surrogates, which cannot be encoded again; no key has such.
    key = await store.find_key(digest(token, secret)) if token.isascii() else None
    if key is None or key.revoked:
        raise ApiError("invalid_api_key", "this key is not known, or it was revoked")
    if key.expires_at is not None and key.expires_at <= now:
        raise ApiError("expired_api_key", f"this key expired at {key.expires_at:%Y-%m-%d %H:%M} UTC")
    if key.suspended:
        raise ApiError("tenant_suspended", "this tenant is suspended")
    return key


def bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key") or None
