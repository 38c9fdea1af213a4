"""`GET /v1/models` and below, in OpenRouter's shape. Prices are the calling tenant's, in USD a token."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from ledger.keys import KeyRecord
from ledger.money import format_usd
from ledger.prices import Price
from providers.chat_request import TOOLS
from proxy.entry.api_errors import ApiError
from proxy.routing.catalogue import Catalogue
from proxy.routing.endpoints import Endpoint
from proxy.routing.observations import Observation
from proxy.routing.route import Offer
from proxy.surfaces.suffixes import suffix_of

RELEASED = 1756166400  # Hermes 4 405B: 2025-08-26 (openrouter.ai/nousresearch/hermes-4-405b)
NAME = "Nous: Hermes 4 405B"
DESCRIPTION = (
    "Hermes 4 405B by Nous Research: a hybrid reasoning model on Llama 3.1 405B, which thinks when asked to, calls "
    "tools and keeps to a schema. Built with Llama."
)
ARCHITECTURE = {
    "modality": "text->text",
    "input_modalities": ["text"],
    "output_modalities": ["text"],
    "tokenizer": "Llama3",
    "instruct_type": None,
}
EVERYWHERE = frozenset({"max_tokens", "reasoning", "include_reasoning"})  # what needs no support of an endpoint
SOMEHOW = EVERYWHERE | TOOLS | {"response_format"}  # what we do where no endpoint does
SHORT_PROMPT_TOKENS = 1_000

# What OpenRouter's `status` says here: zero is well.
AVAILABLE, OUT_OF_CAPACITY, RESTING = 0, -1, -2


def list_models(catalogue: Catalogue, key: KeyRecord | None) -> dict[str, Any]:
    """The model and its aliases; prices are the lowest of the endpoints open to the tenant."""
    offers = offers_for(catalogue, key)
    return {"object": "list", "data": [describe(name, offers) for name in catalogue.names]}


async def show_model(catalogue: Catalogue, key: KeyRecord, request: web.Request) -> dict[str, Any]:
    """Raises ApiError 404 for a model that is not served."""
    return describe(served(catalogue, request.match_info["id"]), offers_for(catalogue, key))


async def show_endpoints(
    catalogue: Catalogue, observations: Mapping[str, Observation], key: KeyRecord, request: web.Request
) -> dict[str, Any]:
    """Where a model is served, as this process sees it. Raises ApiError 404 for one that is not."""
    name, now_s = served(catalogue, request.match_info["id"]), asyncio.get_running_loop().time()
    return {
        "data": {
            "id": name,
            "name": NAME,
            "created": RELEASED,
            "description": DESCRIPTION,
            "architecture": ARCHITECTURE,
            "endpoints": [
                describe_endpoint(offer.endpoint, offer.sell, observations[offer.endpoint.name], now_s)
                for offer in offers_for(catalogue, key)
                if offer.sell is not None
            ],
        }
    }


def served(catalogue: Catalogue, name: str) -> str:
    if suffix_of(name, catalogue.names) is None:
        message = f"the model {name[:100]!r} is not served here; GET /v1/models lists"
        raise ApiError("model_not_found", message, param="model")
    return name


def offers_for(catalogue: Catalogue, key: KeyRecord | None) -> list[Offer]:
    """Priced, and in a jurisdiction of the tenant's."""
    plan, jurisdictions = (key.plan, key.jurisdictions) if key else (None, None)
    return [
        offer
        for offer in catalogue.offers(plan)
        if offer.sell is not None and (jurisdictions is None or offer.endpoint.jurisdiction in jurisdictions)
    ]


def describe(name: str, offers: Sequence[Offer]) -> dict[str, Any]:
    prices = [offer.sell for offer in offers if offer.sell is not None]
    return {
        "id": name,
        "object": "model",
        "created": RELEASED,
        "owned_by": "nousresearch",
        "name": NAME,
        "description": DESCRIPTION,
        "context_length": max((offer.endpoint.context_tokens for offer in offers), default=None),
        "max_output_length": max((offer.endpoint.max_output_tokens for offer in offers), default=None),
        "architecture": ARCHITECTURE,
        "pricing": {
            "prompt": format_usd(min(price.input_pusd for price in prices)) if prices else None,
            "completion": format_usd(min(price.output_pusd for price in prices)) if prices else None,
            "input_cache_read": format_usd(min(price.cached_input_pusd for price in prices)) if prices else None,
        },
        "supported_parameters": sorted(SOMEHOW.union(*(parameters(offer.endpoint) for offer in offers))),
    }


def describe_endpoint(endpoint: Endpoint, price: Price, seen: Observation, now_s: float) -> dict[str, Any]:
    """`name` is what `provider` preferences and answers call it. What was not measured yet is null."""
    first_token_s, token_s = seen.expected_first_token_s(SHORT_PROMPT_TOKENS), seen.token_s.value
    return {
        "name": endpoint.name,
        "provider_name": endpoint.provider,
        "region": endpoint.region,
        "jurisdiction": endpoint.jurisdiction,
        "data_collection": endpoint.data_collection,
        "zdr": endpoint.zdr,
        "context_length": endpoint.context_tokens,
        "max_completion_tokens": endpoint.max_output_tokens,
        "quantization": endpoint.quantization,
        "pricing": {
            "prompt": format_usd(price.input_pusd),
            "completion": format_usd(price.output_pusd),
            "input_cache_read": format_usd(price.cached_input_pusd),
        },
        "supported_parameters": sorted(EVERYWHERE | parameters(endpoint)),
        "status": status(seen, now_s),
        "uptime_last_30s": uptime_percent(seen, now_s),
        "latency": None if first_token_s is None else round(first_token_s, 3),
        "throughput": round(1 / token_s, 1) if token_s else None,
    }


def parameters(endpoint: Endpoint) -> frozenset[str]:
    return endpoint.adapter.accepted(endpoint.target.supports)


def status(seen: Observation, now_s: float) -> int:
    if seen.resting(now_s):
        return RESTING
    return OUT_OF_CAPACITY if seen.saturated(now_s) else AVAILABLE


def uptime_percent(seen: Observation, now_s: float) -> float | None:
    """Of the attempts that ended in the last 30 seconds, how many found it in order."""
    rate = seen.failure_rate(now_s)
    return round(100 * (1 - rate), 2) if seen.outcomes.recent else None
