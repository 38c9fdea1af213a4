"""What becomes of a batch that fails: posted again, cut in two, or kept until Postgres is back."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from ledger.errors import LedgerUnavailable
from ledger.journal.group_commit import Remedy, remedy
from ledger.journal.store import Store

USD = 10**12
CHARGE_PUSD = 160_000_000
COUNT = "SELECT count(*) FROM request"


@pytest.mark.parametrize(
    ("error", "connected", "wanted"),
    [
        (asyncpg.DeadlockDetectedError("deadlock"), True, Remedy.AGAIN),
        (asyncpg.SerializationError("serialization"), True, Remedy.AGAIN),
        (asyncpg.QueryCanceledError("statement timeout"), True, Remedy.AGAIN),
        (asyncpg.CheckViolationError("held"), True, Remedy.REFUSED),
        (asyncpg.InvalidTextRepresentationError("json"), True, Remedy.REFUSED),
        (asyncpg.RaiseError("by a function"), True, Remedy.REFUSED),
        (ValueError("a bug of ours"), True, Remedy.REFUSED),
        (asyncpg.ConnectionDoesNotExistError("in the middle"), True, Remedy.AWAY),
        (asyncpg.InterfaceError("connection is closed"), False, Remedy.AWAY),
        (asyncpg.AdminShutdownError("terminating"), False, Remedy.AWAY),
        (asyncpg.CannotConnectNowError("starting up"), True, Remedy.AWAY),
        (asyncpg.DiskFullError("no space"), True, Remedy.AWAY),
        (asyncpg.ReadOnlySQLTransactionError("a standby"), True, Remedy.AWAY),
        (ConnectionResetError(), True, Remedy.AWAY),
        (TimeoutError(), True, Remedy.AWAY),
    ],
)
def test_what_becomes_of_a_batch(error: Exception, connected: bool, wanted: Remedy) -> None:
    assert remedy(error, connected=connected) is wanted


async def test_an_answer_that_is_lost_is_asked_for_again_and_nothing_is_posted_twice(books: Any, gate: Any) -> None:
    acme = await books.customer("10.00")
    async with books.store(url=gate.url) as store:
        holds = [acme.hold(USD) for _ in range(8)]
        gate.swallow = holds[3].request_id.bytes
        outcomes = await asyncio.gather(*map(store.hold, holds))
        assert all(outcome.accepted for outcome in outcomes)
        assert await books.position(acme) == (2 * USD, 8 * USD, 0)
        settlements = [books.settlement(hold) for hold in holds]
        gate.swallow = holds[5].request_id.bytes
        await asyncio.gather(*map(store.settle, settlements))
        assert gate.swallowed == 2
    assert await books.position(acme) == (10 * USD - 8 * CHARGE_PUSD, 0, 0)


async def test_a_backend_that_is_killed_in_the_middle_costs_nothing(books: Any, store: Store) -> None:
    acme = await books.customer("1000.00")
    killed = 0

    async def one() -> None:
        hold = acme.hold(USD)
        assert (await store.hold(hold)).accepted
        await store.settle(books.settlement(hold))

    async def kill() -> None:
        """Between two kills something is written: a hold bears one failure, and not two in a row."""
        nonlocal killed
        for _ in range(3):
            before = await books.value(COUNT)
            await books.eventually(lambda before=before: progressed(before), True, timeout_s=30)
            for pid in await books.backends("caduceus one writer"):
                killed += await books.value("SELECT pg_terminate_backend($1)", pid)

    async def progressed(before: int) -> bool:
        count = await books.value(COUNT)
        return bool(count > before or count == 300)

    async def many() -> None:
        for _ in range(30):
            await one()

    await asyncio.gather(kill(), *(many() for _ in range(10)))
    assert killed >= 2
    assert await books.position(acme) == (1000 * USD - 300 * CHARGE_PUSD, 0, 0)
    assert await books.value(COUNT) == 300


async def test_while_postgres_is_away_holds_fail_at_once_and_settlements_wait(books: Any, gate: Any) -> None:
    acme = await books.customer("10.00")
    async with books.store(url=gate.url) as store:
        hold = acme.hold(USD)
        await store.hold(hold)
        await gate.shut()
        lost = acme.hold(USD)
        started_s = time.monotonic()
        with pytest.raises(LedgerUnavailable):
            await store.hold(lost)
        settling = asyncio.create_task(store.settle(books.settlement(hold)))
        with pytest.raises(LedgerUnavailable):
            await store.hold(acme.hold(USD))
        assert time.monotonic() - started_s < 3
        assert not store.healthy
        with pytest.raises(LedgerUnavailable):
            await store.find_key(b"not in memory")
        assert not settling.done()
        await gate.open()
        await settling
        async with asyncio.timeout(2):
            while not store.healthy:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (await store.hold(acme.hold(0))).accepted
    assert await books.position(acme) == (10 * USD - CHARGE_PUSD, 0, 0)


async def test_a_settlement_whose_caller_gave_up_is_posted_all_the_same(books: Any, gate: Any) -> None:
    acme = await books.customer("10.00")
    async with books.store(url=gate.url) as store:
        hold = acme.hold(USD)
        await store.hold(hold)
        await gate.shut()
        with pytest.raises(LedgerUnavailable, match="is queued"):
            await store.settle(books.settlement(hold), timeout_s=0.1)
        await gate.open()
        await books.eventually(lambda: books.position(acme), (10 * USD - CHARGE_PUSD, 0, 0))


async def test_a_hold_that_failed_although_it_was_written_is_given_back(books: Any, gate: Any) -> None:
    acme = await books.customer("10.00")
    async with books.store(url=gate.url) as store:
        await store.hold(acme.hold(0))
        hold = acme.hold(USD)
        gate.swallow = hold.request_id.bytes
        holding = asyncio.create_task(store.hold(hold))
        while not gate.swallowed:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await gate.shut()
        with pytest.raises(LedgerUnavailable):
            await holding
        assert await books.position(acme) == (9 * USD, USD, 0)
        await gate.open()
        await books.eventually(lambda: books.position(acme), (10 * USD, 0, 0))


async def test_a_lock_that_is_not_given_up_fails_holds_after_a_while(
    books: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = await books.customer("10.00")
    hold, settled = acme.hold(USD), acme.hold(USD)
    await store.hold(settled)
    with monkeypatch.context() as impatient:
        impatient.setattr("ledger.journal.group_commit.POST_TIMEOUT_S", 0.1)
        async with books.owner.transaction():
            await books.owner.execute("SELECT FROM account WHERE id = $1 FOR UPDATE", acme.account_id)
            settling = asyncio.create_task(store.settle(books.settlement(settled)))
            with pytest.raises(LedgerUnavailable):
                await store.hold(hold)
            assert not settling.done()
    await settling
    await books.eventually(lambda: books.position(acme), (10 * USD - CHARGE_PUSD, 0, 0))


async def test_a_deadlock_is_tried_again(books: Any, store: Store) -> None:
    one, two = await books.customer("10.00"), await books.customer("10.00")
    lock = "SELECT FROM account WHERE id = $1 FOR UPDATE"
    async with books.owner.transaction():
        await books.owner.execute(lock, two.account_id)
        holding = asyncio.gather(store.hold(one.hold(USD)), store.hold(two.hold(USD)))
        waiting = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
        await books.eventually(lambda: books.value(waiting), True)
        # Who waits first looks for a deadlock first, and gives way: the store.
        await books.owner.execute(lock, one.account_id)
    assert [outcome.accepted for outcome in await holding] == [True, True]
    assert await books.position(one) == await books.position(two) == (9 * USD, USD, 0)


async def test_many_gather_while_one_batch_commits(books: Any, store: Store) -> None:
    acme = await books.customer("1000.00")
    await asyncio.gather(*(store.hold(acme.hold(USD)) for _ in range(400)))
    stamps = await books.value("SELECT count(DISTINCT created_at) FROM hold")
    assert stamps <= 10  # of batches, each of which has one
