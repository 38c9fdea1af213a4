"""What a hold keeps of its route, so that a sweep can settle it: the endpoints' providers and prices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from ledger.prices import Price


@dataclass(frozen=True, slots=True)
class Pin:
    """An endpoint's provider, and its prices when the request was held."""

    provider: str
    sandbox: bool
    sell: Price
    buy: Price


def encode_pins(pins: Mapping[str, Pin]) -> bytes:
    """JSON: endpoint → [provider, sandbox, sell, buy], each price [version, input, output, cached input]."""
    return orjson.dumps(
        {name: (pin.provider, pin.sandbox, _row(pin.sell), _row(pin.buy)) for name, pin in pins.items()}
    )


def decode_pins(pins: str | bytes) -> dict[str, Pin]:
    decoded: dict[str, Any] = orjson.loads(pins)
    return {
        name: Pin(provider, sandbox, Price(*sell), Price(*buy))
        for name, (provider, sandbox, sell, buy) in decoded.items()
    }


def _row(price: Price) -> tuple[int, int, int, int]:
    return price.version_id, price.input_pusd, price.output_pusd, price.cached_input_pusd
