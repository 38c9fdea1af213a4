"""Tenants, who pay, with their balances."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, exists, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.administration import record
from ledger.accounts.tables import account, plan, request_label, tenant
from ledger.errors import Conflict, NotFound, Refused

SETTABLE = frozenset(
    {"plan", "jurisdictions", "credit_limit_pusd", "legal_name", "address", "country", "vat_id", "email", "suspended"}
)


@dataclass(frozen=True, slots=True)
class Tenant:
    """`balance_pusd` = `available_pusd` + `held_pusd`; below zero where the tenant owes."""

    id: int
    account_id: int
    name: str
    plan: str | None
    jurisdictions: tuple[str, ...] | None
    credit_limit_pusd: int
    internal: bool
    suspended: bool
    legal_name: str | None
    address: tuple[str, ...] | None
    country: str | None
    vat_id: str | None
    email: str | None
    created_at: datetime
    balance_pusd: int
    held_pusd: int
    available_pusd: int


async def create_tenant(
    db: AsyncConnection,
    name: str,
    *,
    actor: str,
    plan: str | None = None,
    jurisdictions: Sequence[str] | None = None,
    credit_limit_pusd: int = 0,
    internal: bool = False,
) -> Tenant:
    """Raises Conflict where the name is taken, NotFound for an unknown plan, Refused without a name."""
    if not name.strip():
        raise Refused("a tenant needs a name")
    await _check_plan(db, plan)
    created = await db.scalar(
        upsert(tenant)
        .values(
            name=name,
            plan=plan,
            jurisdictions=None if jurisdictions is None else list(jurisdictions),
            credit_limit_pusd=credit_limit_pusd,
            internal=internal,
        )
        .on_conflict_do_nothing()
        .returning(tenant.c.id)
    )
    if created is None:
        raise Conflict(f"a tenant {name} exists already; `caduceus tenant set {name}` changes it")
    await db.execute(insert(account).values(kind="tenant", tenant_id=created, available=0, held=0, owed=0))
    made = await find_tenant(db, name)
    await record(db, actor, "tenant.create", name, after=asdict(made))
    return made


async def list_tenants(db: AsyncConnection) -> list[Tenant]:
    return [_tenant(row) for row in (await db.execute(_ALL.order_by(tenant.c.name))).mappings()]


async def find_tenant(db: AsyncConnection, name: str) -> Tenant:
    """Raises NotFound."""
    row = (await db.execute(_ALL.where(tenant.c.name == name))).mappings().first()
    if row is None:
        raise NotFound("tenant", name, "`caduceus tenant list` shows those there are")
    return _tenant(row)


async def set_tenant(db: AsyncConnection, name: str, *, actor: str, **changes: Any) -> Tenant:
    """Change any of SETTABLE. Raises NotFound, Refused."""
    if unknown := changes.keys() - SETTABLE:
        raise Refused(f"a tenant has no {', '.join(sorted(unknown))} to set")
    before = await find_tenant(db, name)
    await _check_plan(db, changes.get("plan"))
    if changes:
        await db.execute(update(tenant).where(tenant.c.id == before.id).values(**changes))
    after = await find_tenant(db, name)
    await record(db, actor, "tenant.set", name, before=asdict(before), after=asdict(after))
    return after


async def erase_user(db: AsyncConnection, name: str, user: str, *, actor: str) -> int:
    """Delete the label and the metadata of the requests of `user`; returns how many requests. The journal stays.

    Raises NotFound.
    """
    found = await find_tenant(db, name)
    erased = await db.execute(
        delete(request_label).where(request_label.c.tenant_id == found.id, request_label.c.user_label == user)
    )
    await record(db, actor, "tenant.erase_user", name, after={"requests": erased.rowcount})
    return erased.rowcount


_ALL = select(
    tenant,
    account.c.id.label("account_id"),
    account.c.held.label("held_pusd"),
    (account.c.available - account.c.owed).label("available_pusd"),
    (account.c.available + account.c.held - account.c.owed).label("balance_pusd"),
).join(account, account.c.tenant_id == tenant.c.id)


def _tenant(row: Mapping[Any, Any]) -> Tenant:
    values = dict(row)
    for name in ("jurisdictions", "address"):
        values[name] = None if values[name] is None else tuple(values[name])
    return Tenant(**values)


async def _check_plan(db: AsyncConnection, name: str | None) -> None:
    if name is not None and not await db.scalar(select(exists().where(plan.c.name == name))):
        raise NotFound("plan", name, f"`caduceus price set {name} --input USD --output USD` makes it")
