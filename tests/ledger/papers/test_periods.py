"""Months, and what of them is not invoiced yet."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.papers.periods import Period, first_gap, month_period

NOVEMBER = month_period(2026, 11, "UTC")


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def test_a_month_begins_at_midnight_where_the_books_are_kept() -> None:
    assert month_period(2026, 12, "UTC") == Period(datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    berlin = month_period(2026, 3, "Europe/Berlin")  # summer time begins in it
    assert [berlin.start.astimezone(UTC).isoformat(), berlin.end.astimezone(UTC).isoformat()] == [
        "2026-02-28T23:00:00+00:00",
        "2026-03-31T22:00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("covered", "until", "gap"),
    [
        ([], at(21), Period(at(1), at(21))),
        ([], at(30, 23) + timedelta(days=9), Period(at(1), NOVEMBER.end)),
        ([Period(at(1), at(9))], at(21), Period(at(9), at(21))),
        ([Period(at(1), at(9))], at(9), None),
        ([Period(at(1), NOVEMBER.end)], NOVEMBER.end, None),
        ([Period(at(9), at(12))], at(21), Period(at(1), at(9))),  # what came before was cancelled
        ([Period(at(12), at(15)), Period(at(1), at(9))], at(21), Period(at(9), at(12))),
    ],
)
def test_the_next_invoice_covers_the_first_gap(covered: list[Period], until: datetime, gap: Period | None) -> None:
    assert first_gap(NOVEMBER, covered, until) == gap


@given(st.lists(st.integers(1, 719), max_size=6), st.lists(st.booleans(), min_size=7, max_size=7))
def test_invoicing_gap_after_gap_covers_the_month_once(cuts: list[int], cancelled: list[bool]) -> None:
    hours = sorted({0, *cuts, 720})
    parts = [Period(at(1) + timedelta(hours=a), at(1) + timedelta(hours=b)) for a, b in pairwise(hours)]
    in_force = [part for part, gone in zip(parts, cancelled, strict=False) if not gone]
    while gap := first_gap(NOVEMBER, in_force, NOVEMBER.end):
        in_force.append(gap)
    in_force.sort(key=lambda period: period.start)
    assert [in_force[0].start, in_force[-1].end] == [NOVEMBER.start, NOVEMBER.end]
    assert all(one.end == two.start for one, two in pairwise(in_force))
