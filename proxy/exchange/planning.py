"""From a request to its route and its ceiling: what is known of the prompt's length, and what can be due at most."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.journal.writes import HoldOutcome
from ledger.keys import KeyRecord
from ledger.money import format_usd
from providers.adapter import prompt_ceiling_tokens
from proxy.entry.api_errors import ApiError
from proxy.exchange.gateway import Gateway
from proxy.exchange.policy import no_candidate
from proxy.exchange.settlement import prompt_tokens
from proxy.routing.endpoints import Endpoint
from proxy.routing.route import Candidate, Exclusion, Policy, Route, plan_route
from proxy.surfaces.surface import SurfaceRequest

LEAST_OUTPUT_TOKENS = 256
BYTES_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """A route that can be tried. `prompt_tokens` orders it, `prompt_most` is a number it does not exceed."""

    route: Route
    prompt_tokens: int
    prompt_most: int


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the dearest endpoint of the route can charge: a prompt, and so many tokens of output in all choices."""

    prompt_pusd: int
    output_token_pusd: int

    def amount_pusd(self, output_tokens: int) -> int:
        return self.prompt_pusd + output_tokens * self.output_token_pusd

    def affordable_tokens(self, available_pusd: int) -> int:
        if self.output_token_pusd == 0:
            return 1 << 31 if available_pusd >= self.prompt_pusd else 0
        return max(0, (available_pusd - self.prompt_pusd) // self.output_token_pusd)


async def plan(gateway: Gateway, key: KeyRecord, call: SurfaceRequest) -> Plan:
    """Raises ApiError where no endpoint can serve the request, ever or for now."""
    request = call.chat
    shortest = min((one.context_tokens for one in gateway.endpoints), default=0)
    emulated = any("tools" not in one.target.supports for one in gateway.endpoints)
    known, most = request.prompt_bytes // BYTES_A_TOKEN, prompt_ceiling_tokens(request, emulated=emulated)
    # A token is at least a byte: only a prompt that might not fit is counted.
    if most + (request.max_tokens or gateway.settings.limits.default_output_tokens) > shortest:
        known = await asyncio.to_thread(prompt_tokens, request)
        most = min(most, with_margin(known))
    policy = Policy(
        preferences=call.preferences,
        jurisdictions=key.jurisdictions,
        prompt_tokens=known,
        expected_output_tokens=min(request.max_tokens or 400, 400),
        rolls=(gateway.roll.random(), gateway.roll.random()),
    )
    now_s = asyncio.get_running_loop().time()
    route = plan_route(request, gateway.offers(key.plan), gateway.observations, policy, now_s)
    if not route.candidates:
        raise beyond_context(route.exclusions, known, request.max_tokens) or no_candidate(route.exclusions, now_s)
    return Plan(route, known, most)


def ceiling(candidates: Sequence[Candidate], call: SurfaceRequest, prompt_most: int) -> Ceiling:
    """The maximum over the route."""
    choices = call.chat.choices
    return Ceiling(
        prompt_most * max(max(one.sell.input_pusd, one.sell.cached_input_pusd) for one in candidates),
        choices * max(one.sell.output_pusd for one in candidates),
    )


def with_margin(counted_tokens: int) -> int:
    """Our own count of a prompt, and room for a template that differs from ours."""
    return counted_tokens + counted_tokens // 20 + 32


def output_tokens(endpoint: Endpoint, wanted: int, plan: Plan) -> int:
    """How much one endpoint is asked to write: no more than it can, and than its context has room for."""
    room = endpoint.context_tokens - plan.prompt_most
    return min(wanted, endpoint.max_output_tokens, max(room, 1))


def beyond_context(exclusions: Sequence[Exclusion], prompt: int, output: int | None) -> ApiError | None:
    """The one reason for which every endpoint that could otherwise serve it cannot."""
    if not any(one.code == "context" for one in exclusions) or any(one.passing for one in exclusions):
        return None
    limits = [one.reason for one in exclusions if one.code == "context"]
    wanted = f"a prompt of {prompt} tokens" + (f" and {output} tokens of output" if output else "")
    return ApiError("context_length_exceeded", f"{wanted} do not fit: {limits[0]}", param="messages")


def not_enough(outcome: HoldOutcome, wanted_pusd: int, affordable_tokens: int) -> ApiError:
    """402: what there is, what it takes, and how much output would be affordable."""
    budget = outcome.reason == "budget"
    return ApiError(
        "budget_exceeded" if budget else "insufficient_credit",
        f"this request may cost ${format_usd(wanted_pusd)}; ${format_usd(outcome.available_pusd)} is "
        + ("left of this key's monthly budget" if budget else "available"),
        details={"affordable_max_tokens": affordable_tokens},
    )
