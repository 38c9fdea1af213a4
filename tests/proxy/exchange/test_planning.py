"""From a request to its route and its ceiling: what is measured, what can be due, and why nobody can be asked."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.journal.writes import HoldOutcome
from ledger.prices import Plan, Price, PriceBook, PriceVersion
from providers.adapter import prompt_ceiling_tokens
from providers.chat_request import ChatRequest
from proxy.entry.api_errors import ApiError
from proxy.exchange.planning import (
    LEAST_OUTPUT_TOKENS,
    Ceiling,
    Planner,
    PromptLength,
    beyond_context,
    ceiling_of,
    count_in_thread,
    not_enough,
    output_tokens,
    with_margin,
)
from proxy.routing.catalogue import Catalogue
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation
from proxy.routing.preferences import NO_PREFERENCES, Preferences
from proxy.routing.route import Exclusion
from proxy.surfaces.surface import SurfaceRequest
from tests.proxy.exchange.parts import SELL, TOOL, Clock, candidate, chat, key
from tests.proxy.routing.routes import endpoint

LONG_AGO, NOW = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 10, 1, tzinfo=UTC)
USD = 10**12


# What can be due at most


def test_a_ceiling_is_the_prompt_and_every_token_of_output() -> None:
    ceiling = Ceiling(prompt_pusd=5_000, output_token_pusd=30)
    assert [ceiling.amount_pusd(tokens) for tokens in (0, 1, 100)] == [5_000, 5_030, 8_000]


@pytest.mark.parametrize(
    ("available_pusd", "tokens"), [(0, 0), (4_999, 0), (5_000, 0), (5_029, 0), (5_030, 1), (5_059, 1), (8_000, 100)]
)
def test_what_can_be_afforded_beside_the_prompt(available_pusd: int, tokens: int) -> None:
    assert Ceiling(prompt_pusd=5_000, output_token_pusd=30).affordable_tokens(available_pusd) == tokens


def test_where_output_is_free_the_prompt_alone_decides() -> None:
    ceiling = Ceiling(prompt_pusd=5_000, output_token_pusd=0)
    assert ceiling.affordable_tokens(4_999) == 0
    assert ceiling.affordable_tokens(5_000) == 2**31


@pytest.mark.parametrize(
    ("prices", "choices", "expected"),
    [
        # input, output, cached input
        ([(1_000, 3_000, 100)], 1, Ceiling(100_000, 3_000)),
        ([(1_000, 3_000, 100)], 4, Ceiling(100_000, 12_000)),
        ([(1_000, 3_000, 1_500)], 1, Ceiling(150_000, 3_000)),
        ([(1_000, 3_000, 100), (2_000, 2_000, 100)], 1, Ceiling(200_000, 3_000)),
        ([(2_000, 2_000, 100), (1_000, 3_000, 100)], 2, Ceiling(200_000, 6_000)),
    ],
    ids=["one endpoint", "four choices", "cached input dearer than input", "dearest of each", "in any order"],
)
def test_the_ceiling_is_that_of_the_dearest_of_the_route(
    prices: list[tuple[int, int, int]], choices: int, expected: Ceiling
) -> None:
    candidates = [
        candidate(f"e{n}", sell=Price(n, *price), buy=Price(9, 9_999, 9_999, 9_999)) for n, price in enumerate(prices)
    ]
    assert ceiling_of(candidates, choices, prompt_tokens=100) == expected


@pytest.mark.parametrize(("counted", "most"), [(0, 32), (19, 51), (20, 53), (1_000, 1_082)])
def test_a_template_may_differ_from_ours_by_a_twentieth_and_32_tokens(counted: int, most: int) -> None:
    assert with_margin(counted) == most


@pytest.mark.parametrize(
    ("wanted", "prompt_tokens", "expected"),
    [
        (500, 1_000, 500),
        (5_000, 1_000, 4_000),  # its own maximum
        (4_000, 13_000, 3_000),  # its context
        (4_000, 16_000, 1),
        (4_000, 99_000, 1),  # at least one, for it is asked
    ],
)
def test_how_much_an_endpoint_is_asked_to_write(wanted: int, prompt_tokens: int, expected: int) -> None:
    where = endpoint("first", context_tokens=16_000, max_output_tokens=4_000)
    assert output_tokens(where, wanted, PromptLength(10, prompt_tokens)) == expected


# Refusals

SHORT = Exclusion("a", "context", "its context is 16000 tokens")
SHORTER = Exclusion("b", "context", "its context is 8000 tokens")
ELSEWHERE = Exclusion("c", "jurisdiction", "US is not among this tenant's")
SATURATED = Exclusion("d", "rate_limited", "it is out of capacity for now", True, 130.0)


@pytest.mark.parametrize(
    ("exclusions", "wanted", "message"),
    [
        ([SHORT], None, "a prompt of 20000 tokens do not fit: its context is 16000 tokens"),
        (
            [ELSEWHERE, SHORT, SHORTER],
            300,
            "a prompt of 20000 tokens and 300 tokens of output do not fit: its context is 16000 tokens",
        ),
        ([ELSEWHERE], None, None),
        ([SHORT, SATURATED], None, None),  # it may fit there, later
        ([], None, None),
    ],
)
def test_a_prompt_that_fits_nowhere(exclusions: list[Exclusion], wanted: int | None, message: str | None) -> None:
    error = beyond_context(exclusions, 20_000, wanted)
    if message is None:
        assert error is None
    else:
        assert error is not None
        assert (error.code, error.message, error.param) == ("context_length_exceeded", message, "messages")


@pytest.mark.parametrize(
    ("reason", "code", "message"),
    [
        ("credit", "insufficient_credit", "this request may cost $2.50; $0.75 is available"),
        ("budget", "budget_exceeded", "this request may cost $2.50; $0.75 is left of this key's monthly budget"),
    ],
)
def test_what_there_is_what_it_takes_and_how_much_would_do(reason: str, code: str, message: str) -> None:
    error = not_enough(HoldOutcome(False, 3 * USD // 4, reason), 5 * USD // 2, affordable_tokens=512)
    assert (error.status, error.code, error.message) == (402, code, message)
    assert error.body()["error"]["affordable_max_tokens"] == 512


# The route


class Dice(random.Random):
    """Rolls what it is told to."""

    def __init__(self, *rolls: float) -> None:
        super().__init__()
        self._rolls = iter(rolls)

    def random(self) -> float:
        return next(self._rolls)


class Counter:
    """Counts every prompt alike, and how often it was asked to."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.asked = 0

    async def __call__(self, request: ChatRequest) -> int:
        self.asked += 1
        return self.tokens


def planner(
    *endpoints: Endpoint,
    prices: Mapping[str, Price] | None = None,
    observations: Mapping[str, Observation] | None = None,
    dice: tuple[float, float] = (0.5, 0.0),
    count_prompt: Any = None,
    default_output_tokens: int = 1_000,
) -> Planner:
    """At `SELL` everywhere, unless `prices` say what each endpoint takes."""
    priced = {each.name: SELL for each in endpoints} if prices is None else prices
    versions = {name: [PriceVersion(LONG_AGO, price)] for name, price in priced.items()}
    book = PriceBook(versions, [Plan("twice", markup_ppm=1_000_000)])
    return Planner(
        Catalogue("hermes", (), endpoints, lambda: book, lambda: NOW),
        {each.name: Observation() for each in endpoints} | dict(observations or {}),
        default_output_tokens,
        clock=Clock(100.0),
        dice=Dice(*dice),
        count_prompt=count_prompt or Counter(25),
    )


def asked(request: ChatRequest | None = None, preferences: Preferences = NO_PREFERENCES) -> SurfaceRequest:
    return SurfaceRequest(request or chat(), preferences, None, ())


async def names(planner: Planner, wanted: SurfaceRequest | None = None, **limits: Any) -> list[str]:
    route, _ = await planner.plan(key(**limits), wanted or asked())
    return [candidate.endpoint.name for candidate in route.candidates]


async def refusal(planner: Planner, wanted: SurfaceRequest | None = None, **limits: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await planner.plan(key(**limits), wanted or asked())
    return caught.value


def test_a_token_is_at_least_a_byte() -> None:
    """What the numbers below rest on: five bytes, 24 tokens around a message, 64 around a conversation."""
    assert prompt_ceiling_tokens(chat("Hello")) == 5 + 24 + 64 == 93


@pytest.mark.parametrize(
    ("max_tokens", "default_tokens", "is_counted"),
    [(16_000 - 93, 1_000, False), (16_000 - 92, 1_000, True), (None, 16_000 - 93, False), (None, 16_000 - 92, True)],
)
async def test_a_prompt_is_counted_only_where_it_might_not_fit_the_shortest_context(
    max_tokens: int | None, default_tokens: int, is_counted: bool
) -> None:
    count_prompt = Counter(12)
    ours = planner(
        endpoint("first", context_tokens=131_072),
        endpoint("second", context_tokens=16_000),
        count_prompt=count_prompt,
        default_output_tokens=default_tokens,
    )
    _, prompt = await ours.plan(key(), asked(chat("Hello", max_tokens=max_tokens)))
    # Else its bytes say enough: a quarter of them is the estimate, and all of them are the most.
    assert prompt == (PromptLength(12, 12 + 32) if is_counted else PromptLength(5 // 4, 93))
    assert count_prompt.asked == is_counted


async def test_what_is_not_counted_is_estimated_at_four_bytes_a_token() -> None:
    _, prompt = await planner(endpoint("first")).plan(key(), asked(chat("x" * 400)))
    assert prompt.tokens == 100


def test_an_answer_of_fewer_tokens_is_not_worth_its_prompt() -> None:
    """A caller who asked for no length is refused where the credit does not reach for so many."""
    assert LEAST_OUTPUT_TOKENS == 256


async def test_a_count_never_raises_what_the_bytes_allow() -> None:
    ours = planner(endpoint("first", context_tokens=16_000), count_prompt=Counter(90))
    _, prompt = await ours.plan(key(), asked(chat("Hello", max_tokens=15_910)))
    assert prompt == PromptLength(90, 93)


async def test_where_an_endpoint_has_no_tools_its_prompt_may_grow_by_them() -> None:
    wanted = chat("Hello", tools=[TOOL])
    served, told = prompt_ceiling_tokens(wanted), prompt_ceiling_tokens(wanted, emulated=True)
    assert served < told
    _, prompt = await planner(endpoint("first")).plan(key(), asked(wanted))
    assert prompt.most_tokens == served
    bare = endpoint("second", provider="nebius", supports=[])
    _, prompt = await planner(endpoint("first"), bare).plan(key(), asked(wanted))
    assert prompt.most_tokens == told


async def test_unless_told_otherwise_the_tokenizer_counts() -> None:
    assert await count_in_thread(chat("Hello")) == 25


async def test_jurisdictions_of_the_key_bind() -> None:
    ours = endpoint("here", jurisdiction="EU"), endpoint("there", jurisdiction="US"), endpoint("nowhere")
    assert set(await names(planner(*ours))) == {"here", "there", "nowhere"}
    assert await names(planner(*ours), jurisdictions=frozenset({"EU"})) == ["here"]
    error = await refusal(planner(*ours), jurisdictions=frozenset({"CH"}))
    assert (error.status, error.code) == (400, "no_eligible_endpoint")
    assert {"endpoint": "there", "reason": "US is not among this tenant's"} in error.details["excluded"]


async def test_preferences_of_the_request_bind() -> None:
    ours = planner(endpoint("first"), endpoint("second"), dice=(0.5, 0.0))
    assert await names(ours, asked(preferences=Preferences(order=("second",)))) == ["second", "first"]
    ours = planner(endpoint("first"), endpoint("second"))
    assert await names(ours, asked(preferences=Preferences(only=frozenset({"second"})))) == ["second"]


@pytest.mark.parametrize(
    ("dice", "first"),
    [((0.5, 0.0), "cheap"), ((0.5, 0.99), "near"), ((0.005, 0.99), "dear"), ((0.005, 0.0), "cheap")],
    ids=["the first of the near ones", "the last of the near ones", "any, one time in a hundred", "any is the first"],
)
async def test_the_dice_choose_among_the_near_ones(dice: tuple[float, float], first: str) -> None:
    prices = {"cheap": SELL, "near": SELL, "dear": Price(4, 10**7, 10**8, 10**7)}
    assert (await names(planner(*map(endpoint, prices), prices=prices, dice=dice)))[0] == first


@pytest.mark.parametrize(
    ("max_tokens", "first"), [(1, "reads"), (200, "reads"), (350, "writes"), (None, "writes"), (4_000, "writes")]
)
async def test_the_score_expects_no_more_output_than_is_wanted(max_tokens: int | None, first: str) -> None:
    """Of 1,000 prompt tokens at 500 or 800, and 400 tokens of output, or fewer, at 3,000 or 2,000."""
    prices = {"reads": Price(1, 500, 3_000, 500), "writes": Price(2, 800, 2_000, 800)}
    wanted = asked(chat("x" * 4_000, max_tokens=max_tokens), Preferences(sort="price"))
    assert await names(planner(*map(endpoint, prices), prices=prices), wanted) == sorted(
        prices, key=lambda name: name != first
    )


async def test_the_price_plan_of_the_key_is_what_it_pays() -> None:
    route, _ = await planner(endpoint("first")).plan(key(plan="twice"), asked())
    assert route.candidates[0].sell == Price(1, 2_000, 6_000, 200)
    assert route.candidates[0].buy == SELL
    error = await refusal(planner(endpoint("first")), plan="of yore")
    assert (error.status, error.code) == (503, "no_endpoint_available")


async def test_without_a_price_nobody_is_asked() -> None:
    error = await refusal(planner(endpoint("first"), prices={}))
    assert (error.status, error.code, error.message) == (503, "no_endpoint_available", "no endpoint has a price")


async def test_without_an_endpoint_nobody_is_asked() -> None:
    error = await refusal(planner())
    assert (error.status, error.code) == (400, "no_eligible_endpoint")


async def test_a_prompt_too_long_for_every_endpoint() -> None:
    ours = planner(endpoint("first", context_tokens=16_000), count_prompt=Counter(16_000))
    error = await refusal(ours, asked(chat("x" * 64_000)))
    assert (error.status, error.code) == (400, "context_length_exceeded")
    assert error.message == "a prompt of 16000 tokens do not fit: its context is 16000 tokens"


async def test_every_endpoint_is_out_of_capacity() -> None:
    """By the clock of the observations it is 100 s."""
    saturated = Observation(saturated_until_s=107.2)
    error = await refusal(planner(endpoint("first"), observations={"first": saturated}))
    assert (error.status, error.code, error.headers()["retry-after"]) == (429, "upstream_rate_limited", "8")
    over = Observation(saturated_until_s=99.9)
    assert await names(planner(endpoint("first"), observations={"first": over})) == ["first"]
