"""What a caller may say about where a request goes: OpenRouter's `provider` object and the model suffixes."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from ledger.money import PUSD_PER_USD
from proxy.entry.api_errors import ApiError

SORTS = ("price", "latency", "throughput")
SUFFIXES = {"floor": "price", "nitro": "throughput"}
TOKENS_PER_PRICE = 1_000_000


@dataclass(frozen=True, slots=True)
class Preferences:
    """Names are an endpoint's or a provider's; `regions` takes jurisdictions or regions. Prices in pUSD a token."""

    order: tuple[str, ...] = ()
    only: frozenset[str] = frozenset()
    ignore: frozenset[str] = frozenset()
    allow_fallbacks: bool = True
    require_parameters: bool = False
    sort: str | None = None
    max_input_pusd: Decimal | None = None
    max_output_pusd: Decimal | None = None
    quantizations: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()
    data_collection: str | None = None
    zdr: bool = False


NO_PREFERENCES = Preferences()


def read_preferences(value: Any, suffix: str | None) -> Preferences:
    """Raises ApiError naming the field. An unknown one is an error: a wish not understood must not be broken."""
    sort = SUFFIXES.get(suffix or "")
    if value is None:
        return Preferences(sort=sort) if sort else NO_PREFERENCES
    if not isinstance(value, Mapping):
        raise invalid("provider", "must be an object")
    if unknown := set(value) - FIELDS:
        raise invalid(f"provider.{min(unknown)}", f"is not known; of {', '.join(sorted(FIELDS))}")
    max_price = {} if value.get("max_price") is None else value["max_price"]
    if not isinstance(max_price, Mapping):
        raise invalid("provider.max_price", "must be an object")
    if unknown := set(max_price) - PRICES:
        raise invalid(f"provider.max_price.{min(unknown)}", f"is not known; of {', '.join(sorted(PRICES))}")
    return Preferences(
        order=tuple(words(value, "order")),
        only=frozenset(words(value, "only")),
        ignore=frozenset(words(value, "ignore")),
        allow_fallbacks=flag(value, "allow_fallbacks", True),
        require_parameters=flag(value, "require_parameters", False),
        sort=sort or one_of(value, "sort", SORTS),
        max_input_pusd=price(max_price, "prompt"),
        max_output_pusd=price(max_price, "completion"),
        quantizations=frozenset(word.lower() for word in words(value, "quantizations")),
        regions=frozenset(word.lower() for word in words(value, "regions")),
        data_collection=one_of(value, "data_collection", ("allow", "deny")),
        zdr=flag(value, "zdr", False),
    )


FIELDS = {
    "order",
    "only",
    "ignore",
    "allow_fallbacks",
    "require_parameters",
    "sort",
    "max_price",
    "quantizations",
    "regions",
    "data_collection",
    "zdr",
}
# OpenRouter's; nothing is charged here a request or an image, so those bounds always hold.
PRICES = {"prompt", "completion", "request", "image"}


def invalid(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}", param=param)


def words(value: Mapping[str, Any], name: str) -> list[str]:
    given = value.get(name)
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise invalid(f"provider.{name}", "must be a list of strings")
    return given


def flag(value: Mapping[str, Any], name: str, default: bool) -> bool:
    given = value.get(name)
    if given is None:
        return default
    if not isinstance(given, bool):
        raise invalid(f"provider.{name}", "must be true or false")
    return given


def one_of(value: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    given = value.get(name)
    if given is not None and given not in choices:
        raise invalid(f"provider.{name}", f"must be one of {', '.join(choices)}")
    return given


def price(value: Mapping[str, Any], name: str) -> Decimal | None:
    """USD per million tokens, as a number or a string, into pico-dollars a token (not necessarily whole: a bound)."""
    given = value.get(name)
    if given is None:
        return None
    try:
        if isinstance(given, bool):
            raise InvalidOperation
        amount = Decimal(str(given)) * (PUSD_PER_USD // TOKENS_PER_PRICE)
        if not amount >= 0 or not amount.is_finite():
            raise InvalidOperation
    except ArithmeticError:
        raise invalid(f"provider.max_price.{name}", "must be USD per million tokens, zero or more") from None
    return amount
