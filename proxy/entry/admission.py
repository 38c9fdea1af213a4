"""Limits of a key: requests and tokens a minute, and how many at once. Counted in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ledger.keys import KeyRecord
from proxy.entry.api_errors import ApiError

MINUTE_S = 60.0


@dataclass(slots=True)
class Bucket:
    """A token bucket that holds one minute's worth."""

    limit: int
    level: float
    at_s: float

    def refill(self, now_s: float) -> None:
        self.level = min(self.limit, self.level + (now_s - self.at_s) * self.limit / MINUTE_S)
        self.at_s = now_s

    def wait_s(self, amount: float) -> float:
        return max(0.0, (amount - self.level) * MINUTE_S / self.limit)


@dataclass(slots=True)
class Limits:
    """What one key may still do."""

    requests: Bucket | None
    tokens: Bucket | None
    concurrency: int | None
    running: int = 0

    def headers(self) -> dict[str, str]:
        headers = {}
        for name, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(bucket.limit)
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, int(bucket.level)))
                headers[f"x-ratelimit-reset-{name}"] = f"{bucket.wait_s(bucket.limit):.3f}s"
        return headers


class Admission:
    """All keys' limits. A key without limits costs a look-up and nothing else."""

    def __init__(self) -> None:
        self._keys: dict[int, Limits] = {}

    @contextmanager
    def admit(self, key: KeyRecord, prompt_tokens: int, now_s: float) -> Iterator[Limits | None]:
        """Raises ApiError 429 with the seconds to wait. The body of the block is one request."""
        if key.rpm is None and key.tpm is None and key.concurrency is None:
            yield None
            return
        limits = self._limits(key, now_s)
        self._check(limits, prompt_tokens, now_s)
        limits.running += 1
        try:
            yield limits
        finally:
            limits.running -= 1

    def _limits(self, key: KeyRecord, now_s: float) -> Limits:
        """The counters survive a change of the limits; the limits themselves are the key's as of now."""
        limits = self._keys.get(key.key_id)
        if limits is None:
            limits = self._keys[key.key_id] = Limits(None, None, None)
        limits.requests = sized(limits.requests, key.rpm, now_s)
        limits.tokens = sized(limits.tokens, key.tpm, now_s)
        limits.concurrency = key.concurrency
        return limits

    def _check(self, limits: Limits, prompt_tokens: int, now_s: float) -> None:
        if limits.concurrency is not None and limits.running >= limits.concurrency:
            raise ApiError("rate_limit_exceeded", f"this key may have {limits.concurrency} requests running", None, 1.0)
        wanted = [(limits.requests, 1, "requests"), (limits.tokens, prompt_tokens, "tokens")]
        for bucket, amount, what in wanted:
            if bucket is None:
                continue
            bucket.refill(now_s)
            # A request larger than a whole minute's worth waits for a full bucket, not for ever.
            if bucket.level < min(amount, bucket.limit):
                wait_s = bucket.wait_s(min(amount, bucket.limit))
                raise ApiError("rate_limit_exceeded", f"this key may use {bucket.limit} {what} a minute", None, wait_s)
        for bucket, amount, _ in wanted:
            if bucket is not None:
                bucket.level -= amount

    def spend(self, key: KeyRecord, completion_tokens: int) -> None:
        """What an answer took beside its prompt; known only when it is over."""
        limits = self._keys.get(key.key_id)
        if limits is not None and limits.tokens is not None:
            limits.tokens.level -= completion_tokens


def sized(bucket: Bucket | None, limit: int | None, now_s: float) -> Bucket | None:
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit, limit, now_s)
    bucket.limit = limit
    return bucket
