"""Usage reports: what a tenant's requests took and were charged, by the instant they were posted."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, literal, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.accounts.tables import api_key, correction, request, request_label
from ledger.accounts.tenants import find_tenant
from ledger.errors import Refused
from ledger.papers.periods import Period, month_period

GROUPS = ("day", "key", "endpoint", "user")


@dataclass(frozen=True, slots=True)
class Usage:
    """`requests` are those that reached an upstream; `group` is None for the whole."""

    group: str | None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    charge_pusd: int
    sandbox_charge_pusd: int


async def usage(
    db: AsyncConnection,
    tenant_name: str,
    *,
    month: tuple[int, int] | None = None,
    by: str | None = None,
    timezone: str = "UTC",
) -> list[Usage]:
    """One row a group, in order; without `by` exactly one. `month` None: since the beginning. Raises NotFound."""
    owner = await find_tenant(db, tenant_name)
    posted = _posted(owner.id, None if month is None else month_period(*month, timezone)).subquery()
    sums = [
        func.coalesce(func.sum(posted.c[name]), 0).label(name)
        for name in (
            "requests",
            "prompt_tokens",
            "cached_tokens",
            "completion_tokens",
            "reasoning_tokens",
            "charge_pusd",
            "sandbox_charge_pusd",
        )
    ]
    if by is None:
        query = select(literal(None).label("group"), *sums)
    else:
        group, joined = _group(posted, by, timezone)
        query = select(group.label("group"), *sums).select_from(joined).group_by(group).order_by(group)
    return [Usage(**row) for row in (await db.execute(query)).mappings()]


def _posted(tenant_id: int, period: Period | None) -> Any:
    """Requests as they were posted, and corrections as the differences that they are, each in its own month."""
    tokens = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    requests = select(
        request.c.id,
        request.c.key_id,
        request.c.endpoint,
        request.c.posted_at,
        case((request.c.upstream_contacted, 1), else_=0).label("requests"),
        *(request.c[name] for name in tokens),
        request.c.charge_pusd,
        request.c.sandbox_charge_pusd,
    ).where(request.c.tenant_id == tenant_id)
    corrections = (
        select(
            request.c.id,
            request.c.key_id,
            request.c.endpoint,
            correction.c.posted_at,
            literal(0).label("requests"),
            *((correction.c[name] - request.c[name]).label(name) for name in tokens),
            correction.c.difference_pusd,
            correction.c.sandbox_difference_pusd,
        )
        .join(request, request.c.id == correction.c.request_id)
        .where(correction.c.tenant_id == tenant_id)
    )
    if period is not None:
        requests = _within(requests, request.c.posted_at, period)
        corrections = _within(corrections, correction.c.posted_at, period)
    return union_all(requests, corrections)


def _within(query: Select[Any], column: ColumnElement[Any], period: Period) -> Select[Any]:
    return query.where(column >= period.start, column < period.end)


def _group(posted: Any, by: str, timezone: str) -> tuple[ColumnElement[Any], Any]:
    match by:
        case "day":
            return func.to_char(func.timezone(timezone, posted.c.posted_at), "YYYY-MM-DD"), posted
        case "endpoint":
            return func.coalesce(posted.c.endpoint, "-"), posted
        case "key":
            named = func.concat(api_key.c.name, " (", api_key.c.id, ")")
            return named, posted.join(api_key, api_key.c.id == posted.c.key_id)
        case "user":
            labelled = posted.outerjoin(request_label, request_label.c.request_id == posted.c.id)
            return func.coalesce(request_label.c.user_label, "-"), labelled
    raise Refused(f"usage is grouped by {', '.join(GROUPS)}; not by {by}")
