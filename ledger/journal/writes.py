"""The writes of the hot path, and the rows as which they travel to `post_batch`: one tuple each, made once.

A row's fields and their order are those of the type of that name in the migration. Arrays of rows cost both sides less
than an array per column (which costs this process twice as much) or JSON (which costs Postgres ten times as much).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from ledger.billing import Bill, BillLine, Cost, Tokens, UsageSource

MOST_PUSD = 2**63 - 1  # nobody holds more at once
NOTHING = Bill(0, 0, Tokens(0), UsageSource.COUNTED, (), (), 0, 0, ())


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request with an Idempotency-Key claims: keyed digests of 32 bytes.

    `id` stands for API key, route and the client's key, `body` for what is asked.
    """

    id: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of the claim of a request that is over: it answers from now on, or, if not `whole`, is free.

    `sealed` is that answer, encrypted; None where it is too large to be kept.
    """

    whole: bool
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Money to be reserved for a request before any upstream is contacted. `pins` is `pins.encode_pins`'s."""

    request_id: UUID
    account_id: int
    tenant_id: int
    key_id: int
    amount_pusd: int
    credit_limit_pusd: int
    expires_after_s: float
    pins: bytes
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class HoldOutcome:
    """`available_pusd` is what could be held after this; `reason` is None, "credit", "budget", "over" or "claimed"."""

    accepted: bool
    available_pusd: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Settlement:
    """A request that is over. `attempts` is JSON; without a `bill` nothing was delivered and nothing was paid."""

    request_id: UUID
    account_id: int
    tenant_id: int
    key_id: int
    hold_pusd: int
    bill: Bill | None
    state: str  # completed, client_left, cut, failed; of a sweep: expired
    endpoint: str | None
    surface: str | None
    model: str | None
    region: str | None
    attempts: bytes
    total_ms: int
    upstream_contacted: bool
    ttft_ms: int | None = None
    user: str | None = None
    metadata: Mapping[str, str] | None = None
    answer: Answer | None = None  # of a request that claimed something


AccountIds = Mapping[tuple[str, str | None], int]
"""Shared accounts by kind and provider."""

KINDS = ("payable", "cost", "disputed")
SANDBOX_KINDS = ("sandbox_payable", "sandbox_cost", "sandbox_disputed")

Row = tuple[Any, ...]


def hold_row(hold: Hold, owner: int) -> Row:
    return (
        hold.request_id,
        hold.account_id,
        hold.tenant_id,
        hold.key_id,
        hold.amount_pusd,
        min(hold.credit_limit_pusd, MOST_PUSD),
        owner,
        hold.expires_after_s,
        hold.pins,
    )


def claim_row(request_id: UUID, claim: Claim | None) -> Row | None:
    return None if claim is None else (request_id, claim.id, claim.body)


def answer_row(request_id: UUID, answer: Answer | None) -> Row | None:
    return None if answer is None else (request_id, answer.whole, answer.sealed)


def checkpoint_row(request_id: UUID, endpoint: str, tokens: Tokens) -> Row:
    return request_id, endpoint, tokens.prompt, tokens.cached, tokens.completion, tokens.reasoning


def settlement_row(settlement: Settlement, *, swept: bool = False) -> Row:
    bill = settlement.bill or NOTHING
    tokens = bill.tokens
    return (
        settlement.request_id,
        settlement.tenant_id,
        settlement.key_id,
        settlement.account_id,
        settlement.state,
        swept,
        settlement.surface,
        storable(settlement.model),
        settlement.endpoint,
        settlement.region,
        tokens.prompt,
        tokens.cached,
        tokens.completion,
        tokens.reasoning,
        None if settlement.bill is None else bill.source.value,
        settlement.hold_pusd,
        bill.charge_pusd,
        bill.sandbox_charge_pusd,
        bill.cost_pusd,
        bill.disputed_pusd,
        bill.overrun_pusd,
        bill.flags,
        orjson.dumps([shown_line(line) for line in bill.lines]),
        orjson.dumps([shown_cost(cost) for cost in bill.costs]),
        settlement.attempts,
        settlement.upstream_contacted,
        settlement.ttft_ms,
        settlement.total_ms,
        storable(settlement.user),
        None
        if not settlement.metadata
        else orjson.dumps({storable(name): storable(value) for name, value in settlement.metadata.items()}),
    )


def shown_line(line: BillLine) -> dict[str, Any]:
    """A line of `request.lines`; read back by `ledger.papers.invoices`."""
    price, tokens = line.price, line.tokens
    return {
        "endpoint": line.endpoint,
        "sandbox": line.sandbox,
        "price_version": price.version_id,
        "input_pusd": price.input_pusd,
        "output_pusd": price.output_pusd,
        "cached_input_pusd": price.cached_input_pusd,
        "prompt": tokens.prompt,
        "cached": tokens.cached,
        "completion": tokens.completion,
        "reasoning": tokens.reasoning,
        "amount_pusd": line.amount_pusd,
        "charged_pusd": line.charged_pusd,
    }


def shown_cost(cost: Cost) -> dict[str, Any]:
    """An element of `request.costs`: what an attempt cost, by whose count."""
    return {
        "endpoint": cost.endpoint,
        "provider": cost.provider,
        "sandbox": cost.sandbox,
        "tokens": cost.tokens,
        "reported": cost.reported,
        "cost_pusd": cost.cost_pusd,
        "disputed_pusd": cost.disputed_pusd,
        "unknown": cost.unknown,
    }


def transfer_rows(settlement: Settlement, accounts: AccountIds) -> list[Row]:
    """The transfers of a settlement, numbered from 0; nothing is moved where nothing is due.

    A payable account that is not in `accounts` is named by kind and provider, for Postgres to find or make.
    """
    bill = settlement.bill
    if bill is None:
        return []
    tenant, sold_pusd = settlement.account_id, bill.charge_pusd - bill.sandbox_charge_pusd
    moves: list[Row] = [
        (tenant, accounts["revenue", None], sold_pusd, "charge", None, None),
        (tenant, accounts["sandbox_revenue", None], bill.sandbox_charge_pusd, "charge", None, None),
    ]
    for cost in bill.costs:
        payable, cost_kind, disputed_kind = SANDBOX_KINDS if cost.sandbox else KINDS
        to = accounts.get((payable, cost.provider))
        named = (None, None) if to is not None else (payable, cost.provider)
        moves.append((accounts[cost_kind, None], to, cost.cost_pusd, "cost", *named))
        moves.append((accounts[disputed_kind, None], to, cost.disputed_pusd, "disputed", *named))
    due = [move for move in moves if move[2]]
    return [(settlement.request_id, ordinal, *move) for ordinal, move in enumerate(due)]


def storable(text: str | None) -> str | None:
    """What a client sent, as Postgres can store it: without NUL and lone surrogates."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
