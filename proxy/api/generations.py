"""`GET /v1/generations/{id}`: what one answer did and cost, for the tenant whose it is.

Amounts in fields that OpenRouter has are JSON numbers, written from the exact decimal; all others are decimal strings.
"""

import re
from typing import Any
from uuid import UUID

from aiohttp import web

from ledger.journal.store import Store
from ledger.keys import KeyRecord
from ledger.money import format_price, format_usd
from ledger.reports.generations import Generation, ReceiptLine, find_generation, is_held
from proxy.entry.api_errors import ApiError
from proxy.exchange.settlement import number

# Every surface puts its own prefix before the id of a request.
ANSWER_ID = re.compile(r"(?:[a-z]{1,12}[-_])?([0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12})")


async def show_generation(store: Store, key: KeyRecord, request: web.Request) -> dict[str, Any]:
    """By an answer's `id`. Raises ApiError: 400 without one, 404 for what is no finished request of this tenant."""
    answer_id = request.match_info.get("id") or request.query.get("id")
    if not answer_id:
        raise ApiError("missing_required_parameter", "id is missing: the id of an answer", param="id")
    match = ANSWER_ID.fullmatch(answer_id)
    if match is not None:
        request_id = UUID(match[1])
        async with store.reading() as connection:
            found = await find_generation(connection, request_id, key.tenant_id)
            running = found is None and await is_held(connection, request_id, key.tenant_id)
        if found is not None:
            return {"data": describe_generation(answer_id, found)}
        if running:
            raise ApiError("not_found", f"{answer_id} is not settled yet; ask again when it is over", param="id")
    raise ApiError("not_found", f"there is no generation {answer_id[:100]!r} of this tenant", param="id")


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
