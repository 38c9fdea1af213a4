"""Pico-dollars (1e-12 USD) as plain integers, read from and written to exact decimal text, never as floats."""

import re

from ledger.errors import MoneyError, PriceNotWhole

PUSD_PER_USD = 10**12
USD_DECIMALS = 12
PRICE_DECIMALS = 6  # USD per 1M tokens with 6 decimals is a whole number of pico-dollars a token
PUSD_PER_CENT = PUSD_PER_USD // 100

_DECIMAL = re.compile(r"(-?)([0-9]{1,24})(?:\.([0-9]{1,40}))?", re.ASCII)


def parse_usd(text: str) -> int:
    """`"0.000016"` → 16,000,000 pico-dollars. Raises MoneyError for what is no plain decimal of at most 12 decimals."""
    pusd = _scaled(text, USD_DECIMALS)
    if pusd is None:
        raise MoneyError(text, "is finer than a pico-dollar; give at most 12 decimals")
    return pusd


def format_usd(pusd: int) -> str:
    """The exact decimal: at least two decimals, no zeros beyond them, no exponent."""
    return _decimal(pusd, USD_DECIMALS)


def parse_price(text: str) -> int:
    """USD per 1M tokens → pico-dollars a token. Raises PriceNotWhole for more than 6 decimals, MoneyError otherwise."""
    pusd = _scaled(text, PRICE_DECIMALS)
    if pusd is None:
        raise PriceNotWhole(text)
    if pusd < 0:
        raise MoneyError(text, "is negative; a price is zero or more")
    return pusd


def format_price(pusd_per_token: int) -> str:
    """Pico-dollars a token → USD per 1M tokens, as `format_usd` writes."""
    return _decimal(pusd_per_token, PRICE_DECIMALS)


def round_half_up(numerator: int, denominator: int) -> int:
    """The whole nearest to `numerator / denominator` (above zero); a half goes up, away from zero if negative."""
    half = (2 * abs(numerator) + denominator) // (2 * denominator)
    return half if numerator >= 0 else -half


def _scaled(text: str, decimals: int) -> int | None:
    if not isinstance(text, str):
        raise TypeError(f"money is read from decimal text, not from {type(text).__name__}")
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise MoneyError(text, 'is no decimal amount in USD like "10.00"')
    sign, whole, fraction = match[1], match[2], (match[3] or "").rstrip("0")
    if len(fraction) > decimals:
        return None
    value = int(whole + fraction.ljust(decimals, "0"))
    return -value if sign else value


def _decimal(value: int, decimals: int) -> str:
    if type(value) is not int:
        raise TypeError(f"money is an int of pico-dollars, not {type(value).__name__}")
    whole, fraction = divmod(abs(value), 10**decimals)
    digits = f"{fraction:0{decimals}d}".rstrip("0").ljust(2, "0")
    return f"{'-' if value < 0 else ''}{whole}.{digits}"
