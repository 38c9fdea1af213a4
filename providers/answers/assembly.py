"""Put the pieces of an answer together again, for those who asked for it whole."""

from dataclasses import dataclass, field
from typing import Any

from providers.events import Delta

DETAIL_TEXTS = ("text", "summary", "data")


@dataclass(slots=True)
class Choice:
    """One whole choice. `tool_calls` are OpenAI's, complete; None stands for text that never came."""

    index: int
    reasoning: str | None = None
    content: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    details: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


class Assembler:
    """`add` every delta, then read `choices`."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: dict[int, tuple[list[str], list[str], Choice]] = {}

    def add(self, delta: Delta) -> None:
        parts = self._parts.get(delta.index)
        if parts is None:
            parts = self._parts[delta.index] = ([], [], Choice(delta.index))
        reasoning, content, choice = parts
        if delta.reasoning:
            reasoning.append(delta.reasoning)
        if delta.content:
            content.append(delta.content)
        if delta.tool_calls:
            merge_tool_calls(choice.tool_calls, delta.tool_calls)
        if delta.details:
            merge_details(choice.details, delta.details)
        if delta.finish_reason:
            choice.finish_reason = delta.finish_reason
        if delta.extra:
            merge_extra(choice.extra, delta.extra)

    @property
    def choices(self) -> list[Choice]:
        for reasoning, content, choice in self._parts.values():
            choice.reasoning = "".join(reasoning) if reasoning else None
            choice.content = "".join(content) if content else None
        return [parts[2] for _, parts in sorted(self._parts.items())]


def merge_tool_calls(calls: list[dict[str, Any]], deltas: list[dict[str, Any]]) -> None:
    """Append call deltas to the calls so far: they name a call by `index`, and its arguments come in pieces."""
    for delta in deltas:
        position = delta.get("index")
        if not isinstance(position, int):
            position = len(calls)
        call = next((call for call in calls if call["index"] == position), None)
        if call is None:
            call = {"index": position, "id": None, "type": "function", "function": {"name": "", "arguments": ""}}
            calls.append(call)
        call["id"] = delta.get("id") or call["id"]
        function = delta.get("function")
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                if isinstance(piece := function.get(name), str):
                    call["function"][name] += piece


def merge_details(details: list[Any], deltas: list[Any]) -> None:
    """Join the pieces of each of OpenRouter's `reasoning_details`: those in a row that have one type and index."""
    for delta in deltas:
        last = details[-1] if details else None
        if not (isinstance(last, dict) and isinstance(delta, dict)) or any(
            last.get(name) != delta.get(name) for name in ("type", "index")
        ):
            details.append(dict(delta) if isinstance(delta, dict) else delta)
            continue
        for name, value in delta.items():
            before = last.get(name)
            joined = name in DETAIL_TEXTS and isinstance(before, str) and isinstance(value, str)
            last[name] = before + value if joined else before if value is None else value


def merge_extra(extra: dict[str, Any], delta: dict[str, Any]) -> None:
    """Log probabilities come token by token, in lists to be joined; anything else replaces what stood there."""
    for name, value in delta.items():
        before = extra.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            for key, part in value.items():
                joined = [*before[key], *part] if isinstance(part, list) and isinstance(before.get(key), list) else part
                before[key] = joined
        else:
            extra[name] = dict(value) if isinstance(value, dict) else value
