"""API keys of tenants: made, changed, rotated, revoked. A key is shown once; only its digest is stored."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import keys
from ledger.accounts.administration import record
from ledger.accounts.tables import api_key, tenant
from ledger.accounts.tenants import find_tenant
from ledger.errors import NotFound, Refused

HINT_CHARACTERS = 4
SETTABLE = frozenset(
    {
        "name",
        "rpm",
        "tpm",
        "concurrency",
        "budget_pusd",
        "expires_at",
        "stream_usage",
        "reasoning_format",
        "continuation",
    }
)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is stored of a key; `hint` is its last characters."""

    id: int
    tenant: str
    name: str
    hint: str
    rpm: int | None
    tpm: int | None
    concurrency: int | None
    budget_pusd: int | None
    stream_usage: str
    reasoning_format: str
    continuation: bool
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_from: int | None
    created_at: datetime


async def create_key(
    db: AsyncConnection, tenant_name: str, secret_key: bytes, *, actor: str, name: str = "default", **settings: Any
) -> tuple[ApiKey, str]:
    """The record and the key itself, which is not stored. `settings` are of SETTABLE. Raises NotFound, Refused."""
    _check(settings)
    owner = await find_tenant(db, tenant_name)
    return await _insert(db, secret_key, actor, "key.create", {**settings, "tenant_id": owner.id, "name": name})


async def list_keys(db: AsyncConnection, tenant_name: str) -> list[ApiKey]:
    owner = await find_tenant(db, tenant_name)
    rows = await db.execute(_ALL.where(api_key.c.tenant_id == owner.id).order_by(api_key.c.id))
    return [ApiKey(**row) for row in rows.mappings()]


async def find_key(db: AsyncConnection, key_id: int) -> ApiKey:
    """Raises NotFound."""
    row = (await db.execute(_ALL.where(api_key.c.id == key_id))).mappings().first()
    if row is None:
        raise NotFound("key", key_id, "`caduceus key list TENANT` shows those there are")
    return ApiKey(**row)


async def set_key(db: AsyncConnection, key_id: int, *, actor: str, **changes: Any) -> ApiKey:
    """Change any of SETTABLE; None removes a limit. Raises NotFound, Refused."""
    _check(changes)
    return await _change(db, key_id, actor, "key.set", changes)


async def revoke_key(db: AsyncConnection, key_id: int, *, actor: str) -> ApiKey:
    """Revoke a key; every process knows within a second. Revoking again changes nothing. Raises NotFound."""
    return await _change(
        db, key_id, actor, "key.revoke", {"revoked_at": func.coalesce(api_key.c.revoked_at, func.clock_timestamp())}
    )


async def rotate_key(db: AsyncConnection, key_id: int, secret_key: bytes, *, actor: str) -> tuple[ApiKey, str]:
    """Revoke a key and make another with its limits. Raises NotFound, and Refused for a revoked key."""
    old = await find_key(db, key_id)
    if old.revoked_at is not None:
        raise Refused(f"key {key_id} is revoked; `caduceus key create {old.tenant}` makes a new one")
    await revoke_key(db, key_id, actor=actor)
    row = (await db.execute(select(api_key).where(api_key.c.id == key_id))).mappings().one()
    kept: Mapping[str, Any] = {name: row[name] for name in (*SETTABLE, "tenant_id")}
    return await _insert(db, secret_key, actor, "key.rotate", {**kept, "rotated_from": key_id})


_ALL = select(
    *(column for column in api_key.c if column.name not in ("digest", "tenant_id")), tenant.c.name.label("tenant")
).join(tenant, tenant.c.id == api_key.c.tenant_id)


async def _insert(
    db: AsyncConnection, secret_key: bytes, actor: str, action: str, values: Mapping[str, Any]
) -> tuple[ApiKey, str]:
    key = keys.mint()
    created = await db.scalar(
        insert(api_key)
        .values(**values, digest=keys.digest(key, secret_key), hint=key[-HINT_CHARACTERS:])
        .returning(api_key.c.id)
    )
    made = await find_key(db, created or 0)
    await record(db, actor, action, f"key {made.id}", after=asdict(made))
    return made, key


async def _change(db: AsyncConnection, key_id: int, actor: str, action: str, changes: Mapping[str, Any]) -> ApiKey:
    before = await find_key(db, key_id)
    if changes:
        await db.execute(update(api_key).where(api_key.c.id == key_id).values(**changes))
    after = await find_key(db, key_id)
    await record(db, actor, action, f"key {key_id}", before=asdict(before), after=asdict(after))
    return after


def _check(settings: Mapping[str, Any]) -> None:
    if unknown := settings.keys() - SETTABLE:
        raise Refused(f"a key has no {', '.join(sorted(unknown))} to set")
    for name in ("rpm", "tpm", "concurrency"):
        if (value := settings.get(name)) is not None and value <= 0:
            raise Refused(f"{name} is above zero, or not given; revoke the key to stop it")
