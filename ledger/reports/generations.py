"""One finished request as its tenant may see it: what it did, the usage billed, and a receipt that adds up.

It holds neither our costs nor the providers' own counts.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from ledger.billing import Tokens
from ledger.papers.invoices import BEYOND_HOLD, CACHED, COMPLETION, PROMPT
from ledger.request_ids import minted_at

READ_TIMEOUT_S = 5.0
# Flags about the usage and the charge; the others are about our cost.
TENANT_FLAGS = ("usage_missing", "usage_implausible", "usage_disputed", "beyond_hold")


@dataclass(frozen=True, slots=True)
class ReceiptLine:
    """Tokens at a price (pico-dollars a token); `beyond_hold` has neither, and takes off what was not charged."""

    kind: str
    endpoint: str
    sandbox: bool
    price_version: int | None
    tokens: int | None
    unit_price_pusd: int | None
    amount_pusd: int


@dataclass(frozen=True, slots=True)
class Generation:
    """A request that is over, with its correction if there is one. The sum of `lines` is exactly `charge_pusd`.

    `attempts` is the JSON of its settlement, `swept` says that its process died, `ttft_ms` is the time to first token.
    """

    request_id: UUID
    created_at: datetime
    state: str
    swept: bool
    surface: str | None
    model: str | None
    endpoint: str | None
    region: str | None
    tokens: Tokens
    usage_source: str | None
    flags: tuple[str, ...]
    attempts: list[dict[str, Any]]
    ttft_ms: int | None
    total_ms: int
    user: str | None
    metadata: dict[str, str]
    hold_pusd: int
    charge_pusd: int
    lines: tuple[ReceiptLine, ...]
    posted_at: datetime
    corrected_at: datetime | None


FIND = """
SELECT request.id, request.state, request.swept, request.surface, request.model, request.endpoint, request.region,
    coalesce(correction.prompt_tokens, request.prompt_tokens) AS prompt,
    coalesce(correction.cached_tokens, request.cached_tokens) AS cached,
    coalesce(correction.completion_tokens, request.completion_tokens) AS completion,
    coalesce(correction.reasoning_tokens, request.reasoning_tokens) AS reasoning,
    CASE WHEN correction.request_id IS NULL THEN request.usage_source ELSE correction.usage_source END AS usage_source,
    request.flags, request.attempts, request.ttft_ms, request.total_ms, label.user_label, label.metadata,
    request.hold_pusd, request.charge_pusd + coalesce(correction.difference_pusd, 0) AS charge_pusd,
    coalesce(correction.lines, request.lines) AS lines, request.posted_at, correction.posted_at AS corrected_at
FROM request
LEFT JOIN correction ON correction.request_id = request.id
LEFT JOIN request_label AS label ON label.request_id = $1
WHERE request.id = $1 AND request.tenant_id = $2
"""


async def find_generation(connection: asyncpg.Connection, request_id: UUID, tenant_id: int) -> Generation | None:
    """None where this tenant has no such request, or where it is not over."""
    row = await connection.fetchrow(FIND, request_id, tenant_id, timeout=READ_TIMEOUT_S)
    if row is None:
        return None
    return Generation(
        request_id=request_id,
        created_at=minted_at(request_id),
        tokens=Tokens(row["prompt"], row["cached"], row["completion"], row["reasoning"]),
        flags=tuple(flag for flag in row["flags"] if flag in TENANT_FLAGS),
        attempts=orjson.loads(row["attempts"] or b"[]"),
        user=row["user_label"],
        metadata=orjson.loads(row["metadata"] or b"{}"),
        lines=tuple(line for given in orjson.loads(row["lines"]) for line in receipt_lines(given)),
        **{name: row[name] for name in AS_THEY_STAND},
    )


AS_THEY_STAND = (
    "state",
    "swept",
    "surface",
    "model",
    "endpoint",
    "region",
    "usage_source",
    "ttft_ms",
    "total_ms",
    "hold_pusd",
    "charge_pusd",
    "posted_at",
    "corrected_at",
)


async def is_held(connection: asyncpg.Connection, request_id: UUID, tenant_id: int) -> bool:
    """Whether this request of the tenant runs, or its settlement is to be written."""
    held: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM hold WHERE request_id = $1 AND tenant_id = $2)",
        request_id,
        tenant_id,
        timeout=READ_TIMEOUT_S,
    )
    return held


def receipt_lines(line: dict[str, Any]) -> list[ReceiptLine]:
    """A line of `request.lines` (see `writes.shown_line`), which is the bill of one endpoint, kind by kind."""
    endpoint, sandbox = line["endpoint"], line["sandbox"]
    parts = (
        (PROMPT, line["prompt"] - line["cached"], line["input_pusd"]),
        (CACHED, line["cached"], line["cached_input_pusd"]),
        (COMPLETION, line["completion"], line["output_pusd"]),
    )
    lines = [
        ReceiptLine(kind, endpoint, sandbox, line["price_version"], tokens, unit_price_pusd, tokens * unit_price_pusd)
        for kind, tokens, unit_price_pusd in parts
        if tokens
    ]
    if beyond_pusd := line["charged_pusd"] - line["amount_pusd"]:
        lines.append(ReceiptLine(BEYOND_HOLD, endpoint, sandbox, None, None, None, beyond_pusd))
    return lines
