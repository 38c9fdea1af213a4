"""From a request to its route and its ceiling: what is known of the prompt's length, and what can be due at most."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from ledger.journal.writes import HoldOutcome
from ledger.keys import KeyRecord
from ledger.money import format_usd
from providers.adapter import prompt_ceiling_tokens
from providers.chat_request import ChatRequest
from providers.tokenizer import count_request
from proxy.entry.api_errors import ApiError
from proxy.exchange.policy import no_candidate
from proxy.routing.catalogue import Catalogue
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation
from proxy.routing.route import EXPECTED_OUTPUT_TOKENS, Candidate, Exclusion, Policy, Route, plan_route
from proxy.surfaces.surface import SurfaceRequest

LEAST_OUTPUT_TOKENS = 256
BYTES_A_TOKEN = 4

CountPrompt = Callable[[ChatRequest], Awaitable[int]]


async def count_in_thread(chat: ChatRequest) -> int:
    """The tokens of a prompt by our own tokenizer, off the event loop."""
    return await asyncio.to_thread(count_request, chat)


@dataclass(frozen=True, slots=True)
class PromptLength:
    """What is known of a prompt: `tokens`, estimated or counted; no endpoint counts more than `most_tokens`."""

    tokens: int
    most_tokens: int


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the dearest endpoint of a route can charge: a prompt, and so many tokens of output in all choices."""

    prompt_pusd: int
    output_token_pusd: int

    def amount_pusd(self, output_tokens: int) -> int:
        return self.prompt_pusd + output_tokens * self.output_token_pusd

    def affordable_tokens(self, available_pusd: int) -> int:
        if self.output_token_pusd == 0:
            return 1 << 31 if available_pusd >= self.prompt_pusd else 0
        return max(0, (available_pusd - self.prompt_pusd) // self.output_token_pusd)


class Planner:
    """Plans routes by what is known of the endpoints now."""

    def __init__(
        self,
        catalogue: Catalogue,
        observations: Mapping[str, Observation],
        default_output_tokens: int,
        *,
        clock: Callable[[], float],
        dice: random.Random,
        count_prompt: CountPrompt = count_in_thread,
    ) -> None:
        """`clock` tells seconds, by the clock that `observations` were made with."""
        self._catalogue = catalogue
        self._observations = observations
        self._default_output_tokens = default_output_tokens
        self._clock = clock
        self._dice = dice
        self._count_prompt = count_prompt

    async def plan(self, key: KeyRecord, asked: SurfaceRequest) -> tuple[Route, PromptLength]:
        """Raises ApiError where no endpoint can serve the request, ever or for now."""
        chat = asked.chat
        prompt = await self._measure(chat)
        policy = Policy(
            preferences=asked.preferences,
            jurisdictions=key.jurisdictions,
            prompt_tokens=prompt.tokens,
            expected_output_tokens=min(chat.max_tokens or EXPECTED_OUTPUT_TOKENS, EXPECTED_OUTPUT_TOKENS),
            rolls=(self._dice.random(), self._dice.random()),
        )
        now_s = self._clock()
        route = plan_route(chat, self._catalogue.offers(key.plan), self._observations, policy, now_s)
        if not route.candidates:
            refusal = beyond_context(route.exclusions, prompt.tokens, chat.max_tokens)
            raise refusal or no_candidate(route.exclusions, now_s)
        return route, prompt

    async def _measure(self, chat: ChatRequest) -> PromptLength:
        """A token is at least a byte, so only a prompt that might not fit the shortest context is counted."""
        endpoints = self._catalogue.endpoints
        shortest_tokens = min((endpoint.context_tokens for endpoint in endpoints), default=0)
        emulated = any("tools" not in endpoint.target.supports for endpoint in endpoints)
        most_tokens = prompt_ceiling_tokens(chat, emulated=emulated)
        if most_tokens + (chat.max_tokens or self._default_output_tokens) <= shortest_tokens:
            return PromptLength(chat.prompt_bytes // BYTES_A_TOKEN, most_tokens)
        counted = await self._count_prompt(chat)
        return PromptLength(counted, min(most_tokens, with_margin(counted)))


def ceiling_of(candidates: Sequence[Candidate], choices: int, prompt_tokens: int) -> Ceiling:
    """The maximum over the route, for a prompt of at most `prompt_tokens`."""
    return Ceiling(
        prompt_tokens
        * max(max(candidate.sell.input_pusd, candidate.sell.cached_input_pusd) for candidate in candidates),
        choices * max(candidate.sell.output_pusd for candidate in candidates),
    )


def with_margin(counted_tokens: int) -> int:
    """Our own count of a prompt, and room for a template that differs from ours."""
    return counted_tokens + counted_tokens // 20 + 32


def output_tokens(endpoint: Endpoint, wanted_tokens: int, prompt: PromptLength) -> int:
    """How much one endpoint is asked to write: no more than it can, and than its context has room for."""
    left_tokens = endpoint.context_tokens - prompt.most_tokens
    return min(wanted_tokens, endpoint.max_output_tokens, max(left_tokens, 1))


def beyond_context(exclusions: Sequence[Exclusion], prompt_tokens: int, output_tokens: int | None) -> ApiError | None:
    """The refusal of a request that every endpoint that could otherwise serve it has too short a context for."""
    too_short = [exclusion.reason for exclusion in exclusions if exclusion.code == "context"]
    if not too_short or any(exclusion.passing for exclusion in exclusions):
        return None
    wanted = f"a prompt of {prompt_tokens} tokens" + (f" and {output_tokens} tokens of output" if output_tokens else "")
    return ApiError("context_length_exceeded", f"{wanted} do not fit: {too_short[0]}", param="messages")


def not_enough(outcome: HoldOutcome, wanted_pusd: int, affordable_tokens: int) -> ApiError:
    """402: what there is, what it takes, and how much output would be affordable."""
    budget = outcome.reason == "budget"
    return ApiError(
        "budget_exceeded" if budget else "insufficient_credit",
        f"this request may cost ${format_usd(wanted_pusd)}; ${format_usd(outcome.available_pusd)} is "
        + ("left of this key's monthly budget" if budget else "available"),
        details={"affordable_max_tokens": affordable_tokens},
    )
