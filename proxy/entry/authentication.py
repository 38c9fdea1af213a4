"""Who is calling: a bearer token becomes a key of a tenant, or an ApiError."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from ledger.keys import KeyRecord, digest
from proxy.entry.api_errors import ApiError


class Keys(Protocol):
    """Where keys are found (`ledger.journal.store.Store`)."""

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key of that digest, whatever its state. Raises LedgerUnavailable."""

    def instant(self) -> datetime:
        """The database's clock, as far as this process knows it."""


class Keyring:
    """Knows callers by the digest of their key."""

    def __init__(self, keys: Keys, secret_key: bytes) -> None:
        self._keys = keys
        self._secret_key = secret_key

    async def authenticate(self, headers: Mapping[str, str]) -> KeyRecord:
        """`headers` are case-insensitive. Raises ApiError 401 or 403, LedgerUnavailable."""
        token = bearer(headers)
        if token is None:
            raise ApiError("invalid_api_key", "send your key as `Authorization: Bearer sk-cad-…`")
        # Bytes that are no text come as lone surrogates, which cannot be encoded again; no key has such.
        key = await self._keys.find_key(digest(token, self._secret_key)) if token.isascii() else None
        if key is None or key.revoked:
            raise ApiError("invalid_api_key", "this key is not known, or it was revoked")
        if key.expires_at is not None and key.expires_at <= self._keys.instant():
            raise ApiError("expired_api_key", f"this key expired at {key.expires_at:%Y-%m-%d %H:%M} UTC")
        if key.suspended:
            raise ApiError("tenant_suspended", "this tenant is suspended")
        return key


def bearer(headers: Mapping[str, str]) -> str | None:
    """The token of an `Authorization: Bearer` or `x-api-key` header."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    return headers.get("x-api-key") or None
