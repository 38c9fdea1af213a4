"""The money of one request: held before any endpoint is asked, settled before the answer completes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import orjson

from ledger.billing import Bill, Delivery, Tokens, bill
from ledger.errors import LedgerError
from ledger.journal.pins import Pin, encode_pins
from ledger.journal.writes import Answer, Claim, Hold, HoldOutcome, Settlement
from ledger.keys import KeyRecord
from providers.chat_request import ChatRequest
from providers.tokenizer import is_loaded
from proxy.entry.api_errors import ApiError
from proxy.exchange.meter import AttemptReport
from proxy.exchange.planning import (
    LEAST_OUTPUT_TOKENS,
    Ceiling,
    CountPrompt,
    PromptLength,
    ceiling_of,
    count_in_thread,
    not_enough,
    with_margin,
)
from proxy.exchange.reply.idempotency import in_use
from proxy.exchange.settlement import (
    Counted,
    attempts_shown,
    count_exactly,
    delivering_attempt,
    delivery,
    elapsed_ms,
    how_it_ended,
    quick_count,
    state_of,
    tokens_so_far,
)
from proxy.routing.route import Candidate, Route

SMALL_TEXT_BYTES = 2_000  # counted on the spot; more is counted in a thread


class Books(Protocol):
    """The ledger as a reservation uses it (`ledger.journal.store.Store`)."""

    async def hold(self, hold: Hold) -> HoldOutcome: ...
    async def settle(self, settlement: Settlement) -> None: ...
    def checkpoint(self, request_id: UUID, endpoint: str, tokens: Tokens) -> None: ...


@dataclass(frozen=True, slots=True)
class Order:
    """What is bought: by whom, under which request id, through which surface, of which model."""

    request_id: UUID
    key: KeyRecord
    surface: str
    model: str
    chat: ChatRequest
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How the exchange ended. It began at `started_s`, an instant of the event loop's clock."""

    started_s: float
    client_left: bool
    failed: bool


KeepAnswer = Callable[[Bill | None], Answer | None]
"""Given the bill: what is kept under the Idempotency-Key; None where the request has none."""


class Reservation:
    """`hold`, then `settle` once; `checkpoint` in between."""

    __slots__ = (
        "_books",
        "_clock",
        "_count_prompt",
        "_default_output_tokens",
        "_expires_after_s",
        "_held",
        "_order",
        "_prompt",
        "_route",
        "_settled",
        "amount_pusd",
        "bill",
        "output_tokens",
    )

    def __init__(
        self,
        books: Books,
        order: Order,
        route: Route,
        prompt: PromptLength,
        *,
        default_output_tokens: int,
        expires_after_s: float,
        clock: Callable[[], float],
        count_prompt: CountPrompt = count_in_thread,
    ) -> None:
        self._books = books
        self._order = order
        self._route = route
        self._prompt = prompt
        self._default_output_tokens = default_output_tokens
        self._expires_after_s = expires_after_s
        self._clock = clock
        self._count_prompt = count_prompt
        self._held = self._settled = False
        self.amount_pusd = 0
        """The ceiling, in pico-dollars; known after `hold`."""
        self.output_tokens = 0
        """How much output the hold pays for; known after `hold`."""
        self.bill: Bill | None = None

    @property
    def unsettled(self) -> bool:
        """Whether money is held that nobody has settled."""
        return self._held and not self._settled

    async def hold(self) -> None:
        """Reserve the ceiling over the whole route. Raises ApiError: 402 where the credit does not reach, 503, 409."""
        chat, candidates = self._order.chat, self._route.candidates
        longest_tokens = max(candidate.endpoint.max_output_tokens for candidate in candidates)
        tokens = min(chat.max_tokens or self._default_output_tokens, longest_tokens)
        ceiling = ceiling_of(candidates, chat.choices, self._prompt.most_tokens)
        outcome = await self._hold(ceiling, tokens)
        if outcome.accepted:
            return
        # Now the exact length decides between yes and 402.
        counted = await self._count_prompt(chat)
        ceiling = ceiling_of(candidates, chat.choices, min(self._prompt.most_tokens, with_margin(counted)))
        affordable_tokens = ceiling.affordable_tokens(outcome.available_pusd)
        least_tokens = tokens if chat.max_tokens else LEAST_OUTPUT_TOKENS
        if affordable_tokens < least_tokens:
            raise not_enough(outcome, ceiling.amount_pusd(least_tokens), affordable_tokens)
        tokens = min(tokens, affordable_tokens)
        outcome = await self._hold(ceiling, tokens)
        if not outcome.accepted:
            raise not_enough(outcome, ceiling.amount_pusd(tokens), affordable_tokens)

    async def _hold(self, ceiling: Ceiling, output_tokens: int) -> HoldOutcome:
        order, key = self._order, self._order.key
        self.amount_pusd, self.output_tokens = ceiling.amount_pusd(output_tokens), output_tokens
        hold = Hold(
            request_id=order.request_id,
            account_id=key.account_id,
            tenant_id=key.tenant_id,
            key_id=key.key_id,
            amount_pusd=self.amount_pusd,
            credit_limit_pusd=key.credit_limit_pusd,
            expires_after_s=self._expires_after_s,
            pins=pins(self._route.candidates),
            claim=order.claim,
        )
        try:
            outcome = await self._books.hold(hold)
        except LedgerError as error:
            raise ApiError("ledger_unavailable", "the ledger cannot be reached; try again", None, 5.0) from error
        if outcome.reason == "claimed":  # since we looked; its own retry learns what became of it
            raise in_use()
        self._held = outcome.accepted
        return outcome

    def checkpoint(self, report: AttemptReport) -> None:
        """Note how far a running attempt has come: a hold whose process dies is settled from there."""
        tokens = tokens_so_far(report, self._order.chat, self._prompt.tokens)
        self._books.checkpoint(self._order.request_id, report.candidate.endpoint.name, tokens)

    async def settle(self, reports: Sequence[AttemptReport], ended: Ended, keep_answer: KeepAnswer) -> None:
        """Post the charge and the costs and release the rest; returns when that is durable. A second call does nothing.

        Raises LedgerError where it did not become durable. A call that is cancelled may be repeated.
        """
        if self._settled:
            return
        self._settled = True
        try:
            if reports:
                self.bill = await self._price(reports, client_left=ended.client_left)
            await self._books.settle(self._settlement(reports, ended, keep_answer(self.bill)))
        except LedgerError:
            raise
        except BaseException:
            self._settled = False  # it may not have got as far as the ledger; a second time does no harm there
            raise

    async def _price(self, reports: Sequence[AttemptReport], *, client_left: bool) -> Bill:
        """What is due for the attempts, in order."""
        deliveries: list[Delivery] = []
        for report in reports:
            counted = await self._count(report, client_left=client_left)
            deliveries.append(delivery(report, counted, client_left=client_left))
        return bill(deliveries, self.amount_pusd)

    async def _count(self, report: AttemptReport, *, client_left: bool) -> Counted:
        """Our own count, cheap where the provider's is plainly believable."""
        chat = self._order.chat
        quick = quick_count(report, chat, how_it_ended(report, client_left=client_left))
        if quick is not None:
            return quick
        size_bytes = report.reading.text_bytes + chat.prompt_bytes + len(report.added_prompt)
        if size_bytes <= SMALL_TEXT_BYTES and is_loaded():
            return count_exactly(report, chat)
        return await asyncio.to_thread(count_exactly, report, chat)

    def _settlement(self, reports: Sequence[AttemptReport], ended: Ended, answer: Answer | None) -> Settlement:
        order, key = self._order, self._order.key
        delivering = delivering_attempt(reports)
        endpoint = delivering.candidate.endpoint if delivering else None
        return Settlement(
            request_id=order.request_id,
            account_id=key.account_id,
            tenant_id=key.tenant_id,
            key_id=key.key_id,
            hold_pusd=self.amount_pusd,
            bill=self.bill,
            state=state_of(reports, client_left=ended.client_left, failed=ended.failed),
            endpoint=endpoint.name if endpoint else None,
            surface=order.surface,
            model=order.model,
            region=endpoint.region if endpoint else None,
            attempts=orjson.dumps(attempts_shown(reports)),
            ttft_ms=elapsed_ms(ended.started_s, delivering.first_content_s) if delivering else None,
            total_ms=elapsed_ms(ended.started_s, self._clock()),
            upstream_contacted=any(report.connected for report in reports),
            user=order.chat.user,
            metadata=order.chat.metadata or None,
            answer=answer,
        )


def pins(candidates: Sequence[Candidate]) -> bytes:
    """The prices that a request was admitted with: what a sweep after a crash settles by."""
    return encode_pins(
        {
            candidate.endpoint.name: Pin(
                candidate.endpoint.provider, candidate.endpoint.sandbox, candidate.sell, candidate.buy
            )
            for candidate in candidates
        }
    )
