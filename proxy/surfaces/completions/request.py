"""OpenAI's Completions, inwards: a JSON body becomes a canonical request with a prompt instead of messages."""

from collections.abc import Mapping
from typing import Any

from providers.chat_request import ENGINE, SAMPLING, ChatRequest, Reasoning
from proxy.entry.api_errors import ApiError
from proxy.surfaces.body import read_json
from proxy.surfaces.fields import (
    check,
    ignored_names,
    read_max_tokens,
    read_metadata,
    read_model,
    read_provider,
    read_user,
    typed,
)
from proxy.surfaces.surface import SuffixOf, SurfaceRequest

PASSED = (SAMPLING | ENGINE | {"n"}) - {"chat_template_kwargs"}
READ = frozenset(
    {
        "model",
        "prompt",
        "max_tokens",
        "max_completion_tokens",
        "logprobs",
        "stream",
        "stream_options",
        "provider",
        "user",
        "metadata",
        # Those that ask for nothing are no news: see `without_effect`.
        "suffix",
        "echo",
        "best_of",
    }
)
DEFAULT_MAX_TOKENS = 16  # as OpenAI's reference has it
MAX_LOGPROBS = 20


def read_completion(payload: bytes, suffix_of: SuffixOf) -> SurfaceRequest:
    """Read the body of a request for Completions. Raises ApiError for everything that is wrong with it."""
    body = read_json(payload)
    suffix = read_model(body, suffix_of)
    stream_options = typed(body, "stream_options", dict) or {}
    chat = ChatRequest(
        messages=(),
        prompt=read_prompt(body),
        parameters=read_parameters(body),
        max_tokens=read_max_tokens(body) or DEFAULT_MAX_TOKENS,
        stream=bool(typed(body, "stream", bool)),
        include_usage=bool(typed(stream_options, "include_usage", bool, "stream_options.")),
        reasoning=Reasoning(),
        model=body["model"],
        user=read_user(body),
        metadata=read_metadata(body),
    )
    preferences = read_provider(body, suffix)
    ignored = ignored_names(read_ignored(body, suffix), preferences, safe=":")
    return SurfaceRequest(chat, preferences, None, ignored)


def read_prompt(body: Mapping[str, Any]) -> str:
    """The prompt: one text, which may be the only one of a list. Raises ApiError."""
    prompt = body.get("prompt")
    if type(prompt) is list and len(prompt) == 1:
        (prompt,) = prompt
    if type(prompt) is list and prompt and all(type(text) is str for text in prompt):
        raise ApiError("invalid_request", "prompt takes one text; send a request for each of several", param="prompt")
    if prompt is None or prompt in ("", []):
        raise ApiError("missing_required_parameter", "prompt is missing or empty", param="prompt")
    if type(prompt) is not str:
        raise ApiError("invalid_request", "prompt must be a string; token ids are not read here", param="prompt")
    return prompt


def read_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are passed on, checked. `logprobs` is here a number of tokens at each place."""
    parameters = {name: check(name, value) for name, value in body.items() if name in PASSED and value is not None}
    logprobs = typed(body, "logprobs", int)
    if logprobs is not None:
        if not 0 <= logprobs <= MAX_LOGPROBS:
            raise ApiError("invalid_request", f"logprobs must be from 0 to {MAX_LOGPROBS}", param="logprobs")
        parameters["logprobs"] = logprobs
    return parameters


def read_ignored(body: Mapping[str, Any], suffix: str) -> set[str]:
    """The names of the fields that have no effect."""
    names = {name for name in body if name not in PASSED and name not in READ}
    names.update(without_effect(body))
    if suffix == "thinking":  # there is no system prompt that could ask for it
        names.add(":thinking")
    return names


def without_effect(body: Mapping[str, Any]) -> list[str]:
    """The known fields that ask for something which is not done here."""
    asked = []
    if typed(body, "suffix", str):
        asked.append("suffix")
    if typed(body, "echo", bool):
        asked.append("echo")
    if (typed(body, "best_of", int) or 1) > (body.get("n") or 1):
        asked.append("best_of")
    return asked
