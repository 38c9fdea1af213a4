"""Who holds an answer to its format, and what an endpoint is told where we do."""

from typing import Any

import orjson
import pytest

from providers.adapter import ADAPTERS, Target
from providers.chat_request import ChatRequest, Reasoning
from providers.formats.prompt import ask, ask_again, extra_bytes, instruction
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from providers.means import Enforcer, Means
from providers.seam import Seam
from providers.thinking import THINKING_PROMPT

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
JSON = {"response_format": FORMAT}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
USER = {"role": "user", "content": "Who?"}
ALL = frozenset({"response_format", "tools", "prefix"})
PROMPT, PROVIDER, ENGINE = Enforcer.PROMPT, Enforcer.PROVIDER, Enforcer.ENGINE


def chat(*, thinks: bool | None = None, messages: Any = (USER,), **parameters: Any) -> ChatRequest:
    return ChatRequest(messages, parameters, None, False, False, Reasoning(thinks), "m")


CASES: list[tuple[str, dict[str, Any], frozenset[str], Enforcer | None]] = [
    ("vllm", {}, ALL, None),
    ("vllm", {"response_format": {"type": "text"}}, ALL, None),
    ("vllm", JSON, ALL, ENGINE),
    ("sandbox", JSON, ALL, ENGINE),
    ("vllm", JSON, frozenset(), PROMPT),
    ("vllm", JSON | {"thinks": True}, ALL, ENGINE),
    ("vllm", JSON | {"thinks": True}, ALL - {"prefix"}, PROMPT),
    ("vllm", JSON | {"thinks": True, "n": 2}, ALL, PROMPT),
    ("vllm", JSON | {"thinks": True, "logprobs": True}, ALL, PROMPT),
    ("vllm", JSON | {"n": 2}, ALL, ENGINE),
    ("vllm", JSON | TOOLS, ALL, PROMPT),
    ("vllm", JSON | TOOLS | {"tool_choice": "none"}, ALL, ENGINE),
    ("openai", JSON, ALL, PROVIDER),
    ("openai", JSON | TOOLS, ALL, PROVIDER),
    ("openai", JSON | TOOLS, frozenset({"response_format"}), PROMPT),
    ("openai", JSON | {"thinks": True}, frozenset({"response_format"}), PROVIDER),
    ("openai", JSON | {"thinks": True}, ALL, PROMPT),
    ("lyceum", {"response_format": {"type": "json_object"}}, frozenset(), PROMPT),
]


@pytest.mark.parametrize(("dialect", "fields", "supports", "enforcer"), CASES)
def test_who_holds_an_answer_to_it(
    dialect: str, fields: dict[str, Any], supports: frozenset[str], enforcer: Enforcer | None
) -> None:
    request, target = chat(**fields), Target("m", supports)
    adapter = ADAPTERS[dialect]
    means = adapter.means(request, target)
    assert means.enforcer is enforcer
    body = orjson.loads(adapter.encode(request, target, means, max_tokens=9, stream=False))
    assert ("response_format" in body) == (
        "response_format" in fields and "response_format" in supports and enforcer is not PROMPT
    )
    systems = [message["content"] for message in body["messages"] if message["role"] == "system"]
    assert any("answers in JSON" in system for system in systems) == (enforcer is PROMPT)


def test_a_thought_is_asked_for_without_the_grammar_and_ends_with_its_tag() -> None:
    adapter, request, target = ADAPTERS["vllm"], chat(thinks=True, stop=["END"], **JSON), Target("m", ALL)
    means = adapter.means(request, target)
    body = orjson.loads(
        adapter.encode(request, target, means, max_tokens=9, stream=True, seam=Seam("", None), thought_only=True)
    )
    assert "response_format" not in body
    assert body["stop"] == ["</think>"]
    assert body["messages"] == [
        {"role": "system", "content": THINKING_PROMPT},
        USER,
        {"role": "assistant", "content": "<think>"},
    ]
    rest = orjson.loads(adapter.encode(request, target, means, max_tokens=9, stream=True, seam=Seam("why", "")))
    assert rest["response_format"] == FORMAT
    assert rest["stop"] == ["END"]
    assert rest["messages"][-1]["content"] == "<think>why</think>"
    assert rest["chat_template_kwargs"] == {"thinking": False, "keep_cots": True}


def test_an_engine_that_refused_a_schema_is_told_of_it() -> None:
    body = orjson.loads(
        ADAPTERS["vllm"].encode(chat(**JSON), Target("m", ALL), Means(enforcer=PROMPT), max_tokens=9, stream=False)
    )
    assert "response_format" not in body
    assert "<schema>" in body["messages"][0]["content"]


def test_the_words_of_hermess_json_mode() -> None:
    assert instruction(JsonFormat(SCHEMA)) == (
        "You are a helpful assistant that answers in JSON. Here's the json schema you must adhere to:\n<schema>\n"
        '{"type":"object","properties":{"a":{"type":"integer"}}}\n</schema>'
    )
    assert instruction(JsonFormat()).startswith("You are a helpful assistant that answers in JSON.")


@pytest.mark.parametrize("text", ["</schema>", "<|eot_id|>", "<|start_header_id|>system", "<think>", "</tool_call>"])
def test_nothing_in_a_schema_becomes_control_text(text: str) -> None:
    told = instruction(JsonFormat({"description": text, "const": "1 < 2"}))
    assert told.count("<") == 3, "the two tags, and what is no tag"
    assert orjson.loads(told.partition("<schema>\n")[2].removesuffix("\n</schema>"))["description"] == text
    assert extra_bytes(JsonFormat({"description": text})) > 0


def test_it_joins_the_first_system_message() -> None:
    told = instruction(JsonFormat())
    assert ask([USER], JsonFormat()) == [{"role": "system", "content": told}, USER]
    parts = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert ask([USER, parts], JsonFormat()) == [USER, {"role": "system", "content": f"Be brief.\n\n{told}"}]
    empty = {"role": "system", "content": ""}
    assert ask([empty, empty], JsonFormat()) == [{"role": "system", "content": told}, empty]


def test_a_second_try_sees_the_first_and_why_it_does_not_fit() -> None:
    request = chat(thinks=True, temperature=0.1, **JSON, **TOOLS)
    again = ask_again(request, '{"a": "<x>"}', Problem("'<tool_call>' is not of type 'integer'", "/a"))
    assert again.messages[:-2] == [USER]
    assert again.messages[-2] == {"role": "assistant", "content": '{"a": "<x>"}'}
    assert again.messages[-1] == {
        "role": "user",
        "content": "That answer '<\u2060tool_call>' is not of type 'integer' (at /a). Give the whole answer again, as "
        "JSON that fits, and nothing else.",
    }
    assert again.parameters == {"temperature": 0.1, **JSON}
    assert again.reasoning == Reasoning(False)
    assert ask_again(chat(**JSON), " ", Problem("is empty")).messages[0] == USER
    assert len(ask_again(chat(**JSON), " ", Problem("is empty")).messages) == 2
    assert ask_again(chat(**JSON), "x", Problem("is wrong")).reasoning == Reasoning()


def test_a_format_is_read_where_there_is_one() -> None:
    assert chat().format is None
    assert chat(response_format={"type": "text"}).format is None
    assert chat(response_format={"type": "json_object"}).format == JsonFormat()
    assert chat(**JSON).format == JsonFormat(SCHEMA)
