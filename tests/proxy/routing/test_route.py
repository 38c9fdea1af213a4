"""Where a request may go and in what order: the filters one by one and in their order, then the score."""

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from ledger.prices import Price
from providers.chat_request import ChatRequest
from providers.events import Failure, FailureKind
from providers.means import Enforcer, Means
from proxy.routing.observations import Observation
from proxy.routing.preferences import NO_PREFERENCES, Preferences
from proxy.routing.route import Exclusion, Offer, Policy, Route, pick, plan_route

from .routes import CHEAP, DEAR, candidate, observed, offer, quick, request

MIDDLE = (0.5, 0.0)  # dice: no exploration, the first of the near-equals
NOW_S = 100.0


def route(
    offers: list[Offer],
    asked: ChatRequest | None = None,
    *,
    wishes: Preferences = NO_PREFERENCES,
    rolls: tuple[float, float] = MIDDLE,
    seen: dict[str, Observation] | None = None,
    **policy: Any,
) -> Route:
    observations = observed(*(one.endpoint.name for one in offers), **(seen or {}))
    return plan_route(asked or request(), offers, observations, Policy(wishes, rolls=rolls, **policy), NOW_S)


def names(planned: Route) -> list[str]:
    return [one.endpoint.name for one in planned.candidates]


def saturated_until(at_s: float) -> Observation:
    seen = Observation()
    seen.saturated_until_s = at_s
    return seen


def resting_until(at_s: float) -> Observation:
    seen = Observation()
    seen.rests, seen.resting_until_s = 1, at_s
    return seen


# Hard filters


def exclusion(
    settings: dict[str, Any] | None = None,
    asked: dict[str, Any] | None = None,
    *,
    price: Price | None = CHEAP,
    seen: Observation | None = None,
    policy: dict[str, Any] | None = None,
    **wishes: Any,
) -> Exclusion | None:
    """Why one endpoint, with all of this said of it and of the request, cannot serve it."""
    planned = route(
        [offer("one", price, **settings or {})],
        request(**asked or {}),
        wishes=Preferences(**wishes) if wishes else NO_PREFERENCES,
        seen={"one": seen} if seen else None,
        **policy or {},
    )
    assert len(planned.candidates) + len(planned.exclusions) == 1
    return planned.exclusions[0] if planned.exclusions else None


def frozen(*words: str) -> frozenset[str]:
    return frozenset(words)


EU = {"jurisdictions": frozen("EU")}
NOWHERE = {"jurisdictions": frozen()}
TOOLS = {"tools": [{"type": "function"}]}
JSON = {"response_format": {"type": "json_object"}}
GRAMMAR = {"structured_outputs": {"regex": "yes|no"}}
GRAMMAR_ALONE = {"supports": ["response_format"]}

FILTERS: list[tuple[str, dict[str, Any], str | None]] = [
    ("nothing asked", {}, None),
    ("no price", {"price": None}, "no_price"),
    ("a tenant without jurisdictions goes anywhere", {"settings": {"jurisdiction": None}}, None),
    ("in the tenant's", {"settings": {"jurisdiction": "EU"}, "policy": EU}, None),
    ("in another", {"settings": {"jurisdiction": "US"}, "policy": EU}, "jurisdiction"),
    ("in none", {"policy": EU}, "jurisdiction"),
    ("a region is no jurisdiction", {"settings": {"region": "EU"}, "policy": EU}, "jurisdiction"),
    ("a tenant of no jurisdiction", {"settings": {"jurisdiction": "EU"}, "policy": NOWHERE}, "jurisdiction"),
    ("only, by its name", {"only": frozen("one")}, None),
    ("only, by its provider", {"only": frozen("vllm")}, None),
    ("only another", {"only": frozen("nebius")}, "only"),
    ("ignored by its name", {"ignore": frozen("one")}, "ignore"),
    ("ignored by its provider", {"ignore": frozen("vllm")}, "ignore"),
    ("another is ignored", {"ignore": frozen("nebius")}, None),
    ("not in the order, but a fallback", {"order": ("nebius",)}, None),
    ("not in the order, and no fallback", {"order": ("nebius",), "allow_fallbacks": False}, "order"),
    ("in the order, and no fallback", {"order": ("nebius", "vllm"), "allow_fallbacks": False}, None),
    ("in a region", {"settings": {"region": "eu-north1"}, "regions": frozen("eu-north1")}, None),
    ("in a jurisdiction", {"settings": {"jurisdiction": "EU"}, "regions": frozen("eu")}, None),
    ("in another region", {"settings": {"region": "eu-north1"}, "regions": frozen("eu-west1")}, "region"),
    ("a region's name is no jurisdiction", {"settings": {"region": "eu-north1"}, "regions": frozen("eu")}, "region"),
    ("in no region", {"regions": frozen("eu")}, "region"),
    ("in no region, and a nameless one asked", {"regions": frozen("")}, "region"),
    ("its quantization", {"settings": {"quantization": "FP8"}, "quantizations": frozen("fp8")}, None),
    ("another quantization", {"settings": {"quantization": "bf16"}, "quantizations": frozen("fp8")}, "quantization"),
    ("none stated", {"quantizations": frozen("fp8")}, "quantization"),
    ("none stated, which will do", {"quantizations": frozen("fp8", "unknown")}, None),
    ("keeps nothing", {"settings": {"data_collection": "deny"}, "data_collection": "deny"}, None),
    ("may keep it", {"data_collection": "deny"}, "data_collection"),
    ("may keep it, which will do", {"data_collection": "allow"}, None),
    ("zero retention", {"settings": {"zdr": True}, "zdr": True}, None),
    ("no zero retention", {"zdr": True}, "zdr"),
    ("at the highest price", {"max_input_pusd": Decimal(1_000_000), "max_output_pusd": Decimal(3_000_000)}, None),
    ("the prompt too dear", {"max_input_pusd": Decimal("999999.9")}, "max_price"),
    ("the completion too dear", {"max_output_pusd": Decimal("2999999.9")}, "max_price"),
    ("every parameter", {"asked": {"temperature": 0.5, "min_tokens": 3}, "require_parameters": True}, None),
    (
        "a parameter it does not take",
        {"settings": {"provider": "nebius"}, "asked": {"min_tokens": 3}, "require_parameters": True},
        "parameters",
    ),
    ("a parameter it does not need", {"settings": {"provider": "nebius"}, "asked": {"min_tokens": 3}}, None),
    ("tools", {"asked": TOOLS}, None),
    ("tools in its prompt", {"settings": {"supports": ["logprobs"]}, "asked": TOOLS}, None),
    ("no tools of its own", {"settings": {"supports": []}, "asked": TOOLS, "require_parameters": True}, "parameters"),
    ("a grammar leaves no room for calls", {"settings": GRAMMAR_ALONE, "asked": {**TOOLS, **GRAMMAR}}, "capability"),
    ("no tool may be called", {"settings": GRAMMAR_ALONE, "asked": {**TOOLS, **GRAMMAR, "tool_choice": "none"}}, None),
    ("tools and a schema in its prompt", {"settings": {"supports": []}, "asked": {**TOOLS, **JSON}}, None),
    ("a schema in its prompt", {"settings": {"supports": ["tools"]}, "asked": JSON}, None),
    ("no schema of its own", {"settings": {"supports": []}, "asked": JSON, "require_parameters": True}, "parameters"),
    ("no log probabilities", {"settings": {"supports": []}, "asked": {"logprobs": True}}, "capability"),
    ("one choice only", {"settings": {"supports": []}, "asked": {"n": 2}}, "capability"),
    ("an engine's grammar", {"settings": {"supports": []}, "asked": {"structured_outputs": {"regex": "a"}}}, None),
    ("no engine", {"settings": {"provider": "nebius"}, "asked": {"structured_outputs": {"regex": "a"}}}, "capability"),
    ("as much as it can write", {"asked": {"max_tokens": 8_192}}, None),
    ("more than it can write", {"asked": {"max_tokens": 8_193}}, None),
    ("just fits", {"asked": {"max_tokens": 1_072}, "policy": {"prompt_tokens": 130_000}}, None),
    ("does not fit", {"asked": {"max_tokens": 1_073}, "policy": {"prompt_tokens": 130_000}}, "context"),
    ("a prompt that leaves no room", {"policy": {"prompt_tokens": 131_072}}, "context"),
    ("saturated by a 429", {"seen": saturated_until(NOW_S + 1)}, "rate_limited"),
    ("open again", {"seen": saturated_until(NOW_S)}, None),
    ("resting is no exclusion", {"seen": resting_until(NOW_S + 300)}, None),
]  # fmt: skip


@pytest.mark.parametrize(("case", "code"), [one[1:] for one in FILTERS], ids=[one[0] for one in FILTERS])
def test_a_filter(case: dict[str, Any], code: str | None) -> None:
    found = exclusion(**case)
    assert (found.code if found else None) == code
    if found is not None:
        assert found.reason
        assert found.passing == (code == "rate_limited")


def test_the_first_filter_that_fails_is_the_reason() -> None:
    """With everything against it, and one thing after the other taken away."""
    against: dict[str, Any] = {
        "price": None,
        "policy": {"jurisdictions": frozen("EU"), "prompt_tokens": 131_072},
        "only": frozen("other"),
        "ignore": frozen("one"),
        "order": ("other",),
        "allow_fallbacks": False,
        "regions": frozen("mars"),
        "quantizations": frozen("fp8"),
        "data_collection": "deny",
        "zdr": True,
        "max_input_pusd": Decimal(0),
        "max_output_pusd": Decimal(0),
        "require_parameters": True,
        "settings": {"provider": "nebius"},
        "asked": {"max_tokens": 9_000, "min_tokens": 3, **TOOLS, **GRAMMAR},
        "seen": saturated_until(NOW_S + 5),
    }
    steps: list[tuple[str, dict[str, Any]]] = [
        ("no_price", {"price": CHEAP}),
        ("jurisdiction", {"policy": {"prompt_tokens": 131_072}}),
        ("only", {"only": frozen()}),
        ("ignore", {"ignore": frozen()}),
        ("order", {"order": ()}),
        ("region", {"regions": frozen()}),
        ("quantization", {"quantizations": frozen()}),
        ("data_collection", {"data_collection": None}),
        ("zdr", {"zdr": False}),
        ("max_price", {"max_input_pusd": None}),
        ("max_price", {"max_output_pusd": None}),
        ("parameters", {"require_parameters": False}),
        ("capability", {"asked": {"max_tokens": 9_000}}),
        ("context", {"policy": {}}),
        ("rate_limited", {"seen": None}),
    ]
    for code, away in steps:
        found = exclusion(**against)
        assert found is not None
        assert found.code == code
        against |= away
    assert exclusion(**against) is None


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ({"policy": EU}, "no jurisdiction is not among this tenant's"),
        (
            {"settings": {"jurisdiction": "US"}, "policy": EU},
            "US is not among this tenant's",
        ),
        ({"quantizations": frozen("fp8")}, "its quantization is not stated"),
        ({"policy": {"prompt_tokens": 131_072}}, "its context is 131072 tokens"),
        (
            {"settings": {"provider": "nebius", "supports": []}, "asked": {**TOOLS, **GRAMMAR}},
            "it does not support structured_outputs, tools",
        ),
        (
            {
                "settings": {"provider": "nous"},
                "asked": {"ignore_eos": True, "min_tokens": 1},
                "require_parameters": True,
            },
            "it does not support ignore_eos, min_tokens",
        ),
    ],
)
def test_a_reason_is_in_the_tenants_terms(case: dict[str, Any], reason: str) -> None:
    found = exclusion(**case)
    assert found is not None
    assert found.reason == reason


def test_a_passing_exclusion_says_until_when() -> None:
    found = exclusion(seen=saturated_until(NOW_S + 7))
    assert found == Exclusion("one", "rate_limited", "it is out of capacity for now", True, NOW_S + 7)


def test_the_concurrency_it_bears_closes_it_too() -> None:
    seen = Observation()
    seen.concurrency_cap = seen.in_flight = 2
    assert exclusion(seen=seen) is not None


# Scores


def score(price: Price = CHEAP, seen: Observation | None = None, sort: str | None = None, **policy: Any) -> float:
    (only,) = route(
        [offer("one", price)],
        seen={"one": seen} if seen else None,
        wishes=Preferences(sort=sort) if sort else NO_PREFERENCES,
        **policy,
    ).candidates
    return only.score


def failing(rate: float) -> Observation:
    seen = quick()
    for i in range(10):
        seen.outcomes.add(i >= rate * 10, NOW_S)
    return seen


def test_a_score_is_the_price_and_the_wait() -> None:
    """100 tokens in and 50 out at $1 and $3, half a second and 50 times 20 ms."""
    found = score(seen=quick(0.5, 0.02), prompt_tokens=100, expected_output_tokens=50)
    assert found == pytest.approx(100 * 1e6 + 50 * 3e6 + 0.5 * 50e6 + 1.0 * 20e6)


def test_failures_make_it_dearer() -> None:
    assert score(seen=failing(0.5), sort="price") == pytest.approx(2 * score(seen=failing(0.0), sort="price"))
    assert score(seen=failing(1.0), sort="price") == pytest.approx(20 * score(seen=failing(0.0), sort="price"))


def test_what_is_not_measured_is_taken_as_ordinary() -> None:
    assert score() == pytest.approx(score(seen=quick(1.0, 0.03)))


def test_a_candidate_keeps_by_what_means_it_serves_the_request() -> None:
    planned = route([offer("a"), offer("b", supports=[])], request(**TOOLS, **JSON))
    found = {candidate.endpoint.name: (candidate.means, candidate.reason) for candidate in planned.candidates}
    assert found == {
        "a": (Means(enforcer=Enforcer.PROMPT), "not measured yet; schema in its prompt"),
        "b": (Means(True, Enforcer.PROMPT), "not measured yet; tools and schema in its prompt"),
    }


@pytest.mark.parametrize("roll", [0.0, 0.5, 0.999])
def test_of_near_equals_those_lead_that_serve_it_themselves(roll: float) -> None:
    offers = [offer("a", supports=[]), offer("b"), offer("c", supports=[])]
    assert names(route(offers, request(**TOOLS), rolls=(0.5, roll)))[0] == "b"
    assert {names(route(offers, rolls=(0.5, chance)))[0] for chance in (0.0, 0.5, 0.999)} == {"a", "b", "c"}


def test_the_expected_wait_is_that_of_such_a_prompt() -> None:
    seen = quick(0.3)
    seen.first_token(30.0, 100_000, 0.0)
    assert score(seen=seen, prompt_tokens=100_000, sort="latency") > 25 * score(seen=seen, sort="latency") / 2


# Order


SLOW_CHEAP, QUICK_DEAR = quick(3.0, 0.05), quick(0.2, 0.01)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("price", ["cheap", "dear"]),
        ("latency", ["dear", "cheap"]),
        ("throughput", ["dear", "cheap"]),
    ],
)
def test_a_sort_is_a_setting_of_the_weights(sort: str, expected: list[str]) -> None:
    offers = [offer("cheap"), offer("dear", DEAR)]
    seen = {"cheap": SLOW_CHEAP, "dear": QUICK_DEAR}
    for rolls in ((0.5, 0.0), (0.5, 0.99), (0.0, 0.99)):  # a wish is no game of dice
        assert names(route(offers, seen=seen, wishes=Preferences(sort=sort), rolls=rolls)) == expected


def test_latency_and_throughput_are_two_things() -> None:
    offers = [offer("starts"), offer("runs")]
    seen = {"starts": quick(0.1, 0.05), "runs": quick(2.0, 0.01)}
    assert names(route(offers, seen=seen, wishes=Preferences(sort="latency"))) == ["starts", "runs"]
    assert names(route(offers, seen=seen, wishes=Preferences(sort="throughput"))) == ["runs", "starts"]


def test_of_two_that_cost_the_same_the_quicker_one() -> None:
    offers = [offer("slow"), offer("quick")]
    seen = {"slow": quick(2.0), "quick": quick(0.2)}
    assert names(route(offers, seen=seen, wishes=Preferences(sort="price"))) == ["quick", "slow"]


@pytest.mark.parametrize("wishes", [NO_PREFERENCES, Preferences(sort="price")])
def test_of_equals_those_with_tools_of_their_own_come_first(wishes: Preferences) -> None:
    offers = [offer("told", supports=[]), offer("dear", DEAR), offer("able")]
    seen = {"told": quick(0.4), "able": quick(0.5), "dear": quick(0.1)}
    assert names(route(offers, request(**TOOLS), seen=seen, wishes=wishes))[:2] == ["able", "told"]
    assert names(route(offers, seen=seen, wishes=Preferences(sort="price")))[:2] == ["told", "able"]
    cheaper = [offer("told", supports=[]), offer("able", DEAR)]
    assert names(route(cheaper, request(**TOOLS), seen=seen, wishes=wishes)) == ["told", "able"]


def test_near_equals_take_turns_in_proportion_to_their_score() -> None:
    """Scores within 15 % of the best; the rest stand behind them whatever the dice say."""
    offers = [offer("best"), offer("near"), offer("far", Price(3, 1_250_000, 3_750_000, 1))]
    seen = {"best": quick(0.2), "near": quick(0.9), "far": quick(0.2)}
    firsts = Counter(names(route(offers, seen=seen, rolls=(0.5, i / 1_000)))[0] for i in range(1_000))
    best, near = (score(seen=seen[name]) for name in ("best", "near"))
    assert near < best * 1.15 < score(Price(3, 1_250_000, 3_750_000, 1), seen["far"]) < best * 1.25
    assert set(firsts) == {"best", "near"}
    assert firsts["best"] / firsts["near"] == pytest.approx((near / best) ** 2, rel=0.02)


@pytest.mark.parametrize(("roll", "first"), [(0.0, "best"), (0.34, "far"), (0.67, "farther"), (0.999, "farther")])
def test_one_time_in_a_hundred_any_goes_first(roll: float, first: str) -> None:
    offers = [offer("farther", Price(3, 9_000_000, 9_000_000, 1)), offer("best"), offer("far", DEAR)]
    assert names(route(offers, rolls=(0.0099, roll)))[0] == first
    assert names(route(offers, rolls=(0.01, roll)))[0] == "best"


def test_the_first_fallback_shares_no_failure_domain() -> None:
    offers = [
        offer("nebius", failure_domain="nebius"),
        offer("nebius-behind-a-reseller", Price(2, 1_200_000, 3_600_000, 1), failure_domain="nebius"),
        offer("other", DEAR),
    ]
    assert names(route(offers)) == ["nebius", "other", "nebius-behind-a-reseller"]


def test_where_all_share_one_the_score_decides() -> None:
    offers = [offer(name, failure_domain="same") for name in "abc"]
    assert names(route(offers)) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (("b",), ["b", "a", "c", "d"]),
        (("d", "b"), ["d", "b", "a", "c"]),
        (("chutes", "a"), ["c", "d", "a", "b"]),
        (("unheard-of",), ["a", "b", "c", "d"]),
        (("unheard-of", "c"), ["c", "a", "b", "d"]),
    ],
)
def test_named_ones_first_in_their_order(order: tuple[str, ...], expected: list[str]) -> None:
    prices = [Price(i, 1_000_000 * i, 3_000_000 * i, 1) for i in range(1, 5)]
    offers = [
        offer("a", prices[0]),
        offer("b", prices[1]),
        offer("c", prices[2], provider="chutes"),
        offer("d", prices[3], provider="chutes"),
    ]
    assert names(route(offers, wishes=Preferences(order=order))) == expected


def test_without_fallbacks_there_is_one() -> None:
    offers = [offer("a"), offer("b", DEAR)]
    assert names(route(offers, wishes=Preferences(allow_fallbacks=False))) == ["a"]
    both = Preferences(order=("b", "a"), allow_fallbacks=False)
    assert names(route([*offers, offer("c")], wishes=both)) == ["b", "a"]


def test_resting_ones_come_last_and_first_who_wakes_first() -> None:
    offers = [offer("asleep"), offer("dozing"), offer("awake", DEAR)]
    seen = {"asleep": resting_until(NOW_S + 200), "dozing": resting_until(NOW_S + 20)}
    planned = route(offers, seen=seen)
    assert names(planned) == ["awake", "dozing", "asleep"]
    assert [one.reason for one in planned.candidates][1:] == ["resting after failures"] * 2
    assert names(route(offers, seen=seen, wishes=Preferences(order=("asleep",)))) == ["awake", "dozing", "asleep"]


def test_where_all_rest_they_are_tried_all_the_same() -> None:
    seen = {"a": resting_until(NOW_S + 9), "b": resting_until(NOW_S + 5)}
    assert names(route([offer("a"), offer("b")], seen=seen)) == ["b", "a"]


def test_never_across_a_region_however_bad_it_looks() -> None:
    offers = [offer("eu", DEAR, jurisdiction="EU"), offer("us", jurisdiction="US"), offer("nowhere")]
    planned = route(offers, seen={"eu": resting_until(NOW_S + 300)}, jurisdictions=frozen("EU"))
    assert names(planned) == ["eu"]
    assert {one.endpoint: one.code for one in planned.exclusions} == {"us": "jurisdiction", "nowhere": "jurisdiction"}


def test_a_rested_endpoint_that_is_probed_rests_for_the_others() -> None:
    probed = Observation()
    for _ in range(5):
        probed.begin()
        probed.fail(Failure(FailureKind.CONNECT, ""), 0.0, 0.0)
    offers = [offer("probed"), offer("other", DEAR)]
    assert names(route(offers, seen={"probed": probed})) == ["probed", "other"]
    probed.begin()
    assert names(route(offers, seen={"probed": probed})) == ["other", "probed"]


# What the tenant is told


def test_an_explanation_has_names_and_reasons_and_nothing_else() -> None:
    offers = [offer("quick"), offer("new", DEAR), offer("priceless", None)]
    planned = route(offers, seen={"quick": quick(0.5)}, wishes=Preferences(order=("new",)))
    assert planned.explain() == {
        "candidates": [
            {"endpoint": "new", "reason": "named by provider.order; not measured yet"},
            {"endpoint": "quick", "reason": "first token in about 0.50 s"},
        ],
        "excluded": [{"endpoint": "priceless", "reason": "no price is set for it"}],
    }


def test_nothing_to_choose_from() -> None:
    assert route([]) == Route((), ())


def test_who_writes_less_than_is_wanted_comes_after_who_does_not() -> None:
    offers = [offer("short", CHEAP, max_output_tokens=4_096), offer("long", DEAR, max_output_tokens=32_000)]
    assert names(route(offers, request(max_tokens=4_096))) == ["short", "long"]
    planned = route(offers, request(max_tokens=20_000))
    assert names(planned) == ["long", "short"]
    assert planned.candidates[1].reason.startswith("writes at most 4096 tokens")


# Rules at their edges


@pytest.mark.parametrize(
    ("sort", "first_token_pusd", "last_token_pusd"),
    [
        (None, 50e6, 20e6),
        ("price", 1e-3, 1e-3),  # so little that it only breaks ties
        ("latency", 1e12, 0.0),  # a dollar a second
        ("throughput", 0.0, 1e12),
    ],
)
def test_what_a_second_of_waiting_is_worth(sort: str | None, first_token_pusd: float, last_token_pusd: float) -> None:
    """To the first token, and from there to the last one, of an endpoint that costs nothing."""
    free = Price(1, 0, 0, 0)
    assert score(free, quick(first_token_s=1.0, token_s=0.0), sort) == pytest.approx(first_token_pusd)
    assert score(free, quick(0.0, token_s=0.02), sort, expected_output_tokens=50) == pytest.approx(last_token_pusd)


def test_unless_more_is_known_an_answer_of_400_tokens_to_no_prompt_is_expected() -> None:
    assert score(sort="price") == pytest.approx(400 * 3e6)


def test_without_max_tokens_one_token_must_fit_and_no_endpoint_writes_too_few() -> None:
    assert exclusion(policy={"prompt_tokens": 131_071}) is None
    offers = [offer("laconic", max_output_tokens=1), offer("dear", DEAR)]
    assert names(route(offers)) == ["laconic", "dear"]


@pytest.mark.parametrize(("sell", "buy"), [(CHEAP, None), (None, CHEAP), (None, None)])
def test_an_endpoint_needs_both_prices(sell: Price | None, buy: Price | None) -> None:
    (excluded,) = route([replace(offer("one"), sell=sell, buy=buy)]).exclusions
    assert excluded.code == "no_price"


def picked(scores: dict[str, float], roll: float) -> str:
    """Which of the endpoints with these scores goes first."""
    first = pick([replace(candidate(name), score=value) for name, value in scores.items()], (0.5, roll))
    assert first is not None
    return first.endpoint.name


@pytest.mark.parametrize(("second", "first"), [(23.0, "b"), (23.001, "a")])
def test_near_is_up_to_15_percent_above_the_best(second: float, first: str) -> None:
    assert picked({"a": 20.0, "b": second}, roll=0.999) == first


@pytest.mark.parametrize(("roll", "first"), [(0.0, "a"), (0.499, "a"), (0.5, "b"), (0.999, "b")])
@pytest.mark.parametrize("score", [0.0, 1.0, 1e9])
def test_two_with_the_same_score_share_the_dice_evenly(score: float, roll: float, first: str) -> None:
    assert picked({"a": score, "b": score}, roll) == first


def test_what_rounding_leaves_of_the_highest_roll_falls_to_the_last() -> None:
    """Of these scores floating point takes the weights from the roll and ends at zero exactly."""
    assert picked({"a": 20.0, "b": 20.0, "c": 21.0, "d": 23.0, "e": 23.0}, roll=1 - 2**-53) == "e"


@pytest.mark.parametrize(
    ("supports", "asked", "reason"),
    [
        (["tools"], TOOLS, "not measured yet"),
        (["response_format"], JSON, "not measured yet"),
        (["response_format"], TOOLS, "not measured yet; tools in its prompt"),
        (["tools"], JSON, "not measured yet; schema in its prompt"),
        ([], TOOLS | JSON, "not measured yet; tools and schema in its prompt"),
        ([], {}, "not measured yet"),
    ],
)
def test_a_reason_says_what_is_put_into_the_prompt(supports: list[str], asked: dict[str, Any], reason: str) -> None:
    (only,) = route([offer("one", supports=supports)], request(**asked)).candidates
    assert only.reason == reason
