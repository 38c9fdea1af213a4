"""The money of one request as transcripts: what is held, what is refused, what is settled. No Postgres, no socket."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
import pytest

from ledger.billing import Bill, Tokens, UsageSource
from ledger.errors import LedgerUnavailable
from ledger.journal.pins import Pin, decode_pins
from ledger.journal.writes import Answer, Claim, Settlement
from ledger.prices import Price
from ledger.request_ids import new_request_id
from providers.chat_request import ChatRequest
from providers.events import FailureKind as K
from providers.events import Usage
from proxy.entry.api_errors import ApiError
from proxy.exchange.meter import AttemptReport
from proxy.exchange.planning import CountPrompt, PromptLength, with_margin
from proxy.exchange.reservation import Ended, Order, Reservation, pins
from proxy.exchange.settlement import usage_shown
from proxy.routing.route import Candidate
from tests.proxy.exchange.books import FakeBooks
from tests.proxy.exchange.parts import BUY, SELL, candidate, chat, cut, failed, reading, report, route

USD = 10**12
CLAIM = Claim(b"c" * 32, b"hello".ljust(32))
MOST_PROMPT_TOKENS = 100  # by its bytes; what is counted is less
PROMPT_PUSD = MOST_PROMPT_TOKENS * SELL.input_pusd
COUNTED_TOKENS = 20
COUNTED_PUSD = with_margin(COUNTED_TOKENS) * SELL.input_pusd
WORD_PUSD = SELL.output_pusd


class Counter:
    """Counts every prompt alike, and how often it was asked to."""

    def __init__(self, tokens: int = COUNTED_TOKENS) -> None:
        self.asked = 0
        self._tokens = tokens

    async def __call__(self, request: ChatRequest) -> int:
        self.asked += 1
        return self._tokens


class Purchase:
    """One request of a tenant with so much credit, and what it asked of the ledger."""

    def __init__(
        self,
        credit_pusd: int = USD,
        *candidates: Candidate,
        books: FakeBooks | None = None,
        claim: Claim | None = None,
        budget_pusd: int | None = None,
        request: ChatRequest | None = None,
        count_prompt: CountPrompt | None = None,
    ) -> None:
        self.books = books or FakeBooks()
        self.key = self.books.open_account(credit_pusd, budget_pusd=budget_pusd)
        self.order = Order(new_request_id(), self.key, "chat", "hermes", request or chat(), claim)
        self.counter = Counter()
        self.reservation = Reservation(
            self.books,
            self.order,
            route(*candidates or (candidate(),)),
            PromptLength(25, MOST_PROMPT_TOKENS),
            default_output_tokens=1_000,
            expires_after_s=1_860.0,
            clock=lambda: 12.5,
            count_prompt=count_prompt or self.counter,
        )

    @property
    def asked_pusd(self) -> list[int]:
        return [hold.amount_pusd for hold in self.books.asked]

    @property
    def available_pusd(self) -> int:
        return self.books.positions_pusd[self.key.account_id]

    @property
    def settled(self) -> Settlement:
        return self.books.settlements[self.order.request_id]

    async def refused(self) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.reservation.hold()
        assert not self.reservation.unsettled
        assert self.available_pusd >= 0
        return caught.value

    async def settle(self, *reports: AttemptReport, keep: Any = lambda bill: None, **ended: bool) -> None:
        how = {"client_left": False, "failed": False} | ended
        await self.reservation.settle(reports, Ended(9.0, **how), keep)


def affordable(error: ApiError) -> int:
    return error.details["affordable_max_tokens"]


# Hold


async def test_within_credit_the_bytes_decide() -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    ceiling_pusd = PROMPT_PUSD + 1_000 * WORD_PUSD
    assert (bought.reservation.amount_pusd, bought.reservation.output_tokens) == (ceiling_pusd, 1_000)
    assert (bought.available_pusd, bought.reservation.unsettled) == (USD - ceiling_pusd, True)
    assert (len(bought.books.asked), bought.counter.asked) == (1, 0)


async def test_the_hold_says_whose_it_is_and_by_which_prices_it_settles() -> None:
    there = candidate("second", sell=Price(7, 900, 2_800, 90), provider="sandbox")
    bought = Purchase(USD, candidate(), there, claim=CLAIM)
    await bought.reservation.hold()
    [hold] = bought.books.asked
    assert (hold.request_id, hold.account_id, hold.tenant_id, hold.key_id) == (bought.order.request_id, 1, 1, 1)
    assert (hold.claim, hold.expires_after_s, hold.credit_limit_pusd) == (CLAIM, 1_860.0, 0)
    assert decode_pins(hold.pins) == {
        "first": Pin("vllm", False, SELL, BUY),
        "second": Pin("sandbox", True, Price(7, 900, 2_800, 90), BUY),
    }
    assert hold.pins == pins([candidate(), there])


@pytest.mark.parametrize(
    ("max_tokens", "longest", "held_tokens"),
    [(None, 8_192, 1_000), (300, 8_192, 300), (5_000, 8_192, 5_000), (5_000, 4_096, 4_096), (None, 512, 512)],
)
async def test_how_much_output_is_paid_for(max_tokens: int | None, longest: int, held_tokens: int) -> None:
    """What is wanted, else the default, but no more than the longest answer of the route."""
    ends_early = candidate("second", max_output_tokens=256)
    bought = Purchase(USD, candidate(max_output_tokens=longest), ends_early, request=chat(max_tokens=max_tokens))
    await bought.reservation.hold()
    assert bought.reservation.output_tokens == held_tokens
    assert bought.reservation.amount_pusd == PROMPT_PUSD + held_tokens * WORD_PUSD


async def test_every_choice_is_paid_for() -> None:
    bought = Purchase(USD, request=chat(max_tokens=100, n=3))
    await bought.reservation.hold()
    assert bought.reservation.amount_pusd == PROMPT_PUSD + 3 * 100 * WORD_PUSD


async def test_where_the_bytes_are_too_many_the_exact_count_may_do() -> None:
    bought = Purchase(COUNTED_PUSD + 1_000 * WORD_PUSD, request=chat(max_tokens=1_000))
    await bought.reservation.hold()
    assert bought.asked_pusd == [PROMPT_PUSD + 1_000 * WORD_PUSD, COUNTED_PUSD + 1_000 * WORD_PUSD]
    assert (bought.counter.asked, bought.available_pusd, bought.reservation.output_tokens) == (1, 0, 1_000)


async def test_a_count_never_raises_the_ceiling() -> None:
    """With its margin it may be above what the bytes allow."""
    bought = Purchase(PROMPT_PUSD + 300 * WORD_PUSD, count_prompt=Counter(MOST_PROMPT_TOKENS))
    await bought.reservation.hold()
    assert bought.asked_pusd[-1] == PROMPT_PUSD + 300 * WORD_PUSD


async def test_one_pico_dollar_less_is_a_402() -> None:
    wanted_pusd = COUNTED_PUSD + 1_000 * WORD_PUSD
    bought = Purchase(wanted_pusd - 1, request=chat(max_tokens=1_000))
    error = await bought.refused()
    assert (error.status, error.code, affordable(error)) == (402, "insufficient_credit", 999)
    assert error.message == "this request may cost $0.000003053; $0.000003052999 is available"
    assert len(bought.asked_pusd) == 1, "what cannot be is not asked for"


async def test_where_nobody_said_how_much_the_credit_decides() -> None:
    bought = Purchase(COUNTED_PUSD + 400 * WORD_PUSD + 5)
    await bought.reservation.hold()
    assert bought.reservation.output_tokens == 400
    assert (bought.reservation.amount_pusd, bought.available_pusd) == (COUNTED_PUSD + 400 * WORD_PUSD, 5)


async def test_but_an_answer_has_256_tokens_at_least() -> None:
    enough = Purchase(COUNTED_PUSD + 256 * WORD_PUSD)
    await enough.reservation.hold()
    assert enough.reservation.output_tokens == 256
    error = await Purchase(COUNTED_PUSD + 256 * WORD_PUSD - 1).refused()
    assert (error.status, error.code, affordable(error)) == (402, "insufficient_credit", 255)
    assert error.message.startswith("this request may cost $0.000000821;")


async def test_a_client_that_wants_less_may_have_less() -> None:
    bought = Purchase(COUNTED_PUSD + 10 * WORD_PUSD, request=chat(max_tokens=10))
    await bought.reservation.hold()
    assert bought.reservation.output_tokens == 10


async def test_without_any_credit_nothing_is_affordable() -> None:
    error = await Purchase(0).refused()
    assert (error.code, affordable(error)) == ("insufficient_credit", 0)


async def test_the_budget_of_the_key_binds_like_credit() -> None:
    bought = Purchase(USD, budget_pusd=COUNTED_PUSD + 300 * WORD_PUSD)
    await bought.reservation.hold()
    assert bought.reservation.output_tokens == 300
    error = await Purchase(USD, budget_pusd=COUNTED_PUSD + 99 * WORD_PUSD, request=chat(max_tokens=100)).refused()
    assert (error.status, error.code, affordable(error)) == (402, "budget_exceeded", 99)
    assert error.message.endswith("is left of this key's monthly budget")


async def test_another_request_may_take_the_credit_between_the_two_holds() -> None:
    books = FakeBooks()

    async def spent_meanwhile(request: ChatRequest) -> int:
        books.positions_pusd[1] = 7
        return COUNTED_TOKENS

    bought = Purchase(COUNTED_PUSD + 1_000 * WORD_PUSD, books=books, count_prompt=spent_meanwhile)
    error = await bought.refused()
    assert (error.status, error.code, bought.available_pusd) == (402, "insufficient_credit", 7)


async def test_a_claim_that_another_request_has_is_a_409() -> None:
    books = FakeBooks()
    await Purchase(USD, books=books, claim=CLAIM).reservation.hold()
    second = Purchase(USD, books=books, claim=CLAIM)
    error = await second.refused()
    assert (error.status, error.code, error.headers()["retry-after"]) == (409, "idempotency_key_in_use", "1")
    assert second.available_pusd == USD


async def test_without_the_ledger_nothing_is_held() -> None:
    bought = Purchase(USD)
    bought.books.away = True
    error = await bought.refused()
    assert (error.status, error.code, error.headers()["retry-after"]) == (503, "ledger_unavailable", "5")


# Settle


async def test_a_whole_answer_is_charged_and_the_rest_released() -> None:
    bought = Purchase(USD, candidate(region="eu-north1"), request=chat(user="ann", metadata={"app": "x"}))
    await bought.reservation.hold()
    await bought.settle(report(candidate(region="eu-north1"), usage=Usage(25, 5)))
    charge_pusd = 25 * SELL.input_pusd + 5 * SELL.output_pusd
    assert (bought.available_pusd, bought.books.holds) == (USD - charge_pusd, {})
    assert (bought.reservation.unsettled, bought.reservation.bill) == (False, bought.settled.bill)
    settled = bought.settled
    assert (settled.state, settled.endpoint, settled.region) == ("completed", "first", "eu-north1")
    assert (settled.surface, settled.model, settled.user, settled.metadata) == ("chat", "hermes", "ann", {"app": "x"})
    assert (settled.ttft_ms, settled.total_ms, settled.upstream_contacted) == (2_000, 3_500, True)
    assert (settled.hold_pusd, settled.answer) == (bought.reservation.amount_pusd, None)
    assert [attempt["endpoint"] for attempt in orjson.loads(settled.attempts)] == ["first"]


@pytest.mark.parametrize(
    ("reports", "ended", "state", "charge_pusd"),
    [
        ([report()], {}, "completed", 26 * 1_000 + 5 * 3_000),
        ([report()], {"client_left": True}, "client_left", 26 * 1_000 + 5 * 3_000),
        ([cut("The herald", usage=Usage(26, 2))], {"failed": True}, "cut", 26 * 1_000 + 2 * 3_000),
        ([failed(K.SERVER_ERROR), failed(K.CUT)], {"failed": True}, "failed", 0),
    ],
)
async def test_what_is_charged_in_which_state(
    reports: Sequence[AttemptReport], ended: dict[str, bool], state: str, charge_pusd: int
) -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    await bought.settle(*reports, **ended)
    assert (bought.settled.state, USD - bought.available_pusd) == (state, charge_pusd)


async def test_where_nothing_was_tried_all_is_released() -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    await bought.settle(failed=True)
    settled = bought.settled
    assert (settled.state, settled.bill, settled.endpoint, settled.ttft_ms) == ("failed", None, None, None)
    assert (settled.upstream_contacted, bought.available_pusd) == (False, USD)


@pytest.mark.parametrize("connected", [True, False])
async def test_an_endpoint_was_contacted_once_there_was_a_connection(connected: bool) -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    await bought.settle(failed(K.CONNECT, connected=False), failed(K.SERVER_ERROR, connected=connected), failed=True)
    assert (bought.settled.upstream_contacted, bought.settled.endpoint) == (connected, "first")


@pytest.mark.parametrize(("words", "charge_pusd", "flags"), [(25, 101_000, ()), (26, 103_000, ("beyond_hold",))])
async def test_the_hold_bounds_the_charge(words: int, charge_pusd: int, flags: tuple[str, ...]) -> None:
    """An endpoint that writes more than it was asked to: the hold is for 100 tokens of prompt and one of output."""
    bought = Purchase(USD, request=chat(max_tokens=1))
    await bought.reservation.hold()
    assert bought.reservation.amount_pusd == 103_000
    await bought.settle(report(usage=Usage(26, words), reading=reading("word " * words)))
    assert bought.reservation.bill is not None
    assert (USD - bought.available_pusd, bought.reservation.bill.flags) == (charge_pusd, flags)


@pytest.mark.parametrize("words", [5, 5_000], ids=["a short text", "a long one"])
async def test_what_the_provider_does_not_say_is_counted(words: int) -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    await bought.settle(report(usage=None, reading=reading(" word" * words)))
    assert bought.reservation.bill is not None
    assert bought.reservation.bill.source is UsageSource.COUNTED
    assert bought.reservation.bill.tokens == Tokens(25, completion=words)


async def test_a_second_settlement_is_not_sent() -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    await bought.settle(report())
    first = bought.settled
    bought.books.settlements.clear()
    await bought.settle(cut("The herald"), failed=True)
    assert (bought.books.settlements, bought.reservation.bill) == ({}, first.bill)


async def test_a_cancelled_settlement_may_be_repeated() -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    bought.books.silent = True
    task = asyncio.create_task(bought.settle(report()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (bought.reservation.unsettled, bought.books.settlements) == (True, {})
    bought.books.silent = False
    await bought.settle(report(), client_left=True)
    assert (bought.reservation.unsettled, bought.settled.state) == (False, "client_left")


async def test_a_settlement_that_did_not_become_durable_is_told_and_not_repeated() -> None:
    """The ledger keeps it queued; a second one would only stand behind it."""
    bought = Purchase(USD)
    await bought.reservation.hold()
    bought.books.away = True
    with pytest.raises(LedgerUnavailable):
        await bought.settle(report())
    assert not bought.reservation.unsettled
    bought.books.away = False
    await bought.settle(report())
    assert bought.books.settlements == {}


async def test_the_answer_that_is_kept_tells_its_price() -> None:
    bought = Purchase(USD, claim=CLAIM)
    await bought.reservation.hold()

    def keep(bill: Bill | None) -> Answer:
        assert bill is not None
        return Answer(whole=True, sealed=orjson.dumps(usage_shown(bill)))

    await bought.settle(report(), keep=keep)
    assert bought.settled.answer is not None
    assert orjson.loads(bought.settled.answer.sealed or b"")["cost"] == 0.000000041
    assert bought.books.claims == {CLAIM.id: bought.order.request_id}


async def test_a_claim_without_a_whole_answer_is_given_back() -> None:
    bought = Purchase(USD, claim=CLAIM)
    await bought.reservation.hold()
    await bought.settle(failed(), keep=lambda bill: Answer(whole=False), failed=True)
    assert bought.books.claims == {}


async def test_what_was_never_held_is_not_open() -> None:
    bought = Purchase(0)
    assert not bought.reservation.unsettled
    await bought.refused()


# Checkpoints


async def test_a_checkpoint_notes_the_prompt_and_what_has_come() -> None:
    bought = Purchase(USD)
    await bought.reservation.hold()
    running = {"ended_s": None, "done": False, "finished": False, "finish_reason": None}
    bought.reservation.checkpoint(report(usage=None, reading=reading("The herald"), **running))
    assert bought.books.checkpoints == {bought.order.request_id: ("first", Tokens(25, completion=2))}
    bought.reservation.checkpoint(report(candidate("second"), usage=Usage(26, 3), **running))
    assert bought.books.checkpoints == {bought.order.request_id: ("second", Tokens(26, completion=3))}
