"""Invoices as values: a fold over posted charges, totals, and what is exported. Pure.

Every line but the last is a whole number of tokens times a price, exact to the pico-dollar. The sum is rounded once,
half up, to cents, and the difference is a line of its own: the lines add up to the subtotal exactly. Amounts are net.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ledger.money import PUSD_PER_CENT, format_price, format_usd, round_half_up

PROMPT, CACHED, COMPLETION = "prompt", "cached_prompt", "completion"
BEYOND_HOLD, ROUNDING = "beyond_hold", "rounding"

WORDS = {PROMPT: "Prompt tokens", CACHED: "Cached prompt tokens", COMPLETION: "Completion tokens"}
ROUNDING_WORDS = "Rounded once, half up, to cents"


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """Tokens at a price (pico-dollars a token), or an adjustment, which has neither. A correction may be negative."""

    kind: str
    correction: bool
    endpoint: str | None
    price_version: int | None
    quantity: int | None
    unit_price_pusd: int | None
    amount_pusd: int

    @property
    def description(self) -> str:
        if self.kind == ROUNDING:
            return ROUNDING_WORDS
        if self.kind == BEYOND_HOLD:
            words = f"Not charged at {self.endpoint}: beyond what had been reserved"
        else:
            price = format_price(self.unit_price_pusd or 0)
            words = f"{WORDS[self.kind]} at {self.endpoint}, {price} USD per 1M tokens"
        return f"Correction: {words}" if self.correction else words


class Fold:
    """Adds up charges, given as `writes.shown_line` writes them. Sandbox lines are left out."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[bool, str, int, str, int], int] = {}
        self._beyond: dict[tuple[bool, str], int] = {}

    def add(self, lines: Iterable[Mapping[str, Any]], *, times: int = 1, correction: bool = False) -> None:
        """Add the lines of a charge; `times` -1 takes back a charge that a correction replaces."""
        for line in lines:
            if line["sandbox"]:
                continue
            endpoint, version = line["endpoint"], line["price_version"]
            for kind, quantity, unit_price_pusd in (
                (PROMPT, line["prompt"] - line["cached"], line["input_pusd"]),
                (CACHED, line["cached"], line["cached_input_pusd"]),
                (COMPLETION, line["completion"], line["output_pusd"]),
            ):
                if quantity:
                    key = (correction, endpoint, version, kind, unit_price_pusd)
                    self._tokens[key] = self._tokens.get(key, 0) + times * quantity
            if beyond_pusd := line["charged_pusd"] - line["amount_pusd"]:
                self._beyond[correction, endpoint] = self._beyond.get((correction, endpoint), 0) + times * beyond_pusd

    def lines(self) -> tuple[InvoiceLine, ...]:
        """By endpoint, price and kind; corrections last."""
        order = (PROMPT, CACHED, COMPLETION)
        tokens = [
            InvoiceLine(kind, correction, endpoint, version, quantity, unit_price_pusd, quantity * unit_price_pusd)
            for (correction, endpoint, version, kind, unit_price_pusd), quantity in sorted(
                self._tokens.items(), key=lambda item: (*item[0][:3], order.index(item[0][3]), item[0][4])
            )
            if quantity
        ]
        beyond = [
            InvoiceLine(BEYOND_HOLD, correction, endpoint, None, None, None, amount_pusd)
            for (correction, endpoint), amount_pusd in sorted(self._beyond.items())
            if amount_pusd
        ]
        return tuple(sorted(tokens + beyond, key=lambda line: line.correction))


@dataclass(frozen=True, slots=True)
class Invoice:
    """`lines` end with the rounding, if there is any; `exact_pusd` is their sum before it."""

    lines: tuple[InvoiceLine, ...]
    exact_pusd: int
    subtotal_pusd: int
    tax_pusd: int
    total_pusd: int
    prepaid_pusd: int
    due_pusd: int


def make_invoice(lines: Sequence[InvoiceLine], covered_pusd: int) -> Invoice:
    """Totals of `lines`, of whose sum credit had paid `covered_pusd`."""
    exact_pusd = sum(line.amount_pusd for line in lines)
    subtotal_pusd = to_cents(exact_pusd)
    if rounding_pusd := subtotal_pusd - exact_pusd:
        lines = [*lines, InvoiceLine(ROUNDING, False, None, None, None, None, rounding_pusd)]
    tax_pusd = 0
    total_pusd = subtotal_pusd + tax_pusd
    prepaid_pusd = total_pusd if covered_pusd >= exact_pusd else min(to_cents(covered_pusd), total_pusd)
    return Invoice(
        tuple(lines), exact_pusd, subtotal_pusd, tax_pusd, total_pusd, prepaid_pusd, total_pusd - prepaid_pusd
    )


def credit_note(invoice: Invoice) -> Invoice:
    """All lines and totals of `invoice` negated."""
    return Invoice(
        tuple(
            replace(line, quantity=None if line.quantity is None else -line.quantity, amount_pusd=-line.amount_pusd)
            for line in invoice.lines
        ),
        *(
            -amount
            for amount in (
                invoice.exact_pusd,
                invoice.subtotal_pusd,
                invoice.tax_pusd,
                invoice.total_pusd,
                invoice.prepaid_pusd,
                invoice.due_pusd,
            )
        ),
    )


def to_cents(pusd: int) -> int:
    """Rounded half up (away from zero if negative) to whole cents, in pico-dollars."""
    return round_half_up(pusd, PUSD_PER_CENT) * PUSD_PER_CENT


def amounts(invoice: Invoice) -> dict[str, Any]:
    """The part of the exported JSON that is money: exact decimal strings in USD."""
    return {
        "lines": [
            {
                "kind": line.kind,
                "correction": line.correction,
                "description": line.description,
                "endpoint": line.endpoint,
                "price_version": line.price_version,
                "quantity": line.quantity,
                "unit_price": None if line.unit_price_pusd is None else format_price(line.unit_price_pusd),
                "amount": format_usd(line.amount_pusd),
            }
            for line in invoice.lines
        ],
        "subtotal": format_usd(invoice.subtotal_pusd),
        "tax": format_usd(invoice.tax_pusd),
        "total": format_usd(invoice.total_pusd),
        "prepaid": format_usd(invoice.prepaid_pusd),
        "amount_due": format_usd(invoice.due_pusd),
    }


CSV_COLUMNS = ("number", "kind", "description", "endpoint", "price_version", "quantity", "unit_price", "amount")
CSV_TOTALS = ("subtotal", "tax", "total", "prepaid", "amount_due")


def to_csv(document: Mapping[str, Any]) -> str:
    """An issued document (see `papers.invoicing`) line by line, then its totals; unit prices are USD per 1M tokens."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for line in document["lines"]:
        writer.writerow({"number": document["number"], **line})
    for total in CSV_TOTALS:
        writer.writerow({"number": document["number"], "kind": total, "amount": document[total]})
    return out.getvalue()
