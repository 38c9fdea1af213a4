"""Credit that a tenant bought or was granted, posted once for each reference."""

from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.administration import record
from ledger.accounts.tables import account, credit, transfer
from ledger.accounts.tenants import find_tenant
from ledger.errors import Conflict, Refused
from ledger.money import format_usd
from ledger.request_ids import new_request_id

SOURCES = {"paid": "cash", "granted": "granted"}
"""The account that is debited, by kind."""


@dataclass(frozen=True, slots=True)
class Credit:
    """`new` is false where the reference had been posted before."""

    tenant: str
    reference: str
    kind: str
    amount_pusd: int
    transaction_id: UUID
    posted_at: datetime
    new: bool


async def add_credit(
    db: AsyncConnection, tenant_name: str, amount_pusd: int, *, reference: str, actor: str, kind: str = "paid"
) -> Credit:
    """Post credit; it pays what is owed first. Posting the same reference again changes nothing.

    Raises Refused, NotFound, and Conflict where the reference is posted with another amount or kind.
    """
    if amount_pusd <= 0:
        raise Refused("an amount of credit is above zero")
    if kind not in SOURCES or not reference.strip():
        raise Refused("credit is paid or granted, and has a reference")
    owner = await find_tenant(db, tenant_name)
    # Every writer locks the account first: what is posted then lies after the period of any invoice issued before.
    await db.execute(select(account.c.id).where(account.c.id == owner.account_id).with_for_update())
    posted = (
        (
            await db.execute(
                upsert(credit)
                .values(
                    tenant_id=owner.id,
                    reference=reference,
                    kind=kind,
                    amount_pusd=amount_pusd,
                    transaction_id=new_request_id(),
                    posted_at=func.clock_timestamp(),
                )
                .on_conflict_do_nothing()
                .returning(credit)
            )
        )
        .mappings()
        .first()
    )
    if posted is None:
        return await _posted_before(db, owner.id, tenant_name, reference, kind, amount_pusd)
    source = await db.scalar(select(account.c.id).where(account.c.kind == SOURCES[kind]))
    await db.execute(
        insert(transfer).values(
            transaction_id=posted["transaction_id"],
            ordinal=0,
            debit_account=source,
            credit_account=owner.account_id,
            amount=amount_pusd,
            kind="credit",
            posted_at=posted["posted_at"],
        )
    )
    await db.execute(
        text(
            "SELECT move_balances(ARRAY[CAST(:account AS bigint)], ARRAY[CAST(:amount AS numeric)], ARRAY[0::numeric])"
        ),
        {"account": owner.account_id, "amount": amount_pusd},
    )
    made = Credit(tenant_name, reference, kind, amount_pusd, posted["transaction_id"], posted["posted_at"], new=True)
    await record(db, actor, "credit.add", tenant_name, after=asdict(made))
    return made


async def _posted_before(
    db: AsyncConnection, tenant_id: int, tenant_name: str, reference: str, kind: str, amount_pusd: int
) -> Credit:
    query = select(credit).where(credit.c.tenant_id == tenant_id, credit.c.reference == reference)
    row = (await db.execute(query)).mappings().one()
    if (row["kind"], row["amount_pusd"]) != (kind, amount_pusd):
        there = f"{format_usd(row['amount_pusd'])} USD {row['kind']}"
        raise Conflict(f"reference {reference} is posted already, as {there}; give this credit a reference of its own")
    return Credit(tenant_name, reference, kind, amount_pusd, row["transaction_id"], row["posted_at"], new=False)
