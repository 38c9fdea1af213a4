"""How the providers differ on the wire, as data and small functions.

Sources: vLLM 0.32's `entrypoints/openai` (also for Nebius, Lyceum and Chutes, whose engines it is or resembles),
OpenRouter's API reference ("Errors", "Streaming", "Usage accounting"), OpenAI's API reference, the rate limit headers
that Nous Research's own agent parses, and error bodies as users of AI/ML API, Chutes and Nous have published them.
Where a provider's shape could not be verified (Nebius's and Lyceum's errors, the field of Nous's reasoning) it has one
that is in use elsewhere, so that together the dialects cover the shapes a gateway must read.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.sandbox.script import PrefixMode, ReasoningShape

Json = dict[str, Any]
Usage = Mapping[str, int]  # prompt, completion, cached, reasoning

TEMPLATE, OBJECT, EFFORT = "chat_template_kwargs", "reasoning", "reasoning_effort"


class Refusal(Exception):
    """An answer that is an error. `reason` is one of the keys of `CODES`; `message` is for people."""

    def __init__(self, status: int, reason: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.param = param


@dataclass(frozen=True, slots=True)
class Dialect:
    """One provider's wire format.

    `toggles` are the switches beside the thinking prompt that make the model think; `engine` marks vLLM's own extras
    (`stop_reason`, `continuous_usage_stats`, `structured_outputs`); `usage_unasked` sends usage in every stream;
    `tags_in_streams` leaves thoughts inline in streams, and in plain answers unless a switch asked for thoughts: vLLM
    0.32's parser heeds the switch alone, and while streaming takes the tags that the thinking prompt names for the end
    of a thought; `rejects` are the parameters that it answers with 400.
    """

    name: str
    reasoning_as: ReasoningShape
    toggles: frozenset[str]
    error: Callable[[Refusal, str], Json]
    usage: Callable[[Usage], Json]
    native_tools: bool = True
    prefix: PrefixMode = "ignore"
    engine: bool = False
    usage_unasked: bool = False
    comments: bool = False
    tags_in_streams: bool = False
    id_prefix: str = "chatcmpl-"
    server: str = "uvicorn"
    rate_limit_message: str = "Rate limit exceeded"
    rejects: frozenset[str] = frozenset()

    def call_id(self, digest: str) -> str:
        return f"chatcmpl-tool-{digest}" if self.engine else f"call_{digest}"

    @property
    def routes(self) -> bool:
        """Whether it is a router: then answers name the provider behind it, and that provider's own finish reason."""
        return self.name == "openrouter"

    def headers(self, answer_id: str, retry_after_s: float | None = None) -> list[tuple[str, str]]:
        headers = [("server", self.server)]
        if self.name == "openrouter":
            headers.append(("x-generation-id", answer_id))
        if self.name == "nous":
            headers += nous_rate_limits(retry_after_s)
        if self.name == "openai":
            headers.append(("x-request-id", answer_id.replace(self.id_prefix, "req_")))
        if retry_after_s is not None and self.name != "chutes":
            headers.append(("retry-after", f"{retry_after_s:g}"))
        return headers


def nous_rate_limits(retry_after_s: float | None) -> list[tuple[str, str]]:
    """Twelve headers on every answer. A 429 without `retry_after_s` means that capacity is lacking."""
    spent = retry_after_s is not None
    buckets = (
        ("requests", 800, 0 if spent else 799, retry_after_s or 45.5),
        ("requests-1h", 33_600, 33_590, 3_500.0),
        ("tokens", 8_000_000, 7_999_500, 42.3),
        ("tokens-1h", 336_000_000, 335_999_000, 3_490.0),
    )
    return [
        (f"x-ratelimit-{field}-{name}", str(value))
        for name, limit, remaining, reset_s in buckets
        for field, value in (("limit", limit), ("remaining", remaining), ("reset", reset_s))
    ]


# reason → (vLLM's type, OpenAI's type, OpenAI's code)
CODES: Mapping[str, tuple[str, str, str | None]] = {
    "bad_request": ("BadRequestError", "invalid_request_error", None),
    "context": ("BadRequestError", "invalid_request_error", "context_length_exceeded"),
    "filter": ("BadRequestError", "invalid_request_error", "content_filter"),
    "unauthorized": ("Unauthorized", "invalid_request_error", "invalid_api_key"),
    "not_found": ("NotFoundError", "invalid_request_error", "model_not_found"),
    "rate_limited": ("RateLimitError", "requests", "rate_limit_exceeded"),
    "unavailable": ("ServiceUnavailableError", "server_error", None),
    "server": ("InternalServerError", "server_error", None),
}


def vllm_error(refusal: Refusal, _: str) -> Json:
    if refusal.reason == "unauthorized":
        return {"error": "Unauthorized"}
    kind = CODES[refusal.reason][0]
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.status}}


def openai_error(refusal: Refusal, _: str) -> Json:
    _, kind, code = CODES[refusal.reason]
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": code}}


def openrouter_error(refusal: Refusal, _: str) -> Json:
    error: Json = {"message": refusal.message, "code": refusal.status}
    if refusal.reason in ("rate_limited", "unavailable", "server"):
        error |= {
            "message": "Provider returned error",
            "metadata": {"raw": refusal.message, "provider_name": "Sandbox"},
        }
    if refusal.reason == "filter":
        error["metadata"] = {"reasons": ["sandbox"], "flagged_input": "…", "provider_name": "Sandbox"}
    return {"error": error, "user_id": "user_sandbox"}


def aimlapi_error(refusal: Refusal, answer_id: str) -> Json:
    return {
        "requestId": answer_id,
        "statusCode": refusal.status,
        "timestamp": "2026-01-01T00:00:00.000Z",
        "path": "/v1/chat/completions",
        "message": refusal.message,
    }


def status_error(refusal: Refusal, _: str) -> Json:
    return {"status": refusal.status, "message": refusal.message}


def detail_error(refusal: Refusal, _: str) -> Json:
    return {"detail": refusal.message}


def string_error(refusal: Refusal, _: str) -> Json:
    return {"error": refusal.message}


def bare_usage(usage: Usage) -> Json:
    prompt, completion = usage["prompt"], usage["completion"]
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def detailed_usage(usage: Usage) -> Json:
    return bare_usage(usage) | {
        "prompt_tokens_details": {"cached_tokens": usage["cached"]},
        "completion_tokens_details": {"reasoning_tokens": usage["reasoning"]},
    }


def sglang_usage(usage: Usage) -> Json:
    details = {"cached_tokens": usage["cached"]} if usage["cached"] else None
    return bare_usage(usage) | {"prompt_tokens_details": details, "reasoning_tokens": usage["reasoning"]}


def openrouter_usage(usage: Usage) -> Json:
    cost = (usage["prompt"] + 3 * usage["completion"]) / 1_000_000  # at its list price of $1 and $3 per million
    return bare_usage(usage) | {
        "cost": cost,
        "is_byok": False,
        "prompt_tokens_details": {"cached_tokens": usage["cached"], "audio_tokens": 0},
        "cost_details": {
            "upstream_inference_cost": None,
            "upstream_inference_prompt_cost": usage["prompt"] / 1_000_000,
            "upstream_inference_completions_cost": 3 * usage["completion"] / 1_000_000,
        },
        "completion_tokens_details": {"reasoning_tokens": usage["reasoning"], "image_tokens": 0},
    }


NO_TOGGLES: frozenset[str] = frozenset()

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            "sandbox",
            "reasoning",
            frozenset({TEMPLATE, OBJECT, EFFORT}),
            vllm_error,
            detailed_usage,
            prefix="continue",
            engine=True,
            server="caduceus-sandbox",
        ),
        Dialect(
            "vllm",
            "reasoning",
            frozenset({TEMPLATE}),
            vllm_error,
            detailed_usage,
            prefix="continue",
            engine=True,
            tags_in_streams=True,
        ),
        Dialect("nebius", "reasoning_content", frozenset({TEMPLATE}), detail_error, detailed_usage),
        Dialect(
            "openrouter",
            "details",
            frozenset({OBJECT, EFFORT}),
            openrouter_error,
            openrouter_usage,
            usage_unasked=True,
            comments=True,
            id_prefix="gen-",
            server="cloudflare",
            rate_limit_message="nousresearch/hermes-4-405b is temporarily rate-limited upstream. Please retry shortly.",
        ),
        Dialect(
            "aimlapi",
            "reasoning_content",
            NO_TOGGLES,
            aimlapi_error,
            bare_usage,
            native_tools=False,
            rate_limit_message="Too many requests",
        ),
        Dialect("lyceum", "inline", NO_TOGGLES, string_error, bare_usage, native_tools=False),
        Dialect(
            "nous",
            "both",
            frozenset({OBJECT}),
            status_error,
            detailed_usage,
            native_tools=False,
            rate_limit_message="Hold up for a bit, you've exceeded the rate limit on your API key.",
            rejects=frozenset({"provider"}),
        ),
        Dialect(
            "chutes",
            "reasoning_content",
            frozenset({TEMPLATE}),
            detail_error,
            sglang_usage,
            native_tools=False,
            rate_limit_message="Infrastructure is at maximum capacity, try again later",
        ),
        Dialect("openai", "inline", NO_TOGGLES, openai_error, detailed_usage, prefix="refuse", server="cloudflare"),
    )
}
