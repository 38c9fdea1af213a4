"""What to do when an attempt fails or takes too long, and what a client is told: tables, as pure functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from providers.events import Failure, FailureKind
from proxy.entry.api_errors import ApiError
from proxy.exchange.attempt import Progress
from proxy.routing.route import Candidate, Exclusion

DONE_GRACE_S = 0.5  # some servers send the end of the body apart from `[DONE]`
QUICKEST_TIMEOUT_S = 5.0  # no endpoint, however quick it was, is given less time to its first token
PATIENCE = 10  # times the first token that is expected of an endpoint
SLOWEST_TOKEN_S = 0.1  # an answer that comes whole may take so long a token


class Action(Enum):
    FAIL_OVER = "fail over"
    RETRY_HERE = "retry here"
    CONTINUE = "continue"
    GIVE_UP = "give up"


@dataclass(frozen=True, slots=True)
class Situation:
    """`delivered`: the client has some of the answer. `continuable`: one of `remaining` could go on with it.

    `fresh`: the connection had not been used before.
    """

    delivered: bool
    continuable: bool
    fresh: bool
    remaining: Sequence[Candidate]
    current: Candidate


@dataclass(frozen=True, slots=True)
class Deadlines:
    """When a running attempt has taken too long. `total_at_s` is an instant, the others are durations."""

    total_at_s: float
    first_token_timeout_s: float
    idle_timeout_s: float


def overdue(attempt: Progress, deadlines: Deadlines, now_s: float) -> Failure | Literal["complete"] | None:
    """Why a running attempt must end now; "complete" where it has said all and only its connection stays open."""
    if now_s > deadlines.total_at_s:
        return Failure(FailureKind.TIMEOUT, "the total timeout is over")
    if attempt.done and attempt.silent_s > DONE_GRACE_S:
        return "complete"
    if not attempt.committed and now_s - attempt.started_s > deadlines.first_token_timeout_s:
        return Failure(FailureKind.TIMEOUT, f"no content within {deadlines.first_token_timeout_s:.1f} s")
    if attempt.committed and attempt.silent_s > deadlines.idle_timeout_s:
        return Failure(FailureKind.STALLED, f"nothing came for {deadlines.idle_timeout_s:g} s")
    return None


def first_token_timeout_s(allowed_s: float, expected_s: float | None, whole_answer_tokens: int) -> float:
    """How long to wait for the first token: `allowed_s`, or less where the endpoint is known to be quick.

    `expected_s` is what was measured, None where nothing was. An answer that comes whole has `whole_answer_tokens` to
    write before its first byte comes; a stream has 0.
    """
    patient_s = allowed_s if expected_s is None else min(allowed_s, max(QUICKEST_TIMEOUT_S, PATIENCE * expected_s))
    return patient_s + whole_answer_tokens * SLOWEST_TOKEN_S


# The request itself is at fault: another endpoint would say the same.
PASSED_THROUGH = frozenset({FailureKind.BAD_REQUEST, FailureKind.CONTENT_FILTER, FailureKind.CONTEXT_LENGTH})


def decide(failure: Failure, situation: Situation) -> Action:
    if failure.kind is FailureKind.NO_RESPONSE and not situation.fresh:
        return Action.RETRY_HERE  # the server had closed an idle connection: nothing was read of the request
    if failure.kind is FailureKind.OURS:
        return Action.GIVE_UP
    if situation.delivered:
        return Action.CONTINUE if situation.continuable else Action.GIVE_UP
    if not situation.remaining:
        return Action.GIVE_UP
    if failure.kind is FailureKind.CONTEXT_LENGTH:
        longest_tokens = max(candidate.endpoint.context_tokens for candidate in situation.remaining)
        return Action.FAIL_OVER if longest_tokens > situation.current.endpoint.context_tokens else Action.GIVE_UP
    if failure.kind in PASSED_THROUGH and not refuses_parameter(failure):
        return Action.GIVE_UP
    return Action.FAIL_OVER


def refuses_parameter(failure: Failure) -> bool:
    """A 400 that speaks of what this endpoint does not know, not of what is wrong with the request."""
    text = failure.message.lower()
    return failure.kind is FailureKind.BAD_REQUEST and any(
        words in text
        for words in (
            "not supported",
            "unsupported",
            "does not support",
            "unrecognized",
            "unknown field",
            "extra inputs",
            "no endpoints found that",  # OpenRouter
            "requires --",  # vLLM, started without what a parameter needs
        )
    )


SCHEMA_WORDS = ("grammar", "schema", "response_format", "structured")


def refuses_schema(failure: Failure | None) -> bool:
    """A 400 that speaks of the schema. It is one, as has been checked: so the endpoint cannot enforce it."""
    if failure is None or failure.kind is not FailureKind.BAD_REQUEST:
        return False
    text = failure.message.lower()
    return any(word in text for word in SCHEMA_WORDS)


def failed_request(failures: Sequence[tuple[Candidate, Failure]], *, delivered: bool) -> ApiError:
    """What the client is told when every attempt failed: the status that says most."""
    last = failures[-1][1]
    kinds = {failure.kind for _, failure in failures}
    tried = [{"endpoint": where.endpoint.name, "failure": failure.kind.value} for where, failure in failures]
    if last.kind is FailureKind.OURS and last.retry_after_s is not None:
        busy = "this server has no connection to spare; try again"
        return ApiError("no_endpoint_available", busy, None, last.retry_after_s, tried)
    if last.kind is FailureKind.OURS:
        return ApiError(
            "internal_error", "the answer could not be handed on; this is a mistake of ours", attempts=tried
        )
    if delivered:
        code = "upstream_timeout" if last.kind in (FailureKind.STALLED, FailureKind.TIMEOUT) else "upstream_failed"
        return ApiError(code, "the endpoint failed in the middle of the answer", None, None, tried)
    if last.kind in PASSED_THROUGH:
        code = {
            FailureKind.CONTEXT_LENGTH: "context_length_exceeded",
            FailureKind.CONTENT_FILTER: "content_filter",
        }.get(last.kind, "upstream_rejected_request")
        return ApiError(code, last.message, attempts=tried)
    if kinds == {FailureKind.RATE_LIMITED}:
        waits = [failure.retry_after_s or 1.0 for _, failure in failures]
        return ApiError("upstream_rate_limited", "every endpoint is out of capacity", None, min(waits), tried)
    if kinds <= {FailureKind.TIMEOUT, FailureKind.STALLED}:
        return ApiError("upstream_timeout", "no endpoint answered in time", None, None, tried)
    return ApiError("upstream_failed", f"every endpoint tried failed ({len(failures)})", None, None, tried)


def no_candidate(exclusions: Sequence[Exclusion], now_s: float) -> ApiError:
    """Why nothing was tried: 429 where an endpoint is out of capacity for now, 400 where none can ever serve it."""
    passing = [exclusion for exclusion in exclusions if exclusion.passing]
    if passing:
        wait_s = max(min(exclusion.until_s for exclusion in passing) - now_s, 1.0)
        return ApiError(
            "upstream_rate_limited", "every endpoint that could serve this is out of capacity", None, wait_s
        )
    reasons = {"excluded": [{"endpoint": left_out.endpoint, "reason": left_out.reason} for left_out in exclusions]}
    if exclusions and all(left_out.code == "no_price" for left_out in exclusions):
        return ApiError("no_endpoint_available", "no endpoint has a price", details=reasons)
    why = "; ".join(f"{left_out.endpoint}: {left_out.reason}" for left_out in exclusions) or "none is configured"
    return ApiError("no_eligible_endpoint", f"no endpoint can serve this request ({why})", details=reasons)
