"""Tools for an endpoint that knows none: a conversation with tools becomes one in which Hermes 4 reads them as text.

Schemas stand between `<tools>` tags in the system prompt, calls in the assistant's text as `<tool_call>`, results in
the user's as `<tool_response>` (the role that every endpoint takes). What the caller wrote is neutralised, so that the
tags that count are those put here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from providers.chat_request import Message, text_content
from providers.neutral import neutralise
from providers.thinking import CLOSE, OPEN, THINKING_PROMPT
from providers.tools.tool_set import ToolSet, tool_name

# Nous Research's function-calling prompt (github.com/NousResearch/Hermes-Function-Calling, and as Hermes's own agent
# writes it), with its two examples in valid JSON.
BEFORE_SCHEMAS = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    "You may call one or more functions to assist with the user query. If available tools are not relevant in "
    "assisting with user query, just respond in natural conversational language. Don't make assumptions about what "
    "values to plug into functions. After calling & executing the functions, you will be provided with function "
    "results within <tool_response> </tool_response> XML tags. Here are the available tools:\n<tools>\n"
)
BEHIND_SCHEMAS = (
    "\n</tools>\nFor each function call return a JSON object, with the following pydantic model json schema for each:\n"
    '{"title": "FunctionCall", "type": "object", "properties": {"name": {"title": "Name", "type": "string"}, '
    '"arguments": {"title": "Arguments", "type": "object"}}, "required": ["name", "arguments"]}\n'
    "Each function call should be enclosed within <tool_call> </tool_call> XML tags.\nExample:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-dict>}\n</tool_call>'
)
ONE_CALL = "\nCall at most one function in a turn."
MUST_CALL = "\nThis turn must call a function: answer with nothing but function calls."
MUST_CALL_THIS = "\nThis turn must call the function {}: answer with nothing but a call of it."


def opening(tools: ToolSet) -> str:
    """The beginning of an answer that has to call a tool; empty where it may also do something else."""
    if tools.must_call is not None:
        return f'<tool_call>\n{{"name": {to_json(tools.must_call)}, "arguments":'
    return '<tool_call>\n{"name":' if tools.required else ""


def rewrite(messages: Sequence[Message], tools: ToolSet | None) -> list[Message]:
    """The conversation with `tools`, calls and results as text: only the roles system, user and assistant are left."""
    rewritten: list[Message] = []
    names: dict[str, str] = {}  # of the tools that were called, by the ids of the calls
    answering = False  # the last message holds results of tools
    for message in messages:
        role, text = message["role"], text_content(message.get("content"))
        if role == "tool":
            result = result_text(names.get(str(message.get("tool_call_id"))), text)
            if answering:
                rewritten[-1]["content"] += "\n" + result
            else:
                rewritten.append({"role": "user", "content": result})
        elif role == "assistant":
            rewritten.append(said(message, text))
            names.update((str(call.get("id")), tool_name(call) or "") for call in calls_of(message))
        else:
            rewritten.append({**message, "content": instructed(text) if role == "system" else neutralise(text)})
        answering = role == "tool"
    if tools is not None:
        show(tools, rewritten)
    return rewritten


def show(tools: ToolSet, messages: list[Message]) -> None:
    """Put the tools into the first system message, or into one of their own."""
    schemas = "\n".join(to_json(schema) for schema in tools.schemas)
    prompt = BEFORE_SCHEMAS + schemas + BEHIND_SCHEMAS
    if not tools.parallel:
        prompt += ONE_CALL
    if tools.must_call is not None:
        prompt += MUST_CALL_THIS.format(to_json(tools.must_call))
    elif tools.required:
        prompt += MUST_CALL
    for i, message in enumerate(messages):
        if message["role"] == "system":
            text = message["content"]
            messages[i] = {**message, "content": f"{text}\n\n{prompt}" if text else prompt}
            return
    messages.insert(0, {"role": "system", "content": prompt})


def said(message: Message, text: str) -> Message:
    """An assistant's message with its calls as text."""
    kept = {
        name: neutralise(value) if isinstance(value, str) else value
        for name, value in message.items()
        if name not in ("tool_calls", "content")
    }
    calls = [call_text(call) for call in calls_of(message)]
    return {**kept, "content": "\n".join([thought(text), *calls] if text else calls)}


def calls_of(message: Message) -> list[Mapping[str, Any]]:
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def call_text(call: Mapping[str, Any]) -> str:
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(arguments, str):
        arguments = as_json(arguments or "{}")
    call_json = to_json({"name": tool_name(call), "arguments": {} if arguments is None else arguments})
    return f"<tool_call>\n{call_json}\n</tool_call>"


def result_text(name: str | None, text: str) -> str:
    """A tool's result as text; where it is JSON, as JSON and not as a string of JSON."""
    content = as_json(text) if text[:1] in ("{", "[") else text
    result = {"name": name, "content": content} if name else {"content": content}
    return f"<tool_response>\n{to_json(result)}\n</tool_response>"


def as_json(text: str) -> Any:
    """A value that stands in JSON as `text` does where that is JSON, and as a string elsewhere."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return orjson.Fragment(text)


def to_json(value: Any) -> str:
    return neutralise(orjson.dumps(value).decode())


def instructed(text: str) -> str:
    """A system message, neutralised except for the prompt that switches thinking on, which has tags."""
    return THINKING_PROMPT.join(map(neutralise, text.split(THINKING_PROMPT)))


def thought(text: str) -> str:
    """An assistant's text, neutralised except for the tags around a thought at its beginning."""
    if not text.startswith(OPEN) or CLOSE not in text:
        return neutralise(text)
    inside, _, answer = text[len(OPEN) :].partition(CLOSE)
    return OPEN + neutralise(inside) + CLOSE + neutralise(answer)
