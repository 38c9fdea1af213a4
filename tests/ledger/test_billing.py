"""What is charged: one rule of DESIGN.md a test, then what holds whatever happens."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.billing import Bill, Delivery, Ending, Tokens, UsageSource, amount, bill
from ledger.errors import NoPrice
from ledger.prices import Price

EU = Price(1, 1_000, 3_000, 100)
US = Price(2, 900, 2_800, 900)
COST = Price(3, 800, 2_000, 80)
PLENTY = 10**15


def attempt(reported: Tokens | None, counted: Tokens | None = None, **changes: object) -> Delivery:
    """At the EU endpoint, in full, unless `changes` say otherwise. Without `counted` our count is the provider's."""
    base = Delivery(
        endpoint="eu",
        provider="nebius",
        sandbox=False,
        sell=EU,
        buy=COST,
        reported=reported,
        reported_source=UsageSource.PROVIDER,
        counted=counted or reported or Tokens(0),
        counted_exactly=True,
        ending=Ending.COMPLETE,
    )
    return replace(base, **changes)


def billed(*deliveries: Delivery, hold_pusd: int = PLENTY) -> Bill:
    return bill(deliveries, hold_pusd)


def test_an_answer_is_its_tokens_at_their_prices() -> None:
    due = billed(attempt(Tokens(100, cached=40, completion=20, reasoning=5)))
    assert due.charge_pusd == 60 * 1_000 + 40 * 100 + 20 * 3_000
    assert due.tokens == Tokens(100, 40, 20, 5)
    assert (due.source, due.flags, due.cost_pusd) == (UsageSource.PROVIDER, (), 60 * 800 + 40 * 80 + 20 * 2_000)


def test_a_repair_is_our_cost() -> None:
    first = attempt(Tokens(100, completion=30))
    repair = attempt(Tokens(150, completion=40), ending=Ending.REPAIR)
    due = billed(first, repair)
    assert due.charge_pusd == 100 * 1_000 + 30 * 3_000
    assert due.tokens == Tokens(100, completion=30)
    assert [cost.cost_pusd for cost in due.costs] == [100 * 800 + 30 * 2_000, 150 * 800 + 40 * 2_000]
    assert due.flags == ()


def test_of_a_repair_without_usage_our_count_is_the_cost() -> None:
    repair = attempt(None, Tokens(150, completion=40), ending=Ending.REPAIR)
    due = billed(attempt(Tokens(100, completion=30)), repair)
    assert due.costs[1].cost_pusd == 150 * 800 + 40 * 2_000
    assert (due.source, due.flags) == (UsageSource.PROVIDER, ())


def test_the_prompt_is_charged_once_where_it_was_first_delivered_and_completions_where_they_came_from() -> None:
    cut = attempt(Tokens(100, completion=30), ending=Ending.PROVIDER_CUT)
    rest = attempt(Tokens(130, completion=50), endpoint="us", provider="chutes", sell=US)
    due = billed(cut, rest)
    assert due.charge_pusd == 100 * 1_000 + 30 * 3_000 + 50 * 2_800
    assert due.tokens == Tokens(100, completion=80)
    assert [(line.endpoint, line.tokens) for line in due.lines] == [
        ("eu", Tokens(100, completion=30)),
        ("us", Tokens(0, completion=50)),
    ]
    # The prefix that the second had to read again is our cost, booked to whom it was paid.
    assert [(cost.provider, cost.cost_pusd) for cost in due.costs] == [
        ("nebius", 100 * 800 + 30 * 2_000),
        ("chutes", 130 * 800 + 50 * 2_000),
    ]


def test_a_losing_attempt_is_our_cost() -> None:
    lost = attempt(Tokens(100, completion=12), Tokens(0), ending=Ending.FAILED)
    due = billed(lost, attempt(Tokens(100, completion=20), endpoint="us", sell=US))
    assert due.charge_pusd == 100 * 900 + 20 * 2_800
    assert due.costs[0].cost_pusd == 100 * 800 + 12 * 2_000
    assert due.flags == ()


def test_a_failure_that_reported_nothing_costs_nothing_or_is_marked_unknown() -> None:
    refused = attempt(None, Tokens(0), ending=Ending.FAILED)
    hung = replace(refused, cost_unknown=True)
    due = billed(refused, hung)
    assert (due.charge_pusd, due.cost_pusd, due.tokens, due.lines) == (0, 0, Tokens(0), ())
    assert [cost.unknown for cost in due.costs] == [False, True]
    assert due.flags == ("cost_unknown",)


@pytest.mark.parametrize(
    ("reported", "counted", "charged", "flagged"),
    [
        (120, 100, 120, False),  # 20 tokens above, and no more
        (121, 100, 100, True),
        (1_100, 1_000, 1_100, False),  # 10 % above, and no more
        (1_101, 1_000, 1_000, True),
        (50, 100, 50, False),  # below ours: theirs
        (21, 0, 0, True),
    ],
)
def test_more_than_10_percent_and_20_tokens_above_our_count_is_disputed(
    reported: int, counted: int, charged: int, flagged: bool
) -> None:
    due = billed(attempt(Tokens(10, completion=reported, reasoning=reported), Tokens(10, completion=counted)))
    assert due.tokens.completion == charged
    assert due.cost_pusd == 10 * 800 + charged * 2_000
    assert due.disputed_pusd == (reported - charged) * 2_000
    assert (due.flags, due.source) == ((("usage_disputed",), "counted") if flagged else ((), "provider"))


def test_prompt_and_completion_are_disputed_each_for_itself() -> None:
    due = billed(attempt(Tokens(500, cached=400, completion=22), Tokens(100, completion=20), counted_exactly=False))
    assert due.tokens == Tokens(100, cached=100, completion=22)
    assert due.disputed_pusd == 100 * 800 + 400 * 80 - 100 * 80
    assert due.source is UsageSource.ESTIMATED


def test_hidden_reasoning_explains_a_long_completion_but_no_long_prompt() -> None:
    due = billed(attempt(Tokens(500, completion=900), Tokens(100, completion=20), hidden_reasoning=True))
    assert due.tokens == Tokens(100, completion=900)
    assert due.disputed_pusd == 400 * 800


@pytest.mark.parametrize(
    ("reported", "flag"),
    [
        (None, "usage_missing"),
        (Tokens(100), "usage_implausible"),  # zero completion beside delivered text
        (Tokens(0, completion=20), "usage_implausible"),
        (Tokens(100, completion=-1), "usage_implausible"),
        (Tokens(100, cached=-1, completion=20), "usage_implausible"),
        (Tokens(100, cached=101, completion=20), "usage_implausible"),
        (Tokens(100, completion=10**12), "usage_implausible"),
    ],
)
@pytest.mark.parametrize(("exactly", "source"), [(True, "counted"), (False, "estimated")])
def test_missing_or_implausible_means_ours_flagged(
    reported: Tokens | None, flag: str, exactly: bool, source: str
) -> None:
    due = billed(attempt(reported, Tokens(90, completion=21, reasoning=3), counted_exactly=exactly))
    assert due.tokens == Tokens(90, completion=21, reasoning=3)
    assert (due.flags, due.source, due.disputed_pusd) == ((flag,), source, 0)


def test_a_zero_of_cached_or_reasoning_tokens_is_a_zero() -> None:
    due = billed(attempt(Tokens(100, 0, 20, 0), Tokens(100, 50, 20, 10)))
    assert due.tokens == Tokens(100, 0, 20, 0)


def test_reasoning_is_inside_the_completion_even_where_it_is_counted_apart() -> None:
    assert billed(attempt(Tokens(100, completion=20, reasoning=80))).tokens == Tokens(100, 0, 20, 20)


def test_an_empty_answer_is_charged_its_prompt() -> None:
    due = billed(attempt(Tokens(100), Tokens(100)))
    assert (due.charge_pusd, due.flags) == (100_000, ())


def test_a_client_that_leaves_pays_prompt_and_what_was_generated() -> None:
    due = billed(attempt(None, Tokens(100, completion=7), ending=Ending.CLIENT_LEFT))
    assert due.charge_pusd == 100 * 1_000 + 7 * 3_000
    before_the_first_byte = billed(attempt(None, Tokens(100), ending=Ending.CLIENT_LEFT))
    assert before_the_first_byte.charge_pusd == 100 * 1_000


def test_a_provider_that_cuts_is_paid_for_what_was_delivered() -> None:
    due = billed(attempt(None, Tokens(100, completion=7), ending=Ending.PROVIDER_CUT))
    assert due.charge_pusd == 100 * 1_000 + 7 * 3_000
    continuous = attempt(
        Tokens(100, completion=8),
        Tokens(100, completion=7),
        reported_source=UsageSource.CONTINUOUS,
        ending=Ending.PROVIDER_CUT,
    )
    assert (billed(continuous).tokens.completion, billed(continuous).source) == (8, UsageSource.CONTINUOUS)


def test_nothing_delivered_is_nothing_due() -> None:
    due = billed(attempt(Tokens(100, completion=7), Tokens(100), ending=Ending.PROVIDER_CUT))
    assert (due.charge_pusd, due.lines) == (0, ())


def test_hidden_reasoning_of_a_cut_answer_is_our_cost_and_not_disputed() -> None:
    due = billed(
        attempt(
            Tokens(100, completion=500), Tokens(100, completion=7), ending=Ending.PROVIDER_CUT, hidden_reasoning=True
        )
    )
    assert due.tokens == Tokens(100, completion=7)
    assert (due.cost_pusd, due.disputed_pusd) == (100 * 800 + 500 * 2_000, 0)


def test_a_charge_never_exceeds_its_hold() -> None:
    due = billed(attempt(Tokens(100, completion=20)), hold_pusd=150_000)
    assert (due.charge_pusd, due.overrun_pusd, due.flags) == (150_000, 10_000, ("beyond_hold",))
    assert due.tokens == Tokens(100, completion=20)  # the usage shown is what there was


def test_what_a_sandbox_answered_is_told_apart() -> None:
    real = attempt(Tokens(100, completion=20), ending=Ending.PROVIDER_CUT)
    due = billed(real, attempt(Tokens(120, completion=5), endpoint="sandbox", provider="sandbox", sandbox=True))
    assert (due.charge_pusd, due.sandbox_charge_pusd) == (160_000 + 15_000, 15_000)


def test_tokens_at_no_price_are_an_error() -> None:
    with pytest.raises(NoPrice, match="eu delivered tokens but has no price"):
        billed(attempt(Tokens(100, completion=20), sell=None))
    assert billed(attempt(None, Tokens(0), sell=None, ending=Ending.FAILED)).charge_pusd == 0


def test_several_sources_are_as_good_as_the_worst() -> None:
    cut = attempt(None, Tokens(100, completion=7), counted_exactly=False, ending=Ending.PROVIDER_CUT)
    assert billed(cut, attempt(Tokens(107, completion=20))).source is UsageSource.ESTIMATED


prices = st.builds(Price, st.integers(1, 9), *[st.integers(0, 10**7)] * 3)
counts = st.integers(-5, 3_000) | st.sampled_from([0, 10**8, 10**12])
reports = st.none() | st.builds(Tokens, counts, counts, counts, counts)


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    prompt, completion = draw(st.integers(0, 2_000)), draw(st.integers(0, 2_000))
    return attempt(
        draw(reports),
        Tokens(prompt, draw(st.integers(0, prompt)), completion, draw(st.integers(0, completion))),
        endpoint=draw(st.sampled_from(["eu", "us"])),
        sell=draw(prices),
        buy=draw(prices),
        sandbox=draw(st.booleans()),
        reported_source=draw(st.sampled_from([UsageSource.PROVIDER, UsageSource.CONTINUOUS])),
        counted_exactly=draw(st.booleans()),
        ending=draw(st.sampled_from(Ending)),
        hidden_reasoning=draw(st.booleans()),
        cost_unknown=draw(st.booleans()),
    )


@given(st.lists(deliveries(), max_size=4), st.integers(0, 10**11))
def test_whatever_happens_a_bill_is_consistent(attempts: list[Delivery], hold_pusd: int) -> None:
    due = bill(attempts, hold_pusd)
    assert 0 <= due.sandbox_charge_pusd <= due.charge_pusd <= hold_pusd
    assert due.charge_pusd == sum(line.charged_pusd for line in due.lines)
    assert due.overrun_pusd == sum(line.amount_pusd - line.charged_pusd for line in due.lines)
    assert due.overrun_pusd == 0 or due.charge_pusd == hold_pusd
    assert all(line.amount_pusd == amount(line.tokens, line.price) for line in due.lines)
    assert sum(line.tokens.prompt > 0 for line in due.lines) <= 1
    assert due.tokens.completion == sum(line.tokens.completion for line in due.lines)
    for tokens in (due.tokens, *(line.tokens for line in due.lines), *(cost.tokens for cost in due.costs)):
        assert 0 <= tokens.cached <= tokens.prompt
        assert 0 <= tokens.reasoning <= tokens.completion
    assert len(due.costs) == len(attempts)
    assert min((cost.cost_pusd for cost in due.costs), default=0) >= 0
    assert due.disputed_pusd == sum(cost.disputed_pusd for cost in due.costs) >= 0
    assert ("beyond_hold" in due.flags) == (due.overrun_pusd > 0)


@given(st.lists(deliveries(), max_size=4), st.integers(0, 10**11), st.integers(0, 10**11))
def test_a_larger_hold_never_lowers_a_charge_and_changes_no_tokens(
    attempts: list[Delivery], hold_pusd: int, more_pusd: int
) -> None:
    small, large = bill(attempts, hold_pusd), bill(attempts, hold_pusd + more_pusd)
    assert small.charge_pusd <= large.charge_pusd
    assert small.charge_pusd + small.overrun_pusd == large.charge_pusd + large.overrun_pusd
    assert (small.tokens, small.costs) == (large.tokens, large.costs)


# Rules at their edges


@pytest.mark.parametrize(
    ("ours", "most"),
    [
        (0, 20),
        (100, 120),
        (199, 219),
        (200, 220),  # here 20 tokens are 10 %
        (201, 221),
        (1_000, 1_100),
        (1_005, 1_105),  # 10 % are 100.5
        (100_000, 110_000),
    ],
)
def test_20_tokens_or_10_percent_above_our_count_are_believed_and_no_token_more(ours: int, most: int) -> None:
    for theirs, flags in ((most, ()), (most + 1, ("usage_disputed",))):
        assert billed(attempt(Tokens(theirs, completion=5), Tokens(ours, completion=5))).flags == flags
        assert billed(attempt(Tokens(5, completion=theirs), Tokens(5, completion=ours))).flags == flags


@pytest.mark.parametrize(
    ("theirs", "ours", "flags"),
    [
        (Tokens(1, completion=1), Tokens(1, completion=20), ()),  # little is not nothing
        (Tokens(100, cached=100, completion=20), Tokens(100, completion=20), ()),  # all of the prompt was cached
        (Tokens(10**8 - 1, completion=20), Tokens(100, completion=20), ("usage_disputed",)),  # much, but a number
        (Tokens(10**8, completion=20), Tokens(100, completion=20), ("usage_implausible",)),
        (Tokens(100, completion=10**8 - 1), Tokens(100, completion=20), ("usage_disputed",)),
        (Tokens(100, completion=10**8), Tokens(100, completion=20), ("usage_implausible",)),
        (Tokens(100, completion=20, reasoning=10**8 - 1), Tokens(100, completion=20), ()),
        (Tokens(100, completion=20, reasoning=10**8), Tokens(100, completion=20), ("usage_implausible",)),
    ],
)
def test_a_count_is_implausible_from_a_hundred_million_tokens_and_not_for_being_small(
    theirs: Tokens, ours: Tokens, flags: tuple[str, ...]
) -> None:
    assert billed(attempt(theirs, ours)).flags == flags


def test_one_token_before_the_cut_is_an_answer() -> None:
    due = billed(attempt(Tokens(100, completion=1), ending=Ending.PROVIDER_CUT))
    assert due.charge_pusd == 100 * 1_000 + 1 * 3_000


def test_where_the_provider_takes_nothing_a_dispute_is_about_nothing() -> None:
    due = billed(attempt(Tokens(100, completion=500), Tokens(100, completion=20), buy=Price(3, 0, 0, 0)))
    assert (due.flags, due.disputed_pusd) == (("usage_disputed",), 0)
