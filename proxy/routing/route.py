"""Where a request may go and in what order: hard filters first, the score only orders what is left.

`plan_route` is a pure function of its arguments, the dice included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ledger.prices import Price
from providers.chat_request import ChatRequest
from providers.means import UNAIDED, Enforcer, Means
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation
from proxy.routing.preferences import NO_PREFERENCES, Preferences

EXPECTED_OUTPUT_TOKENS = 400
UNKNOWN_FIRST_TOKEN_S = 1.0
UNKNOWN_TOKEN_S = 0.03
EXPLORATION = 0.01
NEAR = 1.15
# What a second of waiting is worth, in pico-dollars: to the first token, and to the last one. By price a second only
# breaks ties.
SECOND_PUSD: Mapping[str | None, tuple[float, float]] = {
    None: (50e6, 20e6),
    "price": (1e-3, 1e-3),
    "latency": (1e12, 0.0),
    "throughput": (0.0, 1e12),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """An endpoint at a moment: what the tenant pays there and what the provider takes. None: nobody set a price."""

    endpoint: Endpoint
    sell: Price | None
    buy: Price | None


@dataclass(frozen=True, slots=True)
class Policy:
    """What binds a request beside itself. `jurisdictions` None: any, even none."""

    preferences: Preferences = NO_PREFERENCES
    jurisdictions: frozenset[str] | None = None
    prompt_tokens: int = 0
    expected_output_tokens: int = EXPECTED_OUTPUT_TOKENS
    rolls: tuple[float, float] = (0.5, 0.5)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An endpoint of the route. `reason` says why it stands where it stands, in the tenant's terms.

    `means`: whether the endpoint serves tools and the JSON that is wanted itself, or by words in its prompt.
    """

    endpoint: Endpoint
    sell: Price
    buy: Price
    score: float
    reason: str
    means: Means = UNAIDED


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An endpoint that cannot serve this request. `passing` exclusions end by themselves at `until_s`."""

    endpoint: str
    code: str
    reason: str
    passing: bool = False
    until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    candidates: tuple[Candidate, ...]
    exclusions: tuple[Exclusion, ...]

    def explain(self) -> dict[str, Any]:
        """For the tenant: names and reasons, no costs and no scores."""
        return {
            "candidates": [
                {"endpoint": candidate.endpoint.name, "reason": candidate.reason} for candidate in self.candidates
            ],
            "excluded": [{"endpoint": left_out.endpoint, "reason": left_out.reason} for left_out in self.exclusions],
        }


def plan_route(
    request: ChatRequest,
    offers: Sequence[Offer],
    observations: Mapping[str, Observation],
    policy: Policy,
    now_s: float,
) -> Route:
    """`now_s` is the monotonic clock that the observations were made with."""
    candidates: list[Candidate] = []
    exclusions: list[Exclusion] = []
    for offer in offers:
        excluded = exclude(request, offer, observations[offer.endpoint.name], policy, now_s)
        if excluded is not None:
            exclusions.append(excluded)
        else:
            candidates.append(consider(request, offer, observations[offer.endpoint.name], policy, now_s))
    ordered = order(candidates, request.max_tokens or 1, observations, policy, now_s)
    wishes = policy.preferences
    if not wishes.allow_fallbacks and not wishes.order:
        ordered = ordered[:1]
    return Route(tuple(ordered), tuple(exclusions))


def exclude(  # noqa: PLR0912 (a table of rules, one a line)
    request: ChatRequest, offer: Offer, seen: Observation, policy: Policy, now_s: float
) -> Exclusion | None:
    """The first hard filter that the endpoint fails."""
    endpoint, wishes = offer.endpoint, policy.preferences

    def no(code: str, reason: str) -> Exclusion:
        return Exclusion(endpoint.name, code, reason)

    if offer.sell is None or offer.buy is None:
        return no("no_price", "no price is set for it")
    if policy.jurisdictions is not None and endpoint.jurisdiction not in policy.jurisdictions:
        return no("jurisdiction", f"{endpoint.jurisdiction or 'no jurisdiction'} is not among this tenant's")
    if wishes is not NO_PREFERENCES:
        if wishes.only and not named(endpoint, wishes.only):
            return no("only", "not among provider.only")
        if wishes.ignore and named(endpoint, wishes.ignore):
            return no("ignore", "named by provider.ignore")
        if wishes.order and not wishes.allow_fallbacks and rank(endpoint, wishes.order) is None:
            return no("order", "not among provider.order, and provider.allow_fallbacks is false")
        if wishes.regions and not in_regions(endpoint, wishes.regions):
            return no("region", "not in provider.regions")
        if wishes.quantizations and (endpoint.quantization or "unknown").lower() not in wishes.quantizations:
            return no("quantization", f"its quantization is {endpoint.quantization or 'not stated'}")
        if wishes.data_collection == "deny" and endpoint.data_collection != "deny":
            return no("data_collection", "it may keep what it is sent")
        if wishes.zdr and not endpoint.zdr:
            return no("zdr", "no zero data retention is agreed with it")
        if wishes.max_input_pusd is not None and offer.sell.input_pusd > wishes.max_input_pusd:
            return no("max_price", "its prompt price is above provider.max_price")
        if wishes.max_output_pusd is not None and offer.sell.output_pusd > wishes.max_output_pusd:
            return no("max_price", "its completion price is above provider.max_price")
        if wishes.require_parameters:
            missing = sorted(request.parameters.keys() - endpoint.adapter.accepted(endpoint.target.supports))
            if missing:
                return no("parameters", f"it does not support {', '.join(missing)}")
    if lacking := endpoint.adapter.lacks(request, endpoint.target):
        return no("capability", f"it does not support {', '.join(sorted(lacking))}")
    if policy.prompt_tokens + min(request.max_tokens or 1, endpoint.max_output_tokens) > endpoint.context_tokens:
        return no("context", f"its context is {endpoint.context_tokens} tokens")
    if seen.saturated(now_s):
        return Exclusion(endpoint.name, "rate_limited", "it is out of capacity for now", True, seen.saturated_until_s)
    return None


def consider(request: ChatRequest, offer: Offer, seen: Observation, policy: Policy, now_s: float) -> Candidate:
    """Expected price over one minus the failure rate, plus the price of waiting: in pUSD, but a score, no amount."""
    assert offer.sell is not None
    assert offer.buy is not None
    price = policy.prompt_tokens * offer.sell.input_pusd + policy.expected_output_tokens * offer.sell.output_pusd
    first_s = seen.expected_first_token_s(policy.prompt_tokens)
    token_s = seen.token_s.value
    to_first, to_last = SECOND_PUSD[policy.preferences.sort]
    waiting = (UNKNOWN_FIRST_TOKEN_S if first_s is None else first_s) * to_first
    waiting += (UNKNOWN_TOKEN_S if token_s is None else token_s) * policy.expected_output_tokens * to_last
    score = price / (1.0 - min(seen.failure_rate(now_s), 0.95)) + waiting
    reason = "not measured yet" if first_s is None else f"first token in about {first_s:.2f} s"
    means = offer.endpoint.adapter.means(request, offer.endpoint.target)
    if means.emulated:
        in_prompt = ["tools"] if means.tools_in_prompt else []
        in_prompt += ["schema"] if means.enforcer is Enforcer.PROMPT else []
        reason += f"; {' and '.join(in_prompt)} in its prompt"
    return Candidate(offer.endpoint, offer.sell, offer.buy, score, reason, means)


def order(
    candidates: list[Candidate],
    wanted_tokens: int,
    observations: Mapping[str, Observation],
    policy: Policy,
    now_s: float,
) -> list[Candidate]:
    """Named ones first, resting ones last, else by score; near-equals and the unexplored get their turn.

    Those that write fewer tokens than are wanted come after the others: many clients ask for more than they need,
    so it is no reason to refuse them, and an answer that ends for it says `length`.
    """
    wishes = policy.preferences
    if len(candidates) < 2:
        return candidates
    awake, resting = [], []
    for candidate in sorted(candidates, key=lambda each: (round(each.score), each.means.emulated, each.score)):
        if observations[candidate.endpoint.name].resting(now_s):
            resting.append(replace(candidate, reason="resting after failures"))
        else:
            awake.append(candidate)
    if wishes.sort is None:
        awake = lead_with(pick(awake, policy.rolls), awake)
    awake = long_enough(spread(awake), wanted_tokens)
    if wishes.order:
        awake = by_name(awake, wishes.order)
    return awake + sorted(resting, key=lambda each: observations[each.endpoint.name].resting_until_s)


def long_enough(ranked: list[Candidate], wanted_tokens: int) -> list[Candidate]:
    """Those that can write so much as they stood; behind them those that cannot."""
    long, short = [], []
    for candidate in ranked:
        limit_tokens = candidate.endpoint.max_output_tokens
        if limit_tokens >= wanted_tokens:
            long.append(candidate)
        else:
            short.append(replace(candidate, reason=f"writes at most {limit_tokens} tokens; {candidate.reason}"))
    return long + short


def by_name(ranked: list[Candidate], names: tuple[str, ...]) -> list[Candidate]:
    """Those that `names` speaks of first, in its order; the others after them, as they stood."""
    first: list[tuple[int, Candidate]] = []
    others = []
    for candidate in ranked:
        place = rank(candidate.endpoint, names)
        if place is None:
            others.append(candidate)
        else:
            first.append((place, replace(candidate, reason=f"named by provider.order; {candidate.reason}")))
    return [candidate for _, candidate in sorted(first, key=lambda pair: pair[0])] + others


def pick(ranked: list[Candidate], rolls: tuple[float, float]) -> Candidate | None:
    """One of the near-equals in proportion to score⁻², or, one time in a hundred, any."""
    if not ranked:
        return None
    explore, roll = rolls
    if explore < EXPLORATION:
        return ranked[int(roll * len(ranked))]
    near = [candidate for candidate in ranked if candidate.score <= ranked[0].score * NEAR]
    near = [candidate for candidate in near if not candidate.means.emulated] or near
    weights = [(candidate.score + 1.0) ** -2 for candidate in near]
    left = roll * sum(weights)
    for candidate, weight in zip(near, weights, strict=True):
        left -= weight
        if left < 0:
            return candidate
    return near[-1]


def lead_with(first: Candidate | None, ranked: list[Candidate]) -> list[Candidate]:
    """`first` before the others of `ranked`, which stay as they stand."""
    return ranked if first is None else [first, *(candidate for candidate in ranked if candidate is not first)]


def spread(ranked: list[Candidate]) -> list[Candidate]:
    """The first fallback shares no failure domain with the first choice, if there is one that does not."""
    if len(ranked) < 3:
        return ranked
    domain = ranked[0].endpoint.failure_domain
    elsewhere = next((candidate for candidate in ranked[1:] if candidate.endpoint.failure_domain != domain), None)
    return ranked if elsewhere is None else [ranked[0], *lead_with(elsewhere, ranked[1:])]


def named(endpoint: Endpoint, names: frozenset[str]) -> bool:
    return endpoint.name in names or endpoint.provider in names


def rank(endpoint: Endpoint, names: tuple[str, ...]) -> int | None:
    """The place in `names` of the first that is the endpoint's or its provider's."""
    return next((place for place, name in enumerate(names) if name in (endpoint.name, endpoint.provider)), None)


def in_regions(endpoint: Endpoint, regions: frozenset[str]) -> bool:
    return any(place is not None and place.lower() in regions for place in (endpoint.jurisdiction, endpoint.region))
