"""Anthropic's Messages, inwards: a JSON body becomes a canonical request, whose messages are worded as OpenAI's."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from providers.chat_request import ChatRequest, Message, Reasoning
from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import Preferences
from proxy.surfaces.body import read_json
from proxy.surfaces.fields import (
    check,
    ignored_names,
    is_label,
    one_of,
    read_max_tokens,
    read_messages,
    read_metadata,
    read_model,
    read_provider,
    typed,
)
from proxy.surfaces.reasoning import FORMATS, read_reasoning
from proxy.surfaces.surface import SuffixOf, SurfaceRequest

READ = frozenset(
    {
        "model",
        "max_tokens",
        "messages",
        "system",
        "stream",
        "stop_sequences",
        "temperature",
        "top_p",
        "top_k",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "metadata",
        "inference_geo",
        # Ours, as in Chat Completions.
        "provider",
        "reasoning",
        "reasoning_effort",
        "include_reasoning",
        "reasoning_format",
    }
)
TOOL_FIELDS = frozenset({"type", "name", "description", "input_schema", "strict", "cache_control"})
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
EFFORTS = ("low", "medium", "high", "xhigh", "max")
Block = dict[str, Any]


def read_messages_request(payload: bytes, suffix_of: SuffixOf) -> SurfaceRequest:
    """Read the body of a request for Messages. Raises ApiError for everything that is wrong with it."""
    body = read_json(payload)
    suffix = read_model(body, suffix_of)
    if body.get("max_tokens") is None:
        raise ApiError("missing_required_parameter", "max_tokens is missing", param="max_tokens")
    chat = read_request(body, suffix)
    preferences = read_preferences_of(body, suffix)
    ignored = ignored_names(read_ignored(body, chat), preferences)
    return SurfaceRequest(chat, preferences, one_of(body, "reasoning_format", FORMATS), ignored)


def read_count_request(payload: bytes, suffix_of: SuffixOf) -> ChatRequest:
    """Read the body of `count_tokens`, which has a prompt and no `max_tokens`. Raises ApiError."""
    body = read_json(payload)
    return read_request(body, read_model(body, suffix_of))


def read_request(body: dict[str, Any], suffix: str) -> ChatRequest:
    messages = [*read_system(body), *read_turns(body)]
    parameters = {**read_sampling(body), **read_tools(body), **response_format_of(body)}
    labels = dict(typed(body, "metadata", dict) or {})
    user = labels.pop("user_id", None)
    if user is not None and not is_label(user, "value"):
        raise invalid("metadata.user_id", "takes at most 512 characters, none of them NUL")
    max_tokens = read_max_tokens({"max_tokens": body.get("max_tokens")})
    return ChatRequest(
        messages=messages,
        parameters=parameters,
        max_tokens=max_tokens,
        stream=bool(typed(body, "stream", bool)),
        include_usage=True,
        reasoning=read_thinking(body, suffix, max_tokens),
        model=body["model"],
        user=user,
        metadata=read_metadata({"metadata": labels}),
    )


def invalid(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}", param=param)


# What is said


def read_system(body: dict[str, Any]) -> list[Message]:
    """The system prompt, a string or text blocks. What the blocks say of caching is left out."""
    if body.get("system") is None:
        return []
    text = joined_text(body["system"], "system")
    return [{"role": "system", "content": text}] if text else []


def read_turns(body: dict[str, Any]) -> list[Message]:
    """The conversation; turns in a row of one role are taken as one, as Anthropic does."""
    turns: list[tuple[str, list[tuple[str, Block]]]] = []
    for position, message in enumerate(read_messages(body)):
        where = f"messages[{position}]"
        if type(message) is not dict:
            raise invalid(where, "must be an object")
        role = message.get("role")
        if type(role) is not str or role not in TURNS:
            raise invalid(f"{where}.role", f"must be one of {', '.join(sorted(TURNS))}")
        blocks = read_blocks(message.get("content"), f"{where}.content")
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    if turns[-1][0] == "assistant":
        raise invalid("messages", "must end with the user's turn: an answer cannot be begun for the model (prefill)")
    return [said for role, blocks in turns for said in TURNS[role](blocks)]


def read_blocks(content: Any, where: str) -> list[tuple[str, Block]]:
    """Each block of a content with its place in the body, for error messages."""
    if type(content) is str:
        return [(where, {"type": "text", "text": content})]
    if type(content) is not list:
        raise invalid(where, "must be a string or a list of blocks")
    for i, block in enumerate(content):
        if type(block) is not dict or type(block.get("type")) is not str:
            raise invalid(f"{where}[{i}]", "must be an object with a type")
    return [(f"{where}[{i}]", block) for i, block in enumerate(content)]


def joined_text(content: Any, where: str) -> str:
    return "\n".join(block_text(block, place) for place, block in read_blocks(content, where))


def block_text(block: Block, where: str) -> str:
    """The text of a block: of a text, a document in plain text, a result of a search. Raises ApiError for others."""
    match block["type"]:
        case "text":
            return words(block, "text", where)
        case "search_result":
            found = joined_text(block.get("content"), f"{where}.content")
            return "\n".join([words(block, "title", where), words(block, "source", where), found])
        case "document" if (typed(block, "source", dict, f"{where}.") or {}).get("type") == "text":
            told = [typed(block, name, str, f"{where}.") for name in ("title", "context")]
            return "\n".join([*filter(None, told), words(block["source"], "data", f"{where}.source")])
    raise ApiError(
        "unsupported_modality", f"{where}: this model reads text here, not {block['type']!r:.100}", param=where
    )


def words(block: Block, name: str, where: str) -> str:
    text = block.get(name)
    if type(text) is not str:
        raise invalid(f"{where}.{name}", "must be a string")
    return text


def user_turn(blocks: Sequence[tuple[str, Block]]) -> list[Message]:
    """A user's turn: first the results of tools, which must follow the calls that they answer, then its text."""
    results = [tool_message(block, where) for where, block in blocks if block["type"] == "tool_result"]
    texts = [block_text(block, where) for where, block in blocks if block["type"] != "tool_result"]
    return [*results, {"role": "user", "content": "\n".join(texts)}] if texts or not results else results


def tool_message(block: Block, where: str) -> Message:
    """A tool's result. That the tool failed stands in its text, since OpenAI's messages have no field for it."""
    content = block.get("content")
    text = "" if content is None else joined_text(content, f"{where}.content")
    if typed(block, "is_error", bool, f"{where}."):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": words(block, "tool_use_id", where), "content": text}


def assistant_turn(blocks: Sequence[tuple[str, Block]]) -> list[Message]:
    """An assistant's turn with its thoughts and calls. Redacted thoughts and signatures are left out."""
    texts, thoughts, calls = [], [], []
    for where, block in blocks:
        match block["type"]:
            case "thinking":
                thoughts.append(words(block, "thinking", where))
            case "redacted_thinking":
                pass
            case "tool_use":
                calls.append(tool_call(block, where))
            case _:
                texts.append(block_text(block, where))
    message: Message = {"role": "assistant", "content": "\n".join(texts)}
    if any(thoughts):
        message["reasoning"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [message]


def tool_call(block: Block, where: str) -> dict[str, Any]:
    arguments = block.get("input")
    if type(arguments) is not dict:
        raise invalid(f"{where}.input", "must be an object")
    function = {"name": words(block, "name", where), "arguments": orjson.dumps(arguments).decode()}
    return {"id": words(block, "id", where), "type": "function", "function": function}


def system_turn(blocks: Sequence[tuple[str, Block]]) -> list[Message]:
    return [{"role": "system", "content": "\n".join(block_text(block, where) for where, block in blocks)}]


TURNS = {"user": user_turn, "assistant": assistant_turn, "system": system_turn}


# How it is to be answered


def read_sampling(body: dict[str, Any]) -> dict[str, Any]:
    parameters = {
        name: check(name, body[name]) for name in ("temperature", "top_p", "top_k") if body.get(name) is not None
    }
    stops = typed(body, "stop_sequences", list)
    if stops:
        if not all(type(stop) is str and stop for stop in stops):
            raise invalid("stop_sequences", "must be a list of strings, none of them empty")
        parameters["stop"] = stops
    return parameters


def read_tools(body: dict[str, Any]) -> dict[str, Any]:
    tools = [read_tool(tool, f"tools[{i}]") for i, tool in enumerate(typed(body, "tools", list) or [])]
    choice = typed(body, "tool_choice", dict)
    if not tools:
        if choice is not None and choice.get("type") in ("any", "tool"):
            raise invalid("tool_choice", "asks for a tool, and there are none in tools")
        return {}
    parameters: dict[str, Any] = {"tools": tools}
    if choice is not None:
        parameters["tool_choice"] = read_choice(choice, {tool["function"]["name"] for tool in tools})
        if typed(choice, "disable_parallel_tool_use", bool, "tool_choice."):
            parameters["parallel_tool_calls"] = False
    return parameters


def read_tool(tool: Any, where: str) -> dict[str, Any]:
    if type(tool) is not dict:
        raise invalid(where, "must be an object")
    kind = tool.get("type")
    if kind not in (None, "custom"):
        raise invalid(f"{where}.type", f"{kind!r:.100} is not offered here; declare a custom tool with an input_schema")
    function = {"name": words(tool, "name", where), "parameters": tool.get("input_schema")}
    if not function["name"]:
        raise invalid(f"{where}.name", "must not be empty")
    if type(function["parameters"]) is not dict:
        raise invalid(f"{where}.input_schema", "must be an object")
    for name, type_ in (("description", str), ("strict", bool)):
        if (value := typed(tool, name, type_, f"{where}.")) is not None:
            function[name] = value
    return {"type": "function", "function": function}


def read_choice(choice: dict[str, Any], names: set[str]) -> Any:
    kind = one_of(choice, "type", (*TOOL_CHOICES, "tool"), "tool_choice.")
    if kind is None:
        raise invalid("tool_choice.type", "is missing")
    if kind != "tool":
        return TOOL_CHOICES[kind]
    name = words(choice, "name", "tool_choice")
    if name not in names:
        raise invalid("tool_choice.name", "is not the name of one of the tools")
    return {"type": "function", "function": {"name": name}}


def response_format_of(body: dict[str, Any]) -> dict[str, Any]:
    """`output_config.format` as the parameter `response_format`; nothing where any text will do."""
    wanted = typed(typed(body, "output_config", dict) or {}, "format", dict, "output_config.")
    if wanted is None:
        return {}
    if wanted.get("type") != "json_schema" or type(wanted.get("schema")) is not dict:
        raise invalid("output_config.format", "must be {type: json_schema, schema: an object}")
    schema = {"name": "answer", "schema": wanted["schema"], "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def read_thinking(body: dict[str, Any], suffix: str, max_tokens: int | None) -> Reasoning:
    """What `thinking` says, else what the switches of Chat Completions do. `adaptive` counts as on."""
    stated = read_reasoning(body, {}, suffix)
    config = typed(body, "output_config", dict) or {}
    effort = one_of(config, "effort", EFFORTS, "output_config.")
    thinking = typed(body, "thinking", dict)
    if thinking is not None:
        kind = one_of(thinking, "type", ("enabled", "disabled", "adaptive"), "thinking.")
        if kind is None:
            raise invalid("thinking.type", "is missing")
        limit_tokens = read_thought_limit(thinking, max_tokens) if kind == "enabled" else None
        omitted = one_of(thinking, "display", ("summarized", "omitted"), "thinking.") == "omitted"
        stated = Reasoning(kind != "disabled", stated.effort, limit_tokens, stated.exclude or omitted)
    return replace(stated, effort=(effort or stated.effort) if stated.enabled else None)


def read_thought_limit(thinking: dict[str, Any], max_tokens: int | None) -> int:
    limit_tokens: int | None = typed(thinking, "budget_tokens", int, "thinking.")
    if limit_tokens is None or limit_tokens < 1:
        raise invalid("thinking.budget_tokens", "must be at least 1")
    if max_tokens is not None and limit_tokens >= max_tokens:
        raise invalid("thinking.budget_tokens", "must be less than max_tokens")
    return limit_tokens


def read_preferences_of(body: dict[str, Any], suffix: str) -> Preferences:
    """What `provider`, the suffix and `inference_geo` say, of which the last means the same as `provider.regions`."""
    preferences = read_provider(body, suffix)
    place = typed(body, "inference_geo", str)
    if place is None or place == "global":
        return preferences
    if preferences.regions:
        raise invalid("inference_geo", "and provider.regions say the same thing; give one of them")
    return replace(preferences, regions=frozenset({place.lower()}))


def read_ignored(body: Mapping[str, Any], chat: ChatRequest) -> set[str]:
    """The names of the fields that have no effect."""
    unknown = {name for name in body if name not in READ}
    unknown |= {f"tools.{name}" for tool in body.get("tools") or () for name in tool if name not in TOOL_FIELDS}
    config = body.get("output_config") or {}
    unknown |= {f"output_config.{name}" for name in config if name not in ("effort", "format")}
    if config.get("effort") and chat.reasoning.effort is None:
        unknown.add("output_config.effort")
    return unknown
