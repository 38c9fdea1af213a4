"""What was asked of the sandbox, read once and checked as an engine checks it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

import orjson

from proxy.sandbox.dialects import EFFORT, OBJECT, TEMPLATE, Dialect, Refusal
from proxy.sandbox.script import PrefixMode, Script, without_directive
from proxy.sandbox.tokens import cached_tokens, content_text, prompt_tokens

# How the system prompt that switches Hermes 4's reasoning on begins (model card of NousResearch/Hermes-4-405B).
THINKING_PROMPT = "You are a deep thinking AI"
MOST_CHOICES = 16
TOOLS_TAG = re.compile(r"<tools>(.*?)</tools>", re.DOTALL)
# Hermes's JSON mode: a schema in the system prompt, or the wish alone.
SCHEMA_TAG = re.compile(r"<schema>(.*?)</schema>", re.DOTALL)
JSON_MODE = "You are a helpful assistant that answers in JSON."
RESPONSE_TAG = re.compile(r"<tool_response>(.*?)</tool_response>", re.DOTALL)
# Llama 3's chat format, in which a raw completion of this model arrives.
TURN = re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n\n(.*?)(<\|eot_id\|>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    parameters: Any


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `prefix` is the beginning of the answer, None where a new one is wanted; `flagged` says that a
    switch asks for thoughts, `thinks` that there will be some.
    """

    said: str
    said_by_tool: bool
    turns: int
    prefix: str | None
    flagged: bool
    thinks: bool
    thought_limit_tokens: int | None
    hides_thoughts: bool
    tools: tuple[Tool, ...]
    native_tools: bool
    tool_choice: Any
    parallel_calls: bool
    json_schema: Any  # None: text is wanted
    max_tokens: int | None
    stops: tuple[str, ...]
    choices: int
    top_logprobs: int | None
    stream: bool
    include_usage: bool
    continuous_usage: bool
    prompt_tokens: int
    cached_tokens: int
    raw: bool = False


def read_ask(body: Any, dialect: Dialect, script: Script, context_tokens: int, *, raw: bool) -> Ask:
    """Raises Refusal where the provider would answer 400."""
    if not isinstance(body, dict):
        raise bad("the body is not a JSON object")
    for name in sorted(dialect.rejects & body.keys()):
        raise bad(f"{name} is not supported", name)
    messages, prefix = (raw_messages(body), None) if raw else (chat_messages(body), None)
    if raw:
        prefix = messages.pop()["content"] if messages[-1]["role"] == "assistant" else None
    else:
        prefix = chat_prefix(body, messages, script.prefix or dialect.prefix)
        messages = messages[:-1] if prefix is not None else messages
    said_by, said = last_said(messages)
    system = "\n".join(content_text(message.get("content")) for message in messages if message["role"] == "system")
    native = not raw and (dialect.native_tools if script.native_tools is None else script.native_tools)
    native = native and bool(body.get("tools"))
    options = body.get("stream_options") or {}
    prompt = prompt_tokens(body)
    max_tokens = whole(body, "max_completion_tokens", 1) or whole(body, "max_tokens", 1)
    check_context(context_tokens, prompt, max_tokens)
    flagged = asks_by_switch(body, dialect)
    thinks = (flagged or THINKING_PROMPT in system) if script.think is None else script.think
    schema = wanted_schema(body, dialect)
    return Ask(
        said=without_directive(said)[0],
        said_by_tool=said_by == "tool",
        turns=len(messages),
        prefix=prefix or None,
        flagged=flagged,
        thinks=thinks and (schema is None or not dialect.tags_in_streams),  # a grammar from the first token on
        thought_limit_tokens=thought_limit_tokens(body),
        hides_thoughts=body.get("include_reasoning") is False or reasoning_object(body).get("exclude") is True,
        tools=tuple(offered_tools(body, system)),
        native_tools=native,
        tool_choice=body.get("tool_choice"),
        parallel_calls=body.get("parallel_tool_calls") is not False,
        json_schema=prompted_schema(system) if schema is None else schema,
        max_tokens=max_tokens,
        stops=stop_strings(body.get("stop")),
        choices=bounded_choices(body),
        top_logprobs=logprobs(body),
        stream=body.get("stream") is True,
        include_usage=options.get("include_usage") is True,
        continuous_usage=dialect.engine and options.get("continuous_usage_stats") is True,
        prompt_tokens=prompt,
        cached_tokens=cached_tokens(body),
        raw=raw,
    )


def bad(message: str, param: str | None = None) -> Refusal:
    return Refusal(400, "bad_request", message, param)


def check_context(context_tokens: int, prompt: int, max_tokens: int | None) -> None:
    """Refuse what does not fit into the context, in vLLM's words, which the providers that run it pass on."""
    if max_tokens is not None and max_tokens > context_tokens:
        message = (
            f"max_tokens={max_tokens} cannot be greater than max_model_len={context_tokens}. Please request fewer "
            f"output tokens. (parameter=max_tokens, value={max_tokens})"
        )
        raise Refusal(400, "context", message, "max_tokens")
    if prompt >= context_tokens:
        raise beyond_context(context_tokens)
    if prompt + (max_tokens or 0) > context_tokens:
        message = (
            f"This model's maximum context length is {context_tokens} tokens. However, you requested {max_tokens} "
            f"output tokens and your prompt contains at least {prompt} input tokens, for a total of at least "
            f"{prompt + (max_tokens or 0)} tokens. Please reduce the length of the input prompt or the number of "
            f"requested output tokens. (parameter=input_tokens, value={prompt})"
        )
        raise Refusal(400, "context", message, "input_tokens")


def beyond_context(context_tokens: int) -> Refusal:
    """The refusal of a prompt that alone is too long. The engine counts no further than one token beyond the limit."""
    message = (
        f"This model's maximum context length is {context_tokens} tokens. However, your prompt contains at least "
        f"{context_tokens + 1} input tokens, which exceeds this limit even without any output tokens. Please reduce "
        f"the length of the input prompt. (parameter=input_tokens, value={context_tokens + 1})"
    )
    return Refusal(400, "context", message, "input_tokens")


def chat_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages: a list with at least one message is required", "messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad(f"messages.{i}: a message has a role and a content", "messages")
    return messages


def raw_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A prompt in the model's own chat format is read back into its messages; any other is what the user says."""
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise bad("prompt: a text is required", "prompt")
    turns = [{"role": role, "content": text} for role, text, _ in TURN.findall(prompt)]
    return turns or [{"role": "user", "content": prompt}]


def chat_prefix(body: Mapping[str, Any], messages: list[dict[str, Any]], mode: PrefixMode) -> str | None:
    """The beginning of the answer that is to be continued; None where a new answer is wanted."""
    if body.get("continue_final_message") is not True:
        return None
    match mode:
        case "continue":
            return final_message(body, messages)
        case "ignore":
            return None
        case "refuse":
            raise bad("Unrecognized request argument supplied: continue_final_message", "continue_final_message")
        case _:
            assert_never(mode)


def final_message(body: Mapping[str, Any], messages: list[dict[str, Any]]) -> str:
    """The assistant's last message, trimmed as Llama 3's template trims every message. Raises Refusal as vLLM does."""
    if body.get("add_generation_prompt") is not False:
        raise bad("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    if messages[-1]["role"] != "assistant":
        raise bad("continue_final_message: the final message is not the assistant's", "messages")
    prefix = content_text(messages[-1].get("content")).strip()
    if "</think>" in prefix and not template_flag(body, "keep_cots"):  # the template cuts earlier thoughts out
        raise bad(
            "continue_final_message is set but the final message does not appear in the chat after applying the chat "
            "template! This can happen if the chat template deletes portions of the final message."
        )
    return prefix


def last_said(messages: list[dict[str, Any]]) -> tuple[str, str]:
    """Who spoke last, and what; in Hermes's format a tool speaks in the user's turn."""
    for message in reversed(messages):
        if message["role"] in ("user", "tool"):
            text = content_text(message.get("content")).strip()
            responses = RESPONSE_TAG.findall(text) if text.startswith("<tool_response>") else []
            return ("tool", tool_said(responses[-1])) if responses else (message["role"], text)
    return "user", ""


def tool_said(response: str) -> str:
    """The content of a result in Hermes's format, `{"name": …, "content": …}`."""
    result = next(iter(loose_json(response)), None)
    content = result.get("content") if isinstance(result, dict) else response.strip()
    return content if isinstance(content, str) else orjson.dumps(content).decode()


def asks_by_switch(body: Mapping[str, Any], dialect: Dialect) -> bool:
    if TEMPLATE in dialect.toggles and template_flag(body, "thinking"):
        return True
    wish = reasoning_object(body)
    if OBJECT in dialect.toggles and wish:
        return wish.get("enabled") is not False and wish.get("effort") != "none"
    return EFFORT in dialect.toggles and body.get(EFFORT) not in (None, "none")


def template_flag(body: Mapping[str, Any], name: str) -> bool:
    kwargs = body.get(TEMPLATE)
    return isinstance(kwargs, dict) and bool(kwargs.get(name))


def reasoning_object(body: Mapping[str, Any]) -> Mapping[str, Any]:
    wish = body.get("reasoning")
    return wish if isinstance(wish, dict) else {}


def thought_limit_tokens(body: Mapping[str, Any]) -> int | None:
    return whole(body, "thinking_token_budget", 0) or whole(reasoning_object(body), "max_tokens", 1)


def offered_tools(body: Mapping[str, Any], system: str) -> list[Tool]:
    """From the `tools` parameter, else from between the `<tools>` tags of a system prompt in Hermes's format."""
    offered = body.get("tools")
    if offered is not None and not isinstance(offered, list):
        raise bad("tools: a list is required", "tools")
    if not offered:
        offered = [tool for text in TOOLS_TAG.findall(system) for tool in loose_json(text)]
    tools = []
    for tool in offered:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise bad("tools: each has a function with a name", "tools")
        tools.append(Tool(function["name"], function.get("parameters") or {}))
    return tools


def loose_json(text: str) -> list[Any]:
    """A JSON array, or one object a line."""
    found: list[Any] = []
    for part in (text, *text.splitlines()):
        try:
            value = orjson.loads(part)
        except orjson.JSONDecodeError:
            continue
        found += value if isinstance(value, list) else [value]
        if part is text:
            break
    return found


def wanted_schema(body: Mapping[str, Any], dialect: Dialect) -> Any:
    schema = stated_schema(body, dialect)
    if dialect.engine and b'"uniqueItems":' in orjson.dumps(schema):  # as vLLM 0.32 says of it
        raise bad('Grammar error: Unimplemented keys: ["uniqueItems"]')
    return schema


def stated_schema(body: Mapping[str, Any], dialect: Dialect) -> Any:
    structured = body.get("structured_outputs")
    if dialect.engine and isinstance(structured, dict) and "json" in structured:
        return structured["json"]
    wanted = body.get("response_format") or {}
    if not isinstance(wanted, dict):
        raise bad("response_format: an object is required", "response_format")
    match wanted.get("type", "text"):
        case "text":
            return None
        case "json_object":
            return {}
        case "json_schema":
            schema = wanted.get("json_schema")
            if not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
                raise bad("response_format.json_schema.schema: an object is required", "response_format")
            return schema["schema"]
        case other:
            raise bad(f"response_format.type: {other!r} is unknown", "response_format")


def prompted_schema(system: str) -> Any:
    if JSON_MODE not in system:
        return None
    schema = SCHEMA_TAG.search(system)
    return orjson.loads(schema[1]) if schema else {}


def whole(body: Mapping[str, Any], name: str, least: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise bad(f"{name} must be at least {least}, got {value!r}.", name)
    return value


def stop_strings(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise bad("stop: a string or a list of strings is required", "stop")
    return tuple(stops)


def bounded_choices(body: Mapping[str, Any]) -> int:
    choices = whole(body, "n", 1) or 1
    if choices > MOST_CHOICES:
        raise bad(f"n must be at most {MOST_CHOICES}, got {choices}.", "n")
    return choices


def logprobs(body: Mapping[str, Any]) -> int | None:
    return whole(body, "top_logprobs", 0) or 0 if body.get("logprobs") is True else None
