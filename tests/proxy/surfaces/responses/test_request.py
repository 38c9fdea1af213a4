"""What a Responses request may say, what it becomes in Chat Completions' words, and what is refused by name."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.chat_request import ChatRequest, Reasoning
from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import Preferences
from proxy.surfaces.responses.request import read_response
from proxy.surfaces.suffixes import suffix_of
from proxy.surfaces.surface import SurfaceRequest

NAMES = ("NousResearch/Hermes-4-405B", "hermes-4-405b")
USER = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"zone": {"type": "string"}}}
TOOL = {"type": "function", "name": "time", "description": "Tells the time", "parameters": SCHEMA, "strict": True}
FUNCTION = {name: value for name, value in TOOL.items() if name != "type"}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "time",
    "arguments": "{}",
    "status": "completed",
}
CALLED = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "noon"}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "noon"}


def read(**fields: Any) -> SurfaceRequest:
    body = {"model": "hermes-4-405b", "input": "Hello"} | fields
    return read_response(orjson.dumps(body), lambda model: suffix_of(model, NAMES))


def request(**fields: Any) -> ChatRequest:
    return read(**fields).chat


def heard(*items: Any) -> list[dict[str, Any]]:
    return list(request(input=list(items)).messages)


def refusal(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(ApiError) as refused:
        read(**fields)
    assert len(refused.value.message) < 300
    return refused.value.code, refused.value.param


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def answer(*texts: str) -> dict[str, Any]:
    parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": parts}


# The conversation


def test_a_string_is_a_user_s_message() -> None:
    assert request().messages == [USER]
    assert heard(USER) == heard({"type": "message", **USER}) == [USER]
    assert heard({"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}) == [USER]


def test_instructions_are_the_first_system_message_and_a_developer_s_are_another() -> None:
    messages = request(instructions="Be brief.", input=[{"role": "developer", "content": "Be kind."}, USER]).messages
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be kind."}, USER]


def test_parts_of_a_message_are_lines() -> None:
    parts = [{"type": "input_text", "text": "Hello"}, {"type": "input_text", "text": "there"}]
    assert heard({"role": "user", "content": parts}) == [{"role": "user", "content": "Hello\nthere"}]


def test_thought_text_and_calls_in_a_row_are_one_turn() -> None:
    assert heard(USER, thought("Hm"), answer("One moment."), CALL, {**CALL, "call_id": "c2"}, OUTPUT) == [
        USER,
        {
            "role": "assistant",
            "content": "One moment.",
            "reasoning": "Hm",
            "tool_calls": [CALLED, {**CALLED, "id": "c2"}],
        },
        TOLD,
    ]


def test_a_call_without_a_text_has_null_content() -> None:
    assert heard(USER, CALL, OUTPUT)[1] == {"role": "assistant", "content": None, "tool_calls": [CALLED]}


def test_what_is_said_after_a_call_stays_in_its_turn() -> None:
    """Between a call and its output no other message may stand."""
    turn = heard(USER, answer("a"), CALL, thought("Hm"), answer("b"), OUTPUT)[1]
    assert turn == {"role": "assistant", "content": "a\nb", "reasoning": "Hm", "tool_calls": [CALLED]}


def test_two_answers_are_two_turns() -> None:
    assert heard(thought("1"), answer("a"), thought("2"), thought("3"), answer("b", "c"), USER) == [
        {"role": "assistant", "content": "a", "reasoning": "1"},
        {"role": "assistant", "content": "b\nc", "reasoning": "2\n3"},
        USER,
    ]


def test_of_a_thought_its_summary_serves_and_an_encrypted_one_is_passed_over() -> None:
    summary = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "In short"}]}
    assert heard(USER, summary, answer("a"))[1]["reasoning"] == "In short"
    secret = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "gAAA"}
    assert heard(USER, secret, answer("a")) == [USER, {"role": "assistant", "content": "a"}]
    assert refusal(input=[secret]) == ("missing_required_parameter", "input")


def test_a_refusal_is_what_the_model_said() -> None:
    item = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert heard(USER, item)[1] == {"role": "assistant", "content": "No."}


def test_an_output_may_be_parts() -> None:
    assert heard(CALL, {**OUTPUT, "output": [{"type": "input_text", "text": "noon"}]})[1] == TOLD


@pytest.mark.parametrize(
    ("item", "code", "param"),
    [
        ("Hello", "invalid_request", "input[0]"),
        ({"role": "tool", "content": ""}, "invalid_request", "input[0].role"),
        ({"role": ["user"], "content": ""}, "invalid_request", "input[0].role"),
        ({"role": "user"}, "invalid_request", "input[0].content"),
        ({"role": "user", "content": [{"type": "input_text"}]}, "invalid_request", "input[0].content.text"),
        ({"role": "user", "content": [{"type": "input_image"}]}, "unsupported_modality", "input[0].content"),
        ({"role": "user", "content": ["Hello"]}, "unsupported_modality", "input[0].content"),
        ({**CALL, "arguments": {}}, "invalid_request", "input[0].arguments"),
        ({**CALL, "name": None}, "invalid_request", "input[0].name"),
        ({"type": "function_call_output", "output": "noon"}, "invalid_request", "input[0].call_id"),
        ({**OUTPUT, "output": 12}, "invalid_request", "input[0].output"),
        ({"type": "reasoning", "summary": "Hm"}, "invalid_request", "input[0].summary"),
        ({"type": "reasoning", "content": ["Hm"]}, "invalid_request", "input[0].content"),
        ({"type": "web_search_call"}, "unsupported_parameter", "input[0].type"),
        ({"type": "item_reference", "id": "msg_1"}, "unsupported_parameter", "input[0]"),
        ({"type": ["message"]}, "unsupported_parameter", "input[0].type"),
    ],
)
def test_an_item_that_cannot_be_read_is_named(item: Any, code: str, param: str) -> None:
    assert refusal(input=[item]) == (code, param)


@pytest.mark.parametrize("given", [None, "", [], {}, 1])
def test_there_must_be_an_input(given: Any) -> None:
    assert refusal(input=given) == ("missing_required_parameter", "input")


# Tools and formats, flat here and nested there


def test_tools_are_nested() -> None:
    call = request(tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    assert call.parameters == {
        "tools": [{"type": "function", "function": FUNCTION}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
    }
    assert request(tools=[{"type": "function", "name": "f"}]).parameters["tools"] == [
        {"type": "function", "function": {"name": "f"}}
    ]


def test_a_choice_may_name_one_tool_or_narrow_them() -> None:
    both = [TOOL, {**TOOL, "name": "date"}]
    chosen = request(tools=both, tool_choice={"type": "function", "name": "date"}).parameters
    assert chosen["tool_choice"] == {"type": "function", "function": {"name": "date"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "date"}]}
    narrowed = request(tools=both, tool_choice=allowed).parameters
    assert [tool["function"]["name"] for tool in narrowed["tools"]] == ["date"]
    assert narrowed["tool_choice"] == "required"


def test_what_clients_always_say_about_tools_needs_none() -> None:
    assert request(tools=[], tool_choice="auto", parallel_tool_calls=True).parameters == {}
    assert refusal(tool_choice="required") == ("invalid_request", "tool_choice")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": ["time"]}, "invalid_request", "tools[0]"),
        ({"tools": [{"type": "function"}]}, "invalid_request", "tools[0].name"),
        ({"tools": [{**TOOL, "parameters": []}]}, "invalid_request", "tools[0].parameters"),
        ({"tools": [TOOL], "tool_choice": "time"}, "invalid_request", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "invalid_request", "tool_choice.name"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "unsupported_parameter", "tool_choice.type"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "tools": [1]}},
            "invalid_request",
            "tool_choice.tools[0].name",
        ),
    ],
)
def test_a_tool_that_cannot_be_offered_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    assert refusal(**fields) == (code, param)


def test_a_format_is_nested() -> None:
    wish = {"type": "json_schema", "name": "time", "schema": SCHEMA, "strict": True}
    assert request(text={"format": wish}).parameters["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "time", "schema": SCHEMA, "strict": True},
    }
    assert request(text={"format": {"type": "json_object"}}).parameters == {"response_format": {"type": "json_object"}}
    assert request(text={"format": {"type": "text"}}).parameters == request(text={}).parameters == {}
    assert refusal(text={"format": {"type": "json_schema", "name": "x"}}) == ("invalid_request", "text.format.schema")
    assert refusal(text={"format": {"type": "grammar"}}) == ("invalid_request", "text.format.type")


# Everything else


def test_the_settings_have_one_meaning_on_every_surface() -> None:
    call = request(
        max_output_tokens=20,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stream=True,
        reasoning={"effort": "low"},
        safety_identifier="u1",
        metadata={"run": "7"},
    )
    assert call.max_tokens == 20
    assert call.parameters == {"temperature": 0.5, "top_p": 0.9, "top_k": 5}
    assert call.stream
    assert call.reasoning == Reasoning(enabled=True, effort="low")
    assert (call.user, call.metadata) == ("u1", {"run": "7"})
    assert request(model="hermes-4-405b:thinking").reasoning.enabled
    assert read(provider={"sort": "price"}, reasoning_format="inline").reasoning_format == "inline"
    assert read(provider={"sort": "price"}).preferences == Preferences(sort="price")


def test_all_text_counts_for_the_ceiling() -> None:
    bare = request().prompt_bytes
    assert bare == len("Hello")
    assert request(instructions="Be brief.").prompt_bytes == bare + len("Be brief.")
    assert request(tools=[TOOL]).prompt_bytes > bare + len(orjson.dumps(SCHEMA))
    assert request(input=[thought("x" * 100), USER]).prompt_bytes > bare + 100


def test_the_probabilities_of_tokens_are_asked_for_in_either_way() -> None:
    assert request(top_logprobs=2).parameters == {"logprobs": True, "top_logprobs": 2}
    assert request(include=["message.output_text.logprobs"]).parameters == {"logprobs": True, "top_logprobs": 0}
    assert request(top_logprobs=0).parameters == {}


@pytest.mark.parametrize(
    "field",
    [{"previous_response_id": "resp_1"}, {"conversation": "c"}, {"background": True}, {"prompt": {"id": "p"}}],
)
def test_what_is_kept_nowhere_is_refused_by_name(field: dict[str, Any]) -> None:
    assert refusal(**field) == ("unsupported_parameter", next(iter(field)))


def test_what_has_no_effect_is_named() -> None:
    call = read(
        store=True,
        truncation="auto",
        text={"verbosity": "low"},
        reasoning={"summary": "concise", "context": "auto", "effort": "low"},
        include=["reasoning.encrypted_content", "message.output_text.logprobs"],
        stream_options={"include_obfuscation": True},
        prompt_cache_key="k",
        **{"x\r\ny": 1},
    )
    assert call.ignored == (
        "include",
        "prompt_cache_key",
        "reasoning.context",
        "reasoning.summary",
        "store",
        "stream_options.include_obfuscation",
        "text.verbosity",
        "truncation",
        "x%0D%0Ay",
    )
    assert refusal(store=True, provider={"require_parameters": True}) == ("unsupported_parameter", "store")


def test_what_asks_for_nothing_is_not_named() -> None:
    harmless = {"store": False, "background": False, "previous_response_id": None, "truncation": "disabled"}
    assert read(**harmless, stream_options={"include_obfuscation": False}, include=[]).ignored == ()
    assert read(reasoning={"summary": "auto"}).ignored == ()


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "9"}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"instructions": ["Be brief."]}, "instructions"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"summary": "short"}}, "reasoning.summary"),
        ({"text": "json"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"include": "logprobs"}, "include"),
        ({"truncation": "some"}, "truncation"),
        ({"store": "yes"}, "store"),
        ({"user": "\0"}, "user"),
        ({"safety_identifier": "x" * 513}, "safety_identifier"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"tools": {}}, "tools"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"reasoning_format": "none "}, "reasoning_format"),
    ],
)
def test_a_wrong_value_is_named(field: dict[str, Any], param: str) -> None:
    assert refusal(**field) == ("invalid_request", param)


def test_the_answer_says_the_settings_again() -> None:
    echoed = read(
        instructions="Be brief.",
        tools=[TOOL],
        tool_choice={"type": "function", "name": "time"},
        parallel_tool_calls=False,
        temperature=0.5,
        max_output_tokens=20,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_object"}},
        metadata={"run": "7"},
        store=True,
    ).echoed
    assert echoed["instructions"] == "Be brief."
    assert echoed["tools"] == [TOOL]
    assert echoed["tool_choice"] == {"type": "function", "name": "time"}
    assert echoed["parallel_tool_calls"] is False
    assert (echoed["temperature"], echoed["top_p"], echoed["max_output_tokens"]) == (0.5, None, 20)
    assert echoed["reasoning"] == {"effort": "low", "summary": "detailed"}
    assert echoed["text"] == {"format": {"type": "json_object"}}
    assert (echoed["metadata"], echoed["store"]) == ({"run": "7"}, False)


FULL = {
    "input": [USER, thought("Hm"), answer("One moment."), CALL, OUTPUT],
    "tools": [TOOL],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}]},
    "text": {"format": {"type": "json_schema", "name": "time", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "stream_options": {"include_obfuscation": False},
    "metadata": {"run": "7"},
    "temperature": 1,
    "top_logprobs": 2,
    "max_output_tokens": 20,
    "instructions": "Be brief.",
}
ODD = st.sampled_from([None, True, 0, -1, 1.5, "", "x", [], [None], [[]], {}, {"type": None}, {"type": {}}])


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, child in inner for deeper in paths(child, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    if not path:
        return odd
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], odd)
    return copy


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(paths(FULL)[1:]), ODD)
def test_one_odd_value_anywhere_is_read_or_refused(path: tuple[Any, ...], odd: Any) -> None:
    call = None
    with contextlib.suppress(ApiError):
        call = read(**replaced(FULL, path, odd))
    if call is not None:
        assert all(type(message["content"]) in (str, type(None)) for message in call.chat.messages)
        orjson.dumps([call.chat.messages, call.chat.parameters, call.echoed])
