"""Of two versions the later start holds."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.prices import Plan, Price, PriceBook, PriceVersion, marked_up

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def version(number: int, start_h: float, input_pusd: int = 100, output_pusd: int = 300) -> PriceVersion:
    return PriceVersion(NOON + start_h * HOUR, Price(number, input_pusd, output_pusd, input_pusd // 10))


def holding(book: PriceBook, plan: str | None, at_h: float) -> int | None:
    price = book.tenant_price(plan, "nebius", NOON + at_h * HOUR)
    return price and price.version_id


def test_a_version_holds_from_its_start_until_a_later_one_does() -> None:
    book = PriceBook({"nebius": [version(2, 0), version(1, -5), version(3, 5)]})
    assert [holding(book, None, hour) for hour in (-6, -5, -0.01, 0, 4.99, 5, 9)] == [None, 1, 1, 2, 2, 3, 3]
    endpoint = [book.endpoint_price("nebius", NOON + hour * HOUR) for hour in (-6, 0)]
    assert endpoint == [None, Price(2, 100, 300, 10)]


def test_of_two_that_start_at_once_the_one_recorded_later_holds() -> None:
    assert holding(PriceBook({"nebius": [version(9, 0), version(8, 0)]}), None, 1) == 9


def test_no_price_is_none_and_not_zero() -> None:
    book = PriceBook({}, [Plan("own only")])
    assert holding(book, None, 0) is None
    assert holding(book, "own only", 0) is None
    assert holding(book, "unknown plan", 0) is None


def test_a_markup_is_rounded_half_up_per_token() -> None:
    assert marked_up(Price(1, 5, 15, 0), 100_000) == Price(1, 6, 17, 0)  # 5.5 and 16.5
    assert marked_up(Price(1, 5, 15, 4), -100_000) == Price(1, 5, 14, 4)  # 4.5, 13.5 and 3.6
    book = PriceBook({"nebius": [version(1, 0)]}, [Plan("gold", markup_ppm=125_000)])
    assert book.tenant_price("gold", "nebius", NOON) == Price(1, 113, 338, 11)  # 112.5, 337.5, 11.25


def test_a_plans_own_price_holds_everywhere_once_it_has_started_and_the_markup_until_then() -> None:
    book = PriceBook({"nebius": [version(1, 0)]}, [Plan("gold", markup_ppm=1_000_000, own=(version(2, 3, 7, 9),))])
    assert book.tenant_price("gold", "nebius", NOON) == Price(1, 200, 600, 20)
    assert book.tenant_price("gold", "nebius", NOON + 3 * HOUR) == Price(2, 7, 9, 0)
    assert book.tenant_price("gold", "elsewhere", NOON + 3 * HOUR) == Price(2, 7, 9, 0)
    assert book.tenant_price("gold", "elsewhere", NOON) is None


@given(
    starts=st.lists(st.integers(-5, 5), min_size=1, max_size=6),
    own=st.lists(st.integers(-5, 5), max_size=3),
    asked=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
)
def test_what_was_looked_up_before_changes_no_answer(starts: list[int], own: list[int], asked: list[int]) -> None:
    endpoints = {"nebius": [version(number, start) for number, start in enumerate(starts)]}
    plans = [Plan("gold", 50_000, tuple(version(100 + number, start) for number, start in enumerate(own)))]
    used = PriceBook(endpoints, plans)
    for hour in asked:
        for plan in (None, "gold"):
            fresh = PriceBook(endpoints, plans)
            now = NOON + hour * HOUR
            assert used.tenant_price(plan, "nebius", now) == fresh.tenant_price(plan, "nebius", now)


@pytest.mark.parametrize(("plan", "input_pusd"), [(None, 1_000_000), ("no markup", 1_000_000), ("least", 1_000_001)])
def test_a_markup_is_in_millionths_and_without_a_plan_there_is_none(plan: str | None, input_pusd: int) -> None:
    plans = [Plan("no markup", markup_ppm=0), Plan("least", markup_ppm=1)]
    book = PriceBook({"nebius": [version(1, 0, input_pusd=1_000_000)]}, plans)
    price = book.tenant_price(plan, "nebius", NOON)
    assert price is not None
    assert price.input_pusd == input_pusd
