"""OpenAI's Chat Completions, inwards: a JSON body becomes a canonical request and preferences for its route."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from providers.chat_request import ENGINE, LOGPROBS, SAMPLING, TOOLS, ChatRequest, Message, Reasoning
from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import NO_PREFERENCES, read_preferences
from proxy.surfaces.answer_format import GUIDED, settle_format
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
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
FORMATS = ("both", "reasoning", "reasoning_content", "details", "inline", "none")
PARTS = frozenset({"text"})
ASSISTANT_PARTS = frozenset({"text", "thinking", "reasoning", "refusal"})
MAX_CHOICES = 128
MAX_LABELS = 16
LABEL_CHARACTERS = {"name": 64, "value": 512}
MAX_IGNORED = 32


def read_chat(payload: bytes, suffix_of: SuffixOf) -> SurfaceRequest:
    """Read the body of a request for Chat Completions. Raises ApiError for everything that is wrong with it."""
    body = read_json(payload)
    suffix = read_model(body, suffix_of)
    messages = [read_message(message, i) for i, message in enumerate(read_messages(body))]
    parameters = read_parameters(body)
    stream_options = typed(body, "stream_options", dict) or {}
    given = body.get("provider")
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
    preferences = read_preferences(given, suffix) if given is not None or suffix else NO_PREFERENCES
    ignored = read_ignored(body)
    if ignored and preferences.require_parameters:
        raise ApiError("unsupported_parameter", f"{ignored[0]} is not supported by any endpoint", param=ignored[0])
    return SurfaceRequest(chat, preferences, one_of(body, "reasoning_format", FORMATS), ignored)


def read_json(payload: bytes) -> dict[str, Any]:
    """The JSON object in `payload`. Raises ApiError, also for what readers of JSON understand differently.

    What is sent on is encoded anew. NaN, lone surrogates and absurd nesting are refused by orjson.
    """
    try:
        body = orjson.loads(payload)
        again = orjson.dumps(body)
    except orjson.JSONDecodeError as error:
        raise ApiError("invalid_json", f"the body is not valid JSON: {error}") from None
    except orjson.JSONEncodeError:
        raise ApiError("invalid_json", "the body is nested too deeply") from None
    if type(body) is not dict:
        raise ApiError("invalid_json", "the body must be a JSON object")
    # Of a key that stands twice orjson keeps the last: then a colon is missing, unless one was spelt as an escape.
    if payload.count(b":") != again.count(b":") or b"\\u003a" in payload or b"\\u003A" in payload:
        refuse_duplicate_keys(payload)
    return body


def refuse_duplicate_keys(payload: bytes) -> None:
    """Refuse an object in which a key stands twice: of its two values, each reader may take another one."""

    def unique(pairs: list[tuple[str, Any]]) -> None:
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ApiError("invalid_json", f"the key {name[:64]!r} stands twice in one object")
            seen.add(name)

    try:
        json.loads(payload, object_pairs_hook=unique)
    except RecursionError:
        raise ApiError("invalid_json", "the body is nested too deeply") from None
    except ValueError as error:
        raise ApiError("invalid_json", f"the body is not valid JSON: {error}") from None


def read_model(body: dict[str, Any], suffix_of: SuffixOf) -> str:
    model = typed(body, "model", str)
    if not model:
        raise ApiError("missing_required_parameter", "model is missing", param="model")
    suffix = suffix_of(model)
    if suffix is None:
        raise ApiError(
            "model_not_found", f"the model {model[:100]!r} is not served here; GET /v1/models lists", param="model"
        )
    return suffix


def read_messages(body: dict[str, Any]) -> list[Any]:
    messages: list[Any] | None = typed(body, "messages", list)
    if not messages:
        raise ApiError(
            "missing_required_parameter", "messages must be a list with at least one message", param="messages"
        )
    return messages


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


def read_max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value: int | None = typed(body, name, int)
        if value is not None:
            if value < 1:
                raise ApiError("invalid_request", f"{name} must be at least 1", param=name)
            return value
    return None


SWITCHES = frozenset({"reasoning", "reasoning_effort", "include_reasoning", "chat_template_kwargs"})
AS_THE_MODEL_LIKES = Reasoning()


def read_reasoning(body: dict[str, Any], parameters: dict[str, Any], suffix: str) -> Reasoning:
    """What the switches for thinking come to, of which there are many; the most explicit one decides.

    Takes out of `parameters` the switch that stands there.
    """
    if not suffix and SWITCHES.isdisjoint(body):
        return AS_THE_MODEL_LIKES
    wish = typed(body, "reasoning", dict) or {}
    effort = one_of(wish, "effort", EFFORTS, "reasoning.") or one_of(body, "reasoning_effort", EFFORTS)
    budget: int | None = typed(wish, "max_tokens", int, "reasoning.")
    if budget is not None and budget < 1:
        raise ApiError("invalid_request", "reasoning.max_tokens must be at least 1", param="reasoning.max_tokens")
    enabled: bool | None = typed(wish, "enabled", bool, "reasoning.")
    flag = take_flag(parameters)
    if enabled is None:
        enabled = flag
    if enabled is None and effort is not None:
        enabled = effort != "none"
    if enabled is None and (budget is not None or suffix == "thinking"):
        enabled = True
    if effort == "none" or not enabled:
        effort = None
    included = typed(body, "include_reasoning", bool)
    exclude = bool(typed(wish, "exclude", bool, "reasoning.")) or included is False
    return Reasoning(enabled, effort, budget if enabled else None, exclude)


def take_flag(parameters: dict[str, Any]) -> bool | None:
    """Take `chat_template_kwargs.thinking` out of the parameters: each dialect has its own words for it."""
    kwargs = parameters.get("chat_template_kwargs")
    if not kwargs or "thinking" not in kwargs:
        return None
    flag: bool | None = typed(kwargs, "thinking", bool, "chat_template_kwargs.")
    rest = {name: value for name, value in kwargs.items() if name != "thinking"}
    if rest:
        parameters["chat_template_kwargs"] = rest
    else:
        del parameters["chat_template_kwargs"]
    return flag


def read_user(body: dict[str, Any]) -> str | None:
    user: str | None = typed(body, "user", str)
    if user is not None and not is_label(user, "value"):
        raise ApiError("invalid_request", "user takes at most 512 characters, none of them NUL", param="user")
    return user


def read_metadata(body: dict[str, Any]) -> Mapping[str, str]:
    metadata = typed(body, "metadata", dict) or {}
    labels = all(is_label(name, "name") and is_label(value, "value") for name, value in metadata.items())
    if len(metadata) > MAX_LABELS or not labels:
        raise ApiError(
            "invalid_request",
            f"metadata takes at most {MAX_LABELS} strings of 512 characters under names of 64, none of them NUL",
            param="metadata",
        )
    return metadata


def is_label(value: Any, kind: str) -> bool:
    """Whether the ledger can keep it: a text without NUL, no longer than `LABEL_CHARACTERS` allows."""
    return type(value) is str and len(value) <= LABEL_CHARACTERS[kind] and "\0" not in value


def read_ignored(body: dict[str, Any]) -> tuple[str, ...]:
    """The names of the fields that nobody understands, quoted for a header: callers may name them as they like."""
    unknown = sorted(name for name in body if name not in PASSED and name not in READ)
    return tuple(quote(name[:64], safe="") for name in unknown[:MAX_IGNORED])


NUMBERS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0, 10),
}
WHOLE = {"top_k": (-1, 1 << 31), "seed": (-(1 << 63), (1 << 63) - 1), "n": (1, MAX_CHOICES), "top_logprobs": (0, 20)}
TYPES: Mapping[str, type] = {
    "logprobs": bool,
    "tools": list,
    "parallel_tool_calls": bool,
    "response_format": dict,
    "structured_outputs": dict,
    "logit_bias": dict,
    "chat_template_kwargs": dict,
}


def check(name: str, value: Any) -> Any:
    """The value of a parameter that is passed on. Raises ApiError where no endpoint could take it."""
    bounds = NUMBERS.get(name) or WHOLE.get(name)
    if bounds:
        kinds = (int,) if name in WHOLE else (int, float)
        if type(value) not in kinds or not bounds[0] <= value <= bounds[1]:
            kind = "a whole number" if name in WHOLE else "a number"
            raise ApiError("invalid_request", f"{name} must be {kind} from {bounds[0]} to {bounds[1]}", param=name)
    elif name in TYPES and type(value) is not TYPES[name]:
        raise ApiError("invalid_request", f"{name} must be {JSON_NAMES[TYPES[name]]}", param=name)
    elif name == "stop" and not is_stop(value):
        raise ApiError("invalid_request", "stop must be a string or a list of strings", param=name)
    return value


def is_stop(value: Any) -> bool:
    return type(value) is str or (type(value) is list and all(type(word) is str for word in value))


JSON_NAMES = {str: "a string", bool: "true or false", int: "a whole number", list: "a list", dict: "an object"}


def typed(body: Mapping[str, Any], name: str, kind: type, prefix: str = "") -> Any:
    value = body.get(name)
    if value is not None and type(value) is not kind:
        raise ApiError("invalid_request", f"{prefix}{name} must be {JSON_NAMES[kind]}", param=f"{prefix}{name}")
    return value


def one_of(body: Mapping[str, Any], name: str, choices: tuple[str, ...], prefix: str = "") -> str | None:
    value: str | None = typed(body, name, str, prefix)
    if value is not None and value not in choices:
        raise ApiError(
            "invalid_request", f"{prefix}{name} must be one of {', '.join(choices)}", param=f"{prefix}{name}"
        )
    return value
