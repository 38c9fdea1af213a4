"""The endpoints that this process may use: what the configuration lists, else what keys in the environment enable."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from providers.adapter import ADAPTERS, Adapter, Target
from providers.profiles import DIALECTS, PROFILES, Profile
from proxy.config import EndpointSettings, PriceSettings, Settings
from proxy.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A place where the model is served. `jurisdiction` None: nobody vouches for one, so it is in none.

    `jurisdiction_evidence` is what the operator vouches by, in their own words; it is shown and decides nothing.
    """

    name: str
    provider: str
    base_url: str
    api_key: str | None = field(repr=False)
    target: Target
    region: str | None
    jurisdiction: str | None
    jurisdiction_evidence: str | None
    failure_domain: str
    context_tokens: int
    max_output_tokens: int
    quantization: str | None
    data_collection: str
    zdr: bool
    hidden_reasoning: bool
    stream_plain: bool
    price: PriceSettings | None

    @property
    def adapter(self) -> Adapter:
        return ADAPTERS[self.provider]

    @property
    def sandbox(self) -> bool:
        """Answers are simulated; they are booked to accounts that no invoice shows."""
        return self.provider == "sandbox"


def load_endpoints(settings: Settings, environ: Mapping[str, str] | None = None) -> tuple[Endpoint, ...]:
    """Only those of the settings' jurisdictions; of the others not even the key is read. Raises ConfigurationError."""
    environ = os.environ if environ is None else environ
    listed = map(from_profile, PROFILES) if settings.endpoints is None else iter(settings.endpoints)
    allowed = settings.jurisdictions
    kept = [given for given in listed if allowed is None or given.jurisdiction in allowed]
    if settings.endpoints is None:
        kept = [given for given in kept if given.api_key_env and environ.get(given.api_key_env)]
    problems = [
        problem for given in kept if given.api_key_env and (problem := check_key(given, given.api_key_env, environ))
    ]
    if problems:
        raise ConfigurationError(problems)
    return tuple(make_endpoint(given, environ) for given in kept)


def check_key(settings: EndpointSettings, variable: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """What is wrong with an endpoint's key, never the key itself."""
    key = environ.get(variable, "").strip()
    if not key:
        return f"endpoints.{settings.name}.api_key_env", f"the variable {variable} is not set"
    if not re.fullmatch(r"[!-~]+", key):
        return variable, "holds characters that no HTTP header can carry"
    return None


def make_endpoint(settings: EndpointSettings, environ: Mapping[str, str]) -> Endpoint:
    dialect = DIALECTS[settings.provider]
    supports = dialect.default_supports if settings.supports is None else frozenset(settings.supports)
    return Endpoint(
        name=settings.name,
        provider=settings.provider,
        base_url=settings.base_url,
        api_key=environ[settings.api_key_env].strip() if settings.api_key_env else None,
        target=Target(settings.model_id, supports),
        region=settings.region,
        jurisdiction=settings.jurisdiction,
        jurisdiction_evidence=settings.jurisdiction_evidence,
        failure_domain=settings.failure_domain or settings.provider,
        context_tokens=settings.context_tokens,
        max_output_tokens=settings.max_output_tokens,
        quantization=settings.quantization,
        data_collection=settings.data_collection,
        zdr=settings.zdr,
        hidden_reasoning=settings.hidden_reasoning or dialect.hidden_reasoning,
        stream_plain=settings.stream_plain,
        price=settings.price,
    )


def from_profile(profile: Profile) -> EndpointSettings:
    priced = profile.input_price is not None and profile.output_price is not None
    return EndpointSettings(
        name=profile.name,
        provider=profile.provider,
        base_url=profile.base_url,
        api_key_env=profile.api_key_env,
        model_id=profile.model_id,
        region=profile.region,
        quantization=profile.quantization,
        price=PriceSettings(input=profile.input_price, output=profile.output_price) if priced else None,
    )
