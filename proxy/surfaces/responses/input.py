"""The input of a request for Responses as a conversation: the model's items in a row become one assistant's message."""

from collections.abc import Callable, Mapping
from typing import Any

from providers.chat_request import Message
from proxy.entry.api_errors import ApiError
from proxy.surfaces.fields import typed

ROLES = ("user", "assistant", "system", "developer")
TEXTS = frozenset({"input_text", "output_text", "text"})


def read_input(given: Any) -> list[Message]:
    """The messages of an input: a list of items, or a string, which is a user's message.

    Raises ApiError, which names the item that cannot be read.
    """
    if type(given) is str and given:
        return [{"role": "user", "content": given}]
    if type(given) is not list or not given:
        raise ApiError("missing_required_parameter", "input must be a string or a list of items", "input")
    messages: list[Message] = []
    for i, item in enumerate(given):
        where = f"input[{i}]"
        if type(item) is not dict:
            raise ApiError("invalid_request", f"{where} must be an object", where)
        kind = item.get("type") or "message"
        reader = ITEMS.get(kind) if type(kind) is str else None
        if kind == "item_reference":
            raise ApiError(
                "unsupported_parameter",
                f"{where} refers to an item, but nothing is kept between requests; send the item itself, "
                "as clients do that are told to store nothing (store: false)",
                where,
            )
        if reader is None:
            raise ApiError(
                "unsupported_parameter",
                f"{where} is of type {kind!r:.100}, which is not supported; items are {', '.join(ITEMS)}",
                f"{where}.type",
            )
        reader(messages, item, where)
    for message in messages:
        if "tool_calls" in message:
            message["content"] = message["content"] or None
    if not messages:
        raise ApiError("missing_required_parameter", "input holds nothing that the model could read", "input")
    return messages


def take_message(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    role = item.get("role")
    if type(role) is not str or role not in ROLES:
        raise ApiError("invalid_request", f"{where}.role must be one of {', '.join(ROLES)}", f"{where}.role")
    text = read_text(item.get("content"), f"{where}.content")
    if role == "assistant":
        turn = open_turn(messages, spoken=True)
        turn["content"] = f"{turn['content']}\n{text}" if turn["content"] else text
    else:  # the model's template knows no developer
        messages.append({"role": "system" if role == "developer" else role, "content": text})


def take_call(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    turn = open_turn(messages, spoken=False)
    function = {name: required(item, name, where) for name in ("name", "arguments")}
    call = {"id": required(item, "call_id", where), "type": "function", "function": function}
    turn.setdefault("tool_calls", []).append(call)


def take_output(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    text = read_text(item.get("output"), f"{where}.output")
    messages.append({"role": "tool", "tool_call_id": required(item, "call_id", where), "content": text})


def take_reasoning(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    """Add a thought to the turn: its content, else its summary. One that is encrypted has neither, and is left out."""
    thoughts = ""
    for name in ("content", "summary"):
        parts = typed(item, name, list, f"{where}.") or []
        texts = [part.get("text") if type(part) is dict else None for part in parts]
        if not all(type(text) is str for text in texts):
            raise ApiError("invalid_request", f"{where}.{name}: a part needs a string in text", f"{where}.{name}")
        thoughts = thoughts or "\n".join(text for text in texts if text)
    if thoughts:
        turn = open_turn(messages, spoken=True)
        turn["reasoning"] = f"{turn['reasoning']}\n{thoughts}" if "reasoning" in turn else thoughts


Reader = Callable[[list[Message], Mapping[str, Any], str], None]
ITEMS: Mapping[str, Reader] = {
    "message": take_message,
    "reasoning": take_reasoning,
    "function_call": take_call,
    "function_call_output": take_output,
}


def open_turn(messages: list[Message], *, spoken: bool) -> Message:
    """The assistant's message that an item of the model belongs to; a new one behind anybody else's message.

    Text and thoughts (`spoken`) behind a text begin a new one too, unless there are calls, whose results must follow.
    """
    last = messages[-1] if messages else None
    if last is None or last["role"] != "assistant" or (spoken and last["content"] and "tool_calls" not in last):
        last = {"role": "assistant", "content": ""}
        messages.append(last)
    return last


def read_text(content: Any, where: str) -> str:
    """The text of a content: a string, or parts of text, joined by line breaks as engines join them."""
    if type(content) is str:
        return content
    if type(content) is not list:
        raise ApiError("invalid_request", f"{where} must be a string or a list of parts", where)
    return "\n".join(read_part(part, where) for part in content)


def read_part(part: Any, where: str) -> str:
    kind = part.get("type") if type(part) is dict else None
    if kind == "refusal":
        return required(part, "refusal", where)
    if type(kind) is not str or kind not in TEXTS:
        raise ApiError("unsupported_modality", f"{where}: this model reads text, not {kind!r:.100}", where)
    return required(part, "text", where)


def required(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if type(value) is not str:
        raise ApiError("invalid_request", f"{where}.{name} must be a string", f"{where}.{name}")
    return value
