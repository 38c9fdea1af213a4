"""Invoices in the database: which period is due, gapless numbers, and each document as it was issued."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import Select, func, insert, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.administration import record
from ledger.accounts.tables import account, correction, invoice, invoice_line, request, series
from ledger.accounts.tenants import Tenant, find_tenant, list_tenants
from ledger.errors import NotFound, Refused
from ledger.papers.invoices import Fold, Invoice, InvoiceLine, amounts, credit_note, make_invoice
from ledger.papers.periods import Period, first_gap, month_period

SERIES = {"invoice": "INV", "credit_note": "CN", "statement": "ST"}
BUYER = ("name", "legal_name", "address", "country", "vat_id", "email")


@dataclass(frozen=True, slots=True)
class Seller:
    """Who issues the invoices; `details` may be empty."""

    currency: str
    timezone: str
    details: Mapping[str, Any] | None


async def preview_invoice(
    db: AsyncConnection, tenant_name: str, month: tuple[int, int], *, seller: Seller
) -> dict[str, Any]:
    """The document that would be issued now, without a number. Raises NotFound, Refused."""
    tenant = await find_tenant(db, tenant_name)
    due = await _due_period(db, tenant, month, seller, interim=True)
    if isinstance(due, Period):
        return _document(tenant, month, due, await _fold(db, tenant, due), seller, number=None, issued_at=None)
    return due


async def issue_invoice(
    db: AsyncConnection, tenant_name: str, month: tuple[int, int], *, seller: Seller, actor: str, interim: bool = False
) -> dict[str, Any]:
    """Issue the first part of `month` that is not invoiced. Where all of it is, return its last document again.

    Internal tenants get a statement. Raises NotFound, and Refused for a month that is not over unless `interim`.
    """
    tenant = await find_tenant(db, tenant_name)
    kind = "statement" if tenant.internal else "invoice"
    await _lock_series(db, kind)
    due = await _due_period(db, tenant, month, seller, interim=interim)
    if not isinstance(due, Period):
        return due
    replaced = await _cancelled_at(db, tenant.id, due.start)
    return await _store(
        db,
        tenant,
        month,
        due,
        await _fold(db, tenant, due),
        seller,
        actor=actor,
        kind=kind,
        replaces=replaced,
        interim=due.end < month_period(*month, seller.timezone).end,
    )


async def issue_all(
    db: AsyncConnection, month: tuple[int, int], *, seller: Seller, actor: str, interim: bool = False
) -> list[dict[str, Any]]:
    """`issue_invoice` for every tenant that was charged or corrected in `month`. Raises Refused."""
    period = month_period(*month, seller.timezone)
    charged = [tenant.name for tenant in await list_tenants(db) if await _was_charged(db, tenant.id, period)]
    return [await issue_invoice(db, name, month, seller=seller, actor=actor, interim=interim) for name in charged]


async def cancel_invoice(db: AsyncConnection, number: str, *, seller: Seller, actor: str) -> dict[str, Any]:
    """Issue a credit note over all of an invoice, whose period can then be issued anew. Repeating returns the same one.

    Raises NotFound, and Refused for a credit note.
    """
    await _lock_series(db, "credit_note")
    row = await _find(db, number)
    if row["kind"] == "credit_note":
        raise Refused(f"{number} is a credit note; what it cancelled can be issued anew")
    existing = (await db.execute(select(invoice.c.document).where(invoice.c.cancels == row["id"]))).scalar()
    if existing is not None:
        return dict(existing)
    tenant = await find_tenant(db, row["document"]["tenant"]["name"])
    month = (row["month"].year, row["month"].month)
    return await _store(
        db,
        tenant,
        month,
        Period(row["period_start"], row["period_end"]),
        credit_note(await _read(db, row)),
        seller,
        actor=actor,
        kind="credit_note",
        cancels=row,
        interim=row["interim"],
    )


async def show_invoice(db: AsyncConnection, number: str) -> dict[str, Any]:
    """The document as it was issued, and `cancelled_by`, which came later. Raises NotFound."""
    row = await _find(db, number)
    cancelled_by = await db.scalar(select(invoice.c.number).where(invoice.c.cancels == row["id"]))
    return {**row["document"], "cancelled_by": cancelled_by}


async def list_invoices(db: AsyncConnection, tenant_name: str | None = None) -> list[dict[str, Any]]:
    """Documents without their lines, in the order of issue."""
    cancelling = invoice.alias()
    query = (
        select(invoice.c.document, cancelling.c.number)
        .outerjoin(cancelling, cancelling.c.cancels == invoice.c.id)
        .order_by(invoice.c.id)
    )
    if tenant_name is not None:
        query = query.where(invoice.c.tenant_id == (await find_tenant(db, tenant_name)).id)
    rows = [{**document, "cancelled_by": by} for document, by in await db.execute(query)]
    return [{name: value for name, value in row.items() if name != "lines"} for row in rows]


# Periods


async def _due_period(
    db: AsyncConnection, tenant: Tenant, month: tuple[int, int], seller: Seller, *, interim: bool
) -> Period | dict[str, Any]:
    """The period to invoice next, or the document of the last invoice where there is nothing left."""
    whole = month_period(*month, seller.timezone)
    now = await _closing_instant(db, tenant)
    if now < whole.start:
        raise Refused(f"{_name(month)} has not begun")
    if now < whole.end and not interim:
        raise Refused(f"{_name(month)} is not over; add --interim to invoice up to now")
    issued = await _in_force(db, tenant.id, month)
    gap = first_gap(whole, [Period(row["period_start"], row["period_end"]) for row in issued], now)
    empty_rest = gap is not None and gap.end == now and issued and not await _was_charged(db, tenant.id, gap)
    if gap is None or empty_rest:
        return dict(issued[-1]["document"])
    return gap


async def _closing_instant(db: AsyncConnection, tenant: Tenant) -> datetime:
    """An instant before which nothing can be posted any more: writers lock the account and then read the clock."""
    async with db.begin_nested() as savepoint:
        await db.execute(select(account.c.id).where(account.c.id == tenant.account_id).with_for_update())
        now = await _clock(db)
        await savepoint.rollback()  # unlocks the account: requests go on while the charges are added up
    return now


async def _clock(db: AsyncConnection) -> datetime:
    now: datetime | None = await db.scalar(select(func.clock_timestamp()))
    assert now is not None
    return now


async def _in_force(db: AsyncConnection, tenant_id: int, month: tuple[int, int]) -> list[Mapping[str, Any]]:
    cancelling = invoice.alias()
    query = (
        select(invoice)
        .outerjoin(cancelling, cancelling.c.cancels == invoice.c.id)
        .where(
            invoice.c.tenant_id == tenant_id,
            invoice.c.month == date(*month, 1),
            invoice.c.kind != "credit_note",
            cancelling.c.id.is_(None),
        )
        .order_by(invoice.c.period_start)
    )
    return [dict(row) for row in (await db.execute(query)).mappings()]


async def _cancelled_at(db: AsyncConnection, tenant_id: int, start: datetime) -> Mapping[str, Any] | None:
    """The cancelled invoice, if any, that a new one from `start` on replaces."""
    cancelling = invoice.alias()
    query = (
        select(invoice)
        .join(cancelling, cancelling.c.cancels == invoice.c.id)
        .where(invoice.c.tenant_id == tenant_id, invoice.c.period_start == start)
        .order_by(invoice.c.id.desc())
    )
    row = (await db.execute(query)).mappings().first()
    return None if row is None else dict(row)


# Charges


async def _fold(db: AsyncConnection, tenant: Tenant, period: Period) -> Invoice:
    fold = Fold()
    async for lines in await db.stream_scalars(_posted(request, tenant.id, period, request.c.lines)):
        fold.add(lines)
    corrections = _posted(correction, tenant.id, period, correction.c.lines, request.c.lines).join(
        request, request.c.id == correction.c.request_id
    )
    async for corrected, estimated in await db.stream(corrections):
        fold.add(corrected, correction=True)
        fold.add(estimated, times=-1, correction=True)
    lines = fold.lines()
    return make_invoice(lines, await _covered(db, tenant, period, sum(line.amount_pusd for line in lines)))


def _posted(table: Any, tenant_id: int, period: Period, *columns: Any) -> Select[Any]:
    return select(*columns).where(
        table.c.tenant_id == tenant_id, table.c.posted_at >= period.start, table.c.posted_at < period.end
    )


async def _was_charged(db: AsyncConnection, tenant_id: int, period: Period) -> bool:
    charged = _posted(request, tenant_id, period, request.c.id).where(
        request.c.charge_pusd > request.c.sandbox_charge_pusd
    )
    corrected = _posted(correction, tenant_id, period, correction.c.request_id)
    return bool(await db.scalar(select(charged.exists() | corrected.exists())))


# Credit pays the oldest charges first. What had been charged before the period is told by the balance of today and what
# came since, so that only this period is read, however old the tenant is.
COVERED = text("""
WITH since AS (
    SELECT charge_pusd, sandbox_charge_pusd AS sandbox, posted_at FROM request
    WHERE tenant_id = :tenant AND posted_at >= :start
    UNION ALL
    SELECT difference_pusd, sandbox_difference_pusd, posted_at FROM correction
    WHERE tenant_id = :tenant AND posted_at >= :start
)
SELECT coalesce((SELECT sum(amount_pusd) FROM credit WHERE tenant_id = :tenant AND posted_at < :end), 0) AS credited,
    coalesce((SELECT sum(amount_pusd) FROM credit WHERE tenant_id = :tenant), 0)
        - (SELECT available + held - owed FROM account WHERE tenant_id = :tenant)
        - coalesce((SELECT sum(charge_pusd) FROM since), 0) AS charged_before,
    coalesce((SELECT sum(sandbox) FROM since WHERE posted_at < :end), 0) AS sandbox
""")


async def _covered(db: AsyncConnection, tenant: Tenant, period: Period, charged_pusd: int) -> int:
    """How much of the charges of `period` credit had paid for by its end, in pico-dollars."""
    row = (await db.execute(COVERED, {"tenant": tenant.id, "start": period.start, "end": period.end})).one()
    left_pusd: int = row.credited - row.charged_before - row.sandbox
    return max(0, min(left_pusd, charged_pusd))


# Documents


async def _store(
    db: AsyncConnection,
    tenant: Tenant,
    month: tuple[int, int],
    period: Period,
    value: Invoice,
    seller: Seller,
    *,
    actor: str,
    kind: str,
    interim: bool,
    cancels: Mapping[str, Any] | None = None,
    replaces: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    issued_at = await _clock(db)
    number = await _next_number(db, kind, issued_at.year)
    document = _document(
        tenant,
        month,
        period,
        value,
        seller,
        number=number,
        issued_at=issued_at,
        kind=kind,
        interim=interim,
        cancels=None if cancels is None else cancels["number"],
        replaces=None if replaces is None else replaces["number"],
    )
    made = await db.scalar(
        insert(invoice)
        .values(
            kind=kind,
            number=number,
            tenant_id=tenant.id,
            month=date(*month, 1),
            period_start=period.start,
            period_end=period.end,
            interim=interim,
            currency=seller.currency,
            exact_pusd=value.exact_pusd,
            subtotal_pusd=value.subtotal_pusd,
            tax_pusd=value.tax_pusd,
            total_pusd=value.total_pusd,
            prepaid_pusd=value.prepaid_pusd,
            due_pusd=value.due_pusd,
            cancels=None if cancels is None else cancels["id"],
            replaces=None if replaces is None else replaces["id"],
            document=document,
            issued_at=issued_at,
        )
        .returning(invoice.c.id)
    )
    if value.lines:
        rows = [{"invoice_id": made, "ordinal": n, **asdict(line)} for n, line in enumerate(value.lines, 1)]
        await db.execute(insert(invoice_line), rows)
    await record(db, actor, f"{kind}.issue", number, after={"tenant": tenant.name, "total": document["total"]})
    return document


def _document(
    tenant: Tenant,
    month: tuple[int, int],
    period: Period,
    value: Invoice,
    seller: Seller,
    *,
    number: str | None,
    issued_at: datetime | None,
    kind: str | None = None,
    interim: bool = True,
    cancels: str | None = None,
    replaces: str | None = None,
) -> dict[str, Any]:
    """The document as JSON; amounts are exact decimals, unit prices USD per 1M tokens, the period half-open."""
    return {
        "kind": kind or ("statement" if tenant.internal else "invoice"),
        "number": number,
        "tenant": {field: getattr(tenant, field) for field in BUYER},
        "seller": seller.details,
        "month": _name(month),
        "period": {"from": period.start.isoformat(), "until": period.end.isoformat()},
        "interim": interim,
        "currency": seller.currency,
        **amounts(value),
        "cancels": cancels,
        "replaces": replaces,
        "issued_at": issued_at and issued_at.isoformat(),
    }


async def _lock_series(db: AsyncConnection, kind: str) -> None:
    """Lock the series from deciding what is due until the number is taken: no gaps, nothing issued twice."""
    year = await db.scalar(select(func.extract("year", func.clock_timestamp())))
    name = f"{SERIES[kind]}-{year}"
    await db.execute(upsert(series).values(name=name).on_conflict_do_nothing())
    await db.execute(select(series.c.name).where(series.c.name == name).with_for_update())


async def _next_number(db: AsyncConnection, kind: str, year: int) -> str:
    name = f"{SERIES[kind]}-{year}"
    await db.execute(upsert(series).values(name=name).on_conflict_do_nothing())
    taken = await db.scalar(
        update(series)
        .where(series.c.name == name)
        .values(next_number=series.c.next_number + 1)
        .returning(series.c.next_number - 1)
    )
    return f"{name}-{taken:06d}"


async def _find(db: AsyncConnection, number: str) -> Mapping[str, Any]:
    row = (await db.execute(select(invoice).where(invoice.c.number == number))).mappings().first()
    if row is None:
        raise NotFound("invoice", number, "`caduceus invoice list` shows those there are")
    return dict(row)


async def _read(db: AsyncConnection, row: Mapping[str, Any]) -> Invoice:
    columns = [column for column in invoice_line.c if column.name not in ("invoice_id", "ordinal")]
    query = select(*columns).where(invoice_line.c.invoice_id == row["id"]).order_by(invoice_line.c.ordinal)
    lines = tuple(InvoiceLine(**line) for line in (await db.execute(query)).mappings())
    return Invoice(
        lines,
        *(row[f"{name}_pusd"] for name in ("exact", "subtotal", "tax", "total", "prepaid", "due")),
    )


def _name(month: tuple[int, int]) -> str:
    return f"{month[0]:04d}-{month[1]:02d}"
