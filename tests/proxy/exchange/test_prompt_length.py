"""How long a prompt is: never longer than its ceiling, by the tokenizer; and what a template adds is counted."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.adapter import ADAPTERS, Target, prompt_ceiling_tokens
from providers.chat_request import ChatRequest, Reasoning, text_content
from providers.thinking import THINKING_PROMPT
from providers.tokenizer import count_prompt, count_request, count_text
from proxy.surfaces.chat.request import read_chat

USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}}}


def read(**fields: Any) -> ChatRequest:
    return read_chat(orjson.dumps({"model": "m", "messages": [USER]} | fields), lambda _: "").chat


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("Hello", 1),
        ("Hello, world!", 4),
        ("<|eot_id|>", 7),  # a special token in a text is text
        ("<think>", 3),
        ("的" * 3, 3),
        ("1234567", 3),
    ],
)
def test_tokens_of_a_text(text: str, tokens: int) -> None:
    assert count_text(text) == tokens


@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, " " * 1_000_000, " \t" * 500_000, "^" * 1_000_000, "的" * 100_000, "\u200b" * 100_000]
)
def test_no_text_takes_for_ever_or_too_deep(text: str) -> None:
    assert 0 < count_text(text) <= len(text.encode())


def test_a_long_text_counts_as_its_pieces_do() -> None:
    sentence = "The herald carries a staff.\n"
    assert count_text(sentence * 10_000) == pytest.approx(10_000 * count_text(sentence), rel=1e-3)


def test_a_conversation_is_its_texts_and_the_templates_part() -> None:
    short = count_prompt([{"role": "system", "content": "Be brief."}, USER])
    assert short == 5 + 5 + count_text("Be brief.") + 5 + count_text("Hello")
    assert count_prompt([USER]) == 5 + 5 + 1 + 5 + count_text("You are Hermes, created by Nous Research.")


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_the_thinking_prompt_is_counted_once(system: list[dict[str, Any]]) -> None:
    asked = read(messages=[*system, USER], reasoning={"enabled": True})
    plain = read(messages=[*system, USER])
    spared = 0 if system else count_text("You are Hermes, created by Nous Research.")
    assert count_request(asked) - count_request(plain) == count_text(THINKING_PROMPT) - spared
    said = [{"role": "system", "content": THINKING_PROMPT}, USER]
    assert count_request(read(messages=said, reasoning={"enabled": True})) == count_request(read(messages=said))


def test_tools_are_counted_with_what_is_said_about_them() -> None:
    one, two = count_request(read(tools=[TOOL])), count_request(read(tools=[TOOL, TOOL]))
    schema = count_text(orjson.dumps(TOOL).decode())
    assert two - one == pytest.approx(schema, abs=schema // 2)
    assert 150 < one - count_request(read()) - schema < 512  # the published prompt for it has 228


def test_calls_are_counted_as_they_are_written() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "\u200b" * 100}}]
    said = {"role": "assistant", "content": None, "tool_calls": calls}
    assert count_prompt([USER, said]) == count_prompt([USER]) + 5 + count_text(orjson.dumps(calls).decode())


def call(name: str, arguments: str) -> dict[str, Any]:
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content} | more


# Texts that take many tokens for their length, or that grow when they are escaped.
DENSE = ["", "\u200b" * 30, "\U000e0001" * 20, "a b c d", "1 2 3", "<|eot_id|>" * 5]
TEXT = st.text(max_size=60) | st.sampled_from(DENSE)
PARTS = st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXT), max_size=3)
CALLS = st.lists(st.builds(call, TEXT, TEXT), min_size=1, max_size=2)
MESSAGE = st.one_of(
    st.builds(message, st.sampled_from(["user", "system", "tool"]), TEXT | PARTS),
    st.builds(message, st.just("assistant"), st.none() | TEXT | PARTS),
    st.builds(lambda calls: {"role": "assistant", "tool_calls": calls}, CALLS),
    st.builds(message, st.just("assistant"), TEXT, tool_calls=CALLS, reasoning=TEXT),
    st.builds(message, st.just("tool"), TEXT, tool_call_id=st.just("c")),
)


def json_schema(text: str) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": text, "schema": {"description": text}}}


SCHEMA = st.builds(lambda text: {"type": "function", "function": {"name": "f", "description": text}}, TEXT)


@settings(deadline=None, max_examples=150)
@given(
    messages=st.lists(MESSAGE, min_size=1, max_size=5),
    tools=st.none() | st.lists(SCHEMA, max_size=3),
    schema=st.none() | st.builds(json_schema, TEXT),
    enabled=st.sampled_from([None, True, False]),
)
def test_a_prompt_is_never_longer_than_its_ceiling(messages: Any, tools: Any, schema: Any, enabled: Any) -> None:
    fields = {"messages": messages, "tools": tools, "response_format": schema, "reasoning": {"enabled": enabled}}
    request = read(**{name: value for name, value in fields.items() if value is not None})
    assert request.reasoning == Reasoning(enabled)
    assert count_request(request) <= prompt_ceiling_tokens(request) <= prompt_ceiling_tokens(request, emulated=True)


@settings(deadline=None, max_examples=100)
@given(
    messages=st.lists(MESSAGE, min_size=1, max_size=4),
    tools=st.none() | st.lists(SCHEMA, min_size=1, max_size=2),
    text=TEXT,
    enabled=st.sampled_from([None, True]),
)
def test_a_schema_in_the_prompt_stays_below_it_too(messages: Any, tools: Any, text: str, enabled: Any) -> None:
    """Of the body as it is sent: a token is at least a byte."""
    wanted = json_schema(text + "<" * 20 + "</schema>" * 3)
    fields = {"messages": messages, "tools": tools, "response_format": wanted, "reasoning": {"enabled": enabled}}
    call = read(**{name: value for name, value in fields.items() if value is not None})
    target = Target("the/model", frozenset())
    for dialect in ("lyceum", "vllm"):
        adapter = ADAPTERS[dialect]
        body = adapter.encode(call, target, adapter.means(call, target), max_tokens=1, stream=False)
        sent = orjson.loads(body)["messages"]
        said = sum(len(text_content(message.get("content")).encode()) for message in sent)
        assert any("<schema>" in text_content(one.get("content")) for one in sent if one["role"] == "system")
        assert said <= prompt_ceiling_tokens(call, emulated=True)


@pytest.mark.parametrize("count", [1, 10, 300])
@pytest.mark.parametrize("role", ["user", "tool", "system"])
def test_many_short_messages_stay_below_it_too(role: str, count: int) -> None:
    request = read(messages=[{"role": role, "content": ""}] * count)
    assert count_request(request) <= prompt_ceiling_tokens(request)
