"""Claims of Idempotency-Keys: one request has it, and it answers or is free again when that is over."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from ledger.journal.store import Store
from ledger.journal.sweep import dead_holds, settle_from_checkpoint
from ledger.journal.writes import Answer, Claim, Hold, HoldOutcome

USD = 10**12
SEALED = b"\0sealed\xff"
COUNT = "SELECT count(*) FROM claim"


def claim(name: str = "order 66", body: str = "hello") -> Claim:
    return Claim(sha256(name.encode()).digest(), sha256(body.encode()).digest())


def claiming(customer: Any, wanted: Claim | None = None, amount_pusd: int = USD, **settings: Any) -> Hold:
    hold: Hold = replace(customer.hold(amount_pusd, **settings), claim=wanted or claim())
    return hold


def reasons(outcomes: Sequence[HoldOutcome]) -> list[str | None]:
    return [outcome.reason for outcome in outcomes]


async def test_of_fifty_at_once_in_two_processes_one_has_it(books: Any) -> None:
    acme = await books.customer("100.00")
    async with books.store("one") as one, books.store("two") as two:
        holds = [(store, claiming(acme)) for _ in range(25) for store in (one, two)]
        outcomes = await asyncio.gather(*(store.hold(hold) for store, hold in holds))
        assert sorted(map(str, reasons(outcomes))) == ["None"] + ["claimed"] * 49
        store, winner = next(pair for pair, outcome in zip(holds, outcomes, strict=True) if outcome.accepted)
        found = await two.find_claim(claim().id)
        assert found is not None
        assert (found.request_id, found.body, found.finished) == (winner.request_id, claim().body, False)
        assert await books.position(acme) == (99 * USD, USD, 0)
        await store.settle(books.settlement(winner, answer=Answer(whole=True, sealed=SEALED)))


async def test_in_one_batch_each_gets_its_own_outcome(books: Any, store: Store) -> None:
    acme, poor = await books.customer("100.00"), await books.customer("1.00")
    holds = [
        acme.hold(),
        claiming(acme),
        poor.hold(2 * USD),
        claiming(acme, claim(body="another")),
        claiming(poor, claim("poor's"), 2 * USD),
        acme.hold(),
        claiming(acme, claim("another")),
        claiming(poor, claim("poor's"), USD),
    ]
    async with books.owner.transaction():
        await books.owner.execute("SELECT FROM account FOR UPDATE")
        first = asyncio.create_task(store.hold(acme.hold()))
        await books.eventually(lambda: books.value("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"), True)
        together = asyncio.gather(*map(store.hold, holds))
        await asyncio.sleep(0.05)
    assert (await first).accepted
    # Of the last two the first had the first word, though it was not held: whoever asks again finds the key free.
    assert reasons(await together) == [None, None, "credit", "claimed", "credit", None, None, "claimed"]
    assert await books.value(COUNT) == 2
    assert await books.position(acme) == (95 * USD, 5 * USD, 0)
    assert (await store.hold(holds[-1])).accepted


async def test_what_is_not_held_claims_nothing(books: Any, store: Store) -> None:
    poor = await books.customer("0.50")
    assert (await store.hold(claiming(poor))).reason == "credit"
    assert await store.find_claim(claim().id) is None
    assert (await store.hold(claiming(poor, amount_pusd=1))).accepted


async def test_a_hold_may_come_twice(books: Any, store: Store) -> None:
    """The answer to a commit was lost, and its batch comes again."""
    acme = await books.customer()
    hold = claiming(acme)
    assert reasons([await store.hold(hold), await store.hold(hold)]) == [None, None]
    assert await books.value(COUNT) == 1


async def test_whoever_does_not_wait_for_its_hold_has_no_claim(books: Any, store: Store) -> None:
    acme = await books.customer()
    async with books.owner.transaction():
        await books.owner.execute("SELECT FROM account FOR UPDATE")
        holding = asyncio.create_task(store.hold(claiming(acme)))
        await books.eventually(lambda: books.value("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"), True)
        holding.cancel()
        await asyncio.wait([holding])
    assert (await store.hold(acme.hold(1))).accepted  # the void was written before this
    assert await books.value(COUNT) == 0


@pytest.mark.parametrize("sealed", [SEALED, None], ids=["kept", "too large"])
async def test_a_whole_answer_stays_whatever_is_settled_later(books: Any, store: Store, sealed: bytes | None) -> None:
    acme = await books.customer()
    hold = claiming(acme)
    await store.hold(hold)
    for answer in (Answer(True, sealed), Answer(False), Answer(True, b"another")):
        await store.settle(books.settlement(hold, answer=answer))
        found = await store.find_claim(claim().id)
        assert found is not None
        assert (found.finished, found.sealed) == (True, sealed)
    assert (await store.hold(claiming(acme))).reason == "claimed"


async def test_without_a_whole_answer_it_is_free(books: Any, store: Store) -> None:
    acme = await books.customer()
    hold = claiming(acme)
    await store.hold(hold)
    await store.settle(books.settlement(hold, state="cut", answer=Answer(whole=False)))
    assert await store.find_claim(claim().id) is None
    assert (await store.hold(claiming(acme, claim(body="another")))).accepted


async def test_what_a_dead_process_claimed_is_free_once_it_is_swept(books: Any) -> None:
    acme = await books.customer()
    async with books.store() as store:
        await store.hold(claiming(acme))
    assert await books.value(COUNT) == 1
    async with books.store() as store:
        assert await store.find_claim(claim().id) is None
        assert (await store.hold(claiming(acme))).accepted


async def test_an_answer_after_the_sweep_does_not_take_the_claim_back(books: Any, store: Store) -> None:
    acme = await books.customer()
    slow, next_one = claiming(acme, expires_after_s=0), claiming(acme)
    await store.hold(slow)
    [dead] = await dead_holds(books.owner, store._owner or 0, "one")
    await store._put_settlement(settle_from_checkpoint(dead), swept=True)
    assert (await store.hold(next_one)).accepted
    await store.settle(books.settlement(slow, answer=Answer(whole=True, sealed=SEALED)))
    found = await store.find_claim(claim().id)
    assert found is not None
    assert (found.request_id, found.finished) == (next_one.request_id, False)


async def test_an_answer_is_kept_for_a_day_and_then_purged(books: Any, store: Store) -> None:
    acme = await books.customer()
    old, young, running = (claiming(acme, claim(name)) for name in ("old", "young", "running"))
    for hold in (old, young, running):
        await store.hold(hold)
    for hold in (old, young):
        await store.settle(books.settlement(hold, answer=Answer(whole=True, sealed=SEALED)))
    age = "UPDATE claim SET finished_at = finished_at - $2::interval WHERE request_id = $1"
    day = await books.value("SELECT claim_kept()")
    await books.owner.execute(age, old.request_id, day * 1.001)
    await books.owner.execute(age, young.request_id, day * 0.99)
    await books.owner.execute("UPDATE claim SET claimed_at = claimed_at - interval '1 year'")
    assert await store.find_claim(claim("old").id) is None
    await store._purge()
    assert await books.value(COUNT) == 2
    assert await store.find_claim(claim("young").id) is not None


async def test_one_too_old_to_answer_is_claimed_anew_without_a_purge(books: Any, store: Store) -> None:
    acme = await books.customer()
    old, new = claiming(acme), claiming(acme)
    await store.hold(old)
    await store.settle(books.settlement(old, answer=Answer(whole=True, sealed=SEALED)))
    await books.owner.execute("UPDATE claim SET finished_at = finished_at - 2 * claim_kept()")
    assert (await store.hold(new)).accepted
    assert await books.value("SELECT request_id FROM claim") == new.request_id


async def test_large_answers_travel_in_batches_of_their_own(
    books: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.journal.group_commit.BATCH_ANSWER_BYTES", 1_000)
    acme = await books.customer("100.00")
    holds = [claiming(acme, claim(str(number))) for number in range(20)]
    await asyncio.gather(*map(store.hold, holds))
    before = await books.value("SELECT count(DISTINCT finished_at) FROM claim")
    answer = Answer(whole=True, sealed=b"x" * 600)
    await asyncio.gather(*(store.settle(books.settlement(hold, answer=answer)) for hold in holds))
    # A batch has one instant.
    assert (before, await books.value("SELECT count(DISTINCT finished_at) FROM claim")) == (0, 10)
