"""Endpoints, offers and requests for tests of what is decided about them; every field can be said otherwise."""

from collections.abc import Mapping
from typing import Any

from ledger.prices import Price
from providers.chat_request import ChatRequest, Reasoning
from proxy.config import EndpointSettings
from proxy.routing.endpoints import Endpoint, make_endpoint
from proxy.routing.observations import Observation
from proxy.routing.route import Candidate, Offer

CHEAP, DEAR = Price(1, 1_000_000, 3_000_000, 1_000_000), Price(2, 2_000_000, 6_000_000, 2_000_000)


def endpoint(name: str, **settings: Any) -> Endpoint:
    """Of vLLM, so that it can everything, with a failure domain of its own."""
    settings = {"provider": "vllm", "base_url": "http://127.0.0.1:1/v1", "failure_domain": name} | settings
    return make_endpoint(EndpointSettings(name=name, model_id="hermes", **settings), {})


def offer(name: str, price: Price | None = CHEAP, **settings: Any) -> Offer:
    return Offer(endpoint(name, **settings), price, price)


def candidate(name: str, **settings: Any) -> Candidate:
    return Candidate(endpoint(name, **settings), CHEAP, CHEAP, 1.0, "first token in about 0.50 s")


def request(max_tokens: int | None = None, **parameters: Any) -> ChatRequest:
    return ChatRequest(
        messages=[{"role": "user", "content": "Hello"}],
        parameters=parameters,
        max_tokens=max_tokens,
        stream=False,
        include_usage=False,
        reasoning=Reasoning(),
        model="hermes-4-405b",
    )


def quick(first_token_s: float = 0.5, token_s: float = 0.02) -> Observation:
    seen = Observation()
    seen.first_token(first_token_s, 0, 0.0)
    seen.token_s.add(token_s, 0.0)
    return seen


def observed(*names: str, **seen: Observation) -> Mapping[str, Observation]:
    return {name: seen.get(name) or Observation() for name in (*names, *seen)}
