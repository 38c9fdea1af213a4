"""The writes of the hot path, and the rows as which they travel to `post_batch`.

A row is a named tuple whose fields, in their order, are those of the type of its name in `functions.sql`; a test
compares the two. Rows are made by the names of their fields. Arrays of rows cost both sides less than an array per
column (which costs this process twice as much) or JSON (which costs Postgres ten times as much).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from ledger.billing import Bill, BillLine, Tokens, UsageSource

BIGGEST_HOLD_PUSD = 2**63 - 1
NO_BILL = Bill(0, 0, Tokens(0), UsageSource.COUNTED, (), (), 0, 0, ())


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request claims by its Idempotency-Key, as keyed digests of 32 bytes.

    `id` stands for API key, route and the client's key, `body` for what is asked.
    """

    id: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What becomes of the claim of a request that is over: it is answered from then on, or, if not `whole`, given up.

    `sealed` is the answer, encrypted; None where it is too large to be kept.
    """

    whole: bool
    sealed: bytes | None = None


@dataclass(slots=True, eq=False)  # not frozen: that takes a microsecond for each of them
class Hold:
    """Money to be reserved for a request before any upstream is contacted. `pins` is from `encode_pins`."""

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
    """`available_pusd` could be held after this one; `reason` is None, "credit", "budget", "over" or "claimed"."""

    accepted: bool
    available_pusd: int
    reason: str | None = None


@dataclass(slots=True, eq=False)  # not frozen: that takes a microsecond for each of them
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
    answer: Answer | None = None  # where the request made a claim


class HoldRow(NamedTuple):
    request_id: UUID
    account_id: int
    tenant_id: int
    key_id: int
    amount: int
    credit_limit: int
    owner: int
    expires_after_s: float
    pins: bytes


class ClaimRow(NamedTuple):
    request_id: UUID
    id: bytes
    body: bytes


class AnswerRow(NamedTuple):
    request_id: UUID
    whole: bool
    sealed: bytes | None


class CheckpointRow(NamedTuple):
    request_id: UUID
    endpoint: str
    prompt: int
    cached: int
    completion: int
    reasoning: int


class SettlementRow(NamedTuple):
    """A row of `request`; the last two fields go to `request_label`."""

    id: UUID
    tenant_id: int
    key_id: int
    account_id: int
    state: str
    swept: bool
    surface: str | None
    model: str | None
    endpoint: str | None
    region: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    usage_source: str | None
    hold_pusd: int
    charge_pusd: int
    sandbox_charge_pusd: int
    cost_pusd: int
    disputed_pusd: int
    overrun_pusd: int
    flags: tuple[str, ...]
    lines: bytes
    costs: bytes
    attempts: bytes
    upstream_contacted: bool
    ttft_ms: int | None
    total_ms: int
    user_label: str | None
    metadata: bytes | None


class TransferRow(NamedTuple):
    """`credit` is None where the account is not known yet; it then is the one of the kind `payable` of `provider`."""

    id: UUID
    ordinal: int
    debit: int
    credit: int | None
    amount: int
    kind: str
    payable: str | None
    provider: str | None


AccountIds = Mapping[tuple[str, str | None], int]
"""Shared accounts by kind and provider."""

KINDS = ("payable", "cost", "disputed")
SANDBOX_KINDS = ("sandbox_payable", "sandbox_cost", "sandbox_disputed")


def hold_row(hold: Hold, owner: int) -> HoldRow:
    """`owner` is the run of a process that answers for the hold."""
    return HoldRow(
        request_id=hold.request_id,
        account_id=hold.account_id,
        tenant_id=hold.tenant_id,
        key_id=hold.key_id,
        amount=hold.amount_pusd,
        credit_limit=min(hold.credit_limit_pusd, BIGGEST_HOLD_PUSD),
        owner=owner,
        expires_after_s=hold.expires_after_s,
        pins=hold.pins,
    )


def claim_row(request_id: UUID, claim: Claim | None) -> ClaimRow | None:
    return None if claim is None else ClaimRow(request_id, id=claim.id, body=claim.body)


def answer_row(request_id: UUID, answer: Answer | None) -> AnswerRow | None:
    return None if answer is None else AnswerRow(request_id, whole=answer.whole, sealed=answer.sealed)


def checkpoint_row(request_id: UUID, endpoint: str, tokens: Tokens) -> CheckpointRow:
    return CheckpointRow(
        request_id,
        endpoint,
        prompt=tokens.prompt,
        cached=tokens.cached,
        completion=tokens.completion,
        reasoning=tokens.reasoning,
    )


def settlement_row(settlement: Settlement, *, swept: bool = False) -> SettlementRow:
    """`swept`: by a sweep, from the last checkpoint."""
    bill = settlement.bill or NO_BILL
    tokens = bill.tokens
    return SettlementRow(
        id=settlement.request_id,
        tenant_id=settlement.tenant_id,
        key_id=settlement.key_id,
        account_id=settlement.account_id,
        state=settlement.state,
        swept=swept,
        surface=settlement.surface,
        model=storable(settlement.model),
        endpoint=settlement.endpoint,
        region=settlement.region,
        prompt_tokens=tokens.prompt,
        cached_tokens=tokens.cached,
        completion_tokens=tokens.completion,
        reasoning_tokens=tokens.reasoning,
        usage_source=None if settlement.bill is None else bill.source.value,
        hold_pusd=settlement.hold_pusd,
        charge_pusd=bill.charge_pusd,
        sandbox_charge_pusd=bill.sandbox_charge_pusd,
        cost_pusd=bill.cost_pusd,
        disputed_pusd=bill.disputed_pusd,
        overrun_pusd=bill.overrun_pusd,
        flags=bill.flags,
        lines=orjson.dumps([shown_line(line) for line in bill.lines]),
        costs=orjson.dumps(bill.costs),
        attempts=settlement.attempts,
        upstream_contacted=settlement.upstream_contacted,
        ttft_ms=settlement.ttft_ms,
        total_ms=settlement.total_ms,
        user_label=storable(settlement.user),
        metadata=stored_metadata(settlement.metadata),
    )


def stored_metadata(metadata: Mapping[str, str] | None) -> bytes | None:
    """JSON; None where there is none."""
    if not metadata:
        return None
    return orjson.dumps({storable(name): storable(value) for name, value in metadata.items()})


def shown_line(line: BillLine) -> dict[str, Any]:
    """A line of `request.lines`, which `ledger.papers.invoices` and `ledger.reports.generations` read."""
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


def transfer_rows(settlement: Settlement, accounts: AccountIds) -> list[TransferRow]:
    """The transfers of a settlement, numbered from 0; without those whose amount is zero.

    A payable account that is not in `accounts` is named by kind and provider, for Postgres to find or make.
    """
    bill = settlement.bill
    rows: list[TransferRow] = []
    if bill is None:
        return rows

    def move(
        kind: str, debit: int, credit: int | None, amount: int, payable: str | None = None, provider: str | None = None
    ) -> None:
        if amount:
            rows.append(TransferRow(settlement.request_id, len(rows), debit, credit, amount, kind, payable, provider))

    tenant, sandbox_pusd = settlement.account_id, bill.sandbox_charge_pusd
    move("charge", tenant, accounts["revenue", None], bill.charge_pusd - sandbox_pusd)
    move("charge", tenant, accounts["sandbox_revenue", None], sandbox_pusd)
    for cost in bill.costs:
        payable, cost_kind, disputed_kind = SANDBOX_KINDS if cost.sandbox else KINDS
        to = accounts.get((payable, cost.provider))
        named = (None, None) if to is not None else (payable, cost.provider)
        move("cost", accounts[cost_kind, None], to, cost.cost_pusd, *named)
        move("disputed", accounts[disputed_kind, None], to, cost.disputed_pusd, *named)
    return rows


def storable(text: str | None) -> str | None:
    """A client's text as Postgres can store it: without NUL and lone surrogates."""
    if text is None or (text.isascii() and "\0" not in text):
        return text
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
