"""What a chat request may say, and what it is told when it says it wrong."""

from typing import Any

import orjson
import pytest

from providers.chat_request import ChatRequest, Reasoning
from proxy.entry.api_errors import ApiError
from proxy.routing.preferences import NO_PREFERENCES, Preferences
from proxy.surfaces.chat.request import read_chat
from proxy.surfaces.suffixes import suffix_of
from proxy.surfaces.surface import SurfaceRequest

NAMES = ("NousResearch/Hermes-4-405B", "hermes-4-405b")
USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}


def read_bytes(payload: bytes) -> SurfaceRequest:
    return read_chat(payload, lambda model: suffix_of(model, NAMES))


def read(**fields: Any) -> SurfaceRequest:
    return read_bytes(orjson.dumps({"model": "hermes-4-405b", "messages": [USER]} | fields))


def request(**fields: Any) -> ChatRequest:
    return read(**fields).chat


def refusal(payload: bytes) -> tuple[str, str | None]:
    with pytest.raises(ApiError) as refused:
        read_bytes(payload)
    assert refused.value.status in (400, 404)
    return refused.value.code, refused.value.param


def message(content: Any, role: str = "user", **more: Any) -> dict[str, Any]:
    return {"messages": [USER, {"role": role, "content": content} | more]}


# Bodies


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xef\xbb\xbf{}",
        b'{"model": NaN}',
        b'{"model": Infinity}',
        b'{"model": "\\ud800"}',
        b'{"model": "\xff"}',
        b'{"model": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"a":' * 1_000 + b"1" + b"}" * 1_000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        b'{"a":' * 1_000 + b'"\\u003a"' + b"}" * 1_000,
    ],
    ids=lambda payload: repr(payload[:20]),
)
def test_what_is_no_json_object(payload: bytes) -> None:
    assert refusal(payload) == ("invalid_json", None)


GOOD = b'"model":"hermes-4-405b","messages":[{"role":"user","content":"a"}]'


@pytest.mark.parametrize(
    "payload",
    [
        b'{"model":"x",%b}' % GOOD,
        b'{%b, "model" : "x"}' % GOOD,
        b'{%b,"\\u006dodel":"x"}' % GOOD,
        b'{%b,"tools":[{"a":1,"a":1}]}' % GOOD,
        b'{"user":"a\\u003a",%b,"model":"x"}' % GOOD,  # an escaped colon makes up for the one that is lost
        b'{"user":"a",%b,"user":"b\\u003A"}' % GOOD,
        b'{"":1,"":2,%b}' % GOOD,
    ],
)
def test_a_key_that_stands_twice_is_refused(payload: bytes) -> None:
    assert refusal(payload) == ("invalid_json", None)


@pytest.mark.parametrize(
    "payload",
    [
        b"{%b}" % GOOD,
        b'{ "user" : "a: b::\\u003a\\\\u003a" , %b }' % GOOD,
        b'{"user":"\\"model\\":\\"x\\"",%b}' % GOOD,
        b'{%b,"tools":[{"a":1},{"a":1}],"metadata":{"model":"x"}}' % GOOD,
        b'{"seed":%d,%b}' % (2**62, GOOD),
    ],
)
def test_colons_in_text_are_no_keys(payload: bytes) -> None:
    assert read_bytes(payload).chat.messages == [{"role": "user", "content": "a"}]


# Fields: what is wrong → its code and the parameter that is named

WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"model": None}, "missing_required_parameter", "model"),
    ({"model": ""}, "missing_required_parameter", "model"),
    ({"model": 7}, "invalid_request", "model"),
    ({"model": "gpt-5"}, "model_not_found", "model"),
    ({"model": "hermes-4-405b:free"}, "model_not_found", "model"),
    ({"model": "hermes-4-405b:"}, "model_not_found", "model"),
    ({"messages": None}, "missing_required_parameter", "messages"),
    ({"messages": []}, "missing_required_parameter", "messages"),
    ({"messages": "Hello"}, "invalid_request", "messages"),
    ({"messages": ["Hello"]}, "invalid_request", "messages[0]"),
    ({"messages": [USER, {"content": "x"}]}, "invalid_request", "messages[1].role"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "invalid_request", "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "invalid_request", "messages[0].role"),
    (message(None), "invalid_request", "messages[1].content"),
    (message(None, "tool"), "invalid_request", "messages[1].content"),
    (message(7), "invalid_request", "messages[1].content"),
    (message({"type": "text"}), "invalid_request", "messages[1].content"),
    (message(["Hello"]), "unsupported_modality", "messages[1].content"),
    (message([{"type": "image_url", "image_url": {"url": "…"}}]), "unsupported_modality", "messages[1].content"),
    (message([{"type": "input_audio"}]), "unsupported_modality", "messages[1].content"),
    (message([{"type": ["text"]}]), "unsupported_modality", "messages[1].content"),
    (message([{"type": "thinking", "thinking": "x"}]), "unsupported_modality", "messages[1].content"),
    (message([{"type": "text"}]), "invalid_request", "messages[1].content"),
    (message([{"type": "text", "text": 7}], "assistant"), "invalid_request", "messages[1].content"),
    ({"stream": "yes"}, "invalid_request", "stream"),
    ({"stream": 1}, "invalid_request", "stream"),
    ({"stream_options": []}, "invalid_request", "stream_options"),
    ({"stream_options": {"include_usage": "yes"}}, "invalid_request", "stream_options.include_usage"),
    ({"max_tokens": 0}, "invalid_request", "max_tokens"),
    ({"max_tokens": -1}, "invalid_request", "max_tokens"),
    ({"max_tokens": 1.5}, "invalid_request", "max_tokens"),
    ({"max_tokens": True}, "invalid_request", "max_tokens"),
    ({"max_completion_tokens": 0, "max_tokens": 5}, "invalid_request", "max_completion_tokens"),
    ({"temperature": 2.1}, "invalid_request", "temperature"),
    ({"temperature": -0.1}, "invalid_request", "temperature"),
    ({"temperature": "hot"}, "invalid_request", "temperature"),
    ({"temperature": True}, "invalid_request", "temperature"),
    ({"top_p": 1.1}, "invalid_request", "top_p"),
    ({"min_p": -1}, "invalid_request", "min_p"),
    ({"top_k": -2}, "invalid_request", "top_k"),
    ({"top_k": 1.5}, "invalid_request", "top_k"),
    ({"frequency_penalty": 3}, "invalid_request", "frequency_penalty"),
    ({"presence_penalty": -3}, "invalid_request", "presence_penalty"),
    ({"repetition_penalty": 11}, "invalid_request", "repetition_penalty"),
    ({"seed": 1 << 63}, "invalid_request", "seed"),
    ({"n": 0}, "invalid_request", "n"),
    ({"n": 129}, "invalid_request", "n"),
    ({"top_logprobs": 21}, "invalid_request", "top_logprobs"),
    ({"logprobs": 5}, "invalid_request", "logprobs"),
    ({"stop": 7}, "invalid_request", "stop"),
    ({"stop": ["a", 7]}, "invalid_request", "stop"),
    ({"tools": {}}, "invalid_request", "tools"),
    ({"parallel_tool_calls": "no"}, "invalid_request", "parallel_tool_calls"),
    ({"response_format": "json"}, "invalid_request", "response_format"),
    ({"logit_bias": []}, "invalid_request", "logit_bias"),
    ({"chat_template_kwargs": []}, "invalid_request", "chat_template_kwargs"),
    ({"chat_template_kwargs": {"thinking": "false"}}, "invalid_request", "chat_template_kwargs.thinking"),
    ({"response_format": {}}, "invalid_request", "response_format.type"),
    ({"response_format": {"type": "grammar"}}, "invalid_request", "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "invalid_request", "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {}}},
        "invalid_request",
        "response_format.json_schema.schema",
    ),
    ({"structured_outputs": "json"}, "invalid_request", "structured_outputs"),
    ({"structured_outputs": {"json": 7}}, "invalid_request", "structured_outputs.json"),
    ({"guided_json": "{"}, "invalid_request", "guided_json"),
    ({"guided_json": "[]"}, "invalid_request", "guided_json"),
    ({"guided_json": {}, "guided_regex": "a"}, "invalid_request", "guided_regex"),
    ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "invalid_request", "guided_choice"),
    ({"structured_outputs": {"regex": "a"}, "guided_choice": ["a"]}, "invalid_request", "guided_choice"),
    ({"reasoning": True}, "invalid_request", "reasoning"),
    ({"reasoning": {"enabled": "yes"}}, "invalid_request", "reasoning.enabled"),
    ({"reasoning": {"effort": "huge"}}, "invalid_request", "reasoning.effort"),
    ({"reasoning": {"max_tokens": 0}}, "invalid_request", "reasoning.max_tokens"),
    ({"reasoning": {"max_tokens": "9"}}, "invalid_request", "reasoning.max_tokens"),
    ({"reasoning": {"exclude": 1}}, "invalid_request", "reasoning.exclude"),
    ({"reasoning_effort": "huge"}, "invalid_request", "reasoning_effort"),
    ({"reasoning_effort": 3}, "invalid_request", "reasoning_effort"),
    ({"include_reasoning": "no"}, "invalid_request", "include_reasoning"),
    ({"reasoning_format": "xml"}, "invalid_request", "reasoning_format"),
    ({"provider": []}, "invalid_request", "provider"),
    ({"user": 7}, "invalid_request", "user"),
    ({"user": "x" * 513}, "invalid_request", "user"),
    ({"user": "a\0b"}, "invalid_request", "user"),
    ({"metadata": []}, "invalid_request", "metadata"),
    ({"metadata": {"a": 7}}, "invalid_request", "metadata"),
    ({"metadata": {"a": "x" * 513}}, "invalid_request", "metadata"),
    ({"metadata": {"x" * 65: "a"}}, "invalid_request", "metadata"),
    ({"metadata": {"a": "\0"}}, "invalid_request", "metadata"),
    ({"metadata": {"a\0": "b"}}, "invalid_request", "metadata"),
    ({"metadata": {str(i): "a" for i in range(17)}}, "invalid_request", "metadata"),
    ({"made_up": 1, "provider": {"require_parameters": True}}, "unsupported_parameter", "made_up"),
]


@pytest.mark.parametrize(("fields", "code", "param"), WRONG, ids=lambda value: str(value)[:60])
def test_a_field_that_is_wrong(fields: dict[str, Any], code: str, param: str) -> None:
    assert refusal(orjson.dumps({"model": "hermes-4-405b", "messages": [USER]} | fields)) == (code, param)


def test_a_model_missing_altogether() -> None:
    assert refusal(orjson.dumps({"messages": [USER]})) == ("missing_required_parameter", "model")


def test_a_refusal_does_not_hand_a_large_value_back() -> None:
    with pytest.raises(ApiError) as refused:
        read(model="x" * 1_000_000)
    assert len(refused.value.message) < 200


# What is understood


def test_the_least_request() -> None:
    assert request() == ChatRequest(
        messages=[USER],
        parameters={},
        max_tokens=None,
        stream=False,
        include_usage=False,
        reasoning=Reasoning(),
        model="hermes-4-405b",
    )
    assert (read().preferences, read().reasoning_format, read().ignored) == (NO_PREFERENCES, None, ())


def test_null_is_as_good_as_nothing() -> None:
    names = ("stream", "stream_options", "max_tokens", "temperature", "stop", "tools", "reasoning", "provider", "user")
    call = read(**dict.fromkeys((*names, "metadata", "reasoning_effort", "reasoning_format", "n", "response_format")))
    assert (call.chat, call.preferences) == (request(), NO_PREFERENCES)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": None}, 5),
    ],
)
def test_the_limit_of_output(fields: dict[str, Any], expected: int) -> None:
    assert request(**fields).max_tokens == expected


def test_stream_and_usage() -> None:
    streamed = request(stream=True, stream_options={"include_usage": True})
    assert (streamed.stream, streamed.include_usage) == (True, True)


@pytest.mark.parametrize(
    "parameter",
    [
        {"temperature": 0},
        {"temperature": 2},
        {"top_p": 1},
        {"top_k": -1},
        {"seed": -1},
        {"stop": "END"},
        {"stop": ["a", "b"]},
        {"stop": []},
        {"logit_bias": {"1": 5}},
        {"n": 128},
        {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": False},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True, "top_logprobs": 20},
        {"structured_outputs": {"choice": ["a"]}},
        {"min_tokens": 3},
        {"chat_template_kwargs": {"keep_cots": True}},
    ],
)
def test_a_parameter_is_passed_on_as_it_is(parameter: dict[str, Any]) -> None:
    assert request(**parameter).parameters == parameter
    assert read(**parameter).ignored == ()


def test_an_empty_list_of_tools_is_none() -> None:
    assert request(tools=[], tool_choice="auto", parallel_tool_calls=True).parameters == {}


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
AS_FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}}


@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object", "more": 1}}, {"response_format": {"type": "json_object"}}),
        (AS_FORMAT, AS_FORMAT),
        ({"guided_json": SCHEMA}, AS_FORMAT),
        ({"guided_json": orjson.dumps(SCHEMA).decode()}, AS_FORMAT),
        ({"structured_outputs": {"json": SCHEMA}}, AS_FORMAT),
        ({"structured_outputs": {"json_object": True}}, {"response_format": {"type": "json_object"}}),
        ({"guided_regex": "a+"}, {"structured_outputs": {"regex": "a+"}}),
        ({"guided_choice": ["a", "b"]}, {"structured_outputs": {"choice": ["a", "b"]}}),
        ({"guided_grammar": "root ::= x"}, {"structured_outputs": {"grammar": "root ::= x"}}),
        ({"structured_outputs": {"regex": "a+"}}, {"structured_outputs": {"regex": "a+"}}),
        ({"response_format": {"type": "text"}, "guided_regex": "a"}, {"structured_outputs": {"regex": "a"}}),
        ({"guided_decoding_backend": "x"}, {}),
    ],
)
def test_the_shape_of_the_answer_is_said_in_one_word(fields: dict[str, Any], parameters: dict[str, Any]) -> None:
    call = read(**fields)
    assert call.chat.parameters == parameters
    assert call.ignored == tuple(name for name in fields if name == "guided_decoding_backend")


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, set()),
        ({"tools": [TOOL]}, {"tools"}),
        ({"tools": []}, set()),
        ({"response_format": {"type": "text"}}, set()),
        ({"response_format": {"type": "json_object"}}, {"response_format"}),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, {"response_format"}),
        ({"structured_outputs": {"regex": "a"}}, {"structured_outputs"}),
        ({"logprobs": True}, {"logprobs"}),
        ({"logprobs": False, "top_logprobs": 0}, set()),
        ({"n": 1}, set()),
        ({"n": 2}, {"n"}),
    ],
)
def test_what_an_endpoint_must_be_able_to(fields: dict[str, Any], needs: set[str]) -> None:
    assert request(**fields).needs == needs


def test_messages_pass_as_they_are_but_for_the_developer() -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "tool_calls": [{"id": "c"}]},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}, {"type": "text", "text": "y"}]},
        {"role": "tool", "content": "z", "tool_call_id": "c"},
    ]
    assert request(messages=messages).messages == [{"role": "system", "content": "Be brief."}, *messages[1:]]


# One meaning for every switch of reasoning; the most explicit one decides

ON, OFF = Reasoning(True), Reasoning(False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Reasoning()),
        ({"reasoning": {}}, Reasoning()),
        ({"reasoning": {"enabled": True}}, ON),
        ({"reasoning": {"enabled": False}}, OFF),
        ({"reasoning": {"effort": "high"}}, Reasoning(True, "high")),
        ({"reasoning": {"effort": "none"}}, OFF),
        ({"reasoning": {"max_tokens": 500}}, Reasoning(True, None, 500)),
        ({"reasoning": {"effort": "low", "max_tokens": 500}}, Reasoning(True, "low", 500)),
        ({"reasoning_effort": "max"}, Reasoning(True, "max")),
        ({"reasoning_effort": "none"}, OFF),
        ({"chat_template_kwargs": {"thinking": True}}, ON),
        ({"chat_template_kwargs": {"thinking": False}}, OFF),
        ({"model": "hermes-4-405b:thinking"}, ON),
        # Where they disagree: enabled, then the template's flag, then an effort, then a budget or the suffix.
        ({"reasoning": {"enabled": False}, "chat_template_kwargs": {"thinking": True}}, OFF),
        ({"reasoning": {"enabled": False, "effort": "high", "max_tokens": 9}}, OFF),
        ({"reasoning": {"enabled": True, "effort": "none"}}, ON),
        ({"chat_template_kwargs": {"thinking": False}, "reasoning_effort": "high"}, OFF),
        ({"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "none"}, ON),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, Reasoning(True, "low")),
        ({"reasoning_effort": "none", "reasoning": {"max_tokens": 9}}, OFF),
        ({"reasoning_effort": "none", "model": "hermes-4-405b:thinking"}, OFF),
        ({"reasoning": {"enabled": False}, "model": "hermes-4-405b:thinking"}, OFF),
        # Whether the thoughts are shown is another matter.
        ({"reasoning": {"exclude": True}}, Reasoning(exclude=True)),
        ({"include_reasoning": False}, Reasoning(exclude=True)),
        ({"include_reasoning": True}, Reasoning()),
        ({"include_reasoning": False, "reasoning": {"effort": "low"}}, Reasoning(True, "low", None, True)),
        ({"include_reasoning": False, "reasoning": {"exclude": False}}, Reasoning(exclude=True)),
    ],
)  # fmt: skip
def test_reasoning(fields: dict[str, Any], expected: Reasoning) -> None:
    assert request(**fields).reasoning == expected


def test_the_templates_flag_is_taken_out_of_its_other_arguments() -> None:
    assert request(chat_template_kwargs={"thinking": True}).parameters == {}
    both = request(chat_template_kwargs={"thinking": True, "keep_cots": True})
    assert both.parameters == {"chat_template_kwargs": {"keep_cots": True}}


@pytest.mark.parametrize("shape", ["both", "reasoning", "reasoning_content", "details", "inline", "none"])
def test_reasoning_format(shape: str) -> None:
    assert read(reasoning_format=shape).reasoning_format == shape


# Models and their suffixes


@pytest.mark.parametrize(
    ("model", "suffix"),
    [
        ("NousResearch/Hermes-4-405B", ""),
        ("hermes-4-405b", ""),
        ("hermes-4-405b:floor", "floor"),
        ("NousResearch/Hermes-4-405B:nitro", "nitro"),
        ("hermes-4-405b:thinking", "thinking"),
        ("hermes-4-405b:free", None),
        ("hermes-4-405b:floor:nitro", None),
        ("HERMES-4-405B", None),
        (":floor", None),
        ("", None),
    ],
)
def test_suffixes(model: str, suffix: str | None) -> None:
    assert suffix_of(model, NAMES) == suffix


@pytest.mark.parametrize(("suffix", "sort"), [("floor", "price"), ("nitro", "throughput"), ("thinking", None)])
def test_a_suffix_is_a_wish(suffix: str, sort: str | None) -> None:
    assert read(model=f"hermes-4-405b:{suffix}").preferences == Preferences(sort=sort)


# Labels and leftovers


def test_user_and_metadata_are_kept() -> None:
    metadata = {f"k{i}": "v" * 512 for i in range(16)}
    labelled = request(user="u" * 512, metadata=metadata)
    assert (labelled.user, labelled.metadata) == ("u" * 512, metadata)


def test_what_nobody_understands_is_named() -> None:
    assert read(zeta=1, alpha=None, store=True).ignored == ("alpha", "store", "zeta")


def test_a_name_cannot_leave_its_header() -> None:
    ignored = read(**{"a\r\nset-cookie: x": 1, "é, b": 1, "x" * 500: 1}).ignored
    assert ignored == ("a%0D%0Aset-cookie%3A%20x", "x" * 64, "%C3%A9%2C%20b")
    assert len(read(**{f"field{i}": 1 for i in range(1_000)}).ignored) == 32


# What the model may have to read, in bytes


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        (message("é€"), 5 + 5),
        (message(""), 5),
        (message([{"type": "text", "text": "Hello"}]), 5 + 5),
        (message(None, "assistant", reasoning="why" * 100), 5 + 300),
        (message("x", "tool", tool_call_id="c" * 50), 5 + 51),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "x" * 400}}]}]}, 400),
        ({"tools": [TOOL]}, 5 + len(orjson.dumps([TOOL]))),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"x": "y" * 100}}}}, 5 + 100),
    ],
)
def test_the_prompt_is_bounded_by_its_bytes(fields: dict[str, Any], least: int) -> None:
    size = request(**fields).prompt_bytes
    assert least <= size <= len(orjson.dumps(fields)) + 10
