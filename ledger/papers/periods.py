"""Which part of a month the next invoice covers. Pure; instants are half-open intervals, `start <= t < end`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo


@dataclass(frozen=True, slots=True)
class Period:
    start: datetime
    end: datetime


def month_period(year: int, month: int, timezone: str) -> Period:
    """A calendar month in the time zone of the seller."""
    zone = ZoneInfo(timezone)
    return Period(datetime(year, month, 1, tzinfo=zone), datetime(year + month // 12, month % 12 + 1, 1, tzinfo=zone))


def first_gap(month: Period, covered: Sequence[Period], until: datetime) -> Period | None:
    """The earliest part of `month`, up to `until`, that no invoice in force covers."""
    at = month.start
    for period in sorted(covered, key=lambda period: period.start):
        if at < period.start:
            return Period(at, period.start)
        at = max(at, period.end)
    end = min(month.end, until)
    return Period(at, end) if at < end else None
