"""What follows a failure, and what the client is told in the end: every row of both tables."""

from typing import Any

import pytest

from providers.events import Failure, FailureKind
from providers.events import FailureKind as K
from proxy.entry.api_errors import CODES
from proxy.exchange.attempt import Progress
from proxy.exchange.policy import (
    Action,
    Deadlines,
    Situation,
    decide,
    failed_request,
    first_token_timeout_s,
    no_candidate,
    overdue,
    refuses_parameter,
    refuses_schema,
)
from proxy.routing.route import Exclusion
from tests.proxy.routing.routes import candidate

HERE, LONGER, SHORTER = (
    candidate("here", context_tokens=32_000),
    candidate("longer", context_tokens=131_072),
    candidate("shorter", context_tokens=16_000),
)


def failed(kind: K, message: str = "no", retry_after_s: float | None = None) -> Failure:
    return Failure(kind, message, None, retry_after_s)


def situation(**more: Any) -> Situation:
    fields: dict[str, Any] = {
        "delivered": False,
        "continuable": False,
        "fresh": True,
        "remaining": [SHORTER],
        "current": HERE,
    }
    return Situation(**fields | more)


# What to do

ANOTHER_TRIES = {
    K.CONNECT,
    K.NO_RESPONSE,
    K.TIMEOUT,
    K.STALLED,
    K.CUT,
    K.PROTOCOL,
    K.RATE_LIMITED,
    K.UNAVAILABLE,
    K.SERVER_ERROR,
    K.UNAUTHORIZED,
    K.NOT_FOUND,
}


@pytest.mark.parametrize("kind", FailureKind)
def test_before_the_client_has_anything(kind: K) -> None:
    """Whose fault it is decides: the endpoint's, and another is tried; the request's, and none is."""
    expected = Action.FAIL_OVER if kind in ANOTHER_TRIES else Action.GIVE_UP
    assert decide(failed(kind), situation()) is expected


@pytest.mark.parametrize("kind", FailureKind)
def test_with_nobody_left(kind: K) -> None:
    assert decide(failed(kind), situation(remaining=[])) is Action.GIVE_UP


def test_a_mistake_of_ours_is_not_made_again_elsewhere() -> None:
    for more in ({}, {"delivered": True, "continuable": True}):
        assert decide(failed(K.OURS), situation(**more)) is Action.GIVE_UP
    assert failed_request([(candidate("one"), failed(K.OURS))], delivered=True).code == "internal_error"


@pytest.mark.parametrize("kind", [kind for kind in K if kind is not K.OURS])
def test_once_the_client_has_some_of_it(kind: K) -> None:
    """It is continued or it ends: what was sent cannot be taken back."""
    assert decide(failed(kind), situation(delivered=True, continuable=True)) is Action.CONTINUE
    assert decide(failed(kind), situation(delivered=True)) is Action.GIVE_UP


@pytest.mark.parametrize(
    ("kind", "more", "expected"),
    [
        # A connection that was kept alive may have been closed before the request came: the endpoint is not to blame.
        (K.NO_RESPONSE, {"fresh": False}, Action.RETRY_HERE),
        (K.NO_RESPONSE, {"fresh": False, "remaining": []}, Action.RETRY_HERE),
        (K.NO_RESPONSE, {"fresh": False, "delivered": True}, Action.RETRY_HERE),  # a continuation is a request as well
        (K.NO_RESPONSE, {"fresh": True}, Action.FAIL_OVER),
        (K.CUT, {"fresh": False}, Action.FAIL_OVER),
        # A prompt too long here fits where the context is longer, and nowhere else.
        (K.CONTEXT_LENGTH, {"remaining": [SHORTER, LONGER]}, Action.FAIL_OVER),
        (K.CONTEXT_LENGTH, {"remaining": [HERE, SHORTER]}, Action.GIVE_UP),
    ],
)
def test_the_finer_points(kind: K, more: dict[str, Any], expected: Action) -> None:
    assert decide(failed(kind), situation(**more)) is expected


@pytest.mark.parametrize(
    ("message", "refused"),
    [
        ("Unrecognized request argument supplied: min_p", True),
        ("Unsupported parameter: top_k", True),
        ("`logit_bias` is not supported by this model", True),
        ("This endpoint does not support tools", True),
        ("Extra inputs are not permitted", True),
        ("unknown field `seed`", True),
        ("No endpoints found that support tool use", True),
        ('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set', True),
        ("temperature must be at most 2", False),
        ("Grammar error: Invalid type: nonsense", False),
        ("no reason given", False),
    ],
)
def test_a_parameter_refused_here_may_be_taken_elsewhere(message: str, refused: bool) -> None:
    failure = failed(K.BAD_REQUEST, message)
    assert refuses_parameter(failure) == refused
    assert decide(failure, situation()) is (Action.FAIL_OVER if refused else Action.GIVE_UP)
    assert not refuses_parameter(failed(K.SERVER_ERROR, message))


# What the client is told


@pytest.mark.parametrize(
    ("kinds", "status", "code"),
    [
        ([K.CONNECT], 502, "upstream_failed"),
        ([K.SERVER_ERROR, K.CUT, K.PROTOCOL], 502, "upstream_failed"),
        ([K.UNAUTHORIZED], 502, "upstream_failed"),  # our key there is not the client's affair
        ([K.NOT_FOUND], 502, "upstream_failed"),
        ([K.RATE_LIMITED, K.UNAVAILABLE], 502, "upstream_failed"),
        ([K.TIMEOUT, K.RATE_LIMITED], 502, "upstream_failed"),
        ([K.TIMEOUT], 504, "upstream_timeout"),
        ([K.TIMEOUT, K.STALLED], 504, "upstream_timeout"),
        ([K.RATE_LIMITED, K.RATE_LIMITED], 429, "upstream_rate_limited"),
        ([K.CONTEXT_LENGTH], 400, "context_length_exceeded"),
        ([K.CONTENT_FILTER], 400, "content_filter"),
        ([K.BAD_REQUEST], 400, "upstream_rejected_request"),
        # The last word on the request itself is the best one, whatever happened before.
        ([K.UNAVAILABLE, K.BAD_REQUEST], 400, "upstream_rejected_request"),
        ([K.BAD_REQUEST, K.UNAVAILABLE], 502, "upstream_failed"),
    ],
)
def test_what_the_client_is_told(kinds: list[K], status: int, code: str) -> None:
    failures = [(candidate(f"e{i}"), failed(kind, "their own words")) for i, kind in enumerate(kinds)]
    error = failed_request(failures, delivered=False)
    assert (error.status, error.code) == (status, code)
    assert error.attempts == [{"endpoint": f"e{i}", "failure": kind.value} for i, kind in enumerate(kinds)]
    assert ("their own words" in error.message) == (status == 400)


@pytest.mark.parametrize("kind", FailureKind)
def test_the_verdict_in_the_middle_of_an_answer(kind: K) -> None:
    error = failed_request([(HERE, failed(kind, "their own words"))], delivered=True)
    codes = {K.STALLED: "upstream_timeout", K.TIMEOUT: "upstream_timeout", K.OURS: "internal_error"}
    assert error.code == codes.get(kind, "upstream_failed")
    assert "their own words" not in error.message


def test_the_shortest_wait_is_the_one_to_wait() -> None:
    waits = (30.0, 7.5, None)
    failures = [(candidate(f"e{i}"), failed(K.RATE_LIMITED, "", wait)) for i, wait in enumerate(waits)]
    assert failed_request(failures[:2], delivered=False).headers()["retry-after"] == "8"
    assert failed_request(failures, delivered=False).headers()["retry-after"] == "1"


# Where there was nothing to try


def passing(until_s: float) -> Exclusion:
    return Exclusion("full", "rate_limited", "it is out of capacity for now", True, until_s)


NO_PRICE, TOO_SHORT = Exclusion("a", "no_price", "no price"), Exclusion("b", "context", "its context is short")


@pytest.mark.parametrize(
    ("exclusions", "status", "code", "wait"),
    [
        ([passing(107.2)], 429, "upstream_rate_limited", "8"),
        ([passing(130.0), passing(107.2), TOO_SHORT], 429, "upstream_rate_limited", "8"),
        ([passing(0.0)], 429, "upstream_rate_limited", "1"),  # full of our own requests: until one of them ends
        ([NO_PRICE, NO_PRICE], 503, "no_endpoint_available", None),
        ([NO_PRICE, TOO_SHORT], 400, "no_eligible_endpoint", None),
        ([TOO_SHORT], 400, "no_eligible_endpoint", None),
        ([], 400, "no_eligible_endpoint", None),
    ],
)
def test_nobody_to_ask(exclusions: list[Exclusion], status: int, code: str, wait: str | None) -> None:
    error = no_candidate(exclusions, 100.0)
    assert (error.status, error.code, error.headers().get("retry-after")) == (status, code, wait)


def test_each_reason_is_given() -> None:
    error = no_candidate([NO_PRICE, TOO_SHORT], 100.0)
    assert error.message == "no endpoint can serve this request (a: no price; b: its context is short)"
    assert error.body()["error"]["excluded"] == [
        {"endpoint": "a", "reason": "no price"},
        {"endpoint": "b", "reason": "its context is short"},
    ]


def test_every_code_that_is_given_is_in_the_table() -> None:
    given = [failed_request([(HERE, failed(kind))], delivered=False).code for kind in FailureKind]
    assert set(given) <= set(CODES)


@pytest.mark.parametrize(
    ("failure", "refused"),
    [
        (None, False),
        (failed(K.BAD_REQUEST, 'Grammar error: Unimplemented keys: ["uniqueItems"]'), True),
        (failed(K.BAD_REQUEST, "Invalid schema for response_format"), True),
        (failed(K.BAD_REQUEST, "Structured output is not available"), True),
        (failed(K.BAD_REQUEST, "temperature must be at most 2"), False),
        (failed(K.SERVER_ERROR, "the grammar could not be compiled"), False),
    ],
)
def test_a_refusal_that_speaks_of_the_schema(failure: Failure | None, refused: bool) -> None:
    assert refuses_schema(failure) is refused


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (K.OURS, 503, "no_endpoint_available"),  # no connection of our own was to be had
        (K.RATE_LIMITED, 429, "upstream_rate_limited"),
        (K.UNAVAILABLE, 502, "upstream_failed"),
    ],
)
def test_who_is_out_of_capacity_for_a_while_is_told_apart(kind: K, status: int, code: str) -> None:
    error = failed_request([(HERE, failed(kind, retry_after_s=3.0))], delivered=False)
    assert (error.status, error.code) == (status, code)


@pytest.mark.parametrize("word", ["grammar", "schema", "response_format", "structured"])
def test_any_word_for_a_schema_will_do(word: str) -> None:
    assert refuses_schema(failed(K.BAD_REQUEST, f"{word.upper()} not available"))


# When a running attempt has taken too long: it began at 100 s

DEADLINES = Deadlines(total_at_s=1_900.0, first_token_timeout_s=30.0, idle_timeout_s=20.0)
TOTAL = Failure(K.TIMEOUT, "the total timeout is over")
FIRST_TOKEN = Failure(K.TIMEOUT, "no content within 30.0 s")
SILENCE = Failure(K.STALLED, "nothing came for 20 s")


def progress(*, committed: bool = False, done: bool = False, silent_s: float = 0.0) -> Progress:
    return Progress(100.0, committed, done, silent_s)


@pytest.mark.parametrize(
    ("attempt", "now_s", "expected"),
    [
        # Each deadline has passed only behind its instant.
        (progress(), 130.0, None),
        (progress(), 130.1, FIRST_TOKEN),
        (progress(committed=True, silent_s=20.0), 1_000.0, None),
        (progress(committed=True, silent_s=20.1), 1_000.0, SILENCE),
        (progress(committed=True), 1_900.0, None),
        (progress(committed=True), 1_900.1, TOTAL),
        (progress(committed=True, done=True, silent_s=0.5), 1_000.0, None),
        (progress(committed=True, done=True, silent_s=0.6), 1_000.0, "complete"),
        # Silence is no matter before content: a long prompt takes its time, and has a deadline of its own.
        (progress(silent_s=29.0), 129.0, None),
        # Nor is the time to the first token behind it.
        (progress(committed=True), 1_000.0, None),
        # Of two that have passed: the total, then the end that was said, then the others.
        (progress(done=True, silent_s=0.6), 1_900.1, TOTAL),
        (progress(silent_s=100.0), 1_900.1, TOTAL),
        (progress(committed=True, silent_s=20.1), 1_900.1, TOTAL),
        (progress(done=True, silent_s=0.6), 130.1, "complete"),
        (progress(committed=True, done=True, silent_s=20.1), 1_000.0, "complete"),
        (progress(done=True, silent_s=0.5), 130.1, FIRST_TOKEN),
    ],
)
def test_when_a_running_attempt_must_end(attempt: Progress, now_s: float, expected: Any) -> None:
    assert overdue(attempt, DEADLINES, now_s) == expected


@pytest.mark.parametrize(
    ("allowed_s", "expected_s", "whole_answer_tokens", "timeout_s"),
    [
        (30.0, None, 0, 30.0),  # nothing was measured
        (30.0, 1.0, 0, 10.0),
        (30.0, 3.0, 0, 30.0),
        (30.0, 9.0, 0, 30.0),  # never more than is allowed
        (30.0, 0.5, 0, 5.0),
        (30.0, 0.01, 0, 5.0),  # nor less than a quick one needs on a bad day
        (2.0, 0.01, 0, 2.0),
        (2.0, None, 0, 2.0),
        # A whole answer is written before its first byte comes, at a tenth of a second a token.
        (30.0, None, 1_000, 130.0),
        (30.0, 1.0, 1_000, 110.0),
    ],
)
def test_how_long_to_wait_for_the_first_token(
    allowed_s: float, expected_s: float | None, whole_answer_tokens: int, timeout_s: float
) -> None:
    assert first_token_timeout_s(allowed_s, expected_s, whole_answer_tokens) == timeout_s
