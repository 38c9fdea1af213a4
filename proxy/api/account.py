"""What a key may know of itself, of its tenant's money and of its own requests.

Amounts in fields that OpenRouter has are JSON numbers, written from the exact decimal; all others are decimal strings.
"""

import re
from datetime import datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from aiohttp import web

from ledger.keys import KeyRecord
from ledger.money import format_price, format_usd
from ledger.reports.generations import Generation, ReceiptLine, find_generation, is_held
from ledger.reports.standing import GROUPS, MonthUsage, credits_of, month_usage, spending_of
from proxy.entry.api_errors import ApiError
from proxy.exchange.gateway import Gateway
from proxy.exchange.settlement import number

# Every surface puts its own prefix before the id of a request.
ANSWER_ID = re.compile(r"(?:[a-z]{1,12}[-_])?([0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12})")
MONTH = re.compile(r"(2\d{3})-(0[1-9]|1[0-2])", re.ASCII)
UNLIMITED = -1  # OpenRouter's word for no limit of requests


async def show_generation(gateway: Gateway, key: KeyRecord, request: web.Request) -> dict[str, Any]:
    """By an answer's `id`. Raises ApiError: 400 without one, 404 for what is no finished request of this tenant."""
    answer_id = request.match_info.get("id") or request.query.get("id")
    if not answer_id:
        raise ApiError("missing_required_parameter", "id is missing: the id of an answer", param="id")
    match = ANSWER_ID.fullmatch(answer_id)
    if match is not None:
        request_id = UUID(match[1])
        async with gateway.store.reading() as connection:
            found = await find_generation(connection, request_id, key.tenant_id)
            running = found is None and await is_held(connection, request_id, key.tenant_id)
        if found is not None:
            return {"data": describe_generation(answer_id, found)}
        if running:
            raise ApiError("not_found", f"{answer_id} is not settled yet; ask again when it is over", param="id")
    raise ApiError("not_found", f"there is no generation {answer_id[:100]!r} of this tenant", param="id")


async def show_key(gateway: Gateway, key: KeyRecord, _: web.Request) -> dict[str, Any]:
    """The calling key: what it may do and what it has spent."""
    async with gateway.store.reading() as connection:
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


async def show_credits(gateway: Gateway, key: KeyRecord, _: web.Request) -> dict[str, Any]:
    """The tenant's money: balance = credit − charges, available = balance − held."""
    async with gateway.store.reading() as connection:
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


async def show_usage(gateway: Gateway, key: KeyRecord, request: web.Request) -> dict[str, Any]:
    """A month (of the settings' time zone; this one where none is asked for) of the tenant, and of the calling key."""
    timezone, by = gateway.settings.billing.timezone, request.query.get("by")
    if by is not None and by not in GROUPS:
        raise ApiError("invalid_request", f"by must be one of {', '.join(GROUPS)}", param="by")
    month = read_month(request.query.get("month"), gateway.now().astimezone(ZoneInfo(timezone)))
    async with gateway.store.reading() as connection:
        (whole,) = await month_usage(connection, key.tenant_id, month, timezone)
        (own,) = await month_usage(connection, key.tenant_id, month, timezone, key_id=key.key_id)
        rows = await month_usage(connection, key.tenant_id, month, timezone, by=by) if by else ()
    shown = {"month": f"{month[0]}-{month[1]:02}", **describe_usage(whole), "key": describe_usage(own)}
    if by:
        shown["by"] = by
        shown["rows"] = [{by: row.group, **describe_usage(row)} for row in rows]
    return {"data": shown}


def read_month(text: str | None, today: datetime) -> tuple[int, int]:
    if text is None:
        return today.year, today.month
    match = MONTH.fullmatch(text)
    if match is None:
        raise ApiError("invalid_request", "month must be a month like 2026-11", param="month")
    return int(match[1]), int(match[2])


def describe_usage(usage: MonthUsage) -> dict[str, Any]:
    """As `caduceus usage --json` words it."""
    return {
        "requests": usage.requests,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "charge": format_usd(usage.charge_pusd),
        "sandbox_charge": format_usd(usage.sandbox_charge_pusd),
    }


def describe_generation(answer_id: str, done: Generation) -> dict[str, Any]:
    """OpenRouter's `/generation`, and what the charge is made of. Times are milliseconds."""
    tokens = done.tokens
    last = done.attempts[-1] if done.attempts else {}
    return {
        "id": answer_id,
        "request_id": str(done.request_id),
        "surface": done.surface,
        "model": done.model,
        "provider_name": done.endpoint,
        "region": done.region,
        "created_at": done.created_at.isoformat(timespec="milliseconds"),
        "state": done.state,
        "streamed": last.get("streamed"),
        "cancelled": done.state == "client_left",
        "finish_reason": last.get("finish_reason"),
        "latency": done.ttft_ms,
        "generation_time": None if done.ttft_ms is None else done.total_ms - done.ttft_ms,
        "total_time": done.total_ms,
        "tokens_prompt": tokens.prompt,
        "tokens_completion": tokens.completion,
        "native_tokens_prompt": tokens.prompt,
        "native_tokens_completion": tokens.completion,
        "native_tokens_cached": tokens.cached,
        "native_tokens_reasoning": tokens.reasoning,
        "total_cost": number(done.charge_pusd),
        "usage": {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.prompt + tokens.completion,
            "prompt_tokens_details": {"cached_tokens": tokens.cached},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
            "cost": number(done.charge_pusd),
            "source": done.usage_source,
            "flags": list(done.flags),
        },
        "attempts": done.attempts,
        "receipt": describe_receipt(done),
        "user": done.user,
        "metadata": done.metadata,
    }


def describe_receipt(done: Generation) -> dict[str, Any]:
    """The lines add up to the charge, exactly; unit prices are USD per million tokens."""
    return {
        "currency": "USD",
        "hold": format_usd(done.hold_pusd),
        "lines": [describe_line(line) for line in done.lines],
        "charge": format_usd(done.charge_pusd),
        "posted_at": done.posted_at.isoformat(timespec="milliseconds"),
        "estimated": done.swept and done.corrected_at is None,
        "corrected_at": None if done.corrected_at is None else done.corrected_at.isoformat(timespec="milliseconds"),
    }


def describe_line(line: ReceiptLine) -> dict[str, Any]:
    return {
        "kind": line.kind,
        "endpoint": line.endpoint,
        "sandbox": line.sandbox,
        "price_version": line.price_version,
        "tokens": line.tokens,
        "unit_price": None if line.unit_price_pusd is None else format_price(line.unit_price_pusd),
        "amount": format_usd(line.amount_pusd),
    }
