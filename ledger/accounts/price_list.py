"""Prices and plans as people set them. Versions are only added; the one that started last is in force."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.administration import record
from ledger.accounts.tables import plan, price
from ledger.errors import Refused


@dataclass(frozen=True, slots=True)
class PriceRow:
    """A version; amounts are pico-dollars a token, `state` is past, in force, or future."""

    id: int
    subject_kind: str
    subject: str
    input_pusd: int
    output_pusd: int
    cached_input_pusd: int
    starts_at: datetime
    source: str
    state: str


@dataclass(frozen=True, slots=True)
class PlanRow:
    """`markup_ppm` None: the plan has only its own prices."""

    name: str
    markup_ppm: int | None


async def set_price(
    db: AsyncConnection,
    subject: str,
    input_pusd: int,
    output_pusd: int,
    cached_input_pusd: int | None,
    *,
    is_plan: bool,
    actor: str,
    starts_at: datetime | None = None,
) -> PriceRow:
    """Add a version from `starts_at` (None: now) on; make the plan if it does not exist. Raises Refused."""
    now = await db.scalar(select(func.clock_timestamp()))
    if starts_at is not None and now is not None and starts_at < now:
        raise Refused(f"a price cannot start in the past, at {starts_at.isoformat()}; leave --from away for now")
    if is_plan:
        await db.execute(upsert(plan).values(name=subject).on_conflict_do_nothing())
    created = await db.scalar(
        insert(price)
        .values(
            subject_kind="plan" if is_plan else "endpoint",
            subject=subject,
            input_pusd=input_pusd,
            output_pusd=output_pusd,
            cached_input_pusd=input_pusd if cached_input_pusd is None else cached_input_pusd,
            starts_at=starts_at or now,
            source="cli",
        )
        .returning(price.c.id)
    )
    row = next(row for row in await list_prices(db) if row.id == created)
    await record(db, actor, "price.set", subject, after=asdict(row))
    return row


async def is_endpoint(db: AsyncConnection, name: str) -> bool:
    """Whether `name` was ever priced as an endpoint."""
    query = select(exists().where(price.c.subject_kind == "endpoint", price.c.subject == name))
    return bool(await db.scalar(query))


async def set_markup(db: AsyncConnection, name: str, markup_ppm: int | None, *, actor: str) -> PlanRow:
    """Set what tenants on plan `name` pay on top of an endpoint's price, in millionths; make the plan if need be.

    Raises Refused for a markup of -100 % or less.
    """
    if markup_ppm is not None and markup_ppm <= -1_000_000:
        raise Refused("a markup is above -100 %")
    before = (await db.execute(select(plan.c.markup_ppm).where(plan.c.name == name))).first()
    if before is None:
        await db.execute(insert(plan).values(name=name, markup_ppm=markup_ppm))
    else:
        await db.execute(update(plan).where(plan.c.name == name).values(markup_ppm=markup_ppm))
    was: Mapping[str, Any] | None = None if before is None else {"markup_ppm": before.markup_ppm}
    await record(db, actor, "plan.set", name, before=was, after={"markup_ppm": markup_ppm})
    return PlanRow(name, markup_ppm)


async def list_plans(db: AsyncConnection) -> list[PlanRow]:
    rows = await db.execute(select(plan.c.name, plan.c.markup_ppm).order_by(plan.c.name))
    return [PlanRow(row.name, row.markup_ppm) for row in rows]


async def list_prices(db: AsyncConnection) -> list[PriceRow]:
    """Every version, ordered by subject and start."""
    started = price.c.starts_at <= func.clock_timestamp()
    # Among those that have started the last one is in force, of two at one instant the one recorded later.
    rank = func.row_number().over(
        partition_by=(price.c.subject_kind, price.c.subject, started),
        order_by=(price.c.starts_at.desc(), price.c.id.desc()),
    )
    columns = [column for column in price.c if column.name != "created_at"]
    rows = await db.execute(
        select(*columns, started.label("started"), rank.label("rank")).order_by(
            price.c.subject_kind, price.c.subject, price.c.starts_at, price.c.id
        )
    )
    found = []
    for row in rows.mappings():
        values = dict(row)
        started_already, place = values.pop("started"), values.pop("rank")
        state = "future" if not started_already else "in force" if place == 1 else "past"
        found.append(PriceRow(**values, state=state))
    return found
