"""What an error looks like: OpenAI's shape, and the headers that say whether to try again."""

import pytest

from proxy.entry.api_errors import CODES, ApiError

STATUSES = {400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 429, 500, 502, 503, 504}
AGAIN = {408, 409, 429, 500, 502, 503, 504}


@pytest.mark.parametrize("code", CODES)
def test_a_code_has_a_status_and_a_word_on_trying_again(code: str) -> None:
    error = ApiError(code, "why")
    assert error.status in STATUSES
    assert (error.headers().get("x-should-retry") == "false") == (error.status not in AGAIN)


def test_the_shape() -> None:
    assert ApiError("invalid_request", "n must be a number", "n").body() == {
        "error": {
            "message": "n must be a number",
            "type": "invalid_request_error",
            "param": "n",
            "code": "invalid_request",
        }
    }


def test_what_was_tried_and_what_else_there_is_to_say() -> None:
    tried = [{"endpoint": "a", "failure": "cut"}]
    error = ApiError("upstream_failed", "no", None, None, tried, {"route": {}}).body()["error"]
    assert (error["attempts"], error["route"]) == (tried, {})
    assert "attempts" not in ApiError("insufficient_credit", "no", details={"affordable_max_tokens": 3}).body()["error"]


@pytest.mark.parametrize(("wait_s", "header"), [(None, None), (0.0, "1"), (0.2, "1"), (1.2, "2"), (60.0, "60")])
def test_who_waits_as_told_has_waited_long_enough(wait_s: float | None, header: str | None) -> None:
    assert ApiError("rate_limit_exceeded", "no", None, wait_s).headers().get("retry-after") == header


def test_a_401_says_how_to_authenticate() -> None:
    assert ApiError("invalid_api_key", "no").headers()["www-authenticate"] == "Bearer"


def test_it_is_an_exception_like_any_other() -> None:
    error = ApiError("not_found", "no")
    assert {error}
    assert error != ApiError("not_found", "no")
    assert "not_found" in repr(error)
