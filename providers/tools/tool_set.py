"""The tools of a request, as values: their schemas, their names, and what the caller says of calling them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolSet:
    """The tools that a request offers to the model, with its `tool_choice` and `parallel_tool_calls`.

    `schemas` are OpenAI's tool objects as the caller gave them, `names` the names of their functions. `required`: the
    answer must call a tool; `must_call` is the one that it must call, where the caller names it.
    """

    schemas: Sequence[Any]
    required: bool = False
    must_call: str | None = None
    parallel: bool = True
    names: frozenset[str] = field(default=frozenset())


def read_tool_set(parameters: Mapping[str, Any]) -> ToolSet | None:
    """The tools that `parameters` (OpenAI's names) show to the model; None where there are none.

    A `tool_choice` of "none" still shows them. A choice that names no function asks for nothing.
    """
    schemas, choice = parameters.get("tools"), parameters.get("tool_choice")
    if not schemas:
        return None
    function = choice.get("function") if isinstance(choice, Mapping) else None
    must_call = function.get("name") if isinstance(function, Mapping) else None
    return ToolSet(
        schemas=schemas,
        required=choice == "required" or must_call is not None,
        must_call=must_call if isinstance(must_call, str) else None,
        parallel=parameters.get("parallel_tool_calls") is not False,
        names=frozenset(filter(None, map(tool_name, schemas))),
    )


def tool_name(tool: Any) -> str | None:
    """The name of the function in one of OpenAI's tools or tool calls; None where it has none."""
    function = tool.get("function") if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None
