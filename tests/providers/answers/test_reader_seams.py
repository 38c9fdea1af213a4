"""Where one thing ends and another begins: text before a call, before the end; what is late, odd or broken."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from providers.answers.assembly import Assembler, Choice
from providers.answers.reader import AnswerReader
from providers.events import Delta, Event, Failure, FailureKind, Usage
from providers.thinking import State

RECORDINGS = Path(__file__).parents[1] / "recordings"
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}


def chunk(delta: Any, finish: str | None = None, *, index: int = 0, **choice: Any) -> bytes:
    return (
        b"data: "
        + orjson.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish} | choice]})
        + b"\n\n"
    )


def text(piece: str) -> bytes:
    return chunk({"content": piece})


def read(*pieces: bytes, plain: bool = False, **more: Any) -> tuple[AnswerReader, list[Event]]:
    reader = AnswerReader(plain=plain, **more)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return reader, events + reader.end()


def said(events: list[Event]) -> list[tuple[str | None, str | None, int, str | None]]:
    """Each delta as (reasoning, content, number of calls, finish reason)."""
    deltas = [event for event in events if isinstance(event, Delta)]
    return [(d.reasoning, d.content, len(d.tool_calls or ()), d.finish_reason) for d in deltas]


def choice_of(events: list[Event]) -> Choice:
    assembler = Assembler()
    for event in events:
        assert isinstance(event, Delta)
        assembler.add(event)
    (choice,) = assembler.choices
    return choice


# What looks like the beginning of a tag is held back, but never beyond what follows the text.
SEAMS = {
    "white space before the end": ([text("\n"), chunk({}, "stop")], [(None, "\n", 0, "stop")]),
    "half an opener before the end": ([text("<thi"), chunk({}, "length")], [(None, "<thi", 0, "length")]),
    "half a closer before the end": (
        [text("<think>why</th"), chunk({}, "length")],
        [("why", None, 0, None), ("</th", None, 0, "length")],
    ),
    "half a closer with the end": ([chunk({"content": "<think>why</th"}, "length")], [("why</th", None, 0, "length")]),
    "white space before a call": (
        [text("\n"), chunk({"tool_calls": [CALL]}), chunk({}, "tool_calls")],
        [(None, "\n", 1, None), (None, None, 0, "tool_calls")],
    ),
    "a call within a thought, which goes on": (
        [text("<think>a<"), chunk({"tool_calls": [CALL]}), text("b</think>c"), chunk({}, "tool_calls")],
        [("a", None, 0, None), ("<", None, 1, None), ("b", "c", 0, None), (None, None, 0, "tool_calls")],
    ),
    "a tag after a call is text": (
        [chunk({"tool_calls": [CALL]}), text(" <think>a"), chunk({}, "tool_calls")],
        [(None, None, 1, None), (None, " <think>a", 0, None), (None, None, 0, "tool_calls")],
    ),
    "white space, then the engine's own thoughts": (
        [text("\n"), chunk({"reasoning": "why"}), text("<think>"), chunk({}, "stop")],
        [("why", "\n", 0, None), (None, "<think>", 0, None), (None, None, 0, "stop")],
    ),
    "everything in one event": (
        [chunk({"content": "<think>why</think>so", "tool_calls": [CALL]}, "tool_calls")],
        [("why", "so", 1, "tool_calls")],
    ),
    "cut without an end": ([text("<think>why</th")], [("why", None, 0, None), ("</th", None, 0, None)]),
}  # fmt: skip


@pytest.mark.parametrize("name", SEAMS)
def test_nothing_is_held_back_beyond_what_follows(name: str) -> None:
    pieces, expected = SEAMS[name]
    assert said(read(*pieces)[1]) == expected


@pytest.mark.parametrize(
    ("delta", "expected"),
    [
        ({"reasoning": "", "reasoning_content": "why"}, "why"),
        ({"reasoning": None, "reasoning_content": "why"}, "why"),
        ({"reasoning": ["odd"], "reasoning_content": "why"}, "why"),
        ({"reasoning": "why", "reasoning_content": ""}, "why"),
        ({"reasoning": "why", "content": [{"type": "thinking", "thinking": "why"}]}, "why"),
        ({"reasoning": "", "reasoning_details": [{"type": "reasoning.summary", "summary": "why"}]}, "why"),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "why"}]}]}, "why"),
        ({"reasoning_details": [{"type": "reasoning.encrypted", "data": "…"}]}, None),
        ({"reasoning_details": {"type": "reasoning.text", "text": "no list"}}, None),
    ],
)
def test_one_thought_in_many_shapes(delta: dict[str, Any], expected: str | None) -> None:
    assert said(read(chunk(delta, "stop"))[1]) == [(expected, None, 0, "stop")]


def test_an_opener_that_stands_in_the_prompt() -> None:
    reader, events = read(text("why</th"), text("ink>so"), chunk({}, "stop"), starts=State.THINKING)
    assert [(d[0], d[1]) for d in said(events)] == [("why", None), (None, "so"), (None, None)]
    assert reader.finished


def test_an_event_after_the_finish_does_not_reopen_the_choice() -> None:
    """OpenRouter's usage comes on an event with a choice that says nothing."""
    usage = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],'
    reader, _ = read(text("so"), chunk({}, "stop"), usage + b'"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n')
    assert (reader.done, reader.finished, reader.usage) == (False, True, Usage(9, 4))


def test_a_choice_that_comes_late_must_finish_too() -> None:
    first = [text("a"), chunk({}, "stop")]
    assert not read(*first, chunk({"content": "b"}, index=1))[0].finished
    assert read(*first, chunk({"content": "b"}, index=1), chunk({}, "stop", index=1))[0].finished


def test_an_empty_finish_reason_is_none() -> None:
    assert said(read(chunk({"content": "a"}, ""))[1]) == [(None, "a", 0, None)]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"finish_reason": "abort"}, "no reason given"),
        ({"finish_reason": "error"}, "no reason given"),
        ({"native_finish_reason": "error", "finish_reason": "stop"}, "no reason given"),
        ({"error": {"message": "broke", "code": 502}}, "broke"),
    ],
)
@pytest.mark.parametrize("plain", [True, False])
def test_a_choice_that_broke_is_no_answer(choice: dict[str, Any], message: str, plain: bool) -> None:
    body = {"choices": [{"index": 0, "message": {"content": "x"}, "delta": {"content": "x"}} | choice]}
    payload = orjson.dumps(body) if plain else b"data: " + orjson.dumps(body) + b"\n\n"
    _, events = read(payload, plain=plain)
    assert [type(event) for event in events] == [Failure]
    assert [event.message for event in events if isinstance(event, Failure)] == [message]


def test_after_a_failure_nothing_more_comes() -> None:
    broken = [{"index": 0, "delta": {}, "finish_reason": "error"}, {"index": 1, "delta": {"content": "b"}}]
    _, events = read(text("<thi"), b"data: " + orjson.dumps({"choices": broken}) + b"\n\n", text("c"))
    assert [type(event) for event in events] == [Failure]


def test_the_usage_of_an_event_that_is_an_error_is_kept() -> None:
    event = b'data: {"error":{"code":502,"message":"x"},"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
    assert read(text("a"), event)[0].usage == Usage(9, 4)


REASONS = [
    ({"detail": "maximum capacity"}, "maximum capacity", FailureKind.SERVER_ERROR),
    ({"message": "slow down", "statusCode": 429}, "slow down", FailureKind.RATE_LIMITED),
    ({"object": "error", "message": "full", "code": 503}, "full", FailureKind.UNAVAILABLE),
    ({"detail": [{"msg": "field required"}]}, '[{"msg":"field required"}]', FailureKind.SERVER_ERROR),
]


@pytest.mark.parametrize(("body", "message", "kind"), REASONS)
@pytest.mark.parametrize("plain", [True, False])
def test_an_error_body_at_200_gives_its_reason(body: Any, message: str, kind: FailureKind, plain: bool) -> None:
    payload = orjson.dumps(body)
    (failure,) = read(payload if plain else b"data: " + payload + b"\n\n", plain=plain)[1]
    assert isinstance(failure, Failure)
    assert (failure.message, failure.kind) == (message, kind)


@pytest.mark.parametrize(
    "body", [{"type": "ping"}, {"choices": [], "message": "not an error"}, {"message": {"role": "a"}}]
)
def test_an_event_that_says_nothing_is_passed_over(body: Any) -> None:
    assert said(read(b"data: " + orjson.dumps(body) + b"\n\n" + text("a"))[1]) == [(None, "a", 0, None)]


def test_a_plain_body_has_an_end() -> None:
    reader, events = read(b"x" * 60, b"x" * 60, b"x" * 60, plain=True, plain_bytes=100)
    assert events == [Failure(FailureKind.PROTOCOL, "the body is larger than 100 bytes")]
    assert not reader.finished


USAGES = [
    ({"prompt_tokens": 9, "completion_tokens": 4}, Usage(9, 4)),
    ({"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4)),
    (
        {"prompt_tokens": 9, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 0}},
        Usage(9, 4, None, 0),
    ),
    ({"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 3}, Usage(9, 4, None, 3)),
    ({"prompt_tokens": -1, "completion_tokens": -1}, Usage(-1, -1)),  # the ledger judges what is plausible
    ({"prompt_tokens": 9}, None),
    ({"prompt_tokens": 9.5, "completion_tokens": 4}, None),
    ({"prompt_tokens": True, "completion_tokens": 4}, None),
]


@pytest.mark.parametrize(("usage", "expected"), USAGES)
def test_usage_as_it_is_claimed(usage: Any, expected: Usage | None) -> None:
    assert read(b"data: " + orjson.dumps({"choices": [], "usage": usage}) + b"\n\n")[0].usage == expected


@pytest.mark.parametrize("later", ["lots", None, [], {}, {"total_tokens": 1}])
def test_nonsense_does_not_replace_a_usage(later: Any) -> None:
    good = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
    assert read(good, b"data: " + orjson.dumps({"usage": later}) + b"\n\n")[0].usage == Usage(9, 4)


def test_the_last_usage_counts() -> None:
    pieces = [b'data: {"usage":{"prompt_tokens":9,"completion_tokens":%d}}\n\n' % n for n in (1, 2, 7)]
    assert read(*pieces)[0].usage == Usage(9, 7)


CALLS = [
    ([CALL], "time", "{}"),
    ([{**CALL, "function": {"name": "time", "arguments": {"zone": "UTC"}}}], "time", '{"zone":"UTC"}'),
    ([{"id": "c1", "function": {"name": "time", "arguments": "{}"}}], "time", "{}"),  # without index and type
    ([{**CALL, "function": {"name": 7, "arguments": 8}}], "", ""),
    ([{**CALL, "function": "nonsense"}, 3, None], "", ""),
]


@pytest.mark.parametrize(("calls", "name", "arguments"), CALLS)
@pytest.mark.parametrize("plain", [True, False])
def test_calls_as_they_come(calls: Any, name: str, arguments: str, plain: bool) -> None:
    body = {"choices": [{"index": 0, "message": {"tool_calls": calls}, "finish_reason": "tool_calls"}]}
    pieces = [orjson.dumps(body)] if plain else [chunk({"tool_calls": calls}), chunk({}, "tool_calls")]
    (call,) = choice_of(read(*pieces, plain=plain)[1]).tool_calls
    assert call["function"] == {"name": name, "arguments": arguments}
    assert (call["id"], call["type"], call["index"]) == ("c1", "function", 0)


def test_details_are_put_together_piece_by_piece() -> None:
    pieces: list[dict[str, Any]] = [
        {"type": "reasoning.text", "text": "wh", "index": 0, "format": None},
        {"type": "reasoning.text", "text": "y", "index": 0, "format": "x", "signature": None},
        {"type": "reasoning.encrypted", "data": "…", "index": 1},
        {"type": "reasoning.text", "text": "so", "index": 2, "signature": "s"},
    ]
    choice = choice_of(read(*(chunk({"reasoning_details": [piece]}) for piece in pieces), chunk({}, "stop"))[1])
    assert choice.reasoning == "whyso"
    assert choice.details == [
        {"type": "reasoning.text", "text": "why", "index": 0, "format": "x", "signature": None},
        {"type": "reasoning.encrypted", "data": "…", "index": 1},
        {"type": "reasoning.text", "text": "so", "index": 2, "signature": "s"},
    ]


def test_logprobs_are_joined_and_a_stop_reason_replaced() -> None:
    def token(name: str) -> dict[str, Any]:
        return {"content": [{"token": name}], "refusal": None}

    _, events = read(
        chunk({"content": "a"}, logprobs=token("a")),
        chunk({"content": "b"}, logprobs=token("b")),
        chunk({}, "stop", logprobs=None, stop_reason="END"),
    )
    extra = choice_of(events).extra
    assert extra == {"logprobs": {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}, "stop_reason": "END"}


# What a real vLLM said.
@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("vllm-[ps]*")), ids=lambda path: path.stem)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_recordings_read_the_same_in_pieces_of_any_size(path: Path, size: int) -> None:
    plain = path.suffix == ".http"
    body = path.read_bytes().partition(b"\r\n\r\n")[2] if plain else path.read_bytes()
    reader, events = read(*(body[i : i + size] for i in range(0, len(body), size)), plain=plain)
    choice = choice_of(events)
    whole = choice_of(read(body, plain=plain)[1])
    assert (choice.reasoning, choice.content, choice.tool_calls) == (whole.reasoning, whole.content, whole.tool_calls)
    assert reader.finished
    assert reader.skipped_events == 0
    assert "<think>" not in (choice.content or "") + (choice.reasoning or "")
    assert "</think>" not in (choice.content or "") + (choice.reasoning or "")
    assert bool(choice.reasoning) == ("thinking" in path.stem)
    assert choice.finish_reason == (
        "tool_calls" if choice.tool_calls else "length" if "length" in path.stem else "stop"
    )
    assert bool(choice.tool_calls) == ("tool-call" in path.stem)
