"""What is shown of an answer that has to be JSON: the same streamed and plain, wherever it is cut."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from providers.events import Delta
from providers.formats.response_format import JsonFormat
from providers.formats.schema import Problem
from proxy.exchange.formats.json_outlet import JsonOutlet, Nowhere

HERMES = '{"name": "Hermes", "wings": 4}'
TEXTS = st.sampled_from([HERMES, f"Look:\n```json\n{HERMES}\n```\nThere.", "{'a': [1, 2,], }", '{"a": nonsense', "No."])
CALL = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
PROBLEM = Problem("is wrong", "/a")


class Shown:
    def __init__(self, *, delivers: bool) -> None:
        self.delivers = delivers
        self.deltas: list[Delta] = []

    def write(self, delta: Delta) -> None:
        self.deltas.append(delta)

    def flush(self) -> bool:
        return True

    def text(self, index: int = 0) -> str:
        return "".join(delta.content or "" for delta in self.deltas if delta.index == index)


def shown(
    *deltas: Delta, delivers: bool, problems: dict[int, Problem] | None = None, better: dict[int, str] | None = None
) -> tuple[Shown, JsonOutlet]:
    inner = Shown(delivers=delivers)
    outlet = JsonOutlet(inner, JsonFormat())
    for delta in deltas:
        outlet.write(delta)
    texts = outlet.close()
    outlet.conclude({**texts, **(better or {})}, problems or {})
    return inner, outlet


@given(TEXTS, st.data())
def test_a_stream_and_a_plain_answer_show_the_same(text: str, data: Any) -> None:
    places = sorted(data.draw(st.sets(st.integers(1, max(len(text) - 1, 1)), max_size=5)))
    finish = data.draw(st.sampled_from(["stop", "length"]))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    deltas = [Delta(0, None, piece) for piece in pieces if piece] + [Delta(0, finish_reason=finish)]
    stream, _ = shown(*deltas, delivers=True)
    plain, _ = shown(*deltas, delivers=False)
    whole, _ = shown(Delta(0, None, text, None, finish), delivers=False)
    assert stream.text() == plain.text() == whole.text()
    assert [delta.finish_reason for delta in stream.deltas if delta.finish_reason] == [finish]


def test_the_end_tells_what_is_wrong_beside_what_the_endpoint_said() -> None:
    end = Delta(0, finish_reason="stop", extra={"stop_reason": None, "logprobs": 1})
    for delivers in (True, False):
        inner, _ = shown(Delta(0, None, HERMES), end, delivers=delivers, problems={0: PROBLEM})
        last = inner.deltas[-1]
        assert last.finish_reason == "stop"
        assert last.extra == {"stop_reason": None, "logprobs": 1, "schema_error": {"message": "is wrong", "path": "/a"}}


def test_a_better_text_replaces_what_nobody_has_seen() -> None:
    inner, _ = shown(Delta(0, None, "[1]"), Delta(0, finish_reason="stop"), delivers=False, better={0: HERMES})
    assert inner.text() == HERMES


def test_thoughts_and_details_pass() -> None:
    inner, _ = shown(Delta(0, "why"), Delta(0, "?", details=[1]), Delta(0, None, HERMES, None, "stop"), delivers=False)
    assert [(delta.reasoning, delta.details) for delta in inner.deltas[:2]] == [("why", None), ("?", [1])]


def test_what_is_said_beside_a_call_is_no_json() -> None:
    deltas = (
        Delta(0, None, "Let me see {whether} "),
        Delta(0, None, "I can.", CALL),
        Delta(0, None, " There."),
        Delta(0, finish_reason="tool_calls"),
    )
    for delivers in (True, False):
        inner, outlet = shown(*deltas, delivers=delivers)
        assert inner.text() == "Let me see {whether} I can. There."
        assert [delta.tool_calls for delta in inner.deltas if delta.tool_calls] == [CALL]
        assert outlet.close() == {}


def test_each_choice_is_read_by_itself() -> None:
    deltas = [Delta(1, None, '{"b": 1}'), Delta(0, None, "```\n"), Delta(0, None, '{"a": 1}\n```'), Delta(1, None, "!")]
    inner, outlet = shown(*deltas, delivers=True)
    assert [inner.text(index) for index in (0, 1)] == ['{"a": 1}', '{"b": 1}']
    assert not outlet.repairable


def test_only_one_whole_plain_answer_can_be_made_good() -> None:
    end = Delta(0, None, "[1]", None, "stop")
    assert shown(end, delivers=False)[1].repairable
    assert not shown(end, delivers=True)[1].repairable
    assert not shown(Delta(0, None, "[1]", None, "length"), delivers=False)[1].repairable
    assert not shown(end, Delta(1, None, "[1]", None, "stop"), delivers=False)[1].repairable
    assert not shown(Delta(0, None, "[1]"), delivers=False)[1].repairable


def test_noise_delivers_nothing() -> None:
    outlet = JsonOutlet(Shown(delivers=True), JsonFormat())
    outlet.write(Delta(0, None, "Certainly! "))
    assert not outlet.delivers
    outlet.write(Delta(0, None, HERMES))
    assert outlet.delivers


def test_where_nobody_looks_there_is_still_a_text() -> None:
    outlet = JsonOutlet(Nowhere(), JsonFormat())
    outlet.write(Delta(0, "why", f"Here: {HERMES}", None, "stop"))
    assert json.loads(outlet.close()[0]) == json.loads(HERMES)
    assert not outlet.flush()
