"""What `serve --demo` shows: a key to try, and a sandbox to answer where no provider's key is set."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from proxy.config import EndpointSettings, PriceSettings, Settings
from proxy.routing.endpoints import Endpoint, make_endpoint
from proxy.sandbox.script import Script
from proxy.sandbox.server import Sandbox


@dataclass(frozen=True, slots=True)
class Demo:
    tenant: str
    key: str

    def curl(self, address: str) -> str:
        """A line that streams an answer with reasoning when pasted."""
        body = {
            "model": "Hermes-4-405B",
            "stream": True,
            "reasoning": {"enabled": True},
            "messages": [{"role": "user", "content": "Who carries the caduceus?"}],
        }
        return (
            f"curl -N {address}/v1/chat/completions -H 'Authorization: Bearer {self.key}'"
            f" -H 'Content-Type: application/json' -d '{orjson.dumps(body).decode()}'"
        )


# Two simulated places, so that there is something to route between: name, region, jurisdiction, prices in USD per 1M.
PLACES = (
    ("sandbox-eu", "eu-north1", "EU", PriceSettings(input="1.00", output="3.00")),
    ("sandbox-us", "us-east1", "US", PriceSettings(input="0.90", output="2.80")),
)


@asynccontextmanager
async def sandbox_endpoints() -> AsyncIterator[tuple[Endpoint, ...]]:
    pace = Script(first_token_s=0.2, interval_s=0.02)
    europe, america = (Sandbox("sandbox", script=pace, name=place[0]) for place in PLACES)
    async with europe, america:
        yield describe_sandboxes(europe.base_url, america.base_url)


def describe_sandboxes(*base_urls: str) -> tuple[Endpoint, ...]:
    return tuple(
        make_endpoint(
            EndpointSettings(
                name=name,
                provider="sandbox",
                base_url=base_url,
                model_id=Settings.model_fields["model"].default,
                region=region,
                jurisdiction=jurisdiction,
                jurisdiction_evidence="it runs on this machine",
                failure_domain=name,
                data_collection="deny",
                price=price,
            ),
            {},
        )
        for base_url, (name, region, jurisdiction, price) in zip(base_urls, PLACES, strict=True)
    )
