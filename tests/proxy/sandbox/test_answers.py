"""What the sandbox says, as a pure function of the conversation."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.sandbox.answer import Kind, compose
from proxy.sandbox.dialects import DIALECTS, Refusal
from proxy.sandbox.examples import example
from proxy.sandbox.request import read_ask
from proxy.sandbox.script import Script, ScriptError, changed, parse_changes, without_directive
from proxy.sandbox.tokens import cached_tokens, count_tokens, pieces, prompt_tokens

USER = {"role": "user", "content": "Hello, world"}
THINK = {"chat_template_kwargs": {"thinking": True}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}


def answers(body, *, dialect="sandbox", script=None, shape=None, raw=False, context_tokens=131_072):
    script = script or Script()
    ask = read_ask(body, DIALECTS[dialect], script, context_tokens, raw=raw)
    return compose(ask, dialect, script, shape or DIALECTS[dialect].reasoning_as)


def answer(body, **how):
    return answers(body, **how)[0]


def chat(*messages, **fields):
    return {"model": "Hermes-4-405B", "messages": list(messages) or [USER], **fields}


@given(st.text())
def test_the_tokens_of_a_text_are_the_text(text):
    assert "".join(pieces(text)) == text
    assert count_tokens(text) == len(pieces(text)) <= len(text)


def test_the_prompt_counts_its_messages_and_tools():
    assert prompt_tokens(chat()) == 5 + 4 + 2
    assert prompt_tokens(chat({"role": "user", "content": [{"type": "text", "text": "one two"}]})) == 5 + 4 + 2
    assert prompt_tokens(chat(tools=[WEATHER])) > prompt_tokens(chat())
    assert prompt_tokens({"prompt": "a b c"}) == 3


def test_the_cache_holds_earlier_turns_in_whole_blocks():
    long = {"role": "system", "content": "word " * 40}
    assert cached_tokens(chat()) == 0
    assert cached_tokens(chat(long, USER)) == 48  # 5 + 4 + 40 and a bit of white space, in blocks of 16


def test_it_names_itself_and_repeats_the_user():
    choice = answer(chat(), dialect="nebius")
    assert choice.text(Kind.CONTENT).startswith(
        "This is the Caduceus sandbox speaking as nebius. You said: Hello, world"
    )
    assert choice.finish_reason == "stop"
    assert not choice.count(Kind.REASONING)
    assert answer(chat(), dialect="nebius") == choice


def test_it_repeats_what_a_tool_said():
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "22 °C"}]
    assert "The tool answered: 22 °C" in answer(chat(*messages, tools=[WEATHER])).text(Kind.CONTENT)


@pytest.mark.parametrize(
    ("dialect", "switch"),
    [
        *((dialect, THINK) for dialect in ("sandbox", "vllm", "nebius", "chutes")),
        *((dialect, {"reasoning": {"enabled": True}}) for dialect in ("sandbox", "openrouter", "nous")),
        ("openrouter", {"reasoning": {"effort": "low"}}),
        ("openrouter", {"reasoning_effort": "high"}),
    ],
)
def test_it_thinks_when_its_dialect_is_asked_to(dialect, switch):
    choice = answer(chat(**switch), dialect=dialect, shape="reasoning")
    assert choice.text(Kind.REASONING).startswith("\nThe user's words are 2 in number.")
    assert choice.text(Kind.CONTENT).startswith("\nThis is the Caduceus sandbox")


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_the_thinking_prompt_is_understood_by_all(dialect):
    system = {"role": "system", "content": "Be kind.\nYou are a deep thinking AI, you may use extremely long chains …"}
    assert answer(chat(system, USER), dialect=dialect, shape="reasoning").count(Kind.REASONING)


@pytest.mark.parametrize(
    ("dialect", "switch"),
    [
        ("vllm", {"reasoning": {"enabled": True}}),
        ("vllm", {"reasoning_effort": "high"}),
        ("vllm", {"chat_template_kwargs": {"thinking": False}}),
        ("openrouter", THINK),
        ("openrouter", {"reasoning": {"enabled": False}}),
        ("openrouter", {"reasoning": {"effort": "none"}}),
        ("aimlapi", {"reasoning": {"enabled": True}}),
        ("lyceum", THINK),
    ],
)
def test_it_does_not_think_by_a_switch_of_others(dialect, switch):
    assert not answer(chat(**switch), dialect=dialect, shape="reasoning").count(Kind.REASONING)


def test_thoughts_can_be_limited():
    assert answer(chat(**THINK, thinking_token_budget=3)).text(Kind.REASONING) == "\nThe user's words"


def test_inline_thoughts_are_the_model_s_own_notation():
    script = Script(think=True, reasoning="\nHm\n", text="\nWell")
    assert answer(chat(), script=script, shape="inline").text(Kind.CONTENT) == "<think>\nHm\n</think>\nWell"
    assert answer(chat(), script=script, shape="inline_no_opener").text(Kind.CONTENT) == "\nHm\n</think>\nWell"


def test_max_tokens_cuts_thoughts_and_text_alike():
    script = Script(think=True, reasoning="a b", text=" c d")
    cut = [answer(chat(max_tokens=limit), script=script) for limit in (1, 3, 4, 5)]
    texts = [choice.text(Kind.REASONING) + choice.text(Kind.CONTENT) for choice in cut]
    assert texts == ["a", "a b c", "a b c d", "a b c d"]
    assert [choice.finish_reason for choice in cut] == ["length", "length", "length", "stop"]


def test_it_stops_before_the_first_stop_string():
    choice = answer(chat(stop=["world", "You said"]))
    assert choice.text(Kind.CONTENT) == "This is the Caduceus sandbox speaking as sandbox. "
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "You said")


def test_a_script_sets_the_length():
    assert answer(chat(), script=Script(tokens=2, text="one two three")).text(Kind.CONTENT) == "one two"
    assert answer(chat(), script=Script(tokens=5, text="one two")).text(Kind.CONTENT) == "one two 1 2 3"
    assert answer(chat(), script=Script(tokens=0)).tokens == ()


def test_choices_differ():
    texts = [choice.text(Kind.CONTENT) for choice in answers(chat(n=3))]
    assert len(set(texts)) == 3
    assert texts[2].endswith("This is choice 3.")


# Continuation


def continuing(prefix, *messages, **fields):
    return chat(
        *(messages or [USER]),
        {"role": "assistant", "content": prefix},
        continue_final_message=True,
        add_generation_prompt=False,
        **fields,
    )


@given(at=st.integers(1, 140))
def test_any_beginning_of_an_answer_is_continued(at):
    whole = answer(chat()).text(Kind.CONTENT)
    prefix = whole[:at].rstrip()  # the template trims it
    rest = answer(continuing(prefix)).text(Kind.CONTENT)
    assert prefix + rest == whole


@given(at=st.integers(1, 400), flagged=st.booleans())
def test_a_thought_and_its_answer_are_continued(at, flagged):
    """With the flag the engine tells the rest of a thought apart, without it the rest comes as it is."""
    fresh = answer(chat(**THINK))
    thought, content = fresh.text(Kind.REASONING), fresh.text(Kind.CONTENT)
    whole = f"<think>{thought}</think>{content}"
    prefix = whole[:at].rstrip()
    inside = "</think>" not in prefix
    assume(not any(prefix.endswith("</think>"[:length]) for length in range(1, 8)))  # a tag is one token
    flags = {"thinking": flagged, "keep_cots": True}
    script = Script(think=True)
    rest = answer(continuing(prefix, chat_template_kwargs=flags), script=script)
    if flagged and inside:
        assert rest.text(Kind.CONTENT) == content
        assert prefix + rest.text(Kind.REASONING) == f"<think>{thought}"
    elif flagged:  # vLLM's parser waits for the end of a thought that is long over
        assert prefix + rest.text(Kind.REASONING) == whole
    else:
        assert prefix + rest.text(Kind.CONTENT) == whole


def test_what_another_dialect_began_is_continued():
    whole = answer(chat(), dialect="openrouter").text(Kind.CONTENT)
    rest = answer(continuing(whole[:60]), dialect="vllm").text(Kind.CONTENT)
    assert whole[:60] + rest == whole


def test_a_prefix_that_is_no_beginning_of_ours_gets_a_whole_answer():
    assert answer(continuing("Once upon a time")).text(Kind.CONTENT) == " " + answer(chat()).text(Kind.CONTENT)


def test_a_thought_in_the_prefix_needs_a_template_that_keeps_it():
    with pytest.raises(Refusal, match="does not appear in the chat"):
        answer(continuing("<think>Hm</think>This"))


@pytest.mark.parametrize(("script", "dialect"), [(Script(prefix="refuse"), "sandbox"), (Script(), "openai")])
def test_a_prefix_can_be_refused(script, dialect):
    with pytest.raises(Refusal, match="continue_final_message"):
        answer(continuing("This"), script=script, dialect=dialect)


def test_a_prefix_can_be_ignored():
    assert answer(continuing("This"), dialect="nebius") == answer(chat(), dialect="nebius")


def test_a_prefix_excludes_a_generation_prompt():
    with pytest.raises(Refusal, match="Cannot set both"):
        answer(continuing("This") | {"add_generation_prompt": True})


def test_a_raw_prompt_in_the_model_s_format_is_the_same_conversation():
    prompt = (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello, world<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    whole = answer(chat()).text(Kind.CONTENT)
    assert answer({"prompt": prompt}, raw=True).text(Kind.CONTENT) == whole
    assert answer({"prompt": prompt + whole[:30]}, raw=True).text(Kind.CONTENT) == whole[30:]
    assert "You said: Hi you" in answer({"prompt": "Hi you"}, raw=True).text(Kind.CONTENT)


# Tools and JSON


@pytest.mark.parametrize(
    ("said", "fields", "called"),
    [
        ("Hello", {}, []),
        ("Use a tool", {}, ["get_weather"]),
        ("Ask get_time", {}, ["get_time"]),
        ("get_weather and get_time", {}, ["get_weather", "get_time"]),
        ("get_weather and get_time", {"parallel_tool_calls": False}, ["get_weather"]),
        ("Hello", {"tool_choice": "required"}, ["get_weather"]),
        ("Use a tool", {"tool_choice": "none"}, []),
        ("Hello", {"tool_choice": {"type": "function", "function": {"name": "get_time"}}}, ["get_time"]),
    ],
)
def test_which_tools_are_called(said, fields, called):
    choice = answer(chat({"role": "user", "content": said}, tools=[WEATHER, CLOCK], **fields))
    assert [call.name for call in choice.calls] == called
    assert choice.finish_reason == ("tool_calls" if called else "stop")
    assert bool(choice.text(Kind.CONTENT)) is not bool(called)


def test_a_call_has_arguments_by_its_schema():
    (call,) = answer(chat({"role": "user", "content": "tool"}, tools=[WEATHER])).calls
    assert json.loads(call.arguments) == {"city": "tool"}


def test_a_tool_that_was_not_offered_is_refused():
    with pytest.raises(Refusal, match="not among the tools"):
        answer(chat(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "rm"}}))


@pytest.mark.parametrize("how", ["dialect", "script", "prompt"])
def test_without_native_tools_a_call_is_text(how):
    said = {"role": "user", "content": "tool"}
    system = {"role": "system", "content": f"Within <tools></tools>:\n<tools>\n{json.dumps(WEATHER)}\n</tools>"}
    choice = {
        "dialect": lambda: answer(chat(said, tools=[WEATHER]), dialect="lyceum"),
        "script": lambda: answer(chat(said, tools=[WEATHER]), script=Script(native_tools=False)),
        "prompt": lambda: answer(chat(system, said)),
    }[how]()
    text = choice.text(Kind.CONTENT)
    assert text == '<tool_call>\n{"name": "get_weather", "arguments": {"city": "tool"}}\n</tool_call>'
    assert (choice.calls, choice.finish_reason) == ((), "stop")


def test_it_answers_json_when_asked():
    assert json.loads(answer(chat(response_format={"type": "json_object"})).text(Kind.CONTENT)) == {
        "sandbox": "sandbox",
        "you_said": "Hello, world",
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": WEATHER["function"]["parameters"]}}
    assert json.loads(answer(chat(response_format=wanted)).text(Kind.CONTENT)) == {"city": "Hello, world"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"enum": ["a", "b"]}, "a"),
        ({"const": 7}, 7),
        ({"type": "array", "items": {"type": "number"}, "minItems": 2}, [1, 1]),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"type": ["null", "string"]}, None),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"type": "object", "properties": {"b": {"type": "integer"}}}}}, {"b": 1}),
        ({"$ref": "#/$defs/Loop", "$defs": {"Loop": {"$ref": "#/$defs/Loop"}}}, "text"),
    ],
)
def test_examples_of_schemas(schema, value):
    assert example(schema, "text") == value


# Refusals


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "not a JSON object"),
        ({}, "messages"),
        (chat("hello"), "messages.0"),
        (chat(max_tokens=0), "max_tokens must be at least 1"),
        (chat(n=1_000), "n must be at most"),
        (chat(stop=[1]), "stop"),
        (chat(tools=[{"type": "function"}]), "tools"),
        (chat(response_format={"type": "json_schema", "json_schema": {}}), "json_schema.schema"),
        (chat(max_tokens=200_000), "max_tokens=200000 cannot be greater than max_model_len=131072"),
    ],
)
def test_what_an_engine_refuses(body, message):
    with pytest.raises(Refusal, match=message) as caught:
        answer(body)
    assert caught.value.status == 400


@pytest.mark.parametrize(("words", "max_tokens"), [(100, None), (50, 30)])
def test_a_prompt_beyond_the_context_is_refused(words, max_tokens):
    with pytest.raises(Refusal, match="maximum context length is 80 tokens") as caught:
        answer(chat({"role": "user", "content": "w " * words}, max_tokens=max_tokens), context_tokens=80)
    assert caught.value.reason == "context"


# Scripts


@pytest.mark.parametrize(
    ("text", "said", "script"),
    [
        ('Hi [[sandbox {"fault": "gzip"}]]', "Hi", {"fault": "gzip"}),
        ('Hi [[sandbox {"text": "a [[b]] c"}]] \n', "Hi", {"text": "a [[b]] c"}),
        ('Hi [[sandbox {"fault": "gzip"}]] there', 'Hi [[sandbox {"fault": "gzip"}]] there', None),
        ("Hi", "Hi", None),
    ],
)
def test_a_directive_ends_the_message(text, said, script):
    rest, directive = without_directive(text)
    assert rest == said
    assert (directive and parse_changes(directive)) == script


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"faults": "gzip"}, "faults: unknown"),
        ({"fault": "explode"}, "fault: 'explode' is unknown"),
        ({"fault": "status:200"}, "fault"),
        ({"tokens": -1}, "tokens: -1 is not between"),
        ({"tokens": "7"}, "tokens: '7' does not fit; it takes int"),
        ({"interval_s": True}, "interval_s"),
        ({"usage": "none"}, "it takes normal, missing"),
        ({"reasoning_as": "xml"}, "reasoning_as"),
        ({"split_bytes": 0}, "split_bytes"),
    ],
)
def test_a_script_that_makes_no_sense_says_so(changes, message):
    with pytest.raises(ScriptError, match=message):
        changed(Script(), changes)


@pytest.mark.parametrize("text", ["{", "[]", "7"])
def test_a_script_is_a_json_object(text):
    with pytest.raises(ScriptError, match="JSON"):
        parse_changes(text)
