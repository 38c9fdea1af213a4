"""Where a tenant and one of its keys stand, for the serving process: credit, budget, and what a month came to.

`ledger.reports.usage` reports the same to administrators; a test holds the two against one another.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import asyncpg

from ledger.errors import Refused
from ledger.papers.periods import month_period

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
    """Charges of a key; `committed_pusd` is what counts against its budget: those of this UTC month, and its holds."""

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


@dataclass(frozen=True, slots=True)
class MonthUsage:
    """`requests` are those that reached an upstream; `group` is None for the whole."""

    group: str | None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    charge_pusd: int
    sandbox_charge_pusd: int


GROUPS = {
    "day": "to_char(posted.posted_at AT TIME ZONE $5, 'YYYY-MM-DD')",
    "endpoint": "coalesce(posted.endpoint, '-')",
    "key": "concat(api_key.name, ' (', api_key.id, ')')",
    "user": "coalesce(request_label.user_label, '-')",
}
SUMS = tuple(field.name for field in fields(MonthUsage) if field.name != "group")

# Requests as they were posted, and corrections as the differences that they are, each in its own month.
POSTED = """
SELECT id, key_id, endpoint, posted_at, upstream_contacted::int AS requests, prompt_tokens, cached_tokens,
    completion_tokens, reasoning_tokens, charge_pusd, sandbox_charge_pusd
FROM request
WHERE tenant_id = $1 AND posted_at >= $2 AND posted_at < $3 AND ($4::bigint IS NULL OR key_id = $4)
UNION ALL
SELECT request.id, request.key_id, request.endpoint, correction.posted_at, 0,
    correction.prompt_tokens - request.prompt_tokens, correction.cached_tokens - request.cached_tokens,
    correction.completion_tokens - request.completion_tokens, correction.reasoning_tokens - request.reasoning_tokens,
    correction.difference_pusd, correction.sandbox_difference_pusd
FROM correction JOIN request ON request.id = correction.request_id
WHERE correction.tenant_id = $1 AND correction.posted_at >= $2 AND correction.posted_at < $3
    AND ($4::bigint IS NULL OR request.key_id = $4)
"""
JOINS = {
    "key": "JOIN api_key ON api_key.id = posted.key_id",
    "user": "LEFT JOIN request_label ON request_label.request_id = posted.id",
}


async def month_usage(
    connection: asyncpg.Connection,
    tenant_id: int,
    month: tuple[int, int],
    timezone: str,
    *,
    by: str | None = None,
    key_id: int | None = None,
) -> Sequence[MonthUsage]:
    """One row a group, in order; without `by` exactly one. With `key_id` of that key's requests alone."""
    if by is not None and by not in GROUPS:
        raise Refused(f"usage is grouped by {', '.join(GROUPS)}; not by {by}")
    period = month_period(*month, timezone)
    group = GROUPS[by] if by else "NULL::text"
    sums = ", ".join(f"coalesce(sum({name}), 0)::numeric AS {name}" for name in SUMS)
    query = f"SELECT {group} AS group, {sums} FROM ({POSTED}) AS posted {JOINS.get(by or '', '')}"
    if by:
        query += " GROUP BY 1 ORDER BY 1"
    arguments = [tenant_id, period.start, period.end, key_id, *([timezone] if by == "day" else [])]
    return [MonthUsage(**row) for row in await connection.fetch(query, *arguments, timeout=READ_TIMEOUT_S)]
