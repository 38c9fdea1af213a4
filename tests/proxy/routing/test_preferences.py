"""What a caller may say about where a request goes, and what is no way to say it."""

from decimal import Decimal
from typing import Any

import pytest

from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import FIELDS, NO_PREFERENCES, Preferences, read_preferences

GOOD: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"order": ["b", "a"]}, {"order": ("b", "a")}),
    ({"only": ["a", "a"]}, {"only": frozenset({"a"})}),
    ({"ignore": ["a"]}, {"ignore": frozenset({"a"})}),
    ({"allow_fallbacks": False}, {"allow_fallbacks": False}),
    ({"require_parameters": True}, {"require_parameters": True}),
    ({"sort": "price"}, {"sort": "price"}),
    ({"sort": "latency"}, {"sort": "latency"}),
    ({"sort": "throughput"}, {"sort": "throughput"}),
    ({"quantizations": ["FP8", "bf16"]}, {"quantizations": frozenset({"fp8", "bf16"})}),
    ({"regions": ["EU", "eu-north1"]}, {"regions": frozenset({"eu", "eu-north1"})}),
    ({"data_collection": "deny"}, {"data_collection": "deny"}),
    ({"zdr": True}, {"zdr": True}),
    ({"max_price": {"prompt": 1, "completion": 2}}, {"max_input_pusd": 10**6, "max_output_pusd": 2 * 10**6}),
    ({"max_price": {"prompt": "0.0000015"}}, {"max_input_pusd": Decimal("1.5")}),
    ({"max_price": {"prompt": 0.1}}, {"max_input_pusd": 10**5}),
    ({"max_price": {"prompt": 0}}, {"max_input_pusd": 0}),
    ({"max_price": {"request": 0, "image": 1}}, {}),
    ({"max_price": {}}, {}),
    (dict.fromkeys(sorted(FIELDS)), {}),
]


@pytest.mark.parametrize(("value", "expected"), GOOD, ids=[str(value)[:50] for value, _ in GOOD])
def test_a_wish(value: dict[str, Any], expected: dict[str, Any]) -> None:
    assert read_preferences(value, "") == Preferences(**expected)


BAD: list[tuple[Any, str]] = [
    ("nebius", "provider"),
    ([], "provider"),
    (True, "provider"),
    ({"oder": ["a"]}, "provider.oder"),
    ({"zzz": 1, "aaa": 1}, "provider.aaa"),
    ({"order": "nebius"}, "provider.order"),
    ({"only": [1]}, "provider.only"),
    ({"ignore": {}}, "provider.ignore"),
    ({"quantizations": "fp8"}, "provider.quantizations"),
    ({"regions": [None]}, "provider.regions"),
    ({"allow_fallbacks": "no"}, "provider.allow_fallbacks"),
    ({"require_parameters": 1}, "provider.require_parameters"),
    ({"zdr": 0}, "provider.zdr"),
    ({"sort": "cheapest"}, "provider.sort"),
    ({"sort": {"by": "price"}}, "provider.sort"),
    ({"data_collection": "never"}, "provider.data_collection"),
    ({"data_collection": True}, "provider.data_collection"),
    ({"max_price": 1}, "provider.max_price"),
    ({"max_price": False}, "provider.max_price"),
    ({"max_price": []}, "provider.max_price"),
    ({"max_price": {"promt": 1}}, "provider.max_price.promt"),
    ({"max_price": {"prompt": "cheap"}}, "provider.max_price.prompt"),
    ({"max_price": {"prompt": True}}, "provider.max_price.prompt"),
    ({"max_price": {"prompt": [1]}}, "provider.max_price.prompt"),
    ({"max_price": {"completion": -1}}, "provider.max_price.completion"),
    ({"max_price": {"completion": "NaN"}}, "provider.max_price.completion"),
    ({"max_price": {"completion": "sNaN"}}, "provider.max_price.completion"),
    ({"max_price": {"completion": "Infinity"}}, "provider.max_price.completion"),
    ({"max_price": {"completion": "1e999999"}}, "provider.max_price.completion"),
]


@pytest.mark.parametrize(("value", "param"), BAD, ids=lambda value: str(value)[:50])
def test_a_wish_not_understood_is_refused_by_name(value: Any, param: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_preferences(value, "")
    assert (refused.value.code, refused.value.param) == ("invalid_request", param)


@pytest.mark.parametrize(
    ("value", "suffix", "sort"),
    [
        (None, "floor", "price"),
        (None, "nitro", "throughput"),
        ({"sort": "latency"}, "floor", "price"),  # the model's name is the nearer word
        ({"sort": "latency"}, "thinking", "latency"),
        ({}, "nitro", "throughput"),
    ],
)
def test_a_suffix_is_a_sort(value: Any, suffix: str, sort: str) -> None:
    assert read_preferences(value, suffix) == Preferences(sort=sort)


@pytest.mark.parametrize("suffix", ["", "thinking", None])
def test_no_wish(suffix: str | None) -> None:
    assert read_preferences(None, suffix) is NO_PREFERENCES
