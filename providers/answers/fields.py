"""Fields of an answer, read leniently: what is not of the expected type counts as absent, and breaks nothing."""

from typing import Any

import orjson

from providers.events import Usage

THOUGHTS = frozenset({"thinking", "reasoning", "reasoning.text", "reasoning.summary"})
"""The types of parts (of a content, or of OpenRouter's `reasoning_details`) that hold a thought."""


def text_of(value: Any) -> str:
    """The value where it is a text, else an empty one."""
    return value if type(value) is str else ""


def integer_of(value: Any) -> int | None:
    return value if type(value) is int else None


def read_texts(delta: dict[str, Any]) -> tuple[str, str, list[Any] | None]:
    """A delta's thought, its text, and OpenRouter's `reasoning_details`, from whichever fields hold them.

    A thought that stands in several fields is the same in all of them.
    """
    thought = text_of(delta.get("reasoning")) or text_of(delta.get("reasoning_content"))
    content, details = delta.get("content"), delta.get("reasoning_details")
    if type(content) is list:
        inside, content = flatten(content)
        thought = thought or inside
    if type(details) is not list or not details:
        return thought, text_of(content), None
    return thought or flatten(details)[0], text_of(content), details


def flatten(parts: list[Any]) -> tuple[str, str]:
    """The thoughts and the text of a content, or of details, that came as a list of parts."""
    thoughts: list[str] = []
    texts: list[str] = []
    for part in parts:
        if type(part) is dict:
            target = thoughts if part.get("type") in THOUGHTS else texts
            target.append(part_text(part.get("thinking") or part.get("text") or part.get("summary")))
    return "".join(thoughts), "".join(texts)


def part_text(value: Any) -> str:
    """A part's text; Mistral's shape nests a list of text parts in a thought."""
    if type(value) is list:
        return "".join(text_of(part.get("text")) for part in value if type(part) is dict)
    return text_of(value)


def read_calls(calls: Any, *, whole: bool) -> list[dict[str, Any]] | None:
    """OpenAI's call deltas. Arguments that came as an object become its JSON.

    `whole`: these are all calls of a plain answer, so that one without an index gets its place in the list.
    """
    if type(calls) is not list:
        return None
    found = []
    for place, call in enumerate(calls):
        if type(call) is not dict:
            continue
        function = call.get("function")
        if type(function) is dict and type(function.get("arguments")) is dict:
            call = {**call, "function": {**function, "arguments": orjson.dumps(function["arguments"]).decode()}}
        if whole and type(call.get("index")) is not int:
            call = {**call, "index": place}
        found.append(call)
    return found or None


def read_extra(choice: dict[str, Any]) -> dict[str, Any] | None:
    """The fields of a choice that are handed on as they came; None where it has none of them."""
    logprobs, stop_reason = choice.get("logprobs"), choice.get("stop_reason")
    if logprobs is None:
        return None if stop_reason is None else {"stop_reason": stop_reason}
    return {"logprobs": logprobs} if stop_reason is None else {"logprobs": logprobs, "stop_reason": stop_reason}


def read_usage(usage: Any) -> Usage | None:
    """The counts as the provider reports them; None where they are no usage. The ledger judges what is plausible."""
    if type(usage) is not dict:
        return None
    prompt, completion = integer_of(usage.get("prompt_tokens")), integer_of(usage.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    cached = count_in(usage.get("prompt_tokens_details"), "cached_tokens")
    reasoning = count_in(usage.get("completion_tokens_details"), "reasoning_tokens")
    if reasoning is None:
        reasoning = integer_of(usage.get("reasoning_tokens"))  # SGLang's place for it
    return Usage(prompt, completion, cached, reasoning)


def count_in(details: Any, name: str) -> int | None:
    return integer_of(details.get(name)) if type(details) is dict else None


def is_error(body: dict[str, Any]) -> bool:
    """Whether a body without choices gives a reason: SGLang's, FastAPI's `detail`, AI/ML API's `message`."""
    return body.get("object") == "error" or any(type(body.get(name)) in (str, list) for name in ("detail", "message"))
