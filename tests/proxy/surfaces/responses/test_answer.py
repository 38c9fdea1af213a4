"""What a client of the Responses API sees: transcripts to the byte, and a client that believes nothing.

A transcript is a request, what the endpoint streamed (one choice a line), and what that becomes, streamed and plain.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.answers.reader import AnswerReader
from providers.events import Delta, Failure, FailureKind
from providers.thinking import CLOSE, OPEN
from proxy.entry.api_errors import ApiError
from proxy.surfaces.reasoning import FORMATS
from proxy.surfaces.responses.answer import ResponseMessage, ResponseStream
from proxy.surfaces.responses.request import read_response
from proxy.surfaces.surface import Identity

from .client import Client, events_of

TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
REQUEST_ID = UUID("01a1fd97-baaf-7c65-8a6e-000000000001")
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
    "cost": orjson.Fragment(b"0.000021"),
}
CUT = ApiError("upstream_failed", "the endpoint failed in the middle of the answer")


def identity(shape: str = "both", **echoed: Any) -> Identity:
    return Identity(REQUEST_ID, 1_792_000_000, "NousResearch/Hermes-4-405B", shape, echoed)


def streamed(deltas: Iterable[Delta | Failure], who: Identity) -> bytes:
    stream = ResponseStream(who)
    stream.provider = "first"
    frames = []
    for delta in deltas:
        if isinstance(delta, Failure):
            return b"".join([*frames, stream.error(CUT, USAGE)])
        frames.append(stream.encode(delta))
    return b"".join([*frames, stream.finish(USAGE, None, show_usage=False)])


def whole(deltas: Iterable[Delta | Failure], who: Identity) -> dict[str, Any]:
    message = ResponseMessage(who)
    message.provider = "first"
    for delta in deltas:
        if isinstance(delta, Delta):
            message.add(delta)
    body: dict[str, Any] = orjson.loads(message.body(USAGE, None))
    return body


def parts(path: Path) -> dict[str, str]:
    """A transcript by the names of its sections."""
    sections = path.read_text().split("\n=== ")[1:]
    return {name: text.strip("\n") for name, _, text in (section.partition("\n") for section in sections)}


def upstream_bytes(section: str) -> bytes:
    """The endpoint's stream; a line that is no choice is an error."""
    lines = (orjson.loads(line) for line in section.splitlines())
    bodies = (line if "error" in line else {"choices": [{"index": 0, **line}]} for line in lines)
    return b"".join(b"data: %b\n\n" % orjson.dumps(body) for body in bodies)


def identity_for(request: str) -> Identity:
    call = read_response(request.encode(), lambda model: "" if model == "hermes" else None)
    return identity(call.reasoning_format or "both", **call.echoed)


def read_all(chunks: Iterable[bytes]) -> Iterator[Delta | Failure]:
    reader = AnswerReader()
    for chunk in chunks:
        yield from reader.feed(chunk)
    yield from reader.end()


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_answer_is_the_transcript_to_the_byte(path: Path) -> None:
    told = parts(path)
    who, upstream = identity_for(told["request"]), upstream_bytes(told["upstream"])
    stream = streamed(read_all([upstream]), who)
    assert stream.decode().strip("\n") == told["stream"]
    Client(stream)
    if "plain" in told:
        assert whole(read_all([upstream]), who) == orjson.loads(told["plain"])


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_cutting_the_endpoint_s_bytes_anywhere_changes_nothing(path: Path) -> None:
    told = parts(path)
    who, upstream = identity_for(told["request"]), upstream_bytes(told["upstream"])
    for cut in range(1, len(upstream)):
        stream = streamed(read_all([upstream[:cut], upstream[cut:]]), who)
        assert stream.decode().strip("\n") == told["stream"], cut
    assert streamed(read_all(bytes([byte]) for byte in upstream), who).decode().strip("\n") == told["stream"]


# Any order of thoughts, texts and calls


CALLS = ('{"a": {"b": "}"}}', "{}", '{"city": "Zürich"}')
WORDS = st.text("abü \n", min_size=1, max_size=5)
ORDERS = st.lists(
    st.one_of(
        st.tuples(st.just("thought"), WORDS),
        st.tuples(st.just("text"), WORDS),
        st.tuples(st.just("call"), st.integers(0, 2)),
    ),
    max_size=12,
)


def deltas_of(order: Sequence[tuple[str, Any]], finish_reason: str | None) -> list[Delta]:
    """Calls come in pieces of four characters, a piece whenever it is their turn, and what is left at the end."""
    left = {index: [text[i : i + 4] for i in range(0, len(text), 4)] for index, text in enumerate(CALLS)}
    begun: list[int] = []
    deltas = []
    for what, value in [*order, *(("rest", index) for index in range(3))]:
        if what == "thought":
            deltas.append(Delta(reasoning=value))
        elif what == "text":
            deltas.append(Delta(content=value))
        elif what == "call" and value not in begun:
            begun.append(value)
            function = {"name": f"f{value}", "arguments": ""}
            deltas.append(Delta(tool_calls=[{"index": value, "id": f"c{value}", "function": function}]))
        elif value in begun:
            pieces, left[value] = (left[value][:1], left[value][1:]) if what == "call" else (left[value], [])
            deltas += [Delta(tool_calls=[{"index": value, "function": {"arguments": piece}}]) for piece in pieces]
    return [*deltas, Delta(finish_reason=finish_reason)] if finish_reason else deltas


@settings(deadline=None)
@given(ORDERS, st.sampled_from([None, "stop", "tool_calls", "length"]), st.sampled_from((*FORMATS, "summary")))
def test_items_open_and_close_in_any_order(
    order: Sequence[tuple[str, Any]], finish_reason: str | None, shape: str
) -> None:
    deltas = deltas_of(order, finish_reason)
    who = identity("both", reasoning={"summary": "detailed"}) if shape == "summary" else identity(shape)
    client = Client(streamed(deltas, who))
    assert all(client.done)
    assert client.items == client.response["output"] == whole(deltas, who)["output"]
    assert [item["arguments"] for item in client.items if item["type"] == "function_call"] == [
        CALLS[int(item["name"][1:])] for item in client.items if item["type"] == "function_call"
    ]
    thoughts = "".join(value for what, value in order if what == "thought")
    texts = "".join(value for what, value in order if what == "text")
    shown = {"reasoning": "", "message": ""}
    for item in client.items:
        if item["type"] != "function_call":
            (part,) = item.get("content") or item["summary"]
            shown[item["type"]] += part["text"]
    if shape == "inline":
        inside, outside = re.compile(f"{OPEN}(.*?){CLOSE}", re.DOTALL), shown["message"]
        shown = {"reasoning": "".join(inside.findall(outside)), "message": inside.sub("", outside)}
    assert shown == {"reasoning": "" if shape == "none" else thoughts, "message": texts}


@settings(deadline=None)
@given(ORDERS)
def test_an_answer_that_breaks_off_closes_nothing_that_was_not_over(order: Sequence[tuple[str, Any]]) -> None:
    deltas = deltas_of(order, None)
    client = Client(streamed([*deltas, Failure(FailureKind.CUT, "gone")], identity()))
    assert client.last["type"] == "response.failed"
    assert client.response["error"]["code"] == "server_error"
    assert client.error is not None
    assert (client.error["code"], client.error["error"]["code"]) == ("upstream_failed", "upstream_failed")
    for item, done in zip(client.response["output"], client.done, strict=True):
        assert item["status"] == ("completed" if done else "incomplete")


def test_two_calls_follow_one_another_each_done_before_the_next_begins() -> None:
    deltas = [
        Delta(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]),
        Delta(tool_calls=[{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{}"}}]),
        Delta(finish_reason="tool_calls"),
    ]
    names = [event["type"].removeprefix("response.") for event in events_of(streamed(deltas, identity()))]
    call = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]
    assert names == ["created", "in_progress", *call, *call, "completed"]


def test_a_call_waits_for_its_name_and_gets_an_id_where_the_endpoint_gave_none() -> None:
    deltas = [
        Delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]),
        Delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "1}"}}]),
    ]
    (item,) = Client(streamed(deltas, identity())).items
    assert (item["name"], item["arguments"]) == ("f", '{"a":1}')
    assert item["call_id"] == f"call_{REQUEST_ID.hex}_0"


def test_a_nameless_call_is_not_lost() -> None:
    (item,) = Client(streamed([Delta(tool_calls=[{"function": {"arguments": "{}"}}])], identity())).items
    assert (item["name"], item["arguments"]) == ("", "{}")


def test_only_the_first_choice_is_answered() -> None:
    assert whole([Delta(content="a"), Delta(1, content="b")], identity())["output"][0]["content"][0]["text"] == "a"


# The end


@pytest.mark.parametrize(
    ("finish_reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
    ],
)
def test_how_it_ended(finish_reason: str, status: str, details: Any) -> None:
    deltas = [Delta(content="Hello"), Delta(finish_reason=finish_reason)]
    client = Client(streamed(deltas, identity()))
    assert client.last["type"] == f"response.{status}"
    assert (client.response["status"], client.response["incomplete_details"]) == (status, details)
    assert client.items[0]["status"] == status
    assert client.response == whole(deltas, identity())


def test_usage_has_this_api_s_names_and_the_cost() -> None:
    assert whole([Delta(content="Hello")], identity())["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 13,
        "cost": 0.000021,
    }


def test_a_failure_before_any_content_is_told_in_order_too() -> None:
    """The headers had to go out before the first token, as the keep-alive made them."""
    client = Client(ResponseStream(identity()).error(ApiError("upstream_timeout", "no endpoint answered"), {}))
    assert client.response["usage"] is None
    assert client.response["error"]["message"] == "no endpoint answered"


def test_the_route_stands_in_the_last_event() -> None:
    stream = ResponseStream(identity())
    data = stream.encode(Delta(content="Hello")) + stream.finish(USAGE, {"candidates": []}, show_usage=True)
    assert Client(data).response["route"] == {"candidates": []}
    message = ResponseMessage(identity())
    assert orjson.loads(message.body(USAGE, {"candidates": []}))["route"] == {"candidates": []}
