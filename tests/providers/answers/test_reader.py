"""One answer in every shape of the wire: the same events, wherever the bytes are cut."""

from typing import Any

import orjson
import pytest

from providers.answers.assembly import Assembler
from providers.answers.reader import EVENT_BYTES, AnswerReader
from providers.events import Delta, Event, Failure, FailureKind, Usage

DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more.pop("choice", {})}
    return b"data: " + orjson.dumps({"id": "x", "choices": [choice], **more}) + b"\n\n"


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4}}\n\n'
END = chunk({}, "stop") + USAGE + DONE
ROLE = chunk({"role": "assistant", "content": ""})

SHAPES = {
    "reasoning": ROLE + chunk({"reasoning": "wh"}) + chunk({"reasoning": "y"}) + chunk({"content": "so"}) + END,
    "reasoning_content": ROLE + chunk({"reasoning_content": "why"}) + chunk({"content": "so"}) + END,
    "both, identical": ROLE + chunk({"reasoning": "why", "reasoning_content": "why"}) + chunk({"content": "so"}) + END,
    "details alone": ROLE
    + chunk({"reasoning_details": [{"type": "reasoning.text", "text": "why", "index": 0}]})
    + chunk({"content": "so"})
    + END,
    "reasoning and details": ROLE
    + chunk({"reasoning": "why", "reasoning_details": [{"type": "reasoning.text", "text": "why"}]})
    + chunk({"content": "so"})
    + END,
    "parts": ROLE + chunk({"content": [{"type": "thinking", "thinking": "why"}, {"type": "text", "text": "so"}]}) + END,
    "inline": ROLE + chunk({"content": "<th"}) + chunk({"content": "ink>why</thi"}) + chunk({"content": "nk>so"}) + END,
    "inline, one piece": chunk({"content": "<think>why</think>so"}) + END,
    "null fields": ROLE
    + chunk({"content": None, "reasoning": "why", "tool_calls": None})
    + chunk({"content": "so", "reasoning": None, "reasoning_content": None})
    + END,
    "usage on a chunk with choices": ROLE
    + chunk({"reasoning": "why"})
    + chunk({"content": "so"})
    + chunk({}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 4})
    + DONE,
    "continuous usage": chunk({"reasoning": "why"}, usage={"prompt_tokens": 9, "completion_tokens": 1})
    + chunk({"content": "so"}, usage={"prompt_tokens": 9, "completion_tokens": 2})
    + END,
    "comments and noise": b": OPENROUTER PROCESSING\n\ndata: not json\n\ndata: [1]\n\n"
    + chunk({"reasoning": "why"})
    + chunk({"content": "so"})
    + END,
}


def read(*pieces: bytes, plain: bool = False) -> tuple[AnswerReader, list[Event]]:
    reader = AnswerReader(plain=plain)
    events = [event for piece in pieces for event in reader.feed(piece)]
    return reader, events + reader.end()


def texts(events: list[Event]) -> tuple[str, str]:
    deltas = [event for event in events if isinstance(event, Delta)]
    return "".join(d.reasoning or "" for d in deltas), "".join(d.content or "" for d in deltas)


# Each read, the events that come of it, and `(done, finished)` behind it.
TRANSCRIPT: list[tuple[bytes, list[Event], tuple[bool, bool]]] = [
    (b": wait\n\n", [], (False, False)),
    (ROLE, [], (False, False)),
    (chunk({"content": "<think>wh"}), [Delta(0, "wh")], (False, False)),
    (chunk({"content": "y</th"})[:-9], [], (False, False)),
    (chunk({"content": "y</th"})[-9:], [Delta(0, "y")], (False, False)),
    (chunk({"content": "ink>so"}), [Delta(0, None, "so")], (False, False)),
    (
        chunk({"content": " it"}) + chunk({"content": " is"}),
        [Delta(0, None, " it"), Delta(0, None, " is")],
        (False,) * 2,
    ),
    (chunk({}, "stop"), [Delta(0, finish_reason="stop")], (False, True)),
    (USAGE, [], (False, True)),
    (DONE, [], (True, True)),
]


def test_a_stream_read_by_read() -> None:
    reader = AnswerReader()
    for piece, events, state in TRANSCRIPT:
        assert (reader.feed(piece), (reader.done, reader.finished)) == (events, state), piece
    assert reader.end() == []
    assert (reader.events_read, reader.finish_reason, reader.usage) == (8, "stop", Usage(9, 4))


def test_a_failure_is_the_last_event_of_its_read() -> None:
    reader = AnswerReader()
    events = reader.feed(chunk({"content": "a"}) + b'data: {"error":"no"}\n\n' + chunk({"content": "b"}) + DONE)
    assert events == [Delta(0, None, "a"), Failure(FailureKind.SERVER_ERROR, "no")]
    assert (reader.feed(DONE), reader.end(), reader.done) == ([], [], False)


def test_an_event_without_end_is_a_failure() -> None:
    reader = AnswerReader()
    failures = [event for _ in range(5) for event in reader.feed(b"data: " + b"x" * EVENT_BYTES)]
    assert failures == [Failure(FailureKind.PROTOCOL, f"an event is larger than {EVENT_BYTES} bytes")]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_says_the_same(shape: str) -> None:
    reader, events = read(SHAPES[shape])
    assert texts(events) == ("why", "so")
    assert reader.usage == Usage(9, 4)
    assert (reader.done, reader.finished) == (True, True)
    assert not [event for event in events if isinstance(event, Failure)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_cut_at_every_byte(shape: str) -> None:
    stream = SHAPES[shape]
    for cut in range(len(stream)):
        reader, events = read(stream[:cut], stream[cut:])
        assert texts(events) == ("why", "so"), cut
        assert reader.usage == Usage(9, 4)


def test_noise_is_counted() -> None:
    assert read(SHAPES["comments and noise"])[0].skipped_events == 2


def test_a_plain_answer_reads_like_a_stream() -> None:
    body = orjson.dumps(
        {
            "choices": [
                {"index": 0, "message": {"content": "so", "reasoning_content": "why"}, "finish_reason": "stop"},
            ],
            "usage": {
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
        }
    )
    reader, events = read(body[:30], body[30:], plain=True)
    assert texts(events) == ("why", "so")
    assert reader.usage == Usage(9, 4, 0, 3)
    assert reader.finished


CUTS = [(ROLE + chunk({"content": "so"}), (False, False)), (ROLE + chunk({"content": "so"}, "stop"), (False, True))]


@pytest.mark.parametrize(("stream", "end"), CUTS)
def test_how_it_ended(stream: bytes, end: tuple[bool, bool]) -> None:
    reader, _ = read(stream)
    assert (reader.done, reader.finished) == end


def test_every_choice_must_finish() -> None:
    second = {"index": 1, "delta": {"content": "b"}, "finish_reason": None}
    stream = ROLE + b"data: " + orjson.dumps({"choices": [second]}) + b"\n\n" + chunk({}, "stop")
    assert not read(stream)[0].finished


ERRORS = {
    "vLLM, mid-stream": (
        b'data: {"error": {"message": "engine died", "type": "InternalServerError", "code": 500}}\n\n' + DONE,
        Failure(FailureKind.SERVER_ERROR, "engine died", 500),
    ),
    "OpenRouter, mid-stream": (
        b'data: {"id":"g","provider":"Nebius","error":{"code":502,"message":"upstream idle"},'
        b'"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}\n\n',
        Failure(FailureKind.UNAVAILABLE, "upstream idle", 502),
    ),
    "a choice with an error": (
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"error","error":{"code":429,"message":"slow"}}]}\n\n',
        Failure(FailureKind.RATE_LIMITED, "slow", 429),
    ),
    "an error that is a string": (
        b'data: {"error": "Unauthorized"}\n\n',
        Failure(FailureKind.SERVER_ERROR, "Unauthorized"),
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_in_a_stream(case: str) -> None:
    stream, failure = ERRORS[case]
    _, events = read(ROLE + chunk({"content": "so"}) + stream + chunk({"content": "never"}))
    assert events[-1] == failure
    assert texts(events) == ("", "so")


PLAIN_ERRORS = [
    b'{"error": {"code": 502, "message": "no"}}',
    b'{"choices":[{"index":0,"message":{"content":""},"finish_reason":"stop","native_finish_reason":"error"}]}',
    b'{"choices":[{"index":0,"error":{"code":502,"message":"no"},"message":{"content":""}}]}',
]


@pytest.mark.parametrize("body", PLAIN_ERRORS)
def test_errors_in_a_200(body: bytes) -> None:
    _, events = read(body, plain=True)
    assert isinstance(events[-1], Failure)


NONSENSE = [
    b'{"choices": 7}',
    b'{"choices": [7, null, {"delta": 3}]}',
    b'{"choices": [{"index": "x", "delta": {"content": 5, "reasoning": [], "tool_calls": "t"}}]}',
    b'{"usage": "lots"}',
    b'{"usage": {"prompt_tokens": "9"}}',
    b"null",
    b"[]",
    b"\xff\xfe",
]


@pytest.mark.parametrize("payload", NONSENSE)
def test_nonsense_breaks_nothing(payload: bytes) -> None:
    reader, events = read(b"data: " + payload + b"\n\n" + SHAPES["reasoning"])
    assert texts(events) == ("why", "so")
    assert reader.usage == Usage(9, 4)


def test_tool_calls_are_put_together() -> None:
    pieces = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": '"Rome"}'}},
    ]
    _, events = read(*(chunk({"tool_calls": [piece]}) for piece in pieces), chunk({}, "tool_calls"), DONE)
    assembler = Assembler()
    for event in events:
        assert isinstance(event, Delta)
        assembler.add(event)
    (choice,) = assembler.choices
    assert [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in choice.tool_calls] == [
        ("c1", "weather", '{"city":"Rome"}'),
        ("c2", "time", "{}"),
    ]
    assert choice.finish_reason == "tool_calls"
    assert choice.content is None
