"""OpenAI's Chat Completions, inwards: a JSON body becomes a canonical request and preferences for its route."""

from typing import Any

from providers.chat_request import ENGINE, LOGPROBS, SAMPLING, TOOLS, ChatRequest, Message
from proxy.entry.api_errors import ApiError
from proxy.surfaces.answer_format import GUIDED, settle_format
from proxy.surfaces.body import read_json
from proxy.surfaces.fields import (
    check,
    ignored_names,
    one_of,
    read_max_tokens,
    read_messages,
    read_metadata,
    read_model,
    read_provider,
    read_user,
    typed,
)
from proxy.surfaces.reasoning import FORMATS, read_reasoning
from proxy.surfaces.surface import SuffixOf, SurfaceRequest

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
PASSED = SAMPLING | LOGPROBS | TOOLS | ENGINE | {"response_format", "n"}
READ = frozenset(
    {
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "reasoning",
        "reasoning_effort",
        "include_reasoning",
        "reasoning_format",
        "provider",
        "user",
        "metadata",
        *GUIDED,
    }
)
PARTS = frozenset({"text"})
ASSISTANT_PARTS = frozenset({"text", "thinking", "reasoning", "refusal"})


def read_chat(payload: bytes, suffix_of: SuffixOf) -> SurfaceRequest:
    """Read the body of a request for Chat Completions. Raises ApiError for everything that is wrong with it."""
    body = read_json(payload)
    suffix = read_model(body, suffix_of)
    messages = [read_message(message, i) for i, message in enumerate(read_messages(body))]
    parameters = read_parameters(body)
    stream_options = typed(body, "stream_options", dict) or {}
    chat = ChatRequest(
        messages=messages,
        parameters=parameters,
        max_tokens=read_max_tokens(body),
        stream=bool(typed(body, "stream", bool)),
        include_usage=bool(typed(stream_options, "include_usage", bool, "stream_options.")),
        reasoning=read_reasoning(body, parameters, suffix),
        model=body["model"],
        user=read_user(body),
        metadata=read_metadata(body),
    )
    preferences = read_provider(body, suffix)
    ignored = ignored_names(body.keys() - PASSED - READ, preferences)
    return SurfaceRequest(chat, preferences, one_of(body, "reasoning_format", FORMATS), ignored)


def read_message(message: Any, position: int) -> Message:
    where = f"messages[{position}]"
    if type(message) is not dict:
        raise ApiError("invalid_request", f"{where} must be an object", param=where)
    role = message.get("role")
    if type(role) is not str or role not in ROLES:
        raise ApiError(
            "invalid_request", f"{where}.role must be one of {', '.join(sorted(ROLES))}", param=f"{where}.role"
        )
    check_content(message.get("content"), role, where)
    if role == "developer":  # the model's template knows no such role
        return {**message, "role": "system"}
    return message


def check_content(content: Any, role: str, where: str) -> None:
    param = f"{where}.content"
    if content is None:
        if role == "assistant":  # a call of tools, or a turn of thoughts alone
            return
        raise ApiError("invalid_request", f"{param} is missing", param=param)
    if type(content) is str:
        return
    if type(content) is not list:
        raise ApiError("invalid_request", f"{param} must be a string or a list of parts", param=param)
    allowed = ASSISTANT_PARTS if role == "assistant" else PARTS
    for part in content:
        kind = part.get("type") if type(part) is dict else None
        if type(kind) is not str or kind not in allowed:
            raise ApiError("unsupported_modality", f"{param}: this model reads text, not {kind!r:.100}", param=param)
        if kind == "text" and type(part.get("text")) is not str:
            raise ApiError("invalid_request", f"{param}: a text part needs a string in text", param=param)


def read_parameters(body: dict[str, Any]) -> dict[str, Any]:
    """The fields that are passed on, checked. An empty list of tools, which engines refuse, is left out."""
    parameters = {name: check(name, value) for name, value in body.items() if name in PASSED and value is not None}
    if parameters.get("tools") == []:
        for name in TOOLS:
            parameters.pop(name, None)
    settle_format(body, parameters)
    return parameters
