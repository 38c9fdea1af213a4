"""The fields of a body that several surfaces read, and how they check one. What is wrong is an ApiError, by name."""

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import NO_PREFERENCES, Preferences, read_preferences
from proxy.surfaces.surface import SuffixOf

MAX_CHOICES = 128
MAX_LABELS = 16
LABEL_CHARACTERS = {"name": 64, "value": 512}
MAX_IGNORED = 32
NUMBERS = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "repetition_penalty": (0, 10),
}
INTEGERS = {"top_k": (-1, 1 << 31), "seed": (-(1 << 63), (1 << 63) - 1), "n": (1, MAX_CHOICES), "top_logprobs": (0, 20)}
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
    bounds = NUMBERS.get(name) or INTEGERS.get(name)
    if bounds:
        kinds = (int,) if name in INTEGERS else (int, float)
        if type(value) not in kinds or not bounds[0] <= value <= bounds[1]:
            kind = "a whole number" if name in INTEGERS else "a number"
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
    """The field `name`, which is of the type `kind` or missing; `prefix` is where it stands, for errors."""
    value = body.get(name)
    if value is not None and type(value) is not kind:
        raise ApiError("invalid_request", f"{prefix}{name} must be {JSON_NAMES[kind]}", param=f"{prefix}{name}")
    return value


def one_of(body: Mapping[str, Any], name: str, choices: tuple[str, ...], prefix: str = "") -> str | None:
    """The field `name`, which is one of the `choices` or missing."""
    value: str | None = typed(body, name, str, prefix)
    if value is not None and value not in choices:
        raise ApiError(
            "invalid_request", f"{prefix}{name} must be one of {', '.join(choices)}", param=f"{prefix}{name}"
        )
    return value


def read_model(body: dict[str, Any], suffix_of: SuffixOf) -> str:
    """The suffix of the model's name, empty where it has none."""
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


def read_max_tokens(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value: int | None = typed(body, name, int)
        if value is not None:
            if value < 1:
                raise ApiError("invalid_request", f"{name} must be at least 1", param=name)
            return value
    return None


def read_provider(body: Mapping[str, Any], suffix: str) -> Preferences:
    """The preferences for a route that `provider` and the model's suffix say."""
    given = body.get("provider")
    return read_preferences(given, suffix) if given is not None or suffix else NO_PREFERENCES


def ignored_names(names: Iterable[str], preferences: Preferences, *, safe: str = "") -> tuple[str, ...]:
    """The `names` of fields that have no effect, quoted for a header: callers may name fields as they like.

    Raises ApiError where the caller wants none ignored. The characters in `safe` are not quoted.
    """
    ignored = tuple(quote(name[:64], safe=safe) for name in sorted(names)[:MAX_IGNORED])
    if ignored and preferences.require_parameters:
        raise ApiError("unsupported_parameter", f"{ignored[0]} is not supported by any endpoint", param=ignored[0])
    return ignored


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
