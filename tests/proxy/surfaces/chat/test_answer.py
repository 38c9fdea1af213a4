"""What a client sees of an answer, in every format of the thoughts: streamed and whole, wherever the bytes were cut."""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.answers.reader import AnswerReader
from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.surfaces.chat.answer import ChatMessage, ChatStream
from proxy.surfaces.reasoning import FORMATS
from proxy.surfaces.surface import Identity

REQUEST_ID = UUID("01a1fd97-baaf-7c65-8a6e-000000000001")
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "cost": orjson.Fragment(b"0.000021")}
SHOWN = {"prompt_tokens": 9, "completion_tokens": 4, "cost": 0.000021}
CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}
DETAIL = {"type": "reasoning.text", "text": "why", "index": 0, "signature": "s"}
SECRET = {"type": "reasoning.encrypted", "data": "…", "index": 1}


def identity(shape: str) -> Identity:
    return Identity(REQUEST_ID, 1_792_000_000, "NousResearch/Hermes-4-405B", shape)


def stream_of(shape: str) -> ChatStream:
    stream = ChatStream(identity(shape))
    stream.provider = "first"
    return stream


def chunks(data: bytes) -> list[dict[str, Any]]:
    """The payloads of a stream; no key of any object stands twice."""
    events = [event.removeprefix(b"data: ") for event in data.split(b"\n\n") if event]
    for event in events:
        if event != b"[DONE]":
            assert event.count(b'":') == orjson.dumps(orjson.loads(event)).count(b'":'), event
    return [orjson.loads(event) for event in events if event != b"[DONE]"]


def choices(deltas: Iterable[Delta], shape: str) -> list[dict[str, Any]]:
    """What the client gets, a choice a chunk."""
    stream = stream_of(shape)
    return [chunk["choices"][0] for delta in deltas for chunk in chunks(stream.encode(delta))]


def pieces(deltas: Iterable[Delta], shape: str) -> list[dict[str, Any]]:
    return [choice["delta"] for choice in choices(deltas, shape)]


def message(deltas: Iterable[Delta], shape: str) -> dict[str, Any]:
    answer = ChatMessage(identity(shape))
    for delta in deltas:
        answer.add(delta)
    choice: dict[str, Any] = orjson.loads(answer.body({}, None))["choices"][0]
    return choice


# A thought and an answer

THOUGHT = [Delta(reasoning="wh"), Delta(reasoning="y"), Delta(content="so"), Delta(finish_reason="stop")]
ROLE = {"role": "assistant", "content": ""}

STREAMED: dict[str, list[dict[str, Any]]] = {
    "both": [
        ROLE | {"reasoning": "wh", "reasoning_content": "wh"},
        {"reasoning": "y", "reasoning_content": "y"},
        {"content": "so"},
        {},
    ],
    "reasoning": [ROLE | {"reasoning": "wh"}, {"reasoning": "y"}, {"content": "so"}, {}],
    "reasoning_content": [ROLE | {"reasoning_content": "wh"}, {"reasoning_content": "y"}, {"content": "so"}, {}],
    "details": [
        ROLE | {"reasoning_details": [{"type": "reasoning.text", "text": "wh", "format": "unknown", "index": 0}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "y", "format": "unknown", "index": 0}]},
        {"content": "so"},
        {},
    ],
    "inline": [
        {"role": "assistant", "content": "<think>wh"},
        {"content": "y"},
        {"content": "</think>so"},
        {},
    ],
    "none": [ROLE, {"content": "so"}, {}],
}
WHOLE: dict[str, dict[str, Any]] = {
    "both": {"content": "so", "reasoning": "why", "reasoning_content": "why"},
    "reasoning": {"content": "so", "reasoning": "why"},
    "reasoning_content": {"content": "so", "reasoning_content": "why"},
    "details": {
        "content": "so",
        "reasoning_details": [{"type": "reasoning.text", "text": "why", "format": "unknown", "index": 0}],
    },
    "inline": {"content": "<think>why</think>so"},
    "none": {"content": "so"},
}


@pytest.mark.parametrize("shape", FORMATS)
def test_a_thought_streamed(shape: str) -> None:
    assert pieces(THOUGHT, shape) == STREAMED[shape]
    assert [choice["finish_reason"] for choice in choices(THOUGHT, shape)][-2:] == [None, "stop"]


@pytest.mark.parametrize("shape", FORMATS)
def test_a_thought_whole(shape: str) -> None:
    choice = message(THOUGHT, shape)
    assert choice["message"] == {"role": "assistant", "refusal": None} | WHOLE[shape]
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("shape", FORMATS)
def test_without_thoughts_no_field_speaks_of_any(shape: str) -> None:
    deltas = [Delta(content="so"), Delta(finish_reason="stop")]
    assert pieces(deltas, shape) == [{"role": "assistant", "content": "so"}, {}]
    assert message(deltas, shape)["message"] == {"role": "assistant", "refusal": None, "content": "so"}


def test_a_providers_own_details_are_handed_on() -> None:
    deltas = [Delta(reasoning="why", details=[DETAIL]), Delta(details=[SECRET]), Delta(content="so")]
    assert pieces(deltas, "details") == [
        ROLE | {"reasoning_details": [DETAIL]},
        {"reasoning_details": [SECRET]},
        {"content": "so"},
    ]
    assert message(deltas, "details")["message"]["reasoning_details"] == [DETAIL, SECRET]
    assert pieces(deltas, "both") == [ROLE | {"reasoning": "why", "reasoning_content": "why"}, {"content": "so"}]
    assert message([Delta(details=[SECRET])], "details")["message"]["reasoning_details"] == [SECRET]


# Inline: the tag closes exactly once, before whatever follows the thought

THINK, SAY, CALLED, END = (
    Delta(reasoning="a"),
    Delta(content="b"),
    Delta(tool_calls=[CALL]),
    Delta(finish_reason="stop"),
)

INLINE = {
    "thought, text, end": ([THINK, SAY, END], "<think>a</think>b"),
    "thought and text at once": ([Delta(reasoning="a", content="b"), SAY], "<think>a</think>bb"),
    "thought, end": ([THINK, END], "<think>a</think>"),
    "thought and end at once": ([Delta(reasoning="a", finish_reason="length")], "<think>a</think>"),
    "thought, then text and end at once": ([THINK, Delta(content="b", finish_reason="stop")], "<think>a</think>b"),
    "all at once": ([Delta(0, "a", "b", [CALL], "stop")], "<think>a</think>b"),
    "thought, call, end": ([THINK, CALLED, END], "<think>a</think>"),
    "thought and call at once": ([Delta(reasoning="a", tool_calls=[CALL]), END], "<think>a</think>"),
    "thought, call, text": ([THINK, CALLED, SAY], "<think>a</think>b"),
    "text, thought, text": ([SAY, THINK, SAY], "b<think>a</think>b"),
    "thought, text, thought, end": ([THINK, SAY, THINK, END], "<think>a</think>b<think>a</think>"),
    "no thought": ([SAY, END], "b"),
    "cut within the thought": ([THINK, THINK], "<think>aa"),
}


@pytest.mark.parametrize("name", INLINE)
def test_inline(name: str) -> None:
    deltas, text = INLINE[name]
    seen = pieces(deltas, "inline")
    assert "".join(piece.get("content", "") for piece in seen) == text
    assert not [key for piece in seen for key in piece if key.startswith("reasoning")]


def test_inline_the_tag_closes_before_the_call() -> None:
    seen = pieces([Delta(reasoning="a"), Delta(tool_calls=[CALL])], "inline")
    assert seen[1] == {"content": "</think>", "tool_calls": [CALL]}


def test_inline_each_choice_has_tags_of_its_own() -> None:
    deltas = [Delta(0, reasoning="a"), Delta(1, reasoning="b"), Delta(0, content="c"), Delta(1, content="d")]
    seen = choices(deltas, "inline")
    texts = ["".join(choice["delta"]["content"] for choice in seen if choice["index"] == index) for index in (0, 1)]
    assert texts == ["<think>a</think>c", "<think>b</think>d"]


def test_inline_with_calls_and_no_text_whole() -> None:
    whole = message([Delta(reasoning="a", tool_calls=[CALL], finish_reason="tool_calls")], "inline")
    assert whole["message"]["content"] == "<think>a</think>"
    assert whole["message"]["tool_calls"] == [{"id": "c1", "type": "function", "function": CALL["function"]}]


ANY_DELTA = st.builds(
    Delta,
    index=st.integers(0, 1),
    reasoning=st.sampled_from([None, "r", "r<"]),
    content=st.sampled_from([None, "c", "\n"]),
    tool_calls=st.sampled_from([None, [CALL]]),
    finish_reason=st.sampled_from([None, None, "stop"]),
    extra=st.sampled_from([None, {"stop_reason": 7}]),
    details=st.sampled_from([None, [DETAIL]]),
)


@pytest.mark.parametrize("shape", FORMATS)
@settings(deadline=None)
@given(deltas=st.lists(ANY_DELTA, max_size=8))
def test_no_order_of_events_loses_anything_or_changes_them(shape: str, deltas: list[Delta]) -> None:
    before = repr(deltas)
    seen = choices(deltas, shape)
    assert repr(deltas) == before
    for index in (0, 1):
        mine = [choice["delta"] for choice in seen if choice["index"] == index]
        text = "".join(delta.content or "" for delta in deltas if delta.index == index)
        shown = "".join(piece.get("content", "") for piece in mine)
        thoughts = "".join(delta.reasoning or "" for delta in deltas if delta.index == index)
        if shape == "inline":
            assert 0 <= shown.count("<think>") - shown.count("</think>") <= 1
            assert len(shown) == len(text + thoughts) + 7 * shown.count("<think>") + 8 * shown.count("</think>")
        else:
            assert shown == text
        for name in ("reasoning", "reasoning_content"):
            if shape in ("both", name):
                assert "".join(piece.get(name, "") for piece in mine) == thoughts
        assert sum("role" in piece for piece in mine) == bool([delta for delta in deltas if delta.index == index])


# Calls, ends, several choices, log probabilities


def test_calls() -> None:
    first = CALL | {"function": {"name": "time", "arguments": ""}}
    more = [{"index": 0, "function": {"arguments": piece}} for piece in ('{"zone"', ':"UTC"}')]
    deltas = [*(Delta(tool_calls=[call]) for call in (first, *more)), Delta(finish_reason="tool_calls")]
    assert pieces(deltas, "both") == [
        ROLE | {"tool_calls": [first]},
        {"tool_calls": [more[0]]},
        {"tool_calls": [more[1]]},
        {},
    ]
    whole = message(deltas, "both")
    assert whole["finish_reason"] == "tool_calls"
    assert whole["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "time", "arguments": '{"zone":"UTC"}'}},
        ],
    }


@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls", "content_filter"])
def test_a_finish_reason_is_handed_on(finish: str) -> None:
    deltas = [Delta(content="a"), Delta(finish_reason=finish)]
    assert [choice["finish_reason"] for choice in choices(deltas, "both")] == [None, finish]
    assert message(deltas, "both")["finish_reason"] == finish


def test_nothing_but_an_end_has_a_role_and_a_text_all_the_same() -> None:
    assert pieces([Delta(finish_reason="stop")], "both") == [ROLE]
    assert message([Delta(finish_reason="stop")], "both")["message"]["content"] == ""


def test_several_choices() -> None:
    deltas = [
        Delta(1, content="b"),
        Delta(0, content="a"),
        Delta(1, finish_reason="stop"),
        Delta(0, finish_reason="length"),
    ]
    assert [(choice["index"], choice["delta"], choice["finish_reason"]) for choice in choices(deltas, "both")] == [
        (1, {"role": "assistant", "content": "b"}, None),
        (0, {"role": "assistant", "content": "a"}, None),
        (1, {}, "stop"),
        (0, {}, "length"),
    ]
    answer = ChatMessage(identity("both"))
    for delta in deltas:
        answer.add(delta)
    whole = orjson.loads(answer.body({}, None))["choices"]
    assert [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in whole] == [
        (0, "a", "length"),
        (1, "b", "stop"),
    ]


def test_log_probabilities_and_the_stop_reason() -> None:
    def logprobs(token: str) -> dict[str, Any]:
        return {"content": [{"token": token, "logprob": -0.5}]}

    deltas = [
        Delta(content="a", extra={"logprobs": logprobs("a")}),
        Delta(content="b", extra={"logprobs": logprobs("b")}),
        Delta(finish_reason="stop", extra={"stop_reason": "END"}),
    ]
    assert [choice.get("logprobs") for choice in choices(deltas, "both")] == [logprobs("a"), logprobs("b"), None]
    assert choices(deltas, "both")[-1]["stop_reason"] == "END"
    whole = message(deltas, "both")
    assert whole["logprobs"] == {"content": logprobs("a")["content"] + logprobs("b")["content"]}
    assert whole["stop_reason"] == "END"
    assert message([Delta(content="a")], "both")["logprobs"] is None


# Around the choices


def test_every_chunk_says_whose_it_is() -> None:
    stream = stream_of("both")
    ends = stream.finish(USAGE, {"candidates": []}, show_usage=True)
    for data in (*map(stream.encode, THOUGHT), ends):
        (chunk,) = chunks(data)
        assert {name: chunk[name] for name in ("id", "object", "created", "model", "provider")} == {
            "id": f"gen-{REQUEST_ID}",
            "object": "chat.completion.chunk",
            "created": 1_792_000_000,
            "model": "NousResearch/Hermes-4-405B",
            "provider": "first",
        }


@pytest.mark.parametrize(
    ("show_usage", "route", "last"),
    [
        (False, None, []),
        (True, None, [{"choices": [], "usage": SHOWN}]),
        (False, {"candidates": []}, [{"choices": [], "route": {"candidates": []}}]),
        (True, {"candidates": []}, [{"choices": [], "usage": SHOWN, "route": {"candidates": []}}]),
    ],
)
def test_the_end_of_a_stream(show_usage: bool, route: Any, last: list[dict[str, Any]]) -> None:
    data = stream_of("both").finish(USAGE, route, show_usage=show_usage)
    assert data.endswith(b"data: [DONE]\n\n")
    names = ("choices", "usage", "route")
    assert [{name: chunk[name] for name in names if name in chunk} for chunk in chunks(data)] == last


def test_the_cost_is_the_exact_decimal() -> None:
    assert b'"cost":0.000021' in stream_of("both").finish(USAGE, None, show_usage=True)
    assert b'"cost":0.000021' in ChatMessage(identity("both")).body(USAGE, None)


def test_an_answer_that_could_not_be_finished() -> None:
    error = ApiError("upstream_failed", "every endpoint failed", attempts=[{"endpoint": "first", "failure": "cut"}])
    data = stream_of("both").error(error, USAGE)
    assert b"[DONE]" not in data
    (chunk,) = chunks(data)
    assert chunk["choices"] == [{"index": 0, "delta": {}, "finish_reason": "error"}]
    assert chunk["usage"] == SHOWN
    assert chunk["error"] == {
        "message": "every endpoint failed",
        "type": "server_error",
        "param": None,
        "code": "upstream_failed",
        "attempts": [{"endpoint": "first", "failure": "cut"}],
    }


def test_a_whole_answer() -> None:
    answer = ChatMessage(identity("both"))
    answer.provider = "first"
    answer.add(Delta(content="so", finish_reason="stop"))
    body = orjson.loads(answer.body(USAGE, {"candidates": []}))
    assert {name: value for name, value in body.items() if name != "choices"} == {
        "id": f"gen-{REQUEST_ID}",
        "object": "chat.completion",
        "created": 1_792_000_000,
        "model": "NousResearch/Hermes-4-405B",
        "provider": "first",
        "usage": SHOWN,
        "route": {"candidates": []},
    }


# From the provider's bytes to the client's: nothing lost, doubled or reordered, however the bytes were cut


def upstream(deltas: list[dict[str, Any]]) -> bytes:
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"


def through(parts: Iterable[bytes], shape: str) -> tuple[str, str, str, str | None]:
    """What a client puts together: thoughts, text, arguments, the finish reason."""
    reader, stream = AnswerReader(), stream_of(shape)
    events = [event for part in parts for event in reader.feed(part)] + reader.end()
    seen = []
    for event in events:
        assert isinstance(event, Delta)
        seen += [chunk["choices"][0] for chunk in chunks(stream.encode(event))]
    deltas = [choice["delta"] for choice in seen]
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    finishes = [choice["finish_reason"] for choice in seen]
    assert not any(finishes[:-1])  # nothing comes after the end
    return (
        "".join(delta.get("reasoning", "") for delta in deltas),
        "".join(delta.get("content", "") for delta in deltas),
        "".join(call["function"].get("arguments", "") for call in calls),
        finishes[-1],
    )


TEXT = st.text(st.sampled_from('<>/think tool_cal\n é€😀"\\:{}'), max_size=12)
PIECE = st.one_of(
    TEXT.map(lambda text: {"content": text}),
    TEXT.map(lambda text: {"reasoning": text}),
    TEXT.map(lambda text: {"reasoning_content": text, "content": None}),
    TEXT.map(lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
)
CUTS = st.lists(st.integers(1, 40), max_size=40)


def cut(stream: bytes, lengths: list[int]) -> list[bytes]:
    parts = []
    for length in lengths:
        parts.append(stream[:length])
        stream = stream[length:]
    return [*parts, stream]


@settings(deadline=None)
@given(deltas=st.lists(PIECE, max_size=8), lengths=CUTS)
def test_cutting_the_upstream_changes_nothing(deltas: list[dict[str, Any]], lengths: list[int]) -> None:
    stream = upstream(deltas)
    whole = through([stream], "reasoning")
    assert through(cut(stream, lengths), "reasoning") == whole
    assert whole[2] == "".join(d["tool_calls"][0]["function"]["arguments"] for d in deltas if "tool_calls" in d)
    assert whole[3] == "stop"
    text = "".join(delta.get("content") or "" for delta in deltas)
    if not text.lstrip().startswith("<think>"):
        thoughts = "".join(delta.get("reasoning") or delta.get("reasoning_content") or "" for delta in deltas)
        assert whole[:2] == (thoughts, text)


@settings(deadline=None)
@given(
    thought=st.text(st.sampled_from("<>/think \né€"), max_size=20).filter(lambda text: "</think>" not in text),
    answer=st.text(st.sampled_from("<>/think \né€"), max_size=20),
    lengths=CUTS,
)
def test_inline_comes_out_as_inline_went_in(thought: str, answer: str, lengths: list[int]) -> None:
    """As the model wrote it, split into events anywhere: the same text, and apart into the same two."""
    text = f"<think>{thought}</think>{answer}"
    parts, rest = [], text
    for length in lengths:
        parts.append(rest[:length])
        rest = rest[length:]
    stream = upstream([{"content": part} for part in (*parts, rest)])
    assert through([stream], "reasoning")[:2] == (thought, answer)
    assert through(cut(stream, lengths), "inline")[1] == (text if thought else answer)


@settings(deadline=None)
@given(text=st.text(st.sampled_from("think><abc \n"), max_size=30), lengths=CUTS)
def test_prose_survives(text: str, lengths: list[int]) -> None:
    stream = upstream([{"content": character} for character in text])
    reasoning, content, _, _ = through(cut(stream, lengths), "reasoning")
    if not text.lstrip().startswith("<think>"):
        assert (reasoning, content) == ("", text)
