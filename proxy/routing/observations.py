"""What was measured of each endpoint, and the two decisions that rest on it: is it resting, and how fast is it.

Every function takes the time (seconds of a monotonic clock) and, where it rolls dice, the roll; nothing here waits.
"""

from collections import deque
from dataclasses import dataclass, field
from math import exp

from providers.events import Failure, FailureKind

PROMPT_BUCKETS_TOKENS = (1_000, 8_000, 32_000)
DECAY_S = 60.0
BREAKER_FAILURES = 5
BREAKER_SUCCESS_RATE = 0.8
BREAKER_WINDOW_S = 30.0
BREAKER_WINDOW_REQUESTS = 5
BREAKER_WINDOW_MOST = 1_000
BREAKER_REST_S = (5.0, 300.0)
RATE_LIMIT_REST_S = (1.0, 60.0)

# Failures that tell about the endpoint, and not about the request.
SICK = frozenset(
    {
        FailureKind.CONNECT,
        FailureKind.NO_RESPONSE,
        FailureKind.TIMEOUT,
        FailureKind.STALLED,
        FailureKind.CUT,
        FailureKind.PROTOCOL,
        FailureKind.UNAVAILABLE,
        FailureKind.SERVER_ERROR,
        FailureKind.UNAUTHORIZED,
        FailureKind.NOT_FOUND,
    }
)


@dataclass(slots=True)
class PeakAverage:
    """Exponentially weighted, sensitive to peaks: a worse sample counts at once, a better one by and by."""

    value: float | None = None
    at_s: float = 0.0

    def add(self, sample: float, now_s: float) -> None:
        if self.value is None or sample > self.value:
            self.value = sample
        else:
            weight = exp(-max(now_s - self.at_s, 0.0) / DECAY_S) * 0.9
            self.value = sample + (self.value - sample) * weight
        self.at_s = now_s


@dataclass(slots=True)
class Outcomes:
    """Successes and failures of the last 30 seconds (and the last 1,000), counted as they come and go."""

    recent: deque[tuple[float, bool]] = field(default_factory=deque)
    failures: int = 0

    def add(self, succeeded: bool, now_s: float) -> None:
        self.recent.append((now_s, succeeded))
        self.failures += not succeeded
        if len(self.recent) > BREAKER_WINDOW_MOST:
            self._drop()

    def failure_rate(self, now_s: float) -> float:
        while self.recent and now_s - self.recent[0][0] > BREAKER_WINDOW_S:
            self._drop()
        return self.failures / len(self.recent) if self.recent else 0.0

    def _drop(self) -> None:
        self.failures -= not self.recent.popleft()[1]


@dataclass(slots=True)
class Observation:
    """One endpoint as this process saw it. Saturated (a 429) is capacity; resting (the breaker) is ill health."""

    first_token_s: dict[int, PeakAverage] = field(default_factory=dict)
    token_s: PeakAverage = field(default_factory=PeakAverage)
    outcomes: Outcomes = field(default_factory=Outcomes)
    consecutive_failures: int = 0
    in_flight: int = 0
    concurrency_cap: float | None = None
    saturated_until_s: float = 0.0
    rate_limits: int = 0
    resting_until_s: float = 0.0
    rests: int = 0
    probing: bool = False

    def expected_first_token_s(self, prompt_tokens: int) -> float | None:
        """Of the nearest bucket that was measured."""
        wanted = bucket(prompt_tokens)
        measured = [(abs(index - wanted), average.value) for index, average in self.first_token_s.items()]
        return min(measured)[1] if measured else None

    def failure_rate(self, now_s: float) -> float:
        return self.outcomes.failure_rate(now_s)

    def saturated(self, now_s: float) -> bool:
        """Out of capacity: its own word (429), or the concurrency that it was learnt to bear."""
        full = self.concurrency_cap is not None and self.in_flight >= self.concurrency_cap
        return now_s < self.saturated_until_s or full

    def resting(self, now_s: float) -> bool:
        """The breaker is open, or half open with its one probe under way."""
        return self.rests > 0 and (now_s < self.resting_until_s or self.probing)

    def begin(self) -> None:
        """A try of an endpoint that rests, or has rested, is its probe."""
        self.in_flight += 1
        self.probing = self.rests > 0

    def first_token(self, seconds: float, prompt_tokens: int, now_s: float) -> None:
        self.first_token_s.setdefault(bucket(prompt_tokens), PeakAverage()).add(seconds, now_s)

    def succeed(self, now_s: float, token_s: float | None) -> None:
        """Closes the breaker, unless the attempt is one that began before it opened."""
        if self.probing:
            self.rests = 0
            self.outcomes = Outcomes()
        self.leave()
        self.outcomes.add(True, now_s)
        self.consecutive_failures = self.rate_limits = 0
        if token_s is not None:
            self.token_s.add(token_s, now_s)
        if self.concurrency_cap is not None:
            self.concurrency_cap += 1 / max(self.concurrency_cap, 1.0)

    def fail(self, failure: Failure, now_s: float, roll: float) -> None:
        """`roll` in [0, 1) jitters the rest: half of it is sure, half is luck."""
        if failure.kind is FailureKind.RATE_LIMITED:
            self._saturate(failure, now_s, roll)
        elif failure.kind in SICK:
            self._ail(now_s, roll)
        else:
            self.leave()

    def leave(self) -> None:
        """The attempt ended and tells nothing: the request was at fault, or the client left."""
        self.in_flight = max(self.in_flight - 1, 0)
        self.probing = False

    def _ail(self, now_s: float, roll: float) -> None:
        """Requests that fail in a burst are one failure of the endpoint: those after the first rest add none."""
        probed = self.probing
        self.leave()
        self.outcomes.add(False, now_s)
        self.consecutive_failures += 1
        if self.rests == 0:
            if self._unhealthy(now_s):
                self._rest(now_s, roll)
        elif probed and now_s >= self.resting_until_s:
            self._rest(now_s, roll)

    def _unhealthy(self, now_s: float) -> bool:
        rate = 1.0 - self.outcomes.failure_rate(now_s)
        return self.consecutive_failures >= BREAKER_FAILURES or (
            len(self.outcomes.recent) >= BREAKER_WINDOW_REQUESTS and rate < BREAKER_SUCCESS_RATE
        )

    def _rest(self, now_s: float, roll: float) -> None:
        shortest, longest = BREAKER_REST_S
        length = min(shortest * 2**self.rests, longest)
        self.resting_until_s = now_s + length * (0.5 + roll / 2)
        self.rests = min(self.rests + 1, 10)

    def _saturate(self, failure: Failure, now_s: float, roll: float) -> None:
        """Of a storm of refusals the first halves the concurrency and backs off; the others were under way already."""
        if now_s >= self.saturated_until_s:
            shortest, longest = RATE_LIMIT_REST_S
            backoff_s = min(shortest * 2**self.rate_limits, longest) * (0.5 + roll / 2)
            self.saturated_until_s = now_s + (failure.retry_after_s or backoff_s)
            self.rate_limits = min(self.rate_limits + 1, 10)
            self.concurrency_cap = max(self.in_flight / 2, 1.0)
        elif failure.retry_after_s:
            self.saturated_until_s = max(self.saturated_until_s, now_s + failure.retry_after_s)
        self.leave()


def bucket(prompt_tokens: int) -> int:
    return sum(prompt_tokens > bound for bound in PROMPT_BUCKETS_TOKENS)


@dataclass(slots=True)
class RetryBudget:
    """At most a fifth of requests (and of prompt tokens) may be tried again, plus a floor that refills with time."""

    share: float = 0.2
    floor_requests: float = 10.0
    floor_tokens: float = 1_000_000.0
    requests: float = 10.0
    tokens: float = 1_000_000.0
    at_s: float = 0.0

    def deposit(self, prompt_tokens: int, now_s: float) -> None:
        elapsed_s = min(max(now_s - self.at_s, 0.0), 10.0) if self.at_s else 0.0
        self.at_s = now_s
        refill = elapsed_s / 10.0
        self.requests = min(self.requests + self.share + self.floor_requests * refill, self.floor_requests * 10)
        gained = self.share * prompt_tokens + self.floor_tokens * refill
        self.tokens = min(self.tokens + gained, self.floor_tokens * 10)

    def withdraw(self, prompt_tokens: int) -> bool:
        if self.requests < 1 or self.tokens < prompt_tokens:
            return False
        self.requests -= 1
        self.tokens -= prompt_tokens
        return True
