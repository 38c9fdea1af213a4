"""What a reservation relies on, of the ledger in memory and of the real one: both pass the same tests."""

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key
from ledger.accounts.credit import add_credit
from ledger.accounts.tenants import create_tenant
from ledger.billing import Bill, Delivery, Ending, Tokens, UsageSource, bill
from ledger.errors import HoldRefused
from ledger.journal.store import Store
from ledger.journal.writes import Answer, Claim, Hold, HoldOutcome, Settlement
from ledger.keys import KeyRecord, digest
from ledger.request_ids import new_request_id
from proxy.exchange.reservation import pins
from tests.proxy.exchange.books import FakeBooks
from tests.proxy.exchange.parts import BUY, SELL, candidate

USD = 10**12
SECRET_KEY = b"0123456789abcdef"
CLAIM = Claim(b"c" * 32, b"hello".ljust(32))


class InMemory:
    def __init__(self) -> None:
        self.books: Any = FakeBooks()

    async def open_account(self, credit_pusd: int, **limits: int) -> KeyRecord:
        return self.books.open_account(credit_pusd, **limits)

    async def position(self, key: KeyRecord) -> tuple[int, int]:
        """Available and held."""
        return self.books.positions_pusd[key.account_id], self.books.held_pusd(key.account_id)


class InPostgres:
    def __init__(self, url: str, store: Store) -> None:
        self.books = store
        self._url = url
        self._numbers = count()

    async def open_account(
        self, credit_pusd: int, *, budget_pusd: int | None = None, credit_limit_pusd: int = 0
    ) -> KeyRecord:
        name = f"tenant-{next(self._numbers)}"
        async with administration(self._url) as db:
            await create_tenant(db, name, actor="test", credit_limit_pusd=credit_limit_pusd)
            if credit_pusd:
                await add_credit(db, name, credit_pusd, reference=name, actor="test")
            _, text = await create_key(db, name, SECRET_KEY, actor="test", budget_pusd=budget_pusd)
        record = await self.books.find_key(digest(text, SECRET_KEY))
        assert record is not None
        return record

    async def position(self, key: KeyRecord) -> tuple[int, int]:
        db = await asyncpg.connect(self._url)
        try:
            row = await db.fetchrow("SELECT available - owed, held FROM account WHERE id = $1", key.account_id)
        finally:
            await db.close()
        return int(row[0]), int(row[1])


Ledger = InMemory | InPostgres


@pytest.fixture(params=["in memory", "in Postgres"])
def url(request: pytest.FixtureRequest) -> str | None:
    return request.getfixturevalue("database_url") if request.param == "in Postgres" else None


@pytest.fixture
async def ledger(url: str | None) -> AsyncIterator[Ledger]:
    if url is None:
        yield InMemory()
        return
    async with Store.open(url, server_name="test") as store:
        yield InPostgres(url, store)


def held(key: KeyRecord, amount_pusd: int, claim: Claim | None = None) -> Hold:
    return Hold(
        request_id=new_request_id(),
        account_id=key.account_id,
        tenant_id=key.tenant_id,
        key_id=key.key_id,
        amount_pusd=amount_pusd,
        credit_limit_pusd=key.credit_limit_pusd,
        expires_after_s=60.0,
        pins=pins([candidate()]),
        claim=claim,
    )


def delivered(completion_tokens: int, hold_pusd: int) -> Bill:
    """3,000 pico-dollars a token."""
    tokens = Tokens(0, completion=completion_tokens)
    told = {"reported": None, "reported_source": UsageSource.PROVIDER, "counted": tokens, "counted_exactly": True}
    there: dict[str, Any] = {"endpoint": "first", "provider": "vllm", "sandbox": False, "sell": SELL, "buy": BUY}
    return bill([Delivery(**there, **told, ending=Ending.COMPLETE)], hold_pusd)


def settlement(hold: Hold, due: Bill | None = None, answer: Answer | None = None) -> Settlement:
    return Settlement(
        request_id=hold.request_id,
        account_id=hold.account_id,
        tenant_id=hold.tenant_id,
        key_id=hold.key_id,
        hold_pusd=hold.amount_pusd,
        bill=due,
        state="completed",
        endpoint="first",
        surface="chat",
        model="hermes",
        region=None,
        attempts=b"[]",
        total_ms=1,
        upstream_contacted=True,
        answer=answer,
    )


def accepted(available_pusd: int) -> HoldOutcome:
    return HoldOutcome(True, available_pusd)


async def test_holds_are_accepted_as_long_as_there_is_credit(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    assert await ledger.books.hold(held(acme, 6 * USD)) == accepted(4 * USD)
    assert await ledger.books.hold(held(acme, 4 * USD + 1)) == HoldOutcome(False, 4 * USD, "credit")
    assert await ledger.books.hold(held(acme, 4 * USD)) == accepted(0)
    assert await ledger.position(acme) == (0, 10 * USD)


async def test_a_credit_limit_may_be_held_too(ledger: Ledger) -> None:
    acme = await ledger.open_account(0, credit_limit_pusd=2 * USD)
    assert await ledger.books.hold(held(acme, USD)) == accepted(USD)
    assert await ledger.books.hold(held(acme, 2 * USD)) == HoldOutcome(False, USD, "credit")


async def test_a_key_holds_no_more_than_its_budget(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD, budget_pusd=2 * USD)
    assert await ledger.books.hold(held(acme, USD)) == accepted(USD)
    assert await ledger.books.hold(held(acme, USD + 1)) == HoldOutcome(False, USD, "budget")
    assert await ledger.books.hold(held(acme, 11 * USD)) == HoldOutcome(False, USD, "credit")


async def test_what_is_charged_counts_against_the_budget(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD, budget_pusd=2 * USD)
    await ledger.books.hold(hold := held(acme, 2 * USD))
    await ledger.books.settle(settlement(hold, delivered(1_000, hold.amount_pusd)))
    left_pusd = 2 * USD - 3_000_000
    assert await ledger.books.hold(held(acme, 2 * USD)) == HoldOutcome(False, left_pusd, "budget")
    assert await ledger.books.hold(held(acme, left_pusd)) == accepted(0)


async def test_one_request_is_held_once(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    hold = held(acme, 6 * USD)
    assert [await ledger.books.hold(hold), await ledger.books.hold(hold)] == [accepted(4 * USD)] * 2
    assert await ledger.position(acme) == (4 * USD, 6 * USD)


async def test_a_settlement_charges_and_releases_the_rest(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    await ledger.books.hold(hold := held(acme, 6 * USD))
    await ledger.books.settle(settlement(hold, delivered(1_000, hold.amount_pusd)))
    assert await ledger.position(acme) == (10 * USD - 3_000_000, 0)


async def test_a_settlement_without_a_bill_releases_all(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    await ledger.books.hold(hold := held(acme, 6 * USD))
    await ledger.books.settle(settlement(hold))
    assert await ledger.position(acme) == (10 * USD, 0)


async def test_a_second_settlement_changes_nothing(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    await ledger.books.hold(hold := held(acme, 6 * USD))
    for tokens in (1_000, 1_000, 9_000):
        await ledger.books.settle(settlement(hold, delivered(tokens, hold.amount_pusd)))
        assert await ledger.position(acme) == (10 * USD - 3_000_000, 0)


async def test_a_request_that_is_over_is_not_held_again(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    await ledger.books.hold(hold := held(acme, USD))
    await ledger.books.settle(settlement(hold))
    assert await ledger.books.hold(hold) == HoldOutcome(False, 10 * USD, "over")


async def test_a_claim_is_one_requests_until_that_is_over(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    await ledger.books.hold(first := held(acme, USD, CLAIM))
    another = held(acme, USD, CLAIM)
    assert await ledger.books.hold(another) == HoldOutcome(False, 0, "claimed")
    assert await ledger.books.hold(held(acme, USD, replace(CLAIM, id=b"d" * 32))) == accepted(8 * USD)
    await ledger.books.settle(settlement(first, answer=Answer(whole=False)))
    assert await ledger.books.hold(another) == accepted(8 * USD)


async def test_a_whole_answer_keeps_its_claim(ledger: Ledger) -> None:
    acme = await ledger.open_account(10 * USD)
    await ledger.books.hold(first := held(acme, USD, CLAIM))
    for whole in (True, False):
        await ledger.books.settle(settlement(first, answer=Answer(whole=whole)))
        assert (await ledger.books.hold(held(acme, USD, CLAIM))).reason == "claimed"


async def test_what_is_not_held_claims_nothing(ledger: Ledger) -> None:
    acme = await ledger.open_account(USD)
    assert (await ledger.books.hold(held(acme, 2 * USD, CLAIM))).reason == "credit"
    assert await ledger.books.hold(held(acme, USD, CLAIM)) == accepted(0)


async def test_an_account_that_is_no_tenants_holds_nothing(ledger: Ledger) -> None:
    acme = await ledger.open_account(USD)
    with pytest.raises(HoldRefused):
        await ledger.books.hold(replace(held(acme, 1), account_id=10**9))


async def test_a_checkpoint_of_any_request_is_taken(ledger: Ledger) -> None:
    ledger.books.checkpoint(UUID(int=1), "first", Tokens(1))
