"""One choice, event by event: what an endpoint said of it on the left, what comes of that on the right."""

from typing import Any

import pytest

from providers.answers.choice import ChoiceReader
from providers.events import Delta
from providers.thinking import State

CALL = {"index": 0, "id": "c", "type": "function", "function": {"name": "time", "arguments": "{}"}}

# Each event's delta (a tuple: with its finish reason), the delta that comes, and at the end what was held back.
Line = tuple[Any, Delta | None]
TRANSCRIPTS: dict[str, tuple[list[Line], Delta | None]] = {
    "text": ([({"role": "assistant", "content": ""}, None), ({"content": "so"}, Delta(0, None, "so"))], None),
    "the engine splits": (
        [({"reasoning": "why"}, Delta(0, "why")), ({"content": "<think>"}, Delta(0, None, "<think>"))],
        None,
    ),
    "an inline thought": (
        [
            ({"content": " <th"}, None),
            ({"content": "ink>wh"}, Delta(0, "wh")),
            ({"content": "y</think>so"}, Delta(0, "y", "so")),
            (({}, "stop"), Delta(0, finish_reason="stop")),
        ],
        None,
    ),
    "what may be a tag is held, and let out": ([({"content": "<th"}, None)], Delta(0, None, "<th")),
    "a call lets it out": ([({"content": "<th"}, None), ({"tool_calls": [CALL]}, Delta(0, None, "<th", [CALL]))], None),
    "so does the end": (
        [({"content": "<th"}, None), (({}, "length"), Delta(0, None, "<th", None, "length"))],
        None,
    ),
    "a late event": ([(({}, "stop"), Delta(0, finish_reason="stop")), ({"content": "x"}, Delta(0, None, "x"))], None),
    "no delta at all": ([(None, None), ("odd", None), (({}, ""), None)], None),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    lines, held = TRANSCRIPTS[name]
    reader = ChoiceReader(0)
    for said, expected in lines:
        delta, finish_reason = said if isinstance(said, tuple) else (said, None)
        assert reader.read({"delta": delta, "finish_reason": finish_reason}, plain=False) == expected
    assert reader.end() == held
    assert reader.finished == any(expected is not None and expected.finish_reason for _, expected in lines)


@pytest.mark.parametrize(
    ("events", "passes"),
    [
        ([], False),
        ([{"content": "<"}], False),
        ([{"content": "<think>why"}], False),
        ([{"content": "<think>why</think>"}], True),
        ([{"content": "so"}], True),
        ([{"reasoning": "why"}], True),
        ([{"tool_calls": [CALL]}], True),
    ],
)
def test_when_its_text_needs_no_more_looking_at(events: list[dict[str, Any]], passes: bool) -> None:
    reader = ChoiceReader(0)
    for delta in events:
        reader.read({"delta": delta}, plain=False)
    assert reader.passes_text == passes


def test_a_raw_completion_has_no_tags() -> None:
    reader = ChoiceReader(3)
    assert reader.read({"text": "<think>a", "index": 3}, plain=False) == Delta(3, None, "<think>a")
    assert reader.passes_text
    assert reader.read({"text": None}, plain=False) is None


def test_where_another_endpoint_left_it() -> None:
    reader = ChoiceReader(0, State.THINKING)
    assert reader.read({"delta": {"content": "y</think>so"}}, plain=False) == Delta(0, "y", "so")


def test_a_plain_answer_says_all_at_once() -> None:
    unnumbered = {name: value for name, value in CALL.items() if name != "index"}
    message = {"content": "<think>why</think>so", "tool_calls": [unnumbered]}
    choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": []}, "stop_reason": 7}
    extra = {"logprobs": {"content": []}, "stop_reason": 7}
    assert ChoiceReader(0).read(choice, plain=True) == Delta(0, "why", "so", [CALL], "stop", extra)
