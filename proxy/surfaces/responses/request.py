"""OpenAI's Responses API, inwards: a JSON body becomes a canonical request, its input items a conversation.

Nothing is kept between two requests, so a field that names something kept is refused by name.
"""

from collections.abc import Mapping
from typing import Any

from providers.chat_request import ENGINE, SAMPLING, ChatRequest, Message
from proxy.entry.api_errors import ApiError
from proxy.surfaces.answer_format import settle_format
from proxy.surfaces.body import read_json
from proxy.surfaces.fields import (
    check,
    ignored_names,
    is_label,
    one_of,
    read_metadata,
    read_model,
    read_provider,
    typed,
)
from proxy.surfaces.reasoning import FORMATS, read_reasoning
from proxy.surfaces.responses.input import read_input, required
from proxy.surfaces.surface import SuffixOf, SurfaceRequest

PASSED = SAMPLING | ENGINE
STATEFUL = ("previous_response_id", "conversation", "background", "prompt")
READ = frozenset(
    {
        *STATEFUL,
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "reasoning_effort",
        "include_reasoning",
        "reasoning_format",
        "provider",
        "stream",
        "stream_options",
        "store",
        "include",
        "truncation",
        "top_logprobs",
        "user",
        "safety_identifier",
        "metadata",
    }
)
LOGPROBS = "message.output_text.logprobs"
WITHOUT_EFFECT = ("context", "mode")  # of the fields of `reasoning`
SUMMARIES = ("auto", "concise", "detailed")
CHOICES = ("none", "auto", "required")


def read_response(payload: bytes, suffix_of: SuffixOf) -> SurfaceRequest:
    """Read the body of a request for Responses. Raises ApiError for everything that is wrong with it."""
    body = read_json(payload)
    suffix = read_model(body, suffix_of)
    refuse_state(body)
    messages = read_conversation(body)
    parameters = read_parameters(body)
    chat = ChatRequest(
        messages=messages,
        parameters=parameters,
        max_tokens=read_max_tokens(body),
        stream=bool(typed(body, "stream", bool)),
        include_usage=True,
        reasoning=read_reasoning(body, parameters, suffix),
        model=body["model"],
        user=read_user(body),
        metadata=read_metadata(body),
    )
    preferences = read_provider(body, suffix)
    ignored = ignored_names(read_ignored(body), preferences)
    return SurfaceRequest(chat, preferences, one_of(body, "reasoning_format", FORMATS), ignored, settings_of(body))


def refuse_state(body: Mapping[str, Any]) -> None:
    for name in STATEFUL:
        if body.get(name):
            raise ApiError(
                "unsupported_parameter",
                f"{name} is not supported: nothing is kept between requests; send the whole conversation in input",
                param=name,
            )


def read_conversation(body: Mapping[str, Any]) -> list[Message]:
    messages = read_input(body.get("input"))
    instructions = typed(body, "instructions", str)
    return [{"role": "system", "content": instructions}, *messages] if instructions else messages


def read_parameters(body: dict[str, Any]) -> dict[str, Any]:
    """The fields that are passed on, checked and in the words of Chat Completions."""
    parameters = {name: check(name, value) for name, value in body.items() if name in PASSED and value is not None}
    if response_format := response_format_of(typed(body, "text", dict) or {}):
        parameters["response_format"] = response_format
    settle_format(parameters, parameters)
    top_logprobs = check("top_logprobs", body["top_logprobs"]) if body.get("top_logprobs") is not None else 0
    if top_logprobs or LOGPROBS in (typed(body, "include", list) or ()):
        parameters |= {"logprobs": True, "top_logprobs": top_logprobs}
    tools = [read_tool(tool, f"tools[{i}]") for i, tool in enumerate(typed(body, "tools", list) or ())]
    parallel = typed(body, "parallel_tool_calls", bool)
    choice, allowed = read_choice(body.get("tool_choice"))
    if allowed is not None:
        tools = [tool for tool in tools if tool["function"]["name"] in allowed]
    if tools:
        offered = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}
        parameters.update((name, value) for name, value in offered.items() if value is not None)
    elif choice not in (None, "none", "auto"):
        raise ApiError("invalid_request", "tool_choice asks for a call, but tools has none to make", "tool_choice")
    return parameters


def read_tool(tool: Any, where: str) -> dict[str, Any]:
    """A tool as Chat Completions has it, where its fields stand in `function`. Raises ApiError."""
    if type(tool) is not dict:
        raise ApiError("invalid_request", f"{where} must be an object", where)
    if tool.get("type") != "function":
        raise ApiError(
            "unsupported_parameter",
            f"{where}: there is no tool of type {tool.get('type')!r:.100} here, only tools of type 'function'",
            f"{where}.type",
        )
    if not typed(tool, "name", str, f"{where}."):
        raise ApiError("invalid_request", f"{where}.name is missing", f"{where}.name")
    fields = {"name": str, "description": str, "parameters": dict, "strict": bool}
    function = {name: typed(tool, name, kind, f"{where}.") for name, kind in fields.items()}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def read_choice(choice: Any) -> tuple[Any, frozenset[str] | None]:
    """The choice in the words of Chat Completions, and the names to which it narrows the tools (None: all)."""
    if choice is None or (type(choice) is str and choice in CHOICES):
        return choice, None
    if type(choice) is not dict:
        raise ApiError(
            "invalid_request", f"tool_choice must be one of {', '.join(CHOICES)}, or an object", "tool_choice"
        )
    match choice.get("type"):
        case "function":
            return {"type": "function", "function": {"name": name_in(choice, "tool_choice")}}, None
        case "allowed_tools":
            tools = typed(choice, "tools", list, "tool_choice.") or ()
            names = frozenset(name_in(tool, f"tool_choice.tools[{i}]") for i, tool in enumerate(tools))
            return one_of(choice, "mode", ("auto", "required"), "tool_choice.") or "auto", names
    raise ApiError(
        "unsupported_parameter",
        f"tool_choice cannot be of type {choice.get('type')!r:.100}; it can be 'function' or 'allowed_tools'",
        "tool_choice.type",
    )


def name_in(tool: Any, where: str) -> str:
    return required(tool if type(tool) is dict else {}, "name", where)


def response_format_of(text: Mapping[str, Any]) -> dict[str, Any] | None:
    """`text.format` as the parameter `response_format`, whose fields stand in `json_schema`; None for any text."""
    wish = typed(text, "format", dict, "text.") or {}
    kind = one_of(wish, "type", ("text", "json_object", "json_schema"), "text.format.") or "text"
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    for name in ("name", "schema"):
        if wish.get(name) is None:
            raise ApiError("invalid_request", f"text.format.{name} is missing", f"text.format.{name}")
    fields = {"name": str, "description": str, "schema": dict, "strict": bool}
    schema = {name: typed(wish, name, kind, "text.format.") for name, kind in fields.items()}
    return {"type": "json_schema", "json_schema": {name: value for name, value in schema.items() if value is not None}}


def read_max_tokens(body: Mapping[str, Any]) -> int | None:
    value: int | None = typed(body, "max_output_tokens", int)
    if value is not None and value < 1:
        raise ApiError("invalid_request", "max_output_tokens must be at least 1", "max_output_tokens")
    return value


def read_user(body: Mapping[str, Any]) -> str | None:
    """The end user: OpenAI's `user`, or `safety_identifier`, as it is called since."""
    for name in ("user", "safety_identifier"):
        user: str | None = typed(body, name, str)
        if user is not None and not is_label(user, "value"):
            raise ApiError("invalid_request", f"{name} takes at most 512 characters, none of them NUL", name)
        if user is not None:
            return user
    return None


def read_ignored(body: Mapping[str, Any]) -> list[str]:
    """The names of the fields that have no effect: unknown ones, and known ones with some of their values."""
    names = [name for name in body if name not in PASSED and name not in READ]
    if typed(body, "store", bool):
        names.append("store")
    if one_of(body, "truncation", ("auto", "disabled")) == "auto":
        names.append("truncation")
    if (typed(body, "text", dict) or {}).get("verbosity") is not None:
        names.append("text.verbosity")
    if read_summary(body) == "concise":
        names.append("reasoning.summary")
    names += (f"reasoning.{name}" for name in WITHOUT_EFFECT if (body.get("reasoning") or {}).get(name) is not None)
    if any(name != LOGPROBS for name in typed(body, "include", list) or ()):
        names.append("include")
    if (typed(body, "stream_options", dict) or {}).get("include_obfuscation"):
        names.append("stream_options.include_obfuscation")
    return names


def read_summary(body: Mapping[str, Any]) -> str | None:
    """Which summary of the thoughts is wanted. Whichever it is, the thoughts themselves are given in its place."""
    wish = body.get("reasoning") or {}
    return one_of(wish, "summary", SUMMARIES, "reasoning.") or one_of(wish, "generate_summary", SUMMARIES, "reasoning.")


def settings_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request's settings as a Response repeats them; nulls are the endpoint's own defaults."""
    reasoning, text = body.get("reasoning") or {}, body.get("text") or {}
    return {
        "background": False,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "metadata": body.get("metadata") or {},
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "reasoning": {"effort": reasoning.get("effort"), "summary": "detailed" if read_summary(body) else None},
        "safety_identifier": body.get("safety_identifier"),
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": text.get("format") or {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_logprobs": body.get("top_logprobs") or 0,
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        "user": body.get("user"),
    }
