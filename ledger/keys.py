"""API keys: `sk-cad-`, 32 random characters, 6 of checksum; and the keyed digest that is stored instead of a key."""

import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

PREFIX = "sk-cad-"
RANDOM_CHARACTERS = 32
CHECKSUM_CHARACTERS = 6
ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key and its tenant as they are now. None: without that limit."""

    key_id: int
    tenant_id: int
    account_id: int
    tenant_name: str
    key_name: str
    plan: str | None
    jurisdictions: frozenset[str] | None
    credit_limit_pusd: int
    internal: bool
    suspended: bool
    revoked: bool
    expires_at: datetime | None
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    budget_pusd: int | None
    stream_usage: str
    reasoning_format: str
    continuation: bool


def mint() -> str:
    body = "".join(secrets.choice(ALPHABET) for _ in range(RANDOM_CHARACTERS))
    return PREFIX + body + checksum(body)


def checksum(body: str) -> str:
    """CRC-32 in base 62. It tells a key from a text that looks like one without asking the database."""
    value, digits = zlib.crc32(body.encode()), []
    for _ in range(CHECKSUM_CHARACTERS):
        value, digit = divmod(value, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


def digest(key: str, secret_key: bytes) -> bytes:
    """32 bytes. Keyed, so that a copy of the database without the secret key cannot confirm a guess."""
    return hmac.digest(digest_key(secret_key), key.encode(), "sha256")


@lru_cache(maxsize=4)
def digest_key(secret_key: bytes) -> bytes:
    return hashlib.blake2b(secret_key, person=b"caduceus api key").digest()
