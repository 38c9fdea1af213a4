"""What a key may know of itself, of its tenant's money and of its own requests.

Amounts in fields that OpenRouter has are JSON numbers, written from the exact decimal; all others are decimal strings.
"""

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from aiohttp import web

from ledger.journal.store import Store
from ledger.keys import KeyRecord
from ledger.money import format_usd
from ledger.papers.periods import month_period
from ledger.reports.standing import credits_of, spending_of
from ledger.reports.usage import GROUPS, usage
from proxy.entry.api_errors import ApiError
from proxy.exchange.settlement import number

MONTH = re.compile(r"(2\d{3})-(0[1-9]|1[0-2])", re.ASCII)
UNLIMITED = -1  # OpenRouter's word for no limit of requests


async def show_key(store: Store, key: KeyRecord, _: web.Request) -> dict[str, Any]:
    """The calling key: what it may do and what it has spent."""
    async with store.reading() as connection:
        spent = await spending_of(connection, key.key_id)
        free = not (await credits_of(connection, key.tenant_id)).paid
    left_pusd = None if key.budget_pusd is None else max(key.budget_pusd - spent.committed_pusd, 0)
    return {
        "data": {
            "label": key.key_name,
            "tenant": key.tenant_name,
            "usage": number(spent.charged_pusd),
            "usage_monthly": number(spent.month_charged_pusd),
            "limit": None if key.budget_pusd is None else number(key.budget_pusd),
            "limit_remaining": None if left_pusd is None else number(left_pusd),
            "limit_reset": None if key.budget_pusd is None else "monthly",
            "is_free_tier": free and key.credit_limit_pusd == 0,
            "rate_limit": {"requests": key.rpm or UNLIMITED, "interval": "60s"},
            "rpm": key.rpm,
            "tpm": key.tpm,
            "concurrency": key.concurrency,
            "expires_at": None if key.expires_at is None else key.expires_at.isoformat(timespec="seconds"),
            "jurisdictions": None if key.jurisdictions is None else sorted(key.jurisdictions),
            "reasoning_format": key.reasoning_format,
            "stream_usage": key.stream_usage,
            "continuation": key.continuation,
        }
    }


async def show_credits(store: Store, key: KeyRecord, _: web.Request) -> dict[str, Any]:
    """The tenant's money: balance = credit − charges, available = balance − held."""
    async with store.reading() as connection:
        credit = await credits_of(connection, key.tenant_id)
    return {
        "data": {
            "total_credits": number(credit.credited_pusd),
            "total_usage": number(credit.credited_pusd - credit.balance_pusd),
            "balance": format_usd(credit.balance_pusd),
            "held": format_usd(credit.held_pusd),
            "available": format_usd(credit.available_pusd),
            "credit_limit": format_usd(key.credit_limit_pusd),
        }
    }


async def show_usage(store: Store, timezone: str, key: KeyRecord, request: web.Request) -> dict[str, Any]:
    """A month (of the settings' time zone; this one where none is asked for) of the tenant, and of the calling key."""
    by = request.query.get("by")
    if by is not None and by not in GROUPS:
        raise ApiError("invalid_request", f"by must be one of {', '.join(sorted(GROUPS))}", param="by")
    month = read_month(request.query.get("month"), store.instant().astimezone(ZoneInfo(timezone)))
    period = month_period(*month, timezone)
    async with store.reading() as connection:
        (whole,) = await usage(connection, key.tenant_id, period, timezone)
        (own,) = await usage(connection, key.tenant_id, period, timezone, key_id=key.key_id)
        rows = await usage(connection, key.tenant_id, period, timezone, by=by) if by else ()
    shown: dict[str, Any] = {"month": f"{month[0]}-{month[1]:02}", **whole.shown(), "key": own.shown()}
    if by:
        shown["by"] = by
        shown["rows"] = [{by: row.group, **row.shown()} for row in rows]
    return {"data": shown}


def read_month(text: str | None, today: datetime) -> tuple[int, int]:
    if text is None:
        return today.year, today.month
    match = MONTH.fullmatch(text)
    if match is None:
        raise ApiError("invalid_request", "month must be a month like 2026-11", param="month")
    return int(match[1]), int(match[2])
