"""What was measured of an endpoint, and when it rests, is saturated or is tried again; clock and dice are given."""

from typing import Any

import pytest

from providers.events import Failure, FailureKind
from proxy.routing.observations import SICK, Observation, Outcomes, PeakAverage, RetryBudget, bucket

SICKNESS = Failure(FailureKind.UNAVAILABLE, "503")
FULL = Failure(FailureKind.RATE_LIMITED, "429")
LUCKY, UNLUCKY = 0.0, 0.999999  # the shortest rest of the dice, and the longest


def full_for(seconds: float) -> Failure:
    return Failure(FailureKind.RATE_LIMITED, "429", 429, seconds)


def attempt(seen: Observation, now_s: float, failure: Failure | None = None, roll: float = UNLUCKY) -> None:
    """One try, from begin to end, in no time."""
    seen.begin()
    if failure is None:
        seen.succeed(now_s, None)
    else:
        seen.fail(failure, now_s, roll)


def broken(at_s: float = 0.0, roll: float = UNLUCKY) -> Observation:
    """An endpoint whose breaker opened at `at_s`."""
    seen = Observation()
    for _ in range(5):
        attempt(seen, at_s, SICKNESS, roll)
    return seen


# How fast it is


def test_a_worse_sample_counts_at_once_a_better_one_by_and_by() -> None:
    average = PeakAverage()
    average.add(1.0, 0.0)
    average.add(3.0, 1.0)
    assert average.value == 3.0
    average.add(1.0, 1.0)
    assert average.value == pytest.approx(2.8)  # a tenth of the way, however soon
    average.add(1.0, 61.0)
    assert average.value == pytest.approx(1.0 + 1.8 * 0.9 / 2.71828, abs=1e-3)
    average.add(1.0, 10_000.0)
    assert average.value == pytest.approx(1.0)


def test_a_clock_that_goes_back_breaks_nothing() -> None:
    average = PeakAverage()
    average.add(2.0, 100.0)
    average.add(1.0, 50.0)
    assert average.value == pytest.approx(1.9)


@pytest.mark.parametrize(
    ("tokens", "index"),
    [(0, 0), (1_000, 0), (1_001, 1), (8_000, 1), (8_001, 2), (32_000, 2), (32_001, 3), (131_072, 3)],
)
def test_prompts_are_told_apart_by_size(tokens: int, index: int) -> None:
    assert bucket(tokens) == index


def test_the_first_token_is_expected_as_in_the_nearest_size_measured() -> None:
    seen = Observation()
    assert seen.expected_first_token_s(10) is None
    seen.first_token(9.0, 100_000, 0.0)
    assert seen.expected_first_token_s(10) == 9.0
    seen.first_token(0.3, 500, 0.0)
    assert [seen.expected_first_token_s(tokens) for tokens in (10, 5_000, 20_000, 50_000)] == [0.3, 0.3, 9.0, 9.0]


def test_the_time_of_a_token_is_that_of_answers_that_succeeded() -> None:
    seen = Observation()
    seen.begin()
    seen.succeed(0.0, 0.02)
    attempt(seen, 0.0)
    assert seen.token_s.value == 0.02


# How often it fails


def test_the_failure_rate_is_that_of_the_last_30_seconds() -> None:
    seen = Observation()
    assert seen.failure_rate(0.0) == 0.0
    attempt(seen, 0.0, SICKNESS)
    attempt(seen, 10.0)
    assert seen.failure_rate(30.0) == 0.5
    assert seen.failure_rate(30.1) == 0.0
    assert seen.failure_rate(41.0) == 0.0


def test_outcomes_are_bounded() -> None:
    outcomes = Outcomes()
    for i in range(3_000):
        outcomes.add(i >= 1_500, 0.0)
    assert len(outcomes.recent) == 1_000
    assert outcomes.failure_rate(0.0) == 0.0


@pytest.mark.parametrize("kind", FailureKind)
def test_only_what_tells_about_the_endpoint_counts_against_it(kind: FailureKind) -> None:
    seen = Observation()
    for _ in range(20):
        attempt(seen, 0.0, Failure(kind, ""))
    assert seen.resting(0.0) == (kind in SICK)
    assert (seen.failure_rate(0.0) > 0) == (kind in SICK)
    assert seen.in_flight == 0


def test_the_requests_fault_is_not_the_endpoints() -> None:
    assert not SICK & {
        FailureKind.BAD_REQUEST,
        FailureKind.CONTEXT_LENGTH,
        FailureKind.CONTENT_FILTER,
        FailureKind.RATE_LIMITED,  # capacity, not ill health
    }


# The breaker


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ("xxxx", False),
        ("xxxxx", True),  # five in a row
        ("......................xxxxx", True),  # also after many that succeeded
        ("xxxx.xxx", True),  # fewer than 0.8 of 8 succeeded
        ("..x", False),  # too few to judge by
        (".x...", False),  # 0.8 of them
        (".x..x", True),
        ("....xx....", False),
        ("..........xx.x", True),
    ],
)
def test_when_it_opens(outcomes: str, opens: bool) -> None:
    seen = Observation()
    for outcome in outcomes:
        attempt(seen, 0.0, SICKNESS if outcome == "x" else None)
    assert seen.resting(0.0) == opens


def test_old_failures_do_not_open_it() -> None:
    seen = Observation()
    for at_s, outcome in [(0.0, "x"), (1.0, "x"), (2.0, "."), (40.0, "."), (41.0, "."), (42.0, "x")]:
        attempt(seen, at_s, SICKNESS if outcome == "x" else None)
    assert not seen.resting(42.0)


@pytest.mark.parametrize(("roll", "rest_s"), [(LUCKY, 2.5), (0.5, 3.75), (UNLUCKY, 5.0)])
def test_a_rest_is_half_sure_and_half_luck(roll: float, rest_s: float) -> None:
    seen = broken(100.0, roll)
    assert seen.resting_until_s == pytest.approx(100.0 + rest_s, abs=1e-3)


def test_after_the_rest_one_probe_goes_and_the_others_wait_for_it() -> None:
    seen = broken()
    assert seen.resting(4.9)
    assert not seen.resting(5.1)
    seen.begin()
    assert seen.resting(5.2)  # to the others
    seen.succeed(5.3, None)
    assert not seen.resting(5.4)


def test_a_probe_that_succeeds_closes_it_with_a_clean_slate() -> None:
    seen = broken()
    attempt(seen, 6.0)
    assert (seen.rests, seen.failure_rate(6.0)) == (0, 0.0)
    attempt(seen, 6.1, SICKNESS)
    assert not seen.resting(6.1)


def test_probes_that_fail_let_it_rest_twice_as_long_up_to_five_minutes() -> None:
    seen, now_s, lengths = broken(), 0.0, []
    for _ in range(9):
        lengths.append(round(seen.resting_until_s - now_s))
        now_s = seen.resting_until_s + 1.0
        attempt(seen, now_s, SICKNESS)
    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_burst_that_fails_together_is_one_failure() -> None:
    seen = Observation()
    for _ in range(20):
        seen.begin()
    for _ in range(20):
        seen.fail(SICKNESS, 1.0, UNLUCKY)
    assert seen.resting_until_s == pytest.approx(6.0, abs=1e-3)
    assert seen.in_flight == 0


def test_an_attempt_older_than_the_rest_does_not_end_it() -> None:
    seen = Observation()
    for _ in range(6):
        seen.begin()
    for _ in range(5):
        seen.fail(SICKNESS, 1.0, UNLUCKY)
    seen.succeed(1.1, None)
    assert seen.resting(1.2)


def test_a_last_resort_during_the_rest_closes_it_if_it_succeeds() -> None:
    seen = broken()
    attempt(seen, 1.0, SICKNESS)
    assert seen.resting_until_s == pytest.approx(5.0, abs=1e-3)  # no longer for having been asked
    attempt(seen, 2.0)
    assert not seen.resting(2.0)


def test_a_probe_that_tells_nothing_leaves_the_next_one_to_probe() -> None:
    seen = broken()
    seen.begin()
    seen.leave()
    assert not seen.resting(6.0)
    seen.begin()
    assert seen.resting(6.0)


# Capacity


def test_a_429_closes_it_for_as_long_as_it_says() -> None:
    seen = Observation()
    attempt(seen, 10.0, full_for(7.0))
    assert seen.saturated_until_s == 17.0
    assert (seen.saturated(16.9), seen.saturated(17.0)) == (True, False)
    assert not seen.resting(11.0)
    assert seen.failure_rate(11.0) == 0.0


@pytest.mark.parametrize("failure", [FULL, full_for(0.0)], ids=["without Retry-After", "at once, it says"])
def test_without_a_word_it_backs_off_with_jitter(failure: Failure) -> None:
    for roll, length in ((LUCKY, 0.5), (UNLUCKY, 1.0)):
        seen = Observation()
        attempt(seen, 10.0, failure, roll)
        assert seen.saturated_until_s == pytest.approx(10.0 + length, abs=1e-3)


def test_it_backs_off_longer_each_time_up_to_a_minute_and_a_success_forgets() -> None:
    seen, now_s, lengths = Observation(), 0.0, []
    for _ in range(8):
        attempt(seen, now_s, FULL)
        lengths.append(round(seen.saturated_until_s - now_s))
        now_s = seen.saturated_until_s + 1.0
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]
    attempt(seen, now_s)
    attempt(seen, now_s, FULL)
    assert seen.saturated_until_s == pytest.approx(now_s + 1.0, abs=1e-3)


def test_a_storm_of_refusals_is_one_and_the_longest_wait_holds() -> None:
    seen = Observation()
    for _ in range(20):
        seen.begin()
    waits: list[float | None] = [None, 3.0, 9.0, 2.0, None]
    for wait_s in waits:
        seen.fail(full_for(wait_s) if wait_s else FULL, 10.0, UNLUCKY)
    assert (seen.saturated_until_s, seen.rate_limits, seen.concurrency_cap) == (19.0, 1, 10.0)
    assert seen.in_flight == 15


def test_the_cap_halves_at_a_refusal_and_grows_by_one_a_round() -> None:
    seen = Observation()
    for _ in range(8):
        seen.begin()
    seen.fail(full_for(1.0), 0.0, LUCKY)
    assert seen.concurrency_cap == 4.0
    assert seen.saturated(5.0)  # seven are still under way
    for _ in range(4):
        seen.leave()
    assert not seen.saturated(5.0)
    seen.begin()
    assert seen.saturated(5.0)
    for _ in range(4):
        seen.succeed(6.0, None)
    assert seen.concurrency_cap == pytest.approx(4.92, abs=0.01)


def test_the_cap_is_never_below_one() -> None:
    seen = Observation()
    for now_s in (0.0, 100.0, 200.0):
        attempt(seen, now_s, FULL)
    assert seen.concurrency_cap == 1.0
    assert not seen.saturated(1_000.0)


def test_an_endpoint_that_never_refused_has_no_cap() -> None:
    seen = Observation()
    for _ in range(10_000):
        seen.begin()
    assert not seen.saturated(0.0)


def test_leaving_more_often_than_coming_breaks_nothing() -> None:
    seen = Observation()
    seen.leave()
    assert seen.in_flight == 0


# How much may be tried again


def budget(**more: Any) -> RetryBudget:
    return RetryBudget(**more)


def test_a_floor_of_retries_is_there_from_the_start() -> None:
    spent = budget()
    assert [spent.withdraw(100) for _ in range(11)] == [True] * 10 + [False]


def test_a_fifth_of_requests_may_be_tried_again() -> None:
    spent = budget(requests=0.0)
    granted = 0
    for _ in range(1_000):
        spent.deposit(100, 1.0)  # all at one instant: no floor
        granted += spent.withdraw(100)
    assert 195 <= granted <= 200


def test_the_floor_comes_back_with_time() -> None:
    spent = budget(requests=0.0, tokens=0.0, share=0.0)
    spent.deposit(0, 100.0)
    assert not spent.withdraw(0)
    spent.deposit(0, 101.5)
    assert [spent.withdraw(0) for _ in range(2)] == [True, False]
    spent.deposit(0, 1_000.0)
    assert [spent.withdraw(0) for _ in range(11)] == [True] * 10 + [False]


def test_long_prompts_use_the_budget_up_sooner() -> None:
    spent = budget()
    assert [spent.withdraw(120_000) for _ in range(9)] == [True] * 8 + [False]
    assert spent.withdraw(1_000)


def test_the_budget_does_not_pile_up_for_ever() -> None:
    spent = budget()
    for i in range(100_000):
        spent.deposit(100_000, float(i))
    assert (spent.requests, spent.tokens) == (100.0, 10_000_000.0)


def test_a_refused_retry_takes_nothing() -> None:
    spent = budget(requests=5.0, tokens=10.0)
    assert not spent.withdraw(11)
    assert (spent.requests, spent.tokens) == (5.0, 10.0)


# Rules at their edges

WHAT_A_FAILURE_TELLS = {
    FailureKind.CONNECT: "ill health",
    FailureKind.NO_RESPONSE: "ill health",
    FailureKind.TIMEOUT: "ill health",
    FailureKind.STALLED: "ill health",
    FailureKind.CUT: "ill health",
    FailureKind.PROTOCOL: "ill health",
    FailureKind.UNAVAILABLE: "ill health",
    FailureKind.SERVER_ERROR: "ill health",
    FailureKind.UNAUTHORIZED: "ill health",  # nobody's requests get through there
    FailureKind.NOT_FOUND: "ill health",
    FailureKind.RATE_LIMITED: "no capacity",
    FailureKind.CONTEXT_LENGTH: "nothing",
    FailureKind.CONTENT_FILTER: "nothing",
    FailureKind.BAD_REQUEST: "nothing",
    FailureKind.OURS: "nothing",
}


@pytest.mark.parametrize("kind", FailureKind)
def test_what_a_failure_tells_about_the_endpoint(kind: FailureKind) -> None:
    seen = Observation()
    for _ in range(5):
        attempt(seen, 0.0, Failure(kind, ""))
    tells = "ill health" if seen.resting(0.0) else "no capacity" if seen.rate_limits else "nothing"
    assert tells == WHAT_A_FAILURE_TELLS[kind]


def test_the_window_of_30_seconds_moves_with_a_clock_that_began_long_ago() -> None:
    seen = Observation()
    attempt(seen, 90_000.0, SICKNESS)
    attempt(seen, 90_010.0)
    assert [seen.failure_rate(now_s) for now_s in (90_010.0, 90_030.0, 90_030.1)] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("outcomes", "opens"),
    [
        ("....x", False),  # exactly 0.8 succeeded
        ("...xx", True),
        ("........xx", False),
        (".......xxx", True),
        ("...x", False),  # fewer, but of too few
    ],
)
def test_it_opens_when_fewer_than_8_of_10_succeeded_not_when_8_did(outcomes: str, opens: bool) -> None:
    seen = Observation()
    for outcome in outcomes:
        attempt(seen, 0.0, SICKNESS if outcome == "x" else None)
    assert seen.resting(0.0) == opens


def test_at_its_last_instant_the_rest_is_over_and_a_failure_begins_the_next() -> None:
    seen = broken()
    end_s = seen.resting_until_s
    assert not seen.resting(end_s)
    attempt(seen, end_s, SICKNESS)
    assert seen.resting_until_s == pytest.approx(end_s + 10.0, abs=1e-3)


def test_a_cap_of_one_is_two_after_one_success() -> None:
    seen = Observation()
    attempt(seen, 0.0, FULL)
    attempt(seen, 100.0)
    assert seen.concurrency_cap == 2.0


@pytest.mark.parametrize(("prompt_tokens", "granted"), [(100, True), (101, False)])
def test_the_last_tokens_of_the_budget_may_be_spent(prompt_tokens: int, granted: bool) -> None:
    assert budget(tokens=100.0).withdraw(prompt_tokens) is granted
