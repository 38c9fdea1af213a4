"""What a Messages request may say, what it becomes in OpenAI's words, and what it is told when it says it wrong."""

from typing import Any

import orjson
import pytest

from providers.chat_request import ChatRequest, Reasoning
from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import NO_PREFERENCES, Preferences
from proxy.surfaces.messages.request import read_count_request, read_messages_request
from proxy.surfaces.suffixes import suffix_of
from proxy.surfaces.surface import SurfaceRequest

NAMES = ("NousResearch/Hermes-4-405B", "hermes-4-405b")
USER = {"role": "user", "content": "Hello"}
SCHEMA = {"type": "object", "properties": {"zone": {"type": "string"}}}
TOOL = {"name": "time", "description": "Tells the time", "input_schema": SCHEMA}
FUNCTION = {"type": "function", "function": {"name": "time", "parameters": SCHEMA, "description": "Tells the time"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "time", "input": {"zone": "Zürich"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "noon"}


def read(**fields: Any) -> SurfaceRequest:
    body = {"model": "hermes-4-405b", "max_tokens": 2_000, "messages": [USER]} | fields
    return read_messages_request(orjson.dumps(body), lambda model: suffix_of(model, NAMES))


def request(**fields: Any) -> ChatRequest:
    return read(**fields).chat


def said(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return list(request(messages=[{"role": role, "content": content} for role, content in turns]).messages)


def refusal(**fields: Any) -> tuple[str, str | None]:
    with pytest.raises(ApiError) as refused:
        read(**fields)
    return refused.value.code, refused.value.param


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "cache_control": {"type": "ephemeral"}}


# What is said


def test_a_text_and_a_text_block_are_the_same() -> None:
    assert said(("user", "Hello")) == said(("user", [text("Hello")])) == [USER]


def test_a_system_prompt_is_a_string_or_text_blocks() -> None:
    assert request(system="Be brief.").messages == [{"role": "system", "content": "Be brief."}, USER]
    assert request(system=[text("Be brief."), text("Be kind.")]).messages[0]["content"] == "Be brief.\nBe kind."
    assert request(system="").messages == [USER]


def test_turns_in_a_row_of_one_role_are_one() -> None:
    assert said(("user", "One"), ("user", [text("Two")]), ("assistant", "Three"), ("user", "Four")) == [
        {"role": "user", "content": "One\nTwo"},
        {"role": "assistant", "content": "Three"},
        {"role": "user", "content": "Four"},
    ]


def test_a_call_and_its_result() -> None:
    thought = {"type": "thinking", "thinking": "Let me see.", "signature": "whatever it was"}
    hidden = {"type": "redacted_thinking", "data": "b3BhcXVl"}
    assert said(
        ("user", "What time is it?"),
        ("assistant", [thought, hidden, text("I look."), CALL]),
        ("user", [RESULT, text("Well?")]),
    )[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "Let me see.",
            "tool_calls": [
                {
                    "id": "toolu_1",
                    "type": "function",
                    "function": {"name": "time", "arguments": '{"zone":"Zürich"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "noon"},
        {"role": "user", "content": "Well?"},
    ]


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ({"content": "noon"}, "noon"),
        ({"content": [text("noon"), text("sharp")]}, "noon\nsharp"),
        ({"content": []}, ""),
        ({}, ""),
        ({"content": "no clock", "is_error": True}, "Error: no clock"),
        ({"content": "noon", "is_error": False}, "noon"),
    ],
)
def test_results_of_tools(result: dict[str, Any], content: str) -> None:
    block = {"type": "tool_result", "tool_use_id": "toolu_1", **result}
    assert said(("user", "Hi"), ("assistant", [CALL]), ("user", [block]))[2:] == [
        {"role": "tool", "tool_call_id": "toolu_1", "content": content}
    ]


def test_results_come_before_what_the_user_says_beside_them() -> None:
    second = {**RESULT, "tool_use_id": "toolu_2"}
    roles = [
        turn["role"] for turn in said(("user", "Hi"), ("assistant", [CALL]), ("user", [text("So"), RESULT, second]))
    ]
    assert roles == ["user", "assistant", "tool", "tool", "user"]


def test_a_turn_of_thoughts_nobody_can_read() -> None:
    hidden = {"type": "redacted_thinking", "data": "b3BhcXVl"}
    assert said(("user", "Hi"), ("assistant", [hidden]), ("user", "Go on"))[1] == {"role": "assistant", "content": ""}


def test_documents_that_are_text() -> None:
    document = {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": "Once upon a time"},
        "title": "A tale",
    }
    found = {"type": "search_result", "title": "Hit", "source": "https://example.org", "content": [text("Found")]}
    assert said(("user", [document, found, text("Sum up")])) == [
        {"role": "user", "content": "A tale\nOnce upon a time\nHit\nhttps://example.org\nFound\nSum up"}
    ]


def test_a_system_turn_in_the_middle() -> None:
    assert said(("user", "Hi"), ("system", "Now in French."))[1] == {"role": "system", "content": "Now in French."}


def test_the_prompt_is_bounded_by_its_bytes() -> None:
    wordy = request(system="Ä" * 100, tools=[TOOL])
    assert wordy.prompt_bytes == 200 + len("Hello") + len(orjson.dumps(wordy.parameters["tools"]))


# How it is to be answered


def test_sampling() -> None:
    asked = request(temperature=1, top_p=0.5, top_k=40, stop_sequences=["END"])
    assert asked.parameters == {"temperature": 1, "top_p": 0.5, "top_k": 40, "stop": ["END"]}
    assert request(stop_sequences=[]).parameters == {}
    assert asked.max_tokens == 2_000


def test_a_stream_tells_its_usage() -> None:
    assert (request(stream=True).stream, request(stream=True).include_usage) == (True, True)
    assert not request().stream


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        ({"type": "tool", "name": "time"}, {"tool_choice": {"type": "function", "function": {"name": "time"}}}),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
        ({"type": "auto", "disable_parallel_tool_use": False}, {"tool_choice": "auto"}),
        (None, {}),
    ],
)
def test_tools_and_their_choice(choice: Any, expected: dict[str, Any]) -> None:
    assert request(tools=[TOOL], tool_choice=choice).parameters == {"tools": [FUNCTION], **expected}


def test_no_tools_are_no_tools() -> None:
    assert request(tools=[], tool_choice={"type": "auto"}).parameters == {}


def test_a_schema_for_the_answer() -> None:
    wanted = {"format": {"type": "json_schema", "schema": SCHEMA}}
    assert request(output_config=wanted).parameters == {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        }
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reasoning()),
        ({"thinking": {"type": "enabled", "budget_tokens": 1_024}}, Reasoning(True, None, 1_024)),
        ({"thinking": {"type": "disabled"}}, Reasoning(False)),
        ({"thinking": {"type": "adaptive"}}, Reasoning(True)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning(True, exclude=True)),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, Reasoning(True, "low")),
        ({"output_config": {"effort": "low"}}, Reasoning()),
        ({"model": "hermes-4-405b:thinking"}, Reasoning(True)),
        ({"model": "hermes-4-405b:thinking", "thinking": {"type": "disabled"}}, Reasoning(False)),
        ({"reasoning": {"effort": "high", "exclude": True}}, Reasoning(True, "high", exclude=True)),
        ({"thinking": {"type": "adaptive"}, "reasoning": {"exclude": True}}, Reasoning(True, exclude=True)),
    ],
)
def test_thinking(fields: dict[str, Any], expected: Reasoning) -> None:
    assert request(**fields).reasoning == expected


def test_preferences_as_in_chat() -> None:
    assert read().preferences is NO_PREFERENCES
    asked = read(model="hermes-4-405b:floor", provider={"order": ["nebius"]}, reasoning_format="none")
    assert asked.preferences == Preferences(order=("nebius",), sort="price")
    assert asked.reasoning_format == "none"


def test_a_geography_is_kept_to() -> None:
    assert read(inference_geo="US").preferences.regions == {"us"}
    assert read(inference_geo="global").preferences is NO_PREFERENCES


def test_who_asks() -> None:
    asked = request(metadata={"user_id": "u-1", "team": "blue"})
    assert (asked.user, asked.metadata) == ("u-1", {"team": "blue"})


def test_what_nobody_understands_is_named() -> None:
    asked = read(
        service_tier="auto",
        container="c",
        tools=[{**TOOL, "input_examples": [], "cache_control": {"type": "ephemeral"}}],
        output_config={"effort": "max", "tone": "grave"},
    )
    assert asked.ignored == (
        "container",
        "output_config.effort",
        "output_config.tone",
        "service_tier",
        "tools.input_examples",
    )


def test_what_nobody_understands_is_refused_where_all_is_required() -> None:
    strict = {"require_parameters": True}
    assert refusal(service_tier="auto", provider=strict) == ("unsupported_parameter", "service_tier")


def test_a_count_needs_no_wish_for_an_answer() -> None:
    body = {"model": "hermes-4-405b", "messages": [USER], "thinking": {"type": "enabled", "budget_tokens": 9_000}}
    counted = read_count_request(orjson.dumps(body), lambda model: suffix_of(model, NAMES))
    assert (counted.max_tokens, counted.reasoning.enabled) == (None, True)


# Refusals

IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
PDF = {"type": "document", "source": {"type": "url", "url": "https://example.org/x.pdf"}}
SEARCH = {"type": "web_search_20260209", "name": "web_search"}


def turn(content: Any, role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content}, USER]}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": "claude"}, "model_not_found", "model"),
        ({"max_tokens": None}, "missing_required_parameter", "max_tokens"),
        ({"max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"max_tokens": True}, "invalid_request", "max_tokens"),
        ({"messages": []}, "missing_required_parameter", "messages"),
        ({"messages": "Hello"}, "invalid_request", "messages"),
        ({"messages": [USER, "Hello"]}, "invalid_request", "messages[1]"),
        (turn("Hello", "robot"), "invalid_request", "messages[0].role"),
        (turn("Hello", "tool"), "invalid_request", "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "invalid_request", "messages[0].role"),
        (turn(None), "invalid_request", "messages[0].content"),
        (turn({"type": "text"}), "invalid_request", "messages[0].content"),
        (turn(["Hello"]), "invalid_request", "messages[0].content[0]"),
        (turn([{"type": ["text"]}]), "invalid_request", "messages[0].content[0]"),
        (turn([{"type": "text"}]), "invalid_request", "messages[0].content[0].text"),
        (turn([text("Look"), IMAGE]), "unsupported_modality", "messages[0].content[1]"),
        (turn([PDF]), "unsupported_modality", "messages[0].content[0]"),
        (turn([{**PDF, "source": "x"}]), "invalid_request", "messages[0].content[0].source"),
        (turn([{**RESULT, "content": [IMAGE]}]), "unsupported_modality", "messages[0].content[0].content[0]"),
        (turn([{**RESULT, "tool_use_id": None}]), "invalid_request", "messages[0].content[0].tool_use_id"),
        (turn([{**RESULT, "is_error": "yes"}]), "invalid_request", "messages[0].content[0].is_error"),
        (turn([CALL]), "unsupported_modality", "messages[0].content[0]"),
        (turn([RESULT], "assistant"), "unsupported_modality", "messages[0].content[0]"),
        (turn([{**CALL, "input": "{}"}], "assistant"), "invalid_request", "messages[0].content[0].input"),
        (turn([{**CALL, "id": 1}], "assistant"), "invalid_request", "messages[0].content[0].id"),
        (turn([{"type": "thinking"}], "assistant"), "invalid_request", "messages[0].content[0].thinking"),
        (turn([{"type": "server_tool_use"}], "assistant"), "unsupported_modality", "messages[0].content[0]"),
        ({"messages": [USER, {"role": "assistant", "content": "Well"}]}, "invalid_request", "messages"),
        ({"system": 1}, "invalid_request", "system"),
        ({"system": [IMAGE]}, "unsupported_modality", "system[0]"),
        ({"temperature": 3}, "invalid_request", "temperature"),
        ({"top_k": 1.5}, "invalid_request", "top_k"),
        ({"stop_sequences": "END"}, "invalid_request", "stop_sequences"),
        ({"stop_sequences": [""]}, "invalid_request", "stop_sequences"),
        ({"stream": "yes"}, "invalid_request", "stream"),
        ({"tools": {}}, "invalid_request", "tools"),
        ({"tools": ["time"]}, "invalid_request", "tools[0]"),
        ({"tools": [TOOL, SEARCH]}, "invalid_request", "tools[1].type"),
        ({"tools": [{**TOOL, "type": []}]}, "invalid_request", "tools[0].type"),
        ({"tools": [{**TOOL, "name": ""}]}, "invalid_request", "tools[0].name"),
        ({"tools": [{"name": "time"}]}, "invalid_request", "tools[0].input_schema"),
        ({"tools": [{**TOOL, "description": 1}]}, "invalid_request", "tools[0].description"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "invalid_request", "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {}}, "invalid_request", "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "required"}}, "invalid_request", "tool_choice.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "date"}}, "invalid_request", "tool_choice.name"),
        ({"tool_choice": {"type": "any"}}, "invalid_request", "tool_choice"),
        ({"thinking": True}, "invalid_request", "thinking"),
        ({"thinking": {}}, "invalid_request", "thinking.type"),
        ({"thinking": {"type": "between_tools"}}, "invalid_request", "thinking.type"),
        ({"thinking": {"type": "enabled"}}, "invalid_request", "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2_000}}, "invalid_request", "thinking.budget_tokens"),
        ({"thinking": {"type": "adaptive", "display": "all"}}, "invalid_request", "thinking.display"),
        ({"output_config": {"effort": "huge"}}, "invalid_request", "output_config.effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "invalid_request", "output_config.format"),
        ({"metadata": {"user_id": 1}}, "invalid_request", "metadata.user_id"),
        ({"metadata": {"user_id": "a\0"}}, "invalid_request", "metadata.user_id"),
        ({"metadata": {"team": 1}}, "invalid_request", "metadata"),
        ({"provider": {"regions": ["EU"]}, "inference_geo": "us"}, "invalid_request", "inference_geo"),
        ({"reasoning_format": "loud"}, "invalid_request", "reasoning_format"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    assert refusal(**fields) == (code, param)


# Anything else

RICH: dict[str, Any] = {
    "model": "hermes-4-405b:thinking",
    "max_tokens": 2_000,
    "system": [text("Be brief.")],
    "messages": [
        {"role": "user", "content": [text("Hi"), {"type": "document", "source": {"type": "text", "data": "A tale"}}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm", "signature": "x"}, CALL]},
        {"role": "user", "content": [{**RESULT, "content": [text("noon")], "is_error": True}]},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "tool", "name": "time", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 1_024, "display": "summarized"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "metadata": {"user_id": "u", "team": "blue"},
    "stop_sequences": ["END"],
    "provider": {"order": ["nebius"]},
    "inference_geo": "eu",
}
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1.5,
    10**18,
    "",
    "x",
    [],
    [[]],
    [None],
    {},
    {"type": "text"},
    {"type": []},
    {"": 0},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in inside for found in places(one, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    if not path:
        return by
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


@pytest.mark.parametrize("path", places(RICH)[1:], ids=lambda path: ".".join(map(str, path)))
def test_whatever_stands_in_a_place_is_read_or_refused_by_name(path: tuple[Any, ...]) -> None:
    for odd in ODD:
        refused = None
        try:
            read(**replaced(RICH, path, odd))
        except ApiError as error:
            refused = error
        assert refused is None or (refused.status in (400, 404) and refused.param), (odd, refused)


def test_the_rich_one_is_read() -> None:
    assert read(**RICH).ignored == ()
