"""What a token costs and what a tenant pays for it: effective-dated versions, of which the latest start holds.

A `PriceBook` is an immutable snapshot; a request pins the `Price` values it was admitted with. Prices are pico-dollars
a token, `now` is an argument (UTC).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ledger.money import round_half_up

PPM = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """One version; `version_id` is its row in the database."""

    version_id: int
    input_pusd: int
    output_pusd: int
    cached_input_pusd: int


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """`price` holds from `starts_at` until a version that starts later does."""

    starts_at: datetime
    price: Price


@dataclass(frozen=True, slots=True)
class Plan:
    """What its tenants pay: its `own` price where one holds, else the endpoint's plus `markup_ppm` (None: neither)."""

    name: str
    markup_ppm: int | None = None
    own: tuple[PriceVersion, ...] = ()


class PriceBook:
    """All versions of all endpoints and plans, as read at once. Repeating a look-up is one dictionary access."""

    __slots__ = ("_endpoints", "_held", "_plans")

    def __init__(self, endpoints: Mapping[str, Iterable[PriceVersion]], plans: Iterable[Plan] = ()) -> None:
        self._endpoints = {name: _by_start(versions) for name, versions in endpoints.items()}
        self._plans = {plan.name: (plan.markup_ppm, _by_start(plan.own)) for plan in plans}
        self._held: dict[tuple[str | None, str], tuple[datetime | None, datetime | None, Price | None]] = {}

    def endpoint_price(self, name: str, now: datetime) -> Price | None:
        """What the provider takes at `now`; None when no version has started."""
        return holding(self._endpoints.get(name, ()), now)[2]

    def tenant_price(self, plan: str | None, endpoint: str, now: datetime) -> Price | None:
        """What a tenant on `plan` (None: pass-through without markup) pays at `endpoint`; None when nothing holds."""
        held = self._held.get((plan, endpoint))
        if held is None or not _within(held, now):
            held = self._held[plan, endpoint] = self._look_up(plan, endpoint, now)
        return held[2]

    def _look_up(
        self, plan: str | None, endpoint: str, now: datetime
    ) -> tuple[datetime | None, datetime | None, Price | None]:
        markup_ppm, own = (0, ()) if plan is None else self._plans.get(plan, (None, ()))
        since, until, price = holding(own, now)
        if price is None and markup_ppm is not None:
            since, until_there, base = holding(self._endpoints.get(endpoint, ()), now)
            price = None if base is None else marked_up(base, markup_ppm)
            until = min((t for t in (until, until_there) if t is not None), default=None)
        return since, until, price


def marked_up(price: Price, markup_ppm: int) -> Price:
    """`price` plus `markup_ppm` millionths of it, rounded half up per token; it keeps the version it derives from."""
    if markup_ppm == 0:
        return price
    return Price(
        price.version_id,
        round_half_up(price.input_pusd * (PPM + markup_ppm), PPM),
        round_half_up(price.output_pusd * (PPM + markup_ppm), PPM),
        round_half_up(price.cached_input_pusd * (PPM + markup_ppm), PPM),
    )


def holding(versions: Sequence[PriceVersion], now: datetime) -> tuple[datetime | None, datetime | None, Price | None]:
    """Of `versions` ordered by start: since when, until when and which price holds at `now`. None: none."""
    since: datetime | None = None
    price: Price | None = None
    for version in versions:
        if version.starts_at > now:
            return since, version.starts_at, price
        since, price = version.starts_at, version.price
    return since, None, price


def _within(held: tuple[datetime | None, datetime | None, Price | None], now: datetime) -> bool:
    since, until, _ = held
    return (since is None or since <= now) and (until is None or now < until)


def _by_start(versions: Iterable[PriceVersion]) -> tuple[PriceVersion, ...]:
    """By start; of two that start at the same instant the one recorded later holds."""
    return tuple(sorted(versions, key=lambda version: (version.starts_at, version.price.version_id)))
