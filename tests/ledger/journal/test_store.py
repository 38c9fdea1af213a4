"""Hold before dispatch, settle before completion."""

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import revoke_key, set_key
from ledger.accounts.credit import add_credit
from ledger.accounts.price_list import set_markup
from ledger.accounts.tenants import set_tenant
from ledger.billing import Ending, Tokens, bill
from ledger.errors import HoldRefused, NotMigrated, Refused, SettlementRefused
from ledger.journal.store import WATCH_INTERVAL_S, Store
from ledger.journal.writes import HoldOutcome
from ledger.keys import digest

USD = 10**12
CHARGE_PUSD = 160_000_000  # of the usual delivery
SLACK = timedelta(seconds=5)  # of a slow machine


async def test_a_hold_is_reserved_and_a_settlement_takes_its_charge_and_gives_back_the_rest(
    books: Any, store: Store
) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold(3 * USD)
    assert await store.hold(hold) == HoldOutcome(True, 7 * USD)
    assert await books.position(acme) == (7 * USD, 3 * USD, 0)
    await store.settle(books.settlement(hold))
    assert await books.position(acme) == (10 * USD - CHARGE_PUSD, 0, 0)
    request = await books.request(hold.request_id)
    assert (request["state"], request["charge_pusd"], request["hold_pusd"]) == ("completed", CHARGE_PUSD, 3 * USD)
    transfers = await books.owner.fetch(
        """SELECT transfer.kind, debited.kind AS debit, credited.kind AS credit, credited.provider, amount
        FROM transfer JOIN account AS debited ON debited.id = debit_account
        JOIN account AS credited ON credited.id = credit_account WHERE transaction_id = $1 ORDER BY ordinal""",
        hold.request_id,
    )
    assert [tuple(row) for row in transfers] == [
        ("charge", "tenant", "revenue", None, CHARGE_PUSD),
        ("cost", "cost", "payable", "nebius", CHARGE_PUSD),
    ]


async def test_of_200_holds_at_once_on_credit_for_one_exactly_one_is_granted(books: Any) -> None:
    acme = await books.customer("1.00")
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(books.store(f"process-{n}")) for n in range(3)]
        holds = [acme.hold(USD) for _ in range(200)]
        outcomes = await asyncio.gather(*(stores[n % 3].hold(hold) for n, hold in enumerate(holds)))
        assert [outcome.accepted for outcome in outcomes].count(True) == 1
        assert {outcome.reason for outcome in outcomes if not outcome.accepted} == {"credit"}
        assert await books.position(acme) == (0, USD, 0)
        granted = next(hold for hold, outcome in zip(holds, outcomes, strict=True) if outcome.accepted)
        await stores[0].settle(books.settlement(granted))
    assert await books.position(acme) == (USD - CHARGE_PUSD, 0, 0)


async def test_a_hold_too_large_does_not_shut_out_a_smaller_one_behind_it(books: Any, store: Store) -> None:
    acme, other = await books.customer("10.00"), await books.customer("1.00")
    wanted = [(acme, 6), (acme, 5), (other, 1), (acme, 4), (acme, 1), (other, 1)]
    outcomes = await asyncio.gather(*(store.hold(who.hold(usd * USD)) for who, usd in wanted))
    assert [outcome.accepted for outcome in outcomes] == [True, False, True, True, False, False]
    assert [outcome.available_pusd // USD for outcome in outcomes] == [4, 4, 0, 0, 0, 0]


async def test_everything_may_be_written_twice(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold(3 * USD)
    settled = books.settlement(hold, user="bob", metadata={"job": "7"})
    for _ in range(2):
        assert (await store.hold(hold)).accepted
    assert await books.position(acme) == (7 * USD, 3 * USD, 0)
    await asyncio.gather(*(store.settle(settled) for _ in range(3)))
    await store.settle(settled)
    assert await books.position(acme) == (10 * USD - CHARGE_PUSD, 0, 0)
    assert (await store.hold(hold)).reason == "over"


async def test_a_failure_gives_everything_back(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold(3 * USD)
    await store.hold(hold)
    await store.settle(books.settlement(hold, None, state="failed", endpoint=None, upstream_contacted=False))
    assert await books.position(acme) == (10 * USD, 0, 0)
    assert (await books.request(hold.request_id))["usage_source"] is None


async def test_sandbox_and_disputed_amounts_go_to_accounts_of_their_own(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold()
    await store.hold(hold)
    cut = books.delivery(reported=Tokens(100, completion=50), ending=Ending.PROVIDER_CUT)
    rest = books.delivery(endpoint="sandbox", provider="sandbox", sandbox=True)
    await store.settle(books.settlement(hold, bill([cut, rest], hold.amount_pusd)))
    sums = await books.owner.fetch(
        """SELECT debited.kind, credited.kind, sum(amount) FROM transfer
        JOIN account AS debited ON debited.id = debit_account JOIN account AS credited ON credited.id = credit_account
        WHERE transaction_id = $1 GROUP BY 1, 2 ORDER BY 1, 2""",
        hold.request_id,
    )
    assert [tuple(row) for row in sums] == [
        ("cost", "payable", CHARGE_PUSD),
        ("disputed", "payable", 30 * 3_000_000),
        ("sandbox_cost", "sandbox_payable", CHARGE_PUSD),
        ("tenant", "revenue", CHARGE_PUSD),
        ("tenant", "sandbox_revenue", 20 * 3_000_000),
    ]


async def test_a_postpaid_tenant_may_owe_up_to_its_limit_and_new_credit_pays_that_first(
    books: Any, store: Store
) -> None:
    acme = await books.customer("1.00", credit_limit_pusd=2 * USD)
    assert not (await store.hold(acme.hold(3 * USD + 1))).accepted
    hold = acme.hold(3 * USD)
    assert await store.hold(hold) == HoldOutcome(True, 0)
    assert await books.position(acme) == (0, 3 * USD, 2 * USD)
    costly = books.delivery(1_500_000, 0)
    await store.settle(books.settlement(hold, bill([costly], hold.amount_pusd)))
    assert await books.position(acme) == (0, 0, USD // 2)
    async with administration(books.url) as db:
        await add_credit(db, acme.name, 2 * USD, reference="second", actor="test")
    assert await books.position(acme) == (3 * USD // 2, 0, 0)


async def test_a_key_holds_and_spends_no_more_than_its_budget(books: Any, store: Store) -> None:
    acme = await books.customer("10.00", key={"budget_pusd": 2 * USD})
    first, second = acme.hold(USD), acme.hold(USD)
    outcomes = await asyncio.gather(*(store.hold(hold) for hold in (first, second, acme.hold(USD))))
    assert [outcome.reason for outcome in outcomes] == [None, None, "budget"]
    await store.settle(books.settlement(first, bill([books.delivery(500_000, 0)], USD)))
    outcome = await store.hold(acme.hold(USD))
    assert (outcome.reason, outcome.available_pusd) == ("budget", USD // 2)
    assert (await store.hold(acme.hold(USD // 2))).accepted


async def test_a_settlement_without_a_hold_may_put_a_tenant_into_debt(books: Any, store: Store) -> None:
    acme = await books.customer("1.00")
    unheld = books.settlement(acme.hold(3 * USD), bill([books.delivery(1_500_000, 0)], 3 * USD))
    await store.settle(unheld)
    assert await books.position(acme) == (0, 0, USD // 2)
    assert (await books.request(unheld.request_id))["flags"] == ["without_hold"]


async def test_what_clients_say_is_kept_beside_the_journal_whatever_they_say(books: Any, store: Store) -> None:
    acme = await books.customer()
    hold = acme.hold()
    await store.hold(hold)
    odd = "nul \0, lone \ud800, é"
    await store.settle(books.settlement(hold, model=odd, user=odd, metadata={odd: odd}))
    label = await books.owner.fetchrow("SELECT * FROM request_label WHERE request_id = $1", hold.request_id)
    assert label["user_label"] == "nul \ufffd, lone ?, é"
    assert label["metadata"].decode() == '{"nul �, lone ?, é":"nul �, lone ?, é"}'


async def test_a_bad_row_harms_itself_alone(books: Any, store: Store) -> None:
    acme = await books.customer("100.00")
    holds = [acme.hold() for _ in range(40)]
    bad_hold = acme.hold(-1)
    outcomes = await asyncio.gather(*(store.hold(hold) for hold in (*holds, bad_hold)), return_exceptions=True)
    assert isinstance(outcomes.pop(), HoldRefused)
    assert all(outcome.accepted for outcome in outcomes)
    settlements = [books.settlement(hold) for hold in holds]
    settlements[17] = books.settlement(holds[17], state="no such state")
    settlements[30] = books.settlement(holds[30], attempts=b"{no JSON")
    settlements[31] = books.settlement(holds[31], total_ms=2**40)  # the driver itself refuses that
    results = await asyncio.gather(*map(store.settle, settlements), return_exceptions=True)
    assert [n for n, result in enumerate(results) if isinstance(result, SettlementRefused)] == [17, 30, 31]
    assert [result for result in results if result is not None and not isinstance(result, SettlementRefused)] == []
    assert await books.value("SELECT count(*) FROM request") == 37
    await asyncio.gather(*(store.settle(books.settlement(holds[n])) for n in (17, 30, 31)))


async def test_who_holds_on_an_account_that_is_no_tenants_is_refused(books: Any, store: Store) -> None:
    acme = await books.customer()
    revenue = await books.value("SELECT id FROM account WHERE kind = 'revenue'")
    with pytest.raises(HoldRefused, match="no tenant"):
        await store.hold(replace(acme.hold(), account_id=revenue))


async def test_a_caller_that_gives_up_leaves_nothing_held(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    tasks = [asyncio.create_task(store.hold(acme.hold(USD))) for _ in range(10)]
    await asyncio.sleep(0)
    for task in tasks[:5]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, asyncio.CancelledError) for outcome in done] == [True] * 5 + [False] * 5
    await store.hold(acme.hold(0))
    await books.eventually(lambda: books.position(acme), (5 * USD, 5 * USD, 0))


async def test_a_settlement_goes_on_when_its_caller_does_not(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold()
    await store.hold(hold)
    task = asyncio.create_task(store.settle(books.settlement(hold)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await books.eventually(lambda: books.position(acme), (10 * USD - CHARGE_PUSD, 0, 0))


async def test_closing_writes_what_is_queued(books: Any) -> None:
    acme = await books.customer("10.00")
    async with books.store() as store:
        hold = acme.hold()
        await store.hold(hold)
        task = asyncio.create_task(store.settle(books.settlement(hold)))
        await asyncio.sleep(0)
    await task
    assert (await books.request(hold.request_id))["charge_pusd"] == CHARGE_PUSD


async def test_a_key_is_known_by_its_digest_and_a_change_of_it_within_a_second(books: Any, store: Store) -> None:
    assert WATCH_INTERVAL_S < 1
    acme = await books.customer(jurisdictions=["EU"], key={"rpm": 5, "expires_at": datetime(2030, 1, 1, tzinfo=UTC)})
    known = digest(acme.key, b"the tests' secret key")
    record = await store.find_key(known)
    assert record is not None
    assert (record.tenant_name, record.key_id, record.account_id) == (acme.name, acme.key_id, acme.account_id)
    assert (record.jurisdictions, record.rpm, record.tpm, record.revoked) == (frozenset({"EU"}), 5, None, False)
    assert await store.find_key(b"unknown") is None
    for change, shown in (
        (lambda db: set_key(db, acme.key_id, actor="test", rpm=None), lambda record: record.rpm is None),
        (lambda db: set_tenant(db, acme.name, actor="test", suspended=True), lambda record: record.suspended),
        (lambda db: revoke_key(db, acme.key_id, actor="test"), lambda record: record.revoked),
    ):

        async def look(shown: Any = shown) -> bool:
            return bool(shown(await store.find_key(known)))

        assert not await look()
        async with administration(books.url) as db:
            await change(db)
        await books.eventually(look, True)


async def test_prices_and_plans_are_followed(books: Any, store: Store) -> None:
    assert store.prices.endpoint_price("nebius", store.instant()) is None
    await books.price(store, {"nebius": ("1.00", "3.00", None), "chutes": ("0.50", "1.00", "0.05")})
    price = store.prices.endpoint_price("nebius", store.instant())
    assert price is not None
    assert (price.input_pusd, price.output_pusd, price.cached_input_pusd) == (1_000_000, 3_000_000, 1_000_000)
    async with administration(books.url) as db:
        await set_markup(db, "gold", 500_000, actor="test")

    async def marked_up() -> Any:
        price = store.prices.tenant_price("gold", "chutes", store.instant())
        return price and (price.input_pusd, price.output_pusd, price.cached_input_pusd)

    await books.eventually(marked_up, (750_000, 1_500_000, 75_000))


async def test_the_clock_is_the_databases(store: Store) -> None:
    before, now, after = store.instant(), await store.now(), store.instant()
    assert before - SLACK < now < after + SLACK


async def test_a_database_that_is_not_migrated_is_refused(empty_database_url: str) -> None:
    with pytest.raises(NotMigrated, match="run `caduceus migrate`"):
        async with Store.open(empty_database_url, server_name="one"):
            pass


async def test_two_processes_of_one_name_are_refused(books: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.journal.connections.NAME_ATTEMPTS", 2)
    with pytest.raises(Refused, match="another process serves as one"):
        async with books.store("one"):
            pass


def test_a_serving_process_does_without_sqlalchemy_and_alembic() -> None:
    loaded = "[n for n in ('sqlalchemy', 'alembic') if n in sys.modules]"
    serving = (
        "ledger.journal.store, ledger.journal.migrate, ledger.accounts.file_prices,"
        " ledger.reports.generations, ledger.reports.standing, ledger.reports.usage"
    )
    code = f"import sys, {serving}; print({loaded})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
