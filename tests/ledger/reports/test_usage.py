"""The usage report: one definition of a row, for the command line and for the serving process."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.accounts.administration import administration, driver
from ledger.accounts.api_keys import create_key
from ledger.billing import Tokens, bill
from ledger.errors import Refused
from ledger.journal.store import Store
from ledger.journal.sweep import dead_holds, settle_from_checkpoint
from ledger.papers.periods import Period, month_period
from ledger.reports.usage import GROUPS, MEASURES, UsageRow, usage

USD = 10**12


async def report(books: Any, customer: Any, period: Period | None = None, **wishes: Any) -> list[UsageRow]:
    """As the command line reads it, which must be what the serving process reads."""
    async with administration(books.url) as db:
        found = await usage(await driver(db), customer.tenant_id, period, "UTC", **wishes)
    async with books.store("reader") as store, store.reading() as connection:
        assert await usage(connection, customer.tenant_id, period, "UTC", **wishes) == found
    return list(found)


def whole(**sums: int) -> UsageRow:
    return UsageRow(None, {measure.name: sums.get(measure.name, 0) for measure in MEASURES})


async def settled(
    books: Any, store: Store, customer: Any, *, contacted: bool = True, cached: int = 0, **said: Any
) -> None:
    hold = customer.hold()
    await store.hold(hold)
    due = bill([books.delivery(reported=Tokens(100, cached, 20, 5))], hold.amount_pusd) if contacted else None
    await store.settle(books.settlement(hold, due, upstream_contacted=contacted, **said))


async def test_usage_counts_what_reached_an_upstream_and_groups_it(books: Any, store: Store) -> None:
    acme, other = await books.customer(), await books.customer()
    await settled(books, store, acme, user="bob", cached=40)
    await settled(books, store, acme, user="eve")
    await settled(books, store, acme, contacted=False)
    await settled(books, store, other, user="bob")
    now = await store.now()
    charge_pusd = 2 * 160_000_000 - 40 * 900_000
    expected = whole(
        requests=2,
        prompt_tokens=200,
        cached_tokens=40,
        completion_tokens=40,
        reasoning_tokens=10,
        charge=charge_pusd,
    )
    assert await report(books, acme) == [expected]
    assert await report(books, acme, month_period(now.year, now.month, "UTC")) == [expected]
    assert await report(books, acme, month_period(2020, 1, "UTC")) == [whole()]
    assert await report(books, acme, month_period(2020, 1, "UTC"), by="day") == []
    by_user = await report(books, acme, by="user")
    assert [(row.group, row.sums["requests"]) for row in by_user] == [("-", 0), ("bob", 1), ("eve", 1)]
    assert [row.group for row in await report(books, acme, by="day")] == [now.strftime("%Y-%m-%d")]
    assert [row.group for row in await report(books, acme, by="key")] == [f"default ({acme.key_id})"]
    assert [row.group for row in await report(books, acme, by="endpoint")] == ["nebius"]
    with pytest.raises(Refused, match="grouped by day, key, endpoint, user; not by colour"):
        await report(books, acme, by="colour")


async def test_a_correction_counts_as_the_difference_that_it_makes_when_it_comes(books: Any, store: Store) -> None:
    acme = await books.customer()
    hold = acme.hold(USD, expires_after_s=0)
    await store.hold(hold)
    store.checkpoint(hold.request_id, "sandbox", Tokens(100, completion=7))
    await books.eventually(lambda: books.value("SELECT count(checkpoint_completion) FROM hold"), 1)
    [dead] = await dead_holds(books.owner, store._owner, "one")
    await store._put_settlement(settle_from_checkpoint(dead), swept=True)
    between = await store.now()
    late = books.delivery(100, 20, endpoint="sandbox", provider="sandbox", sandbox=True)
    await store.settle(books.settlement(hold, bill([late], hold.amount_pusd)))
    before, after = (Period(between - timedelta(hours=1), between), Period(between, between + timedelta(hours=1)))
    swept_pusd, corrected_pusd = 121_000_000, 160_000_000
    estimated = whole(requests=1, prompt_tokens=100, completion_tokens=7, charge=swept_pusd, sandbox_charge=swept_pusd)
    difference = corrected_pusd - swept_pusd
    assert await report(books, acme, before) == [estimated]
    assert await report(books, acme, after) == [
        whole(completion_tokens=13, charge=difference, sandbox_charge=difference)
    ]
    assert await report(books, acme) == [
        whole(requests=1, prompt_tokens=100, completion_tokens=20, charge=corrected_pusd, sandbox_charge=corrected_pusd)
    ]


async def test_usage_of_one_key_leaves_out_the_tenants_others(books: Any, store: Store) -> None:
    acme = await books.customer()
    async with administration(books.url) as db:
        second, _ = await create_key(db, acme.name, b"secret", actor="test", name="second")
    await settled(books, store, acme)
    assert [row.sums["requests"] for row in await report(books, acme, key_id=acme.key_id)] == [1]
    assert await report(books, acme, key_id=second.id) == [whole()]
    assert await report(books, acme, key_id=second.id, by="endpoint") == []


async def test_days_are_those_of_the_time_zone(books: Any, store: Store) -> None:
    acme = await books.customer()
    await settled(books, store, acme)
    now = await store.now()
    days = set()
    for timezone, hours in (("Etc/GMT+12", -12), ("Etc/GMT-12", 12)):
        [row] = await usage(books.owner, acme.tenant_id, None, timezone, by="day")
        assert row.group in {(now + timedelta(hours=hours, seconds=late)).strftime("%Y-%m-%d") for late in (0, -5)}
        days.add(row.group)
    assert len(days) == 2


def test_money_is_shown_as_the_exact_decimal_and_a_count_as_a_number() -> None:
    row = whole(requests=3, prompt_tokens=100, charge=1_600_000_000_001, sandbox_charge=-5 * 10**11)
    shown = row.shown()
    assert list(shown) == [measure.name for measure in MEASURES]
    assert (shown["requests"], shown["prompt_tokens"], shown["cached_tokens"]) == (3, 100, 0)
    assert (shown["charge"], shown["sandbox_charge"]) == ("1.600000000001", "-0.50")


def test_groups_are_offered_in_the_order_of_the_help() -> None:
    assert tuple(GROUPS) == ("day", "key", "endpoint", "user")
