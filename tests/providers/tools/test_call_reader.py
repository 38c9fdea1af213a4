"""Calls come out of the text, split at any character; what is none stays text, to the letter."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.answers.assembly import Assembler, Choice
from providers.events import Delta
from providers.neutral import MARK, neutralise
from providers.tools.call_reader import CallReader
from providers.tools.call_tags import BLANK_CHARACTERS, CALL_CHARACTERS, OPEN
from providers.tools.prompt import opening
from providers.tools.tool_set import ToolSet

TOOLS = frozenset({"time", "add"})
TIME = '<tool_call>\n{"name": "time", "arguments": {"zone": "UTC"}}\n</tool_call>'
ADD = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 1.10}}</tool_call>'
UTC, ONE = ("time", '{"zone":"UTC"}'), ("add", '{"a":1,"b":1.10}')


def tool_set(**more: Any) -> ToolSet:
    return ToolSet(schemas=[{}], names=TOOLS, **more)


def deltas(*pieces: str, thought: str = "", finish: str = "stop") -> list[Delta]:
    texts = [Delta(content=piece) for piece in pieces]
    return [*(Delta(reasoning=character) for character in thought), *texts, Delta(finish_reason=finish)]


def read(given: list[Delta], tools: ToolSet | None = None, *, begun: str = "") -> tuple[list[Delta], Choice]:
    reader = CallReader(tools or tool_set(), seed="s", opening=begun)
    made = [sent for delta in given for sent in reader.feed(delta)]
    made += reader.release()
    assembler = Assembler()
    for delta in made:
        assembler.add(delta)
    return made, assembler.choices[0]


def calls(choice: Choice) -> list[tuple[str, str]]:
    return [(call["function"]["name"], call["function"]["arguments"]) for call in choice.tool_calls]


def codes(choice: Choice) -> list[str]:
    return [warning["code"] for warning in choice.extra.get("warnings", ())]


def ways(text: str) -> list[tuple[str, ...]]:
    """Whole, cut in two at every place, and in single characters."""
    return [(text,), *((text[:cut], text[cut:]) for cut in range(1, len(text))), tuple(text)]


BARE = [("time", "{}")]
LONG = "123456789012345678901.10"
MALFORMED = ["malformed_tool_call"]
# text, its calls, the text that is left, the warnings
TABLE: dict[str, tuple[str, list[tuple[str, str]], str | None, list[str]]] = {
    "text": ("Hello <b>you</b>, a < b", [], "Hello <b>you</b>, a < b", []),
    "nothing": ("", [], None, []),
    "white space": ("\n", [], "\n", []),
    "a call": (TIME, [UTC], None, []),
    "after white space": ("\n" + TIME + "\n", [UTC], None, []),
    "after text": ("Let me see.\n" + TIME, [UTC], "Let me see.\n", []),
    "before text": (TIME + "\n\nDone.", [UTC], "\n\nDone.", []),
    "several": (f"{TIME}\n{ADD}{TIME}", [UTC, ONE, UTC], None, []),
    "text between": (f"{TIME} and {ADD}", [UTC, ONE], " and ", []),
    "without its closing tag": (TIME.removesuffix("</tool_call>"), [UTC], None, []),
    "one closing tag for two": (TIME.removesuffix("</tool_call>") + ADD, [UTC, ONE], None, []),
    "what is not offered": ('<tool_call>{"name": "rm"}</tool_call>', [("rm", "{}")], None, ["unknown_tool"]),
    "prose about the tag": ("The <tool_call> tag", [], "The <tool_call> tag", MALFORMED),
    "the tag alone": ("so <tool_call>", [], "so <tool_call>", MALFORMED),
    "half a tag": ("so <tool_ca", [], "so <tool_ca", []),
    "a closing tag alone": ("so </tool_call>", [], "so </tool_call>", []),
    "broken, then a call": (f"<tool_call>{{oops\n{TIME}", [UTC], "<tool_call>{oops\n", MALFORMED),
    "a neutral tag": (f"You wrote <{MARK}tool_call>.", [], "You wrote <tool_call>.", []),
}  # fmt: skip

# What stands between the tags, and the calls that it is.
CALLS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "two": ('{"name": "time"}\n{"name": "add"}', [*BARE, ("add", "{}")]),
    "a list": ('[{"name": "time"}, {"name": "add"}]', [*BARE, ("add", "{}")]),
    "in a block of code": ('\n```json\n{"name": "time"}\n```\n', BARE),
    "no arguments": ('{"name": "time"}', BARE),
    "empty arguments": ('{"name": "time", "arguments": ""}', BARE),
    "arguments in a string": ('{"name": "time", "arguments": "{\\"zone\\": \\"UTC\\"}"}', [UTC]),
    "Llama's word for them": ('{"name": "time", "parameters": {"zone": "UTC"}}', [UTC]),
    "OpenAI's shape": ('{"type": "function", "function": {"name": "time", "arguments": {"zone": "UTC"}}}', [UTC]),
    "Python's literals": ("{'name': 'time', 'arguments': {'a': None,}}", [("time", '{"a":null}')]),
    "a line break": ('{"name": "time", "arguments": {"a": "b\nc"}}', [("time", '{"a":"b\\nc"}')]),
    "brackets missing": ('{"name": "time", "arguments": {"zone": "UTC"', [UTC]),
    "a bracket too many": ('{"name": "time", "arguments": {"zone": "UTC"}}}', [UTC]),
    "a long number": ('{"name": "add", "arguments": {"a": 123456789012345678901.10}}', [("add", f'{{"a":{LONG}}}')]),
    "a neutral tag": (f'{{"name": "time", "arguments": {{"a": "<{MARK}think>"}}}}', [("time", '{"a":"<think>"}')]),
}  # fmt: skip

# What stands between the tags, and is no call.
NO_CALLS: dict[str, str] = {
    "nothing": "",
    "no JSON": "{time(UTC)}",
    "no name": '{"arguments": {}}',
    "arguments in a list": '{"name": "time", "arguments": [1]}',
    "arguments that are text": '{"name": "time", "arguments": "UTC"}',
    "half a surrogate": '{"name": "time", "arguments": {"a": "\\ud800"}}',
    "a string without an end": '{"name": "time", "arguments": {"zone": "UTC}}',
    "a call and more": '{"name": "time"} please',
    "too deep": '{"name": "time", "arguments": ' + '{"a": ' * 100,
}


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    text, expected, left, warnings = TABLE[name]
    for pieces in ways(text):
        _, choice = read(deltas(*pieces))
        assert (calls(choice), choice.content, codes(choice)) == (expected, left, warnings), pieces
        assert choice.finish_reason == ("tool_calls" if expected else "stop")


@pytest.mark.parametrize("name", CALLS)
def test_a_call_in_many_shapes(name: str) -> None:
    body, expected = CALLS[name]
    for pieces in ways(f"<tool_call>{body}</tool_call>"):
        _, choice = read(deltas(*pieces))
        assert (calls(choice), choice.content, codes(choice)) == (expected, None, []), pieces


@pytest.mark.parametrize("name", NO_CALLS)
def test_what_is_no_call_is_handed_on(name: str) -> None:
    text = f"<tool_call>{NO_CALLS[name]}</tool_call> so"
    for pieces in ways(text):
        _, choice = read(deltas(*pieces))
        assert (calls(choice), choice.content, codes(choice)) == ([], text, MALFORMED), pieces
        assert choice.finish_reason == "stop"


def test_a_call_is_streamed_as_openai_streams_one() -> None:
    zone = "U" * 1_500
    made, _ = read(deltas(f'Hm <tool_call>{{"name": "time", "arguments": {{"zone": "{zone}"}}}}</tool_call>{ADD}'))
    text, head, first, second, other, rest, end = made
    assert text == Delta(content="Hm ")
    function = {"name": "time", "arguments": ""}
    assert head.tool_calls == [{"index": 0, "id": "call_s0", "type": "function", "function": function}]
    pieces = [delta.tool_calls[0] for delta in (first, second) if delta.tool_calls]
    assert [piece.keys() for piece in pieces] == [{"index", "function"}] * 2
    assert "".join(piece["function"]["arguments"] for piece in pieces) == f'{{"zone":"{zone}"}}'
    assert other.tool_calls is not None
    assert (other.tool_calls[0]["index"], other.tool_calls[0]["id"]) == (1, "call_s1")
    assert rest.tool_calls == [{"index": 1, "function": {"arguments": ONE[1]}}]
    assert end == Delta(finish_reason="tool_calls")


# Where calls stand, and what else comes


@pytest.mark.parametrize("size", [1, 3, 1_000])
def test_a_call_within_a_thought(size: int) -> None:
    thought = f"Let me see.\n{TIME}\nSo be it."
    given = [Delta(reasoning=thought[i : i + size]) for i in range(0, len(thought), size)]
    _, choice = read([*given, *deltas("\n", TIME, finish="tool_calls")])
    assert (choice.reasoning, choice.content, calls(choice)) == ("Let me see.\n\nSo be it.", None, [UTC, UTC])
    assert choice.finish_reason == "tool_calls"


def test_a_thought_that_ends_within_its_call() -> None:
    _, choice = read(deltas("\nSo.", thought=f"a{TIME.removesuffix('</tool_call>')}"))
    assert (choice.reasoning, choice.content, calls(choice)) == ("a", "\nSo.", [UTC])
    _, choice = read(deltas("So.", thought='a<tool_call>{"name": "ti'))
    assert (choice.reasoning, choice.content, calls(choice)) == ('a<tool_call>{"name": "ti', "So.", [])
    assert codes(choice) == ["malformed_tool_call"]
    _, choice = read(deltas("So.", thought="a <"))
    assert (choice.reasoning, choice.content) == ("a <", "So.")


HALF = '<tool_call>{"name": "time", "arguments": {"zone": "UTC"'


@pytest.mark.parametrize(
    ("text", "expected", "left"),
    [(TIME.removesuffix("</tool_call>"), [UTC], None), (HALF, [], HALF), ("so <tool", [], "so <tool")],
)
def test_a_call_that_was_cut_off_is_not_completed(text: str, expected: list[Any], left: str | None) -> None:
    """Nothing is guessed of what the model had no room for, or what broke off."""
    for end in (deltas(text, finish="length"), [Delta(content=text)]):
        _, choice = read(end)
        assert (calls(choice), choice.content) == (expected, left)
        assert choice.finish_reason in ("length", None)


def test_two_choices_do_not_mix() -> None:
    reader = CallReader(tool_set(), seed="s")
    made: list[Delta] = []
    for piece in TIME:
        for index in (0, 1):
            made += reader.feed(Delta(index, content=piece))
    heads = [call for delta in made for call in delta.tool_calls or () if "id" in call]
    assert [(head["index"], head["id"]) for head in heads] == [(0, "call_s0"), (0, "call_s1")]
    assert [delta.index for delta in made if delta.tool_calls] == [0, 0, 1, 1]


def test_whatever_else_a_delta_carries_comes_along() -> None:
    signed = {"type": "reasoning.encrypted", "data": "…"}
    told: dict[str, Any] = {"logprobs": {"content": [1]}}
    given = [
        Delta(),
        Delta(extra=told),
        Delta(reasoning="a<b", details=[{"type": "reasoning.text", "text": "a<b"}, signed]),
        Delta(content=TIME, extra=told),
        Delta(finish_reason="stop", extra={"stop_reason": None}),
        Delta(0, None, None, None, None),
    ]
    made, choice = read(given)
    assert made[:2] == given[:2]
    assert [delta.details for delta in made if delta.details] == [[signed]]
    assert [delta.extra for delta in made if delta.extra] == [told, told, {"stop_reason": None}]
    assert (choice.reasoning, calls(choice)) == ("a<b", [UTC])


def test_calls_that_the_endpoint_reads_itself() -> None:
    native = {"index": 0, "id": "x", "type": "function", "function": {"name": "time", "arguments": "{}"}}
    _, choice = read([Delta(content="so <"), Delta(tool_calls=[native]), *deltas(ADD)])
    assert [call["id"] for call in choice.tool_calls] == ["x", "call_s0"]
    assert choice.content == "so <"


# What was asked for


def test_one_call_where_only_one_is_wanted() -> None:
    _, choice = read(deltas(TIME, ADD, " so"), tool_set(parallel=False))
    assert (calls(choice), choice.content, codes(choice)) == ([UTC], " so", ["parallel_tool_calls"])


@pytest.mark.parametrize(
    ("tools", "text", "warnings"),
    [
        (tool_set(required=True), TIME, []),
        (tool_set(required=True), "No.", ["tool_choice"]),
        (tool_set(required=True, must_call="add"), ADD, []),
        (tool_set(required=True, must_call="add"), TIME, ["tool_choice"]),
    ],
)
def test_a_call_that_was_required(tools: ToolSet, text: str, warnings: list[str]) -> None:
    assert codes(read(deltas(text), tools)[1]) == warnings


BEGUN = {
    "a name": (tool_set(required=True), ' "time", "arguments": {"zone": "UTC"}}</tool_call>', [UTC], None),
    "arguments": (tool_set(required=True, must_call="time"), ' {"zone": "UTC"}}\n</tool_call>', [UTC], None),
    "and another": (tool_set(required=True), f'"time"}}</tool_call>{ADD}', [*BARE, ONE], None),
    "it begins anew": (tool_set(required=True), TIME, [UTC], None),
    "it says no": (tool_set(required=True), " No way.", [], " No way."),
    "nothing": (tool_set(required=True), "", [], None),
}  # fmt: skip


@pytest.mark.parametrize("name", BEGUN)
def test_an_answer_that_was_begun_for_the_endpoint(name: str) -> None:
    tools, text, expected, left = BEGUN[name]
    for pieces in [(text,), *((text[:cut], text[cut:]) for cut in range(1, len(text)))]:
        _, choice = read(deltas(*pieces), tools, begun=opening(tools))
        assert (calls(choice), choice.content) == (expected, left), pieces


# Bounds


def test_a_call_without_end_is_given_up() -> None:
    text = '<tool_call>{"name": "' + "x" * CALL_CHARACTERS
    made, choice = read(deltas(*(text[i : i + 1_000] for i in range(0, len(text), 1_000)), "y", TIME))
    assert choice.content == text + "y"
    assert (calls(choice), codes(choice)) == ([UTC], ["tool_call_too_long"])
    assert max(len(delta.content or "") for delta in made) <= CALL_CHARACTERS + 2_000


@pytest.mark.parametrize("before", ["", OPEN])
def test_white_space_without_end_is_not_held(before: str) -> None:
    reader = CallReader(tool_set(), seed="s")
    given = before + " " * BLANK_CHARACTERS
    assert not [delta for piece in given for delta in reader.feed(Delta(content=piece))]
    (first, *_) = reader.feed(Delta(content=" "))
    assert first.content is not None


# Properties

PIECES = st.sampled_from(
    ["<", "<tool", "<tool_call>", "tool_call>", "</tool_call>", "{", "}", '"', "a", "\n", " ", "é", ADD, TIME, MARK]
)
TEXT = st.lists(PIECES, max_size=12).map("".join)


@given(TEXT, TEXT, st.lists(st.integers(1, 30)), st.sampled_from(["stop", "length"]))
def test_cutting_changes_nothing(thought: str, text: str, sizes: list[int], finish: str) -> None:
    def cut(whole: str) -> list[str]:
        pieces = []
        for size in sizes:
            pieces.append(whole[:size])
            whole = whole[size:]
        return [piece for piece in [*pieces, whole] if piece]

    end = Delta(finish_reason=finish)
    _, whole = read([Delta(reasoning=thought or None, content=text or None), end])
    thoughts, texts = [Delta(reasoning=piece) for piece in cut(thought)], [Delta(content=piece) for piece in cut(text)]
    _, parts = read([*thoughts, *texts, end])
    assert parts == whole


@given(st.lists(PIECES.filter(lambda piece: piece not in (ADD, TIME, MARK)), max_size=12).map("".join))
def test_what_is_no_call_is_text_to_the_letter(text: str) -> None:
    _, choice = read(deltas(*text))
    assert (choice.content or "", calls(choice)) == (text, [])


@given(st.lists(st.sampled_from([TIME, ADD, " and ", "\n", "é<", "so"]), max_size=8))
def test_no_text_is_lost_doubled_or_reordered(pieces: list[str]) -> None:
    """Calls come where they stood; only the white space around them is theirs."""
    made, choice = read(deltas(*"".join(pieces)))
    order = ["call" if delta.tool_calls else "text" for delta in made if delta.tool_calls or delta.content]
    assert calls(choice) == [UTC if piece == TIME else ONE for piece in pieces if piece in (TIME, ADD)]
    said = "".join(piece for piece in pieces if piece not in (TIME, ADD))
    assert "".join((choice.content or "").split()) == "".join(said.split())
    if not choice.tool_calls:
        assert (choice.content or "") == said
    if pieces and pieces[0] in (TIME, ADD):
        assert order[0] == "call"


@given(TEXT.filter(lambda text: MARK not in text))
def test_no_more_is_held_back_than_may_be_a_tag(text: str) -> None:
    reader = CallReader(tool_set(), seed="s")
    said = "x"
    reader.feed(Delta(content="x"))
    for position, character in enumerate(text, 1):
        said += "".join(delta.content or "" for delta in reader.feed(Delta(content=character)))
        if OPEN not in text[:position]:
            assert len(said) >= position + 1 - (len(OPEN) - 1)


@given(st.text(st.sampled_from("<>/|ab_" + MARK)) | TEXT)
def test_what_a_caller_wrote_comes_back_as_it_was(text: str) -> None:
    _, choice = read(deltas("x" + neutralise(text)))
    assert choice.content == "x" + text
    assert not calls(choice)
