"""Where a tenant and one of its keys stand: credit and budget, for the serving process."""

from dataclasses import dataclass

import asyncpg

READ_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Credits:
    """`balance_pusd` = credit − charges = `available_pusd` + `held_pusd`; `paid`: some of the credit was bought."""

    credited_pusd: int
    balance_pusd: int
    held_pusd: int
    available_pusd: int
    paid: bool


async def credits_of(connection: asyncpg.Connection, tenant_id: int) -> Credits:
    row = await connection.fetchrow(CREDITS, tenant_id, timeout=READ_TIMEOUT_S)
    return Credits(**row)


CREDITS = """
SELECT coalesce(bought.amount, 0) AS credited_pusd, available + held - owed AS balance_pusd, held AS held_pusd,
    available - owed AS available_pusd, coalesce(bought.paid, false) AS paid
FROM account, LATERAL (
    SELECT sum(amount_pusd) AS amount, bool_or(kind = 'paid') AS paid FROM credit WHERE tenant_id = $1
) AS bought
WHERE account.tenant_id = $1
"""


@dataclass(frozen=True, slots=True)
class KeySpending:
    """Charges of a key. `committed_pusd` counts against its budget: the charges of this UTC month, and its holds."""

    charged_pusd: int
    month_charged_pusd: int
    committed_pusd: int


async def spending_of(connection: asyncpg.Connection, key_id: int) -> KeySpending:
    row = await connection.fetchrow(SPENDING, key_id, timeout=READ_TIMEOUT_S)
    return KeySpending(**row)


SPENDING = """
SELECT coalesce(sum(charged_pusd), 0) AS charged_pusd,
    coalesce(sum(charged_pusd) FILTER (WHERE month = date_trunc('month', now() AT TIME ZONE 'UTC')::date), 0)
        AS month_charged_pusd,
    spent_of_key($1, now()) AS committed_pusd
FROM key_month WHERE key_id = $1
"""
