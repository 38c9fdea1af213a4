"""What each dialect is sent: the thinking switch in every form and never twice, history, parameters, limits."""

from typing import Any

import orjson
import pytest

from providers.adapter import ADAPTERS, Target
from providers.chat_request import ENGINE, LOGPROBS, SAMPLING, TOOLS, ChatRequest, Message, Reasoning
from providers.means import UNAIDED, Enforcer, Means
from providers.profiles import CAPABILITIES, DIALECTS, FULL, Toggle
from providers.thinking import THINKING_PROMPT

USER: Message = {"role": "user", "content": "Hello"}
BRIEF: Message = {"role": "system", "content": "Be brief."}
OBJECT, FLAG, PROMPT = (
    tuple(name for name, dialect in DIALECTS.items() if dialect.toggle is toggle)
    for toggle in (Toggle.REASONING_OBJECT, Toggle.TEMPLATE_FLAG, Toggle.SYSTEM_PROMPT)
)
ALL = frozenset(CAPABILITIES)
NOTHING: frozenset[str] = frozenset()
ON, OFF, AS_IT_LIKES = Reasoning(True), Reasoning(False), Reasoning()


def chat(*messages: Message, reasoning: Reasoning = AS_IT_LIKES, **parameters: Any) -> ChatRequest:
    return ChatRequest(
        messages=list(messages) or [USER],
        parameters=parameters,
        max_tokens=None,
        stream=False,
        include_usage=False,
        reasoning=reasoning,
        model="an-alias",
    )


def encode(
    dialect: str, request: ChatRequest, *, supports: frozenset[str] = ALL, max_tokens: int = 100, stream: bool = False
) -> dict[str, Any]:
    adapter, target = ADAPTERS[dialect], Target("the/model", supports)
    body = adapter.encode(request, target, adapter.means(request, target), max_tokens=max_tokens, stream=stream)
    decoded: dict[str, Any] = orjson.loads(body)
    return decoded


def test_each_dialect_is_told_to_think_in_the_way_that_its_provider_documents() -> None:
    """A provider that is not named here is told by the system prompt, which every endpoint of the model understands."""
    assert {*OBJECT} == {"openrouter", "nous"}
    assert {*FLAG} == {"vllm", "sandbox"}


# The thinking switch


@pytest.mark.parametrize("dialect", DIALECTS)
def test_unasked_nothing_is_said_of_thinking(dialect: str) -> None:
    assert encode(dialect, chat(BRIEF, USER)) == {"model": "the/model", "messages": [BRIEF, USER], "max_tokens": 100}


@pytest.mark.parametrize(
    ("reasoning", "wish"),
    [
        (ON, {"enabled": True}),
        (OFF, {"enabled": False}),
        (Reasoning(True, "high"), {"enabled": True, "effort": "high"}),
        (Reasoning(True, None, 500), {"enabled": True, "max_tokens": 500}),
        (Reasoning(True, "high", 500), {"enabled": True, "max_tokens": 500}),  # both at once are a 400
        (Reasoning(True, exclude=True), {"enabled": True}),  # thoughts are metered, so they are always asked for
    ],
)
def test_openrouter_has_an_object_for_it(reasoning: Reasoning, wish: dict[str, Any]) -> None:
    body = encode("openrouter", chat(BRIEF, USER, reasoning=reasoning))
    assert body["reasoning"] == wish
    assert body["messages"] == [BRIEF, USER]


@pytest.mark.parametrize(
    ("reasoning", "wish"),
    [
        (Reasoning(True, "high"), {"enabled": True, "effort": "high"}),
        (Reasoning(True, "high", 500), {"enabled": True, "effort": "high"}),
        (Reasoning(True, None, 500), {"enabled": True}),
    ],
)
def test_nous_knows_no_budget(reasoning: Reasoning, wish: dict[str, Any]) -> None:
    assert encode("nous", chat(reasoning=reasoning))["reasoning"] == wish


@pytest.mark.parametrize("dialect", FLAG)
@pytest.mark.parametrize("reasoning", [ON, OFF, Reasoning(True, "high", 500)])
def test_an_engine_has_a_flag_for_its_template(dialect: str, reasoning: Reasoning) -> None:
    body = encode(dialect, chat(reasoning=reasoning))
    assert body["chat_template_kwargs"] == {"thinking": reasoning.enabled}
    assert body["messages"] == [USER]  # the template adds the prompt itself
    assert "reasoning" not in body
    assert "reasoning_effort" not in body  # it would set another flag, which switches vLLM's parser


def test_the_flag_stands_beside_other_arguments_of_the_template() -> None:
    body = encode("vllm", chat(reasoning=ON, chat_template_kwargs={"keep_cots": True}))
    assert body["chat_template_kwargs"] == {"keep_cots": True, "thinking": True}


@pytest.mark.parametrize("dialect", PROMPT)
def test_others_have_a_system_prompt_for_it(dialect: str) -> None:
    body = encode(dialect, chat(reasoning=ON))
    assert body["messages"] == [{"role": "system", "content": THINKING_PROMPT}, USER]
    assert not {"reasoning", "chat_template_kwargs"} & set(body)
    assert encode(dialect, chat(reasoning=OFF)) == encode(dialect, chat())


@pytest.mark.parametrize("dialect", [*FLAG, *PROMPT])
@pytest.mark.parametrize(
    "system",
    ["Be brief.", [{"type": "text", "text": "Be brief."}]],
    ids=["text", "parts"],
)
def test_beside_a_system_message_the_prompt_is_always_said(dialect: str, system: Any) -> None:
    """In a sibling's template a caller's system message replaces the prompt, and the flag alone does nothing."""
    request = chat({"role": "system", "content": system}, USER, reasoning=ON)
    body = encode(dialect, request)
    assert body["messages"] == [{"role": "system", "content": f"{THINKING_PROMPT}\n\nBe brief."}, USER]
    assert request.messages[0]["content"] == system  # the request is as it was, for the next endpoint


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "systems",
    [
        [THINKING_PROMPT],
        [f"{THINKING_PROMPT} Be brief."],
        [f"Be brief. {THINKING_PROMPT}"],
        ["Be brief.", THINKING_PROMPT],
    ],
)
def test_it_is_never_said_twice(dialect: str, systems: list[str]) -> None:
    messages: list[Message] = [{"role": "system", "content": text} for text in systems]
    body = encode(dialect, chat(*messages, USER, reasoning=ON))
    assert body["messages"] == [*messages, USER]


@pytest.mark.parametrize("dialect", [*FLAG, *PROMPT])
def test_only_the_first_system_message_carries_it(dialect: str) -> None:
    body = encode(dialect, chat(USER, BRIEF, BRIEF, reasoning=ON))
    texts = [message["content"] for message in body["messages"]]
    assert texts == ["Hello", f"{THINKING_PROMPT}\n\nBe brief.", "Be brief."]


# Earlier thoughts

NAMES = {
    "openrouter": ("reasoning", "reasoning_details"),
    "vllm": ("reasoning", "reasoning_content"),
    "sandbox": ("reasoning", "reasoning_content"),
}
DETAILS = [{"type": "reasoning.text", "text": "why", "index": 0}]
HISTORIES: list[tuple[str, dict[str, Any]]] = [
    ("reasoning", {"reasoning": "why", "content": "so"}),
    ("reasoning_content", {"reasoning_content": "why", "content": "so"}),
    ("both", {"reasoning": "why", "reasoning_content": "why", "content": "so"}),
    ("one of them empty", {"reasoning": "", "reasoning_content": "why", "content": "so"}),
    ("one of them null", {"reasoning": None, "reasoning_content": "why", "content": "so"}),
    ("details", {"reasoning_details": DETAILS, "content": "so"}),
    ("details beside text", {"reasoning": "why", "reasoning_details": DETAILS, "content": "so"}),
    ("parts", {"content": [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "so"}]}),
    ("parts beside text", {"reasoning": "why", "content": [{"type": "text", "text": "so"}]}),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("said", [history[1] for history in HISTORIES], ids=[history[0] for history in HISTORIES])
def test_a_thought_is_handed_on_as_the_dialect_has_it(dialect: str, said: dict[str, Any]) -> None:
    message = {"role": "assistant"} | said
    before = orjson.dumps(message)
    expected: dict[str, Any] = {"role": "assistant", "content": "so"}
    for name in NAMES.get(dialect, ("reasoning_content",)):
        if name != "reasoning_details":
            expected[name] = "why"
        elif "reasoning_details" in said:
            expected[name] = DETAILS
    assert encode(dialect, chat(USER, message, USER))["messages"][1] == expected
    assert orjson.dumps(message) == before


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_message_without_thoughts_is_handed_on_as_it_is(dialect: str) -> None:
    messages: list[Message] = [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}], "name": "somebody"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "content": "12:00", "tool_call_id": "c1"},
        {"role": "assistant", "content": "<think>\nwhy\n</think>\nso"},  # the template strips it
    ]
    assert encode(dialect, chat(*messages))["messages"] == messages


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_empty_thought_is_none(dialect: str) -> None:
    message = {
        "role": "assistant",
        "content": "so",
        "reasoning": "",
        "reasoning_content": None,
        "reasoning_details": [],
    }
    assert encode(dialect, chat(message))["messages"] == [{"role": "assistant", "content": "so"}]


def test_what_is_no_thought_is_not_handed_on() -> None:
    message = {"role": "assistant", "content": "so", "reasoning": {"a": 1}, "reasoning_details": "why"}
    assert encode("nebius", chat(message))["messages"] == [{"role": "assistant", "content": "so"}]


def test_several_parts_are_joined_as_the_template_joins_them_and_a_refusal_is_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "refusal", "refusal": "no"}]
    message = {"role": "assistant", "content": parts}
    assert encode("nebius", chat(message))["messages"] == [{"role": "assistant", "content": "a\nb\nno"}]


# Parameters

SAMPLED = {
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "min_p": 0.1,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "repetition_penalty": 1.1,
    "stop": ["END"],
    "seed": 7,
    "logit_bias": {"1": 1},
}
OTHERS: dict[str, Any] = {
    "tools": [{"type": "function"}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_object"},
    "logprobs": True,
    "top_logprobs": 2,
    "n": 2,
}


def test_these_are_all_the_sampling_parameters() -> None:
    assert set(SAMPLED) == SAMPLING


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_an_endpoint_supports_is_sent_and_nothing_else(dialect: str) -> None:
    engine = dict.fromkeys(ENGINE - {"chat_template_kwargs"}, 1)
    base = {"model": "the/model", "messages": [USER], "max_tokens": 100}
    extra = engine if DIALECTS[dialect].engine_fields else {}
    for absent in (TOOLS, {"response_format"}):  # a grammar leaves an engine no room for calls
        others = {name: value for name, value in OTHERS.items() if name not in absent}
        request = chat(**SAMPLED, **others, **engine)
        full, none = encode(dialect, request), encode(dialect, request, supports=NOTHING)
        assert full == base | SAMPLED | others | extra
        assert none == base | SAMPLED | extra | {"messages": none["messages"]}, "the rest stands in the prompt"
        assert none["messages"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("capability", "names"),
    [("tools", TOOLS), ("logprobs", LOGPROBS), ("response_format", {"response_format"}), ("n", {"n"})],
)
def test_a_capability_is_a_group_of_parameters(capability: str, names: frozenset[str]) -> None:
    others = {name: value for name, value in OTHERS.items() if capability != "response_format" or name not in TOOLS}
    body = encode("nebius", chat(**others), supports=frozenset({capability}))
    assert set(body) & set(OTHERS) == set(names)


def test_only_engines_take_a_grammar_in_their_own_words() -> None:
    can = {name for name, adapter in ADAPTERS.items() if "structured_outputs" in adapter.capabilities(NOTHING)}
    assert can == {"vllm", "sandbox"}
    assert all(adapter.capabilities(FULL) >= FULL for adapter in ADAPTERS.values())


# By what means a request is served

CALLED: Message = {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}
WITH_TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
MUST_CALL = WITH_TOOLS | {"tool_choice": "required"}
FORMAT = {"response_format": {"type": "json_object"}}
BEGUN = '<tool_call>\n{"name":'
MEANS: list[tuple[ChatRequest, set[str], Means, bool]] = [
    (chat(), set(), UNAIDED, False),
    (chat(**WITH_TOOLS), {"tools"}, UNAIDED, False),
    (chat(**WITH_TOOLS), set(), Means(tools_in_prompt=True), True),
    (chat(USER, CALLED), set(), Means(tools_in_prompt=True), True),
    (chat(**MUST_CALL), {"prefix"}, Means(tools_in_prompt=True, opening=BEGUN), True),
    (chat(**MUST_CALL), {"prefix", "tools"}, UNAIDED, False),
    (chat(reasoning=ON, **MUST_CALL), {"prefix"}, Means(tools_in_prompt=True), True),
    (chat(**FORMAT), {"response_format"}, Means(enforcer=Enforcer.PROVIDER), False),
    (chat(**FORMAT), set(), Means(enforcer=Enforcer.PROMPT), True),
    (chat(**MUST_CALL, **FORMAT), {"prefix"}, Means(True, Enforcer.PROMPT, BEGUN), True),
]


@pytest.mark.parametrize(("request_", "supports", "means", "emulated"), MEANS)
def test_by_what_means_an_endpoint_serves_a_request(
    request_: ChatRequest, supports: set[str], means: Means, emulated: bool
) -> None:
    found = ADAPTERS["openai"].means(request_, Target("m", frozenset(supports)))
    assert (found, found.emulated) == (means, emulated)
    reader = ADAPTERS["openai"].emulation(request_, found, seed="s")
    assert (reader is not None) == (found.tools_in_prompt and request_.tools is not None)


# Limits and streams


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [True, False])
def test_the_limit_and_the_usage_are_always_asked_for(dialect: str, stream: bool) -> None:
    body = encode(dialect, chat(), max_tokens=77, stream=stream)
    assert body["max_tokens"] == 77
    assert body["model"] == "the/model"
    assert body.get("stream", False) == stream
    options = {"include_usage": True} | ({"continuous_usage_stats": True} if dialect in FLAG else {})
    assert body.get("stream_options") == (options if stream else None)


def test_a_callers_own_limit_does_not_stand_beside_ours() -> None:
    assert encode("openai", chat(max_completion_tokens=5, max_tokens=6))["max_tokens"] == 100
    assert "max_completion_tokens" not in encode("openai", chat(max_completion_tokens=5))


# What is known of each


@pytest.mark.parametrize(
    ("dialect", "stops"), [("vllm", True), ("chutes", True), ("nebius", False), ("openrouter", False)]
)
def test_whose_bill_ends_when_we_leave(dialect: str, stops: bool) -> None:
    assert DIALECTS[dialect].cancel_stops_billing == stops


def test_only_engines_are_taken_to_continue_a_prefix() -> None:
    assert {name for name, dialect in DIALECTS.items() if "prefix" in dialect.default_supports} == {"vllm", "sandbox"}


def test_openrouter_is_told_who_asks() -> None:
    assert set(DIALECTS["openrouter"].headers) == {"http-referer", "x-openrouter-title"}
