"""Invoices: the month that is over, once, in full, under gapless numbers."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.accounts.administration import administration
from ledger.accounts.tenants import set_tenant
from ledger.billing import Tokens, bill
from ledger.errors import NotFound, Refused
from ledger.journal.store import Store
from ledger.journal.sweep import dead_holds, settle_from_checkpoint
from ledger.money import parse_usd
from ledger.papers.invoicing import (
    Seller,
    cancel_invoice,
    issue_all,
    issue_invoice,
    list_invoices,
    preview_invoice,
    show_invoice,
)

USD = 10**12
SELLER = Seller("USD", "UTC", None)


async def charge(books: Any, store: Store, customer: Any, usd: str) -> None:
    """Exactly `usd` of prompt tokens at 1.00 USD per million."""
    hold = customer.hold(parse_usd(usd))
    assert (await store.hold(hold)).accepted
    tokens = parse_usd(usd) // 1_000_000
    await store.settle(books.settlement(hold, bill([books.delivery(tokens, 0)], hold.amount_pusd)))


async def this_month(books: Any) -> tuple[int, int]:
    now: datetime = (await books.value("SELECT clock_timestamp()")).astimezone(UTC)
    return now.year, now.month


async def backdate(books: Any, months: int) -> tuple[int, int]:
    """Make everything posted so far `months` older; returns the month it is in now."""
    books.tampered = True
    shift = f"posted_at = posted_at - interval '{months} months'"
    for table in ("request", "transfer", "credit", "correction"):
        await books.owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        await books.owner.execute(f"UPDATE {table} SET {shift}")
        await books.owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER append_only")
    await books.owner.execute(f"UPDATE key_month SET month = month - interval '{months} months'")
    books.tampered = False
    year, month = await this_month(books)
    return (year, month - months) if month > months else (year - 1, month + 12 - months)


async def issue(books: Any, customer: Any, month: tuple[int, int], **options: Any) -> dict[str, Any]:
    async with administration(books.url) as db:
        return await issue_invoice(db, customer.name, month, seller=SELLER, actor="test", **options)


async def test_a_month_that_is_over_is_invoiced_once(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    await charge(books, store, acme, "1.234567")
    month = await backdate(books, 1)
    await charge(books, store, acme, "5.00")  # of the month after
    paper = await issue(books, acme, month)
    assert [(line["kind"], line["quantity"], line["amount"]) for line in paper["lines"]] == [
        ("prompt", 1_234_567, "1.234567"),
        ("rounding", None, "-0.004567"),
    ]
    assert {name: paper[name] for name in ("subtotal", "tax", "total", "prepaid", "amount_due", "currency")} == {
        "subtotal": "1.23",
        "tax": "0.00",
        "total": "1.23",
        "prepaid": "1.23",
        "amount_due": "0.00",
        "currency": "USD",
    }
    assert await issue(books, acme, month) == paper
    assert await issue(books, acme, month, interim=True) == paper
    async with administration(books.url) as db:
        assert await show_invoice(db, paper["number"]) == {**paper, "cancelled_by": None}


async def test_a_month_that_is_not_over_is_refused_unless_it_is_interim(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    await charge(books, store, acme, "1.00")
    month = await this_month(books)
    with pytest.raises(Refused, match="not over; add --interim"):
        await issue(books, acme, month)
    with pytest.raises(Refused, match="has not begun"):
        await issue(books, acme, (month[0] + 1, month[1]), interim=True)
    first = await issue(books, acme, month, interim=True)
    assert await issue(books, acme, month, interim=True) == first  # nothing came since
    await charge(books, store, acme, "2.00")
    second = await issue(books, acme, month, interim=True)
    assert [first["total"], second["total"]] == ["1.00", "2.00"]
    assert second["period"]["from"] == first["period"]["until"]


async def test_what_was_never_charged_is_an_invoice_of_nothing(books: Any) -> None:
    acme = await books.customer("10.00")
    paper = await issue(books, acme, await this_month(books), interim=True)
    assert (paper["total"], paper["lines"]) == ("0.00", [])


async def test_a_cancelled_invoice_is_taken_back_whole_and_issued_anew(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    await charge(books, store, acme, "1.234567")
    month = await backdate(books, 1)
    paper = await issue(books, acme, month)
    async with administration(books.url) as db:
        note = await cancel_invoice(db, paper["number"], seller=SELLER, actor="test")
        assert await cancel_invoice(db, paper["number"], seller=SELLER, actor="test") == note
        assert (note["kind"], note["cancels"], note["total"], note["amount_due"]) == (
            "credit_note",
            paper["number"],
            "-1.23",
            "0.00",
        )
        with pytest.raises(Refused):
            await cancel_invoice(db, note["number"], seller=SELLER, actor="test")
    anew = await issue(books, acme, month)
    assert (anew["replaces"], anew["total"]) == (paper["number"], "1.23")
    assert anew["number"] != paper["number"]
    async with administration(books.url) as db:
        listed = await list_invoices(db, acme.name)
    assert [(paper["number"], paper["cancelled_by"]) for paper in listed] == [
        (paper["number"], note["number"]),
        (note["number"], None),
        (anew["number"], None),
    ]


async def test_numbers_are_gapless_even_when_many_issue_at_once_and_some_fail(books: Any, store: Store) -> None:
    customers = [await books.customer("10.00") for _ in range(6)]
    for customer in customers:
        await charge(books, store, customer, "1.00")
    month = await backdate(books, 1)

    async def fails() -> None:
        async with administration(books.url) as db:
            await issue_invoice(db, customers[5].name, month, seller=SELLER, actor="test")
            raise KeyError

    results = await asyncio.gather(
        *(issue(books, customer, month) for customer in customers[:5] for _ in range(2)),
        fails(),
        return_exceptions=True,
    )
    assert isinstance(results.pop(), KeyError)
    assert len({paper["number"] for paper in results}) == 5
    last = await issue(books, customers[5], month)
    numbers = sorted({paper["number"] for paper in results} | {last["number"]})
    year = (await this_month(books))[0]
    assert numbers == [f"INV-{year}-{n:06d}" for n in range(1, 7)]


async def test_all_are_those_that_were_charged(books: Any, store: Store) -> None:
    acme, _, played = [await books.customer("10.00") for _ in range(3)]
    await charge(books, store, acme, "1.00")
    hold = played.hold()
    await store.hold(hold)
    sandbox = books.delivery(endpoint="sandbox", provider="sandbox", sandbox=True)
    await store.settle(books.settlement(hold, bill([sandbox], hold.amount_pusd)))
    month = await backdate(books, 1)
    for _ in range(2):
        async with administration(books.url) as db:
            issued = await issue_all(db, month, seller=SELLER, actor="test")
        assert [paper["tenant"]["name"] for paper in issued] == [acme.name]
    paper = await issue(books, played, month)
    assert (paper["total"], paper["lines"]) == ("0.00", [])


async def test_an_internal_tenant_gets_a_statement(books: Any, store: Store) -> None:
    acme = await books.customer("10.00", internal=True)
    await charge(books, store, acme, "1.00")
    paper = await issue(books, acme, await this_month(books), interim=True)
    assert (paper["kind"], paper["number"][:3]) == ("statement", "ST-")
    assert await books.value("SELECT count(*) FROM series WHERE name LIKE 'INV%' AND next_number > 1") == 0


async def test_credit_pays_the_oldest_charges_first(books: Any, store: Store) -> None:
    acme = await books.customer("1.50", credit_limit_pusd=10 * USD)
    await charge(books, store, acme, "1.00")
    first = await backdate(books, 1)
    await charge(books, store, acme, "2.00")
    month = await this_month(books)
    assert [(await issue(books, acme, first))[name] for name in ("prepaid", "amount_due")] == ["1.00", "0.00"]
    async with administration(books.url) as db:
        shown = await preview_invoice(db, acme.name, month, seller=SELLER)
    assert (shown["number"], shown["prepaid"], shown["amount_due"]) == (None, "0.50", "1.50")
    assert await books.value("SELECT count(*) FROM invoice") == 1


async def test_a_correction_is_a_line_of_the_month_in_which_it_was_posted(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold(USD, expires_after_s=0)
    await store.hold(hold)
    store.checkpoint(hold.request_id, "nebius", Tokens(100, completion=7))
    await books.eventually(lambda: books.value("SELECT checkpoint_completion FROM hold"), 7)
    [dead] = await dead_holds(books.owner, store._owner, "one")
    await store._put_settlement(settle_from_checkpoint(dead), swept=True)
    first = await backdate(books, 1)
    await store.settle(books.settlement(hold))
    month = await this_month(books)
    papers = [await issue(books, acme, first), await issue(books, acme, month, interim=True)]
    lines = [[(line["kind"], line["correction"], line["quantity"]) for line in paper["lines"][:-1]] for paper in papers]
    assert lines == [[("prompt", False, 100), ("completion", False, 7)], [("completion", True, 13)]]


async def test_the_paper_stays_as_it_was_issued(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    await charge(books, store, acme, "1.00")
    paper = await issue(books, acme, await this_month(books), interim=True)
    async with administration(books.url) as db:
        await set_tenant(db, acme.name, actor="test", legal_name="Another Ltd")
        shown = await show_invoice(db, paper["number"])
        assert shown["tenant"]["legal_name"] is None
        with pytest.raises(NotFound):
            await show_invoice(db, "INV-1")


async def test_requests_go_on_while_an_invoice_is_made_and_none_slips_between_two(books: Any, store: Store) -> None:
    acme = await books.customer("100.00")
    month = await this_month(books)

    async def requests() -> None:
        for _ in range(40):
            await charge(books, store, acme, "0.10")

    async def invoices() -> list[str]:
        return [(await issue(books, acme, month, interim=True))["total"] for _ in range(8)]

    await asyncio.gather(requests(), requests(), invoices())
    await issue(books, acme, month, interim=True)
    total = await books.value("SELECT sum(exact_pusd) FROM invoice")
    assert total == 8 * USD
