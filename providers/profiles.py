"""What is known of each provider, as data: how its dialect differs, and where it serves the model at what price.

Sources: the providers' own reference pages as of 2026-10 (base URLs, model ids, prices in USD per million tokens, the
field that carries reasoning). A None is a fact that could not be verified; an operator sets it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

CAPABILITIES = frozenset({"tools", "response_format", "completions", "prefix", "logprobs", "n"})


class Toggle(Enum):
    """How a dialect is told to think."""

    TEMPLATE_FLAG = "chat_template_kwargs.thinking"
    REASONING_OBJECT = "reasoning"
    SYSTEM_PROMPT = "system prompt"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one provider's OpenAI-compatible API differs from the others'."""

    name: str
    toggle: Toggle
    history_fields: tuple[str, ...] = ("reasoning_content",)  # under which names it takes earlier thoughts
    reasoning_fields: tuple[str, ...] = ("enabled", "effort", "max_tokens")  # of a REASONING_OBJECT
    continuous_usage: bool = False  # stream_options.continuous_usage_stats
    engine_fields: bool = False  # vLLM's own parameters
    headers: Mapping[str, str] = field(default_factory=dict)
    default_supports: frozenset[str] = frozenset({"logprobs"})
    cancel_stops_billing: bool = False
    hidden_reasoning: bool = False


FULL = frozenset({"tools", "response_format", "logprobs", "n", "completions", "prefix"})

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect("nebius", Toggle.SYSTEM_PROMPT),
        Dialect(
            "openrouter",
            Toggle.REASONING_OBJECT,
            history_fields=("reasoning", "reasoning_details"),
            # openrouter.ai/docs/api-reference: attribution headers
            headers={"http-referer": "https://caduceus.invalid", "x-openrouter-title": "Caduceus"},
        ),
        Dialect("aimlapi", Toggle.SYSTEM_PROMPT),
        Dialect("lyceum", Toggle.SYSTEM_PROMPT),
        Dialect("nous", Toggle.REASONING_OBJECT, reasoning_fields=("enabled", "effort")),
        Dialect("chutes", Toggle.SYSTEM_PROMPT, cancel_stops_billing=True),
        Dialect(
            "vllm",
            Toggle.TEMPLATE_FLAG,
            # 0.16 dropped `reasoning_content` on input, earlier versions know no other: both are sent.
            history_fields=("reasoning", "reasoning_content"),
            continuous_usage=True,
            engine_fields=True,
            default_supports=FULL,
            cancel_stops_billing=True,
        ),
        Dialect("openai", Toggle.SYSTEM_PROMPT, default_supports=FULL - {"prefix"}),
        Dialect(
            "sandbox",
            Toggle.TEMPLATE_FLAG,
            history_fields=("reasoning", "reasoning_content"),
            continuous_usage=True,
            engine_fields=True,
            default_supports=FULL,
            cancel_stops_billing=True,
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Profile:
    """An endpoint that needs no configuration but a key in the environment. Prices are USD per million tokens."""

    name: str
    provider: str
    base_url: str
    model_id: str
    api_key_env: str
    input_price: str | None
    output_price: str | None
    region: str | None = None
    quantization: str | None = None


PROFILES = (
    Profile(
        "nebius",
        "nebius",
        "https://api.tokenfactory.nebius.com/v1",
        "NousResearch/Hermes-4-405B",
        "NEBIUS_API_KEY",
        "1.00",
        "3.00",
    ),
    Profile(
        "openrouter",
        "openrouter",
        "https://openrouter.ai/api/v1",
        "nousresearch/hermes-4-405b",
        "OPENROUTER_API_KEY",
        "1.00",
        "3.00",
    ),
    Profile(
        "openrouter-eu",
        "openrouter",
        "https://eu.openrouter.ai/api/v1",
        "nousresearch/hermes-4-405b",
        "OPENROUTER_EU_API_KEY",
        "1.00",
        "3.00",
    ),
    Profile(
        "lyceum",
        "lyceum",
        "https://api.lyceum.technology/api/v2/external/serverless",
        "NousResearch/Hermes-4-405B",
        "LYCEUM_API_KEY",
        "1.00",
        "3.00",
        region="eu-north1",
    ),
    Profile(
        "aimlapi",
        "aimlapi",
        "https://api.aimlapi.com/v1",
        "nousresearch/hermes-4-405b",
        "AIMLAPI_API_KEY",
        None,
        None,
    ),
    Profile(
        "nous",
        "nous",
        "https://inference-api.nousresearch.com/v1",
        "Hermes-4-405B",
        "NOUS_API_KEY",
        None,
        None,
    ),
    Profile(
        "chutes",
        "chutes",
        "https://llm.chutes.ai/v1",
        "NousResearch/Hermes-4-405B-FP8-TEE",
        "CHUTES_API_KEY",
        "0.30",
        "1.20",
        quantization="fp8",
    ),
)
