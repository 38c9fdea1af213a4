"""One answer in several parts: what allows it, where a part begins, how long it may be. Reports in, decisions out."""

from collections.abc import Sequence
from typing import Any

import pytest

from providers.chat_request import ChatRequest, Reasoning
from providers.events import Usage
from providers.seam import Seam
from proxy.exchange.continuation import (
    EFFORT_PERCENT,
    Part,
    generated_tokens,
    may_go_on,
    next_part,
    seam_after,
    thought_is_over,
    thought_limit_tokens,
)
from proxy.exchange.meter import AttemptReport, Reading
from proxy.routing.route import Candidate
from tests.proxy.exchange.parts import (
    BY_ENGINE,
    BY_PROMPT,
    BY_PROVIDER,
    TOOL,
    TOOLS_AS_TEXT,
    candidate,
    chat,
    cut,
    reading,
    report,
)

THINKS = Reasoning(enabled=True)
JSON = {"type": "json_object"}
CUT = cut("The herald")
CUT_THOUGHT = cut("", reading=reading(reasoning="Who carries it?"))
THOUGHT = report(reading=reading(reasoning="Who carries it?"), cut_short=True)


def within_call(**fields: Any) -> AttemptReport:
    return cut("", reading=reading("I look.", calls='time{"at":'), **fields)


# Where the answer stands


@pytest.mark.parametrize(
    ("readings", "close_thought", "seam"),
    [
        ([], False, Seam("", "")),
        ([reading("The herald")], False, Seam("", "The herald")),
        ([reading("The "), reading("herald")], False, Seam("", "The herald")),
        ([reading(reasoning="Who?")], False, Seam("Who?", None)),
        ([reading(reasoning="Who"), reading(reasoning=" is it?")], False, Seam("Who is it?", None)),
        ([reading("The herald", "Who?")], False, Seam("Who?", "The herald")),
        ([reading(reasoning="Who?"), reading("The herald")], False, Seam("Who?", "The herald")),
        # A thought that is to end here: what follows is the answer.
        ([reading(reasoning="Who?")], True, Seam("Who?", "")),
        ([reading("The herald", "Who?")], True, Seam("Who?", "The herald")),
        ([reading("The herald")], True, Seam("", "The herald")),
        ([], True, Seam("\n", "")),
        ([Reading()], True, Seam("\n", "")),
        # Within a call there is no seam, in whichever part it stands.
        ([reading("I look.", calls="time{")], False, None),
        ([reading("I look.", calls="time{"), reading("more")], True, None),
    ],
)
def test_where_the_answer_stands(readings: Sequence[Reading], close_thought: bool, seam: Seam | None) -> None:
    parts = [report(reading=each) for each in readings]
    assert seam_after(parts, close_thought=close_thought) == seam


@pytest.mark.parametrize(
    ("parts", "tokens"),
    [
        ([], 0),
        ([report(usage=Usage(26, 7))], 7),
        ([report(usage=None, reading=Reading(5))], 5),
        ([report(usage=Usage(26, 7)), report(usage=None, reading=Reading(5))], 12),
        ([report(usage=Usage(26, -7))], 0),
        ([report(usage=Usage(26, 0), reading=Reading(5))], 0),
    ],
)
def test_how_much_of_it_there_is(parts: Sequence[AttemptReport], tokens: int) -> None:
    assert generated_tokens(parts) == tokens


def test_a_thought_is_over_when_a_part_was_cut_short_for_it() -> None:
    assert not thought_is_over([])
    assert not thought_is_over([CUT_THOUGHT])
    assert thought_is_over([THOUGHT, report()])


# How long a thought may be


@pytest.mark.parametrize(
    ("reasoning", "limit"),
    [
        (Reasoning(enabled=True), None),
        (Reasoning(enabled=True, max_tokens=300), 300),
        (Reasoning(enabled=True, max_tokens=9_000), 9_000),
        (Reasoning(enabled=True, max_tokens=0), 1),
        (Reasoning(enabled=True, max_tokens=300, effort="high"), 300),
        (Reasoning(enabled=True, effort="max"), 950),
        (Reasoning(enabled=True, effort="xhigh"), 950),
        (Reasoning(enabled=True, effort="high"), 800),
        (Reasoning(enabled=True, effort="medium"), 500),
        (Reasoning(enabled=True, effort="low"), 200),
        (Reasoning(enabled=True, effort="minimal"), 100),
        (Reasoning(enabled=True, effort="none"), None),
        (Reasoning(enabled=False, effort="high"), None),
        (Reasoning(enabled=None, max_tokens=300), None),
    ],
)
def test_how_long_a_thought_may_be_of_1000_tokens(reasoning: Reasoning, limit: int | None) -> None:
    assert thought_limit_tokens(chat(reasoning=reasoning), candidate().endpoint, 1_000) == limit


@pytest.mark.parametrize("effort", EFFORT_PERCENT)
def test_a_thought_may_always_have_a_token(effort: str) -> None:
    wanted = chat(reasoning=Reasoning(enabled=True, effort=effort))
    assert thought_limit_tokens(wanted, candidate().endpoint, 1) == 1


@pytest.mark.parametrize(
    ("where", "parameters"),
    [
        (candidate(provider="openrouter"), {}),  # which sees to it itself
        (candidate(provider="openrouter", supports=["prefix"]), {}),
        (candidate(supports=["tools"]), {}),  # whose answers cannot be continued
        (candidate(), {"n": 2}),
        (candidate(), {"frequency_penalty": 0.5}),
    ],
)
def test_where_a_thought_is_not_limited_here(where: Candidate, parameters: dict[str, Any]) -> None:
    wanted = chat(reasoning=Reasoning(enabled=True, max_tokens=300), **parameters)
    assert thought_limit_tokens(wanted, where.endpoint, 1_000) is None


# What the next attempt is asked for

OPEN, CLOSED, SAID = Seam("Who?", None), Seam("Who?", ""), Seam("", "The herald")
WHOLE = frozenset[str]()


@pytest.mark.parametrize(
    ("wanted", "where", "parts", "seam", "part"),
    [
        (chat(), candidate(), [], None, Part(1_000, None, False, WHOLE)),
        (chat(), candidate(), [CUT], SAID, Part(1_000, SAID, False, WHOLE)),
        (chat(reasoning=THINKS), candidate(), [], None, Part(1_000, None, False, WHOLE)),
        # A limited thought: the part ends at its limit, and the answer does not.
        (
            chat(reasoning=Reasoning(True, max_tokens=300)),
            candidate(),
            [],
            None,
            Part(300, None, False, frozenset({"length"})),
        ),
        (chat(reasoning=Reasoning(True, max_tokens=1_000)), candidate(), [], None, Part(1_000, None, False, WHOLE)),
        (chat(reasoning=Reasoning(True, max_tokens=3_000)), candidate(), [], None, Part(1_000, None, False, WHOLE)),
        # What follows it, or goes on within it elsewhere, has all that is left.
        (
            chat(reasoning=Reasoning(True, max_tokens=300)),
            candidate(),
            [THOUGHT],
            CLOSED,
            Part(1_000, CLOSED, False, WHOLE),
        ),
        (
            chat(reasoning=Reasoning(True, max_tokens=300)),
            candidate(),
            [CUT_THOUGHT],
            OPEN,
            Part(1_000, OPEN, False, WHOLE),
        ),
        # Where a grammar holds from the first token on, the thought is asked for apart, up to its closing tag.
        (
            chat(reasoning=THINKS, response_format=JSON),
            candidate(means=BY_ENGINE),
            [],
            None,
            Part(1_000, Seam("", None), True, frozenset({"stop"})),
        ),
        (
            chat(reasoning=Reasoning(True, max_tokens=300), response_format=JSON),
            candidate(means=BY_ENGINE),
            [],
            None,
            Part(300, Seam("", None), True, frozenset({"stop", "length"})),
        ),
        (
            chat(reasoning=THINKS, response_format=JSON),
            candidate(means=BY_ENGINE),
            [CUT_THOUGHT],
            OPEN,
            Part(1_000, OPEN, True, frozenset({"stop"})),
        ),
        (
            chat(reasoning=THINKS, response_format=JSON),
            candidate(means=BY_ENGINE),
            [THOUGHT],
            CLOSED,
            Part(1_000, CLOSED, False, WHOLE),
        ),
        # A thought that was over at once leaves a seam that is inside none.
        (
            chat(reasoning=THINKS, response_format=JSON),
            candidate(means=BY_ENGINE),
            [THOUGHT],
            OPEN,
            Part(1_000, OPEN, False, WHOLE),
        ),
        (chat(response_format=JSON), candidate(means=BY_ENGINE), [], None, Part(1_000, None, False, WHOLE)),
        (
            chat(reasoning=THINKS, response_format=JSON),
            candidate(means=BY_PROMPT),
            [],
            None,
            Part(1_000, None, False, WHOLE),
        ),
    ],
)
def test_what_the_next_part_is_asked_for(
    wanted: ChatRequest, where: Candidate, parts: Sequence[AttemptReport], seam: Seam | None, part: Part
) -> None:
    assert next_part(wanted, where, parts, seam, 1_000) == part


# Whether an endpoint can go on

TOOLS = {"tools": [TOOL]}
AS_TEXT = candidate(means=TOOLS_AS_TEXT, supports=["prefix"])


@pytest.mark.parametrize(
    ("wanted", "parts", "where", "may"),
    [
        (chat(), [CUT], candidate(), True),
        (chat(), [CUT_THOUGHT], candidate(), True),
        (chat(), [CUT, CUT], candidate(), True),
        (chat(n=2), [CUT], candidate(), False),
        (chat(repetition_penalty=1.1), [CUT], candidate(), False),
        (chat(logprobs=True), [CUT], candidate(), False),
        (chat(), [CUT], candidate(supports=["tools", "response_format"]), False),
        (chat(), [within_call()], candidate(), False),
        (chat(), [within_call(), CUT], candidate(), False),
        # A grammar begins with the text: on neither side of the seam may it stand in the middle of it.
        (chat(response_format=JSON), [CUT], candidate(means=BY_ENGINE), False),
        (chat(response_format=JSON), [cut("{", candidate(means=BY_ENGINE))], candidate(means=BY_PROMPT), False),
        (chat(response_format=JSON), [cut("{", candidate(means=BY_PROMPT))], candidate(means=BY_PROVIDER), True),
        (chat(response_format=JSON), [CUT_THOUGHT], candidate(means=BY_ENGINE), True),
        (chat(response_format=JSON), [CUT_THOUGHT, CUT], candidate(means=BY_ENGINE), False),
        # Calls that the engine reads itself may not be read any more; calls that are text stay text.
        (chat(**TOOLS), [CUT], candidate(), False),
        (chat(**TOOLS), [CUT], AS_TEXT, True),
        (chat(**TOOLS), [cut("I look", inside_call=True)], AS_TEXT, False),
        (chat(**TOOLS, tool_choice="required"), [CUT], AS_TEXT, False),
        (chat(**TOOLS, tool_choice="none"), [CUT], candidate(), False),
        (chat(**TOOLS, tool_choice="none"), [CUT], AS_TEXT, True),
    ],
)
def test_whether_an_endpoint_can_go_on(
    wanted: ChatRequest, parts: Sequence[AttemptReport], where: Candidate, may: bool
) -> None:
    assert may_go_on(wanted, parts, where) is may
