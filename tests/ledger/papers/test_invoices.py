"""Lines add up, to the pico-dollar."""

import csv
import io
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ledger.money import PUSD_PER_CENT, parse_usd
from ledger.papers.invoices import Fold, Invoice, amounts, credit_note, make_invoice, to_csv


def line(prompt: int, cached: int, completion: int, **changes: Any) -> dict[str, Any]:
    """As `ledger.journal.writes.shown_line` writes it."""
    values = {
        "endpoint": "nebius",
        "sandbox": False,
        "price_version": 7,
        "input_pusd": 1_000_000,
        "output_pusd": 3_000_000,
        "cached_input_pusd": 100_000,
        **changes,
    }
    amount_pusd = (
        (prompt - cached) * values["input_pusd"]
        + cached * values["cached_input_pusd"]
        + completion * values["output_pusd"]
    )
    return {
        "prompt": prompt,
        "cached": cached,
        "completion": completion,
        "amount_pusd": amount_pusd,
        "charged_pusd": amount_pusd,
        **values,
    }


def folded(*charges: dict[str, Any]) -> Invoice:
    fold = Fold()
    for charge in charges:
        fold.add([charge])
    return make_invoice(fold.lines(), covered_pusd=10**18)


def test_tokens_of_one_price_are_one_line_a_kind() -> None:
    invoice = folded(line(100_000, 40_000, 20_000), line(1_000, 0, 0), line(10, 0, 0, endpoint="us", price_version=9))
    assert [
        (entry.kind, entry.endpoint, entry.price_version, entry.quantity, entry.amount_pusd) for entry in invoice.lines
    ] == [
        ("prompt", "nebius", 7, 61_000, 61_000_000_000),
        ("cached_prompt", "nebius", 7, 40_000, 4_000_000_000),
        ("completion", "nebius", 7, 20_000, 60_000_000_000),
        ("prompt", "us", 9, 10, 10_000_000),
        ("rounding", None, None, None, 4_990_000_000),
    ]
    assert invoice.total_pusd == parse_usd("0.13")


def test_a_new_markup_on_the_same_version_is_another_line() -> None:
    invoice = folded(line(5, 0, 0), line(5, 0, 0, input_pusd=1_100_000))
    assert [entry.unit_price_pusd for entry in invoice.lines[:-1]] == [1_000_000, 1_100_000]


def test_sandbox_charges_are_on_no_invoice() -> None:
    assert folded(line(100, 0, 20, sandbox=True)) == Invoice((), 0, 0, 0, 0, 0, 0)


def test_what_went_beyond_a_hold_is_taken_off_in_a_line_of_its_own() -> None:
    invoice = folded(line(100, 0, 20, charged_pusd=150_000_000))
    assert [(entry.kind, entry.amount_pusd) for entry in invoice.lines][2] == ("beyond_hold", -10_000_000)
    assert invoice.exact_pusd == 150_000_000


def test_a_correction_is_the_difference_that_it_makes() -> None:
    fold = Fold()
    fold.add([line(100, 0, 20)])
    fold.add([line(100, 0, 25)], correction=True)
    fold.add([line(100, 0, 7)], times=-1, correction=True)
    lines = fold.lines()
    assert [(entry.kind, entry.correction, entry.quantity) for entry in lines] == [
        ("prompt", False, 100),
        ("completion", False, 20),
        ("completion", True, 18),
    ]
    assert lines[2].description == "Correction: Completion tokens at nebius, 3.00 USD per 1M tokens"


def test_half_a_cent_goes_up() -> None:
    half = line(1, 0, 0, input_pusd=PUSD_PER_CENT // 2)
    assert folded(half).total_pusd == PUSD_PER_CENT
    assert folded(replace_price(half, PUSD_PER_CENT // 2 - 1)).total_pusd == 0


def replace_price(charge: dict[str, Any], pusd: int) -> dict[str, Any]:
    return {**charge, "input_pusd": pusd, "amount_pusd": pusd, "charged_pusd": pusd}


def test_what_credit_did_not_cover_is_due() -> None:
    fold = Fold()
    fold.add([line(3_000_000, 0, 0)])
    paid = make_invoice(fold.lines(), covered_pusd=parse_usd("3"))
    partly = make_invoice(fold.lines(), covered_pusd=parse_usd("1.005"))
    unpaid = make_invoice(fold.lines(), covered_pusd=0)
    assert [(bill.prepaid_pusd, bill.due_pusd) for bill in (paid, partly, unpaid)] == [
        (parse_usd("3"), 0),
        (parse_usd("1.01"), parse_usd("1.99")),
        (0, parse_usd("3")),
    ]


def test_csv_has_a_row_a_line_and_then_the_totals() -> None:
    document = {"number": "INV-2026-000001", **amounts(folded(line(100_000, 0, 20_000)))}
    rows = list(csv.DictReader(io.StringIO(to_csv(document))))
    assert [row["kind"] for row in rows[2:]] == ["subtotal", "tax", "total", "prepaid", "amount_due"]
    assert rows[0] == {
        "number": "INV-2026-000001",
        "kind": "prompt",
        "description": "Prompt tokens at nebius, 1.00 USD per 1M tokens",
        "endpoint": "nebius",
        "price_version": "7",
        "quantity": "100000",
        "unit_price": "1.00",
        "amount": "0.10",
    }


charges = st.builds(
    lambda prompt, completion, price, endpoint, share, sandbox, beyond: {
        **(found := line(prompt, prompt * share // 100, completion, input_pusd=price, endpoint=endpoint)),
        "sandbox": sandbox,
        "charged_pusd": found["amount_pusd"] - min(beyond, found["amount_pusd"]),
    },
    st.integers(0, 10**6),
    st.integers(0, 10**5),
    st.integers(0, 10**7),
    st.sampled_from(["eu", "us"]),
    st.integers(0, 100),
    st.booleans(),
    st.sampled_from([0, 0, 12_345]),
)


@given(st.lists(charges, max_size=8), st.lists(st.tuples(charges, charges), max_size=3), st.integers(0, 10**15))
def test_lines_add_up_whatever_was_charged(
    posted: list[dict[str, Any]], corrected: list[tuple[dict[str, Any], dict[str, Any]]], covered_pusd: int
) -> None:
    fold = Fold()
    for charge in posted:
        fold.add([charge])
    for new, old in corrected:
        fold.add([new], correction=True)
        fold.add([old], times=-1, correction=True)
    invoice = make_invoice(fold.lines(), covered_pusd)
    real = [charge["charged_pusd"] for charge in posted if not charge["sandbox"]]
    changes = [(1 if not new["sandbox"] else 0) * new["charged_pusd"] for new, _ in corrected]
    changes += [-(1 if not old["sandbox"] else 0) * old["charged_pusd"] for _, old in corrected]
    assert invoice.exact_pusd == sum(real) + sum(changes)
    assert invoice.subtotal_pusd == sum(entry.amount_pusd for entry in invoice.lines)
    assert invoice.subtotal_pusd % PUSD_PER_CENT == 0
    assert abs(invoice.subtotal_pusd - invoice.exact_pusd) * 2 <= PUSD_PER_CENT
    assert invoice.prepaid_pusd + invoice.due_pusd == invoice.total_pusd
    for entry in invoice.lines:
        if entry.quantity is not None and entry.unit_price_pusd is not None:
            assert entry.quantity * entry.unit_price_pusd == entry.amount_pusd
    shown = amounts(invoice)
    assert sum(parse_usd(entry["amount"]) for entry in shown["lines"]) == parse_usd(shown["subtotal"])
    undone = credit_note(invoice)
    assert [replace(entry, amount_pusd=0, quantity=None) for entry in undone.lines] == [
        replace(entry, amount_pusd=0, quantity=None) for entry in invoice.lines
    ]
    assert undone.total_pusd + invoice.total_pusd == 0 == undone.due_pusd + invoice.due_pusd
    assert sum(entry.amount_pusd for entry in undone.lines) == undone.subtotal_pusd
