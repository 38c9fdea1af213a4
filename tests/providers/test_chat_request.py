"""A request is read once: what its fields mean is worked out when it is made, and nobody looks it up again."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import orjson
import pytest

from providers.adapter import ADAPTERS, Target, prompt_ceiling_tokens
from providers.chat_request import ChatRequest, Message, Reasoning
from providers.formats.prompt import ask_again
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from providers.profiles import CAPABILITIES
from providers.tokenizer import count_request
from providers.tools.tool_set import ToolSet

USER: Message = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "add"}}
NAMED = {"type": "function", "function": {"name": "add"}}
SCHEMA = {"type": "object"}
JSON = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def chat(*messages: Message, thinks: bool | None = None, **parameters: Any) -> ChatRequest:
    return ChatRequest(messages or (USER,), parameters, None, False, False, Reasoning(thinks), "m")


# What follows from the fields

TOOL_SETS: list[tuple[dict[str, Any], ToolSet | None, ToolSet | None]] = [
    ({}, None, None),
    ({"tools": []}, None, None),
    ({"tool_choice": "required"}, None, None),
    ({"tools": [TOOL]}, ToolSet([TOOL], names=frozenset({"add"})), ToolSet([TOOL], names=frozenset({"add"}))),
    ({"tools": [TOOL], "tool_choice": "none"}, None, ToolSet([TOOL], names=frozenset({"add"}))),
    ({"tools": [1], "tool_choice": "required"}, ToolSet([1], required=True), ToolSet([1], required=True)),
    ({"tools": [1], "tool_choice": NAMED}, ToolSet([1], True, "add"), ToolSet([1], True, "add")),
    ({"tools": [1], "parallel_tool_calls": False}, ToolSet([1], parallel=False), ToolSet([1], parallel=False)),
]


@pytest.mark.parametrize(("parameters", "tools", "shown"), TOOL_SETS)
def test_the_tools_that_may_be_called_and_those_that_are_shown(
    parameters: dict[str, Any], tools: ToolSet | None, shown: ToolSet | None
) -> None:
    request = chat(**parameters)
    assert (request.tools, request.shown_tools) == (tools, shown)
    assert request.speaks_of_tools == (shown is not None) == ("tools" in request.needs)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "content": "3", "tool_call_id": "c"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "add"}}]},
    ],
)
def test_a_history_of_calls_speaks_of_tools_too(message: Message) -> None:
    request = chat(USER, message)
    assert request.speaks_of_tools
    assert request.tools is None
    assert request.needs == frozenset()


@pytest.mark.parametrize(
    ("parameters", "choices", "divisible"),
    [
        ({}, 1, True),
        ({"n": 1}, 1, True),
        ({"n": 3}, 3, False),
        ({"logprobs": True}, 1, False),
        ({"logprobs": False, "presence_penalty": 0}, 1, True),
        ({"repetition_penalty": 1.1}, 1, False),
        ({"structured_outputs": {"regex": "a"}}, 1, False),
    ],
)
def test_how_many_answers_are_wanted_and_whether_one_may_come_in_parts(
    parameters: dict[str, Any], choices: int, divisible: bool
) -> None:
    request = chat(**parameters)
    assert (request.choices, request.divisible) == (choices, divisible)


def test_what_the_model_reads_bounds_the_prompt() -> None:
    assert chat({"role": "user", "content": "é"}).prompt_bytes == 2
    named = {"role": "user", "content": "é", "name": "x"}
    assert chat(USER, named).prompt_bytes == 5 + len(orjson.dumps(named))
    assert chat(tools=[TOOL], response_format=JSON).prompt_bytes == 5 + len(orjson.dumps([TOOL])) + len(
        orjson.dumps(JSON)
    )
    assert replace(chat(USER), messages=(), prompt="naïve").prompt_bytes == 6


# It cannot be otherwise


def test_what_follows_from_a_field_follows_a_changed_field() -> None:
    request = chat(tools=[TOOL], n=2, response_format=JSON)
    bare = replace(request, parameters={})
    assert (bare.tools, bare.format, bare.choices, bare.needs, bare.prompt_bytes) == (None, None, 1, frozenset(), 5)
    assert bare == chat()


@pytest.mark.parametrize("name", ["tools", "shown_tools", "format", "choices", "needs", "divisible", "prompt_bytes"])
def test_what_follows_from_a_field_cannot_be_said_otherwise(name: str) -> None:
    with pytest.raises(ValueError, match="init=False"):
        replace(chat(tools=[TOOL]), **{name: None})


def test_a_second_try_offers_no_tools_and_wants_the_same_json() -> None:
    again = ask_again(chat(tools=[TOOL], response_format=JSON), "x", Problem("is wrong"))
    assert (again.tools, again.format, again.needs) == (None, JsonFormat(SCHEMA), {"response_format"})


# It is worked out once


class Sealed(dict[str, Any]):
    """A value that can be sent, and that nobody may look into once it is `closed`."""

    closed = False

    def _look(self, *_: Any) -> Any:
        if Sealed.closed:
            raise AssertionError("what a request means is read out of its parameters again")
        return super()

    def __getitem__(self, name: str) -> Any:
        return self._look().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self._look().get(name, default)


class SealedParameters(Mapping[str, Any]):
    """Parameters that can be handed on, while those that mean something to us can no longer be asked for by name."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Any:
        if Sealed.closed and name in ("tools", "tool_choice", "parallel_tool_calls", "n", "structured_outputs"):
            refuse(name)
        return self._values[name]

    def items(self) -> Any:
        return self._values.items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def refuse(name: str) -> NoReturn:
    raise AssertionError(f"{name} is read out of the parameters again")


@pytest.fixture
def sealed(monkeypatch: pytest.MonkeyPatch) -> ChatRequest:
    schema = Sealed(type="json_schema", json_schema=Sealed(name="x", schema=SCHEMA))
    parameters = SealedParameters(
        {"tools": [TOOL], "tool_choice": Sealed(NAMED), "response_format": schema, "n": 2, "structured_outputs": {}}
    )
    request = ChatRequest((USER,), parameters, None, False, False, Reasoning(True), "m")
    monkeypatch.setattr(Sealed, "closed", True)
    return request


def test_the_seal_holds(sealed: ChatRequest) -> None:
    for name in ("tools", "n"):
        with pytest.raises(AssertionError):
            sealed.parameters.get(name)
    with pytest.raises(AssertionError):
        sealed.parameters["response_format"].get("type")
    with pytest.raises(AssertionError):
        replace(sealed, model="x")


@pytest.mark.parametrize("supports", [frozenset(), CAPABILITIES, CAPABILITIES - {"tools"}, frozenset({"prefix"})])
@pytest.mark.parametrize("dialect", ADAPTERS)
def test_an_adapter_reads_no_parameter_again(sealed: ChatRequest, dialect: str, supports: frozenset[str]) -> None:
    adapter, target = ADAPTERS[dialect], Target("m", supports)
    adapter.lacks(sealed, target)
    means = adapter.means(sealed, target)
    body = orjson.loads(adapter.encode(sealed, target, means, max_tokens=9, stream=True))
    assert ("tools" in body) == ("tools" in supports)
    emulation = adapter.emulation(sealed, means, seed="s")
    assert (emulation is None) == ("tools" in supports)


def test_nor_does_who_counts_its_prompt(sealed: ChatRequest) -> None:
    assert 0 < count_request(sealed) <= prompt_ceiling_tokens(sealed, emulated=True)
