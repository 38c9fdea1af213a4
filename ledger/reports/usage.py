"""What a tenant's requests used and were charged, by the instant at which they were posted.

`MEASURES` is the one definition of a row: how each number is computed, and how it is shown. The query, the JSON of
`caduceus usage` and of `GET /v1/usage`, and the table for people are made of it. The query goes through asyncpg, which
the serving process has and which is below the command line's connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

import asyncpg

from ledger.errors import Refused
from ledger.money import format_usd
from ledger.papers.periods import Period


class Kind(Enum):
    COUNT = auto()
    MONEY = auto()  # pico-dollars, shown as the exact decimal in USD


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of the report; `posted` is SQL over `request`, `corrected` over `correction` and its `request`."""

    name: str  # as it is shown
    kind: Kind
    posted: str
    corrected: str  # the difference that a correction makes


def tokens(name: str) -> Measure:
    return Measure(name, Kind.COUNT, f"request.{name}", f"correction.{name} - request.{name}")


MEASURES = (
    Measure("requests", Kind.COUNT, "request.upstream_contacted::int", "0"),  # those that reached an endpoint
    tokens("prompt_tokens"),
    tokens("cached_tokens"),
    tokens("completion_tokens"),
    tokens("reasoning_tokens"),
    Measure("charge", Kind.MONEY, "request.charge_pusd", "correction.difference_pusd"),
    Measure("sandbox_charge", Kind.MONEY, "request.sandbox_charge_pusd", "correction.sandbox_difference_pusd"),
)


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one group; `group` is None for the whole."""

    group: str | None
    sums: Mapping[str, int]  # by the names of MEASURES

    def shown(self) -> dict[str, int | str]:
        """For JSON and for tables: counts as numbers, money as exact decimals."""
        return {measure.name: show(measure.kind, self.sums[measure.name]) for measure in MEASURES}


def show(kind: Kind, value: int) -> int | str:
    match kind:
        case Kind.COUNT:
            return value
        case Kind.MONEY:
            return format_usd(value)
        case _ as never:
            assert_never(never)


@dataclass(frozen=True, slots=True)
class Group:
    """How rows are told apart: SQL over `posted` and the table that `join` adds; $5 is the time zone."""

    label: str
    join: str = ""


GROUPS = {
    "day": Group("to_char(posted.posted_at AT TIME ZONE $5, 'YYYY-MM-DD')"),
    "key": Group("concat(api_key.name, ' (', api_key.id, ')')", "JOIN api_key ON api_key.id = posted.key_id"),
    "endpoint": Group("coalesce(posted.endpoint, '-')"),
    "user": Group(
        "coalesce(request_label.user_label, '-')",
        "LEFT JOIN request_label ON request_label.request_id = posted.id",
    ),
}

# Requests as they were posted, and corrections as the differences that they are, each at its own instant.
POSTED = f"""
SELECT request.id, request.key_id, request.endpoint, request.posted_at,
    {", ".join(f"{measure.posted} AS {measure.name}" for measure in MEASURES)}
FROM request
WHERE request.tenant_id = $1 AND ($4::bigint IS NULL OR request.key_id = $4)
    AND request.posted_at >= coalesce($2, '-infinity'::timestamptz)
    AND request.posted_at < coalesce($3, 'infinity'::timestamptz)
UNION ALL
SELECT request.id, request.key_id, request.endpoint, correction.posted_at,
    {", ".join(measure.corrected for measure in MEASURES)}
FROM correction JOIN request ON request.id = correction.request_id
WHERE correction.tenant_id = $1 AND ($4::bigint IS NULL OR request.key_id = $4)
    AND correction.posted_at >= coalesce($2, '-infinity'::timestamptz)
    AND correction.posted_at < coalesce($3, 'infinity'::timestamptz)
"""
SUMS = ", ".join(f"coalesce(sum({measure.name}), 0) AS {measure.name}" for measure in MEASURES)


def query(by: str | None) -> str:
    """SQL for $1 tenant, $2 and $3 start and end (null: none), $4 key (null: all), and by day $5 time zone."""
    if by is None:
        return f"SELECT NULL::text AS label, {SUMS} FROM ({POSTED}) AS posted"
    group = GROUPS[by]
    return f"SELECT {group.label} AS label, {SUMS} FROM ({POSTED}) AS posted {group.join} GROUP BY 1 ORDER BY 1"


async def usage(
    connection: asyncpg.Connection,
    tenant_id: int,
    period: Period | None,
    timezone: str,
    *,
    by: str | None = None,
    key_id: int | None = None,
) -> Sequence[UsageRow]:
    """One row for each group, in order; without `by` exactly one. `period` None: since the beginning.

    `timezone` is that of the days; with `key_id` only the requests of that key count. Raises Refused.
    """
    if by is not None and by not in GROUPS:
        raise Refused(f"usage is grouped by {', '.join(GROUPS)}; not by {by}")
    start, end = (None, None) if period is None else (period.start, period.end)
    arguments = [tenant_id, start, end, key_id, *([timezone] if by == "day" else [])]
    rows = await connection.fetch(query(by), *arguments)
    return [UsageRow(row["label"], {measure.name: row[measure.name] for measure in MEASURES}) for row in rows]
