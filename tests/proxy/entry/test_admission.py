"""What a key may do in a minute and at once. The clock is an argument."""

from contextlib import ExitStack
from typing import Any

import pytest

from ledger.keys import KeyRecord
from proxy.entry.admission import Admission, Limits
from proxy.entry.api_errors import ApiError


def key(key_id: int = 1, **limits: int | None) -> KeyRecord:
    fields: dict[str, Any] = {
        "key_id": key_id,
        "tenant_id": 1,
        "account_id": 1,
        "tenant_name": "t",
        "key_name": "k",
        "plan": None,
        "jurisdictions": None,
        "credit_limit_pusd": 0,
        "internal": False,
        "suspended": False,
        "revoked": False,
        "expires_at": None,
        "rpm": None,
        "tpm": None,
        "concurrency": None,
        "budget_pusd": None,
        "stream_usage": "asked",
        "reasoning_format": "both",
        "continuation": True,
    }
    return KeyRecord(**fields | limits)


def ask(admission: Admission, of: KeyRecord, prompt_tokens: int = 0, now_s: float = 0.0) -> Limits | None:
    """One request, begun and ended at once."""
    with admission.admit(of, prompt_tokens, now_s) as limits:
        return limits


def refused(admission: Admission, of: KeyRecord, prompt_tokens: int = 0, now_s: float = 0.0) -> tuple[str, float]:
    """The message, and how long to wait."""
    with pytest.raises(ApiError) as error, admission.admit(of, prompt_tokens, now_s):
        pass
    assert (error.value.code, error.value.status) == ("rate_limit_exceeded", 429)
    assert error.value.retry_after_s is not None
    return error.value.message, error.value.retry_after_s


def test_a_key_without_limits_has_none() -> None:
    admission = Admission()
    with ExitStack() as running:
        for _ in range(1_000):
            assert running.enter_context(admission.admit(key(), 10**9, 0.0)) is None


# Requests a minute


def test_a_minutes_requests_at_once_and_then_one_every_so_often() -> None:
    admission, of = Admission(), key(rpm=30)
    for _ in range(30):
        ask(admission, of)
    assert refused(admission, of) == ("this key may use 30 requests a minute", 2.0)
    assert refused(admission, of, now_s=1.5) == ("this key may use 30 requests a minute", 0.5)
    ask(admission, of, now_s=2.0)
    refused(admission, of, now_s=2.0)
    ask(admission, of, now_s=4.0)


def test_an_idle_hour_saves_up_one_minute() -> None:
    admission, of = Admission(), key(rpm=3)
    for _ in range(3):
        ask(admission, of)
    for _ in range(3):
        ask(admission, of, now_s=3_600.0)
    refused(admission, of, now_s=3_600.0)


def test_keys_do_not_share() -> None:
    admission = Admission()
    ask(admission, key(1, rpm=1))
    ask(admission, key(2, rpm=1))
    refused(admission, key(1, rpm=1))


# Tokens a minute


def test_prompts_and_answers_use_the_tokens_up() -> None:
    admission, of = Admission(), key(tpm=600)
    ask(admission, of, 500)
    assert refused(admission, of, 200)[1] == pytest.approx(10.0)
    admission.spend(of, 100)  # the answer
    assert refused(admission, of, 100)[1] == pytest.approx(10.0)
    ask(admission, of, 100, now_s=10.0)


def test_a_long_answer_is_paid_off_with_time() -> None:
    admission, of = Admission(), key(tpm=600)
    ask(admission, of, 10)
    admission.spend(of, 1_190)
    assert refused(admission, of, 1)[1] == pytest.approx(60.1)
    ask(admission, of, 1, now_s=61.0)


def test_a_prompt_longer_than_a_minutes_worth_waits_for_a_full_bucket_not_for_ever() -> None:
    admission, of = Admission(), key(tpm=600)
    ask(admission, of, 60)
    assert refused(admission, of, 100_000)[1] == pytest.approx(6.0)
    ask(admission, of, 100_000, now_s=6.0)
    assert refused(admission, of, 1, now_s=6.0)[1] > 9_000


def test_a_request_refused_for_one_limit_uses_up_none() -> None:
    admission, of = Admission(), key(rpm=2, tpm=100)
    ask(admission, of, 90)
    for _ in range(5):
        refused(admission, of, 50)
    ask(admission, of, 10)
    assert "requests" in refused(admission, of, 0)[0]


def test_spending_on_a_key_that_was_never_limited_breaks_nothing() -> None:
    admission = Admission()
    admission.spend(key(), 5)
    ask(admission, key(rpm=1))
    admission.spend(key(rpm=1), 5)
    refused(admission, key(rpm=1))


# At once


def test_so_many_at_once() -> None:
    admission, of = Admission(), key(concurrency=2)
    with admission.admit(of, 0, 0.0), admission.admit(of, 0, 0.0):
        assert refused(admission, of) == ("this key may have 2 requests running", 1.0)
    ask(admission, of)


def test_a_request_that_breaks_makes_room_all_the_same() -> None:
    admission, of = Admission(), key(concurrency=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), admission.admit(of, 0, 0.0):
            raise ZeroDivisionError
    ask(admission, of)


def test_a_refusal_for_the_rate_takes_no_place() -> None:
    admission, of = Admission(), key(concurrency=1, rpm=1)
    ask(admission, of)
    refused(admission, of)
    ask(admission, of, now_s=60.0)


# A key that is changed


def test_limits_may_change_while_the_counters_go_on() -> None:
    admission = Admission()
    for _ in range(10):
        ask(admission, key(rpm=10))
    refused(admission, key(rpm=20))
    for _ in range(5):
        ask(admission, key(rpm=20), now_s=15.0)
    refused(admission, key(rpm=20), now_s=15.0)
    ask(admission, key(rpm=2), now_s=3_600.0)
    ask(admission, key(rpm=2), now_s=3_600.0)
    refused(admission, key(rpm=2), now_s=3_600.0)


def test_a_limit_that_is_lifted_and_set_again_starts_full() -> None:
    admission = Admission()
    ask(admission, key(rpm=1, tpm=10))
    ask(admission, key(tpm=10))
    ask(admission, key(rpm=1, tpm=10))


# Headers


def test_headers_say_what_is_left() -> None:
    limits = ask(Admission(), key(rpm=60, tpm=6_000), 1_500)
    assert limits is not None
    assert limits.headers() == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1.000s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "4500",
        "x-ratelimit-reset-tokens": "15.000s",
    }


def test_headers_never_go_below_nothing() -> None:
    admission, of = Admission(), key(tpm=100)
    limits = ask(admission, of, 50)
    admission.spend(of, 500)
    assert limits is not None
    assert limits.headers()["x-ratelimit-remaining-tokens"] == "0"
    assert ask(Admission(), key(concurrency=1)) is not None
    assert Limits(None, None, 1).headers() == {}
