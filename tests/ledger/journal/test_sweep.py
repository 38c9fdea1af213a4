"""A process that dies leaves holds; whoever finds them settles them from their last checkpoint."""

import asyncio
from typing import Any

import pytest

from ledger.billing import Tokens, bill
from ledger.journal.store import Store
from ledger.journal.sweep import dead_holds, settle_from_checkpoint

USD = 10**12
CHARGE_PUSD = 160_000_000
PROMPT, COMPLETION = 1_000_000, 3_000_000  # pico-dollars a token


async def die(
    books: Any, customer: Any, *, checkpoint: Tokens | None, expires_after_s: float = 60.0, name: str = "one"
) -> Any:
    """A process that holds, notes `checkpoint` and is killed."""
    hold = customer.hold(USD, expires_after_s=expires_after_s)
    async with books.store(name) as store:
        await store.hold(hold)
        if checkpoint is not None:
            store.checkpoint(hold.request_id, "nebius", Tokens(1))
            store.checkpoint(hold.request_id, "nebius", checkpoint)
            written = "SELECT checkpoint_completion FROM hold WHERE request_id = $1"
            await books.eventually(lambda: books.value(written, hold.request_id), checkpoint.completion)
    return hold


@pytest.mark.parametrize(
    ("checkpoint", "charge_pusd", "source", "contacted"),
    [
        (None, 0, None, False),  # before any upstream byte
        (Tokens(100), 0, "counted", True),  # contacted, nothing delivered
        (Tokens(100, completion=7), 100 * PROMPT + 7 * COMPLETION, "estimated", True),
        (Tokens(900_000, completion=900_000), USD, "estimated", True),  # at most the hold
    ],
)
async def test_a_process_settles_at_once_what_its_earlier_run_left(
    books: Any, checkpoint: Tokens | None, charge_pusd: int, source: str | None, contacted: bool
) -> None:
    acme = await books.customer("10.00")
    hold = await die(books, acme, checkpoint=checkpoint)
    assert await books.position(acme) == (9 * USD, USD, 0)
    async with books.store():
        pass
    assert await books.position(acme) == (10 * USD - charge_pusd, 0, 0)
    request = await books.request(hold.request_id)
    assert (request["state"], request["swept"], request["charge_pusd"]) == ("expired", True, charge_pusd)
    assert (request["usage_source"], request["upstream_contacted"]) == (source, contacted)


async def test_anothers_hold_is_swept_only_when_its_timeout_and_its_owners_lease_have_lapsed(books: Any) -> None:
    acme = await books.customer("10.00")
    living = acme.hold(USD, expires_after_s=0)
    async with books.store("living") as store:
        await store.hold(living)
        await die(books, acme, checkpoint=None, name="dead", expires_after_s=60)
        swept = await die(books, acme, checkpoint=None, name="dead too", expires_after_s=0)
        await books.owner.execute("UPDATE server SET lease_until = now() + interval '1 hour' WHERE name = 'dead too'")
        async with books.store("finder"):
            assert await books.value("SELECT count(*) FROM hold") == 3
        await books.owner.execute("UPDATE server SET lease_until = now() WHERE name = 'dead too'")
        async with books.store("finder"):
            assert await books.value("SELECT count(*) FROM hold") == 2
        assert (await books.request(swept.request_id))["state"] == "expired"
        await store.settle(books.settlement(living))
        await books.owner.execute("UPDATE hold SET expires_at = now()")
        async with books.store("finder"):
            assert await books.value("SELECT count(*) FROM hold") == 0


async def test_a_settlement_that_comes_after_the_sweep_posts_the_difference_once(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    dead = [
        await die(books, acme, checkpoint=Tokens(100, completion=completion), name=f"dead {completion}")
        for completion in (7, 90)
    ]
    for completion in (7, 90):
        async with books.store(f"dead {completion}"):
            pass
    late = [books.settlement(hold) for hold in dead]
    await asyncio.gather(*map(store.settle, late), *map(store.settle, late))
    await asyncio.gather(*map(store.settle, late))
    assert await books.position(acme) == (10 * USD - 2 * CHARGE_PUSD, 0, 0)
    differences = await books.owner.fetch("SELECT difference_pusd FROM correction ORDER BY 1")
    assert [row[0] for row in differences] == [-70 * COMPLETION, 13 * COMPLETION]
    shown = await books.owner.fetch(
        "SELECT kind, corrects_ordinal FROM transfer WHERE transaction_id = $1 ORDER BY ordinal", dead[0].request_id
    )
    assert [tuple(row) for row in shown] == [
        ("charge", None),
        ("cost", None),
        ("reversal", 0),
        ("reversal", 1),
        ("charge", None),
        ("cost", None),
    ]


async def test_a_late_settlement_of_nothing_gives_back_what_was_estimated(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = await die(books, acme, checkpoint=Tokens(100, completion=7), name="dead")
    async with books.store("dead"):
        pass
    await store.settle(books.settlement(hold, None, state="failed"))
    assert await books.position(acme) == (10 * USD, 0, 0)


async def test_a_late_settlement_may_leave_a_tenant_owing(books: Any, store: Store) -> None:
    acme = await books.customer("1.00")
    hold = await die(books, acme, checkpoint=Tokens(0, completion=1), name="dead")
    async with books.store("dead"):
        pass
    other = acme.hold(USD - COMPLETION)
    assert (await store.hold(other)).accepted
    await store.settle(books.settlement(hold, bill([books.delivery(500_000, 0)], USD)))
    assert await books.position(acme) == (0, USD - COMPLETION, USD // 2 - COMPLETION)
    await store.settle(books.settlement(other, None, state="failed"))


async def test_a_sweep_after_the_settlement_changes_nothing(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold(USD, expires_after_s=0)
    await store.hold(hold)
    [found] = await dead_holds(books.owner, store._owner, "one")
    await store.settle(books.settlement(hold))
    await store._put_settlement(settle_from_checkpoint(found), swept=True)
    assert await books.position(acme) == (10 * USD - CHARGE_PUSD, 0, 0)
    assert not (await books.request(hold.request_id))["swept"]
