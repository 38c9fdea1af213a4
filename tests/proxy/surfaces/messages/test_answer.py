"""What becomes of an answer on its way to Anthropic's clients.

The transcripts beside this file are one case each: the deltas (fields of `Delta`), the stream as it goes over the wire,
and the message of the same deltas for who asked for it whole.
"""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.answers.reader import AnswerReader
from providers.events import Delta
from proxy.entry.api_errors import CODES, ApiError
from proxy.surfaces.messages.answer import MessagesMessage, MessagesStream, error_body
from proxy.surfaces.surface import Identity

HERE = Path(__file__).parent
TRANSCRIPTS = sorted((HERE / "transcripts").glob("*.txt"))
RECORDINGS = sorted((HERE.parents[2] / "providers" / "recordings").glob("vllm-stream*.sse"))
REQUEST_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "total_tokens": 42,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 5},
    "cost": orjson.Fragment(b"0.000066"),
    "cost_details": {"prompt": orjson.Fragment(b"0.00003"), "completion": orjson.Fragment(b"0.000036")},
}


def identity(reasoning_format: str = "both") -> Identity:
    return Identity(REQUEST_ID, 1_760_000_000, "NousResearch/Hermes-4-405B", reasoning_format)


def streamed(deltas: Iterable[Delta], reasoning_format: str = "both", error: ApiError | None = None) -> bytes:
    stream = MessagesStream(identity(reasoning_format))
    stream.provider = "first"
    sent = [stream.encode(delta) for delta in deltas]
    last = stream.error(error, USAGE) if error else stream.finish(USAGE, None, show_usage=False)
    return b"".join([*sent, last])


def whole(deltas: Iterable[Delta], reasoning_format: str = "both") -> Any:
    message = MessagesMessage(identity(reasoning_format))
    message.provider = "first"
    for delta in deltas:
        message.add(delta)
    return orjson.loads(message.body(USAGE, None))


def received(raw: bytes) -> Any:
    """The message that a client puts together. Strict: one block is open at a time, and each is closed."""
    message: Any = None
    partial: str | None = None
    ended = False
    for name, event in events(raw):
        assert name == event["type"]
        assert not ended, "nothing comes after message_stop"
        match event["type"]:
            case "message_start":
                assert message is None
                message = event["message"]
            case "content_block_start":
                assert partial is None, "the block before is closed"
                assert event["index"] == len(message["content"])
                message["content"].append(event["content_block"])
                partial = ""
            case "content_block_delta":
                assert partial is not None
                assert event["index"] == len(message["content"]) - 1
                partial += piece(event["delta"], message["content"][-1])
            case "content_block_stop":
                assert partial is not None
                assert event["index"] == len(message["content"]) - 1
                close(message["content"][-1], partial)
                partial = None
            case "message_delta":
                assert partial is None
                message |= event["delta"] | {"usage": message["usage"] | event["usage"]}
            case "message_stop":
                ended = True
    assert ended
    return message


def events(raw: bytes) -> list[tuple[str, Any]]:
    assert raw.endswith(b"\n\n")
    found = []
    for block in raw.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        assert name.startswith(b"event: ")
        assert data.startswith(b"data: ")
        found.append((name[7:].decode(), orjson.loads(data[6:])))
    return found


def piece(delta: Any, block: Any) -> str:
    """The text that a delta adds; a signature ends a thought."""
    match delta["type"], block["type"]:
        case "thinking_delta", "thinking":
            assert not block["signature"]
            return delta["thinking"]
        case "text_delta", "text":
            return delta["text"]
        case "input_json_delta", "tool_use":
            return delta["partial_json"]
        case "signature_delta", "thinking":
            assert delta["signature"]
            block["signature"] = delta["signature"]
            return ""
    raise AssertionError(f"{delta} in {block}")


def close(block: Any, text: str) -> None:
    if block["type"] == "tool_use":
        assert block["input"] == {}
        try:
            block["input"] = orjson.loads(text or "{}")
        except orjson.JSONDecodeError:
            block["input"] = {"INVALID_JSON": text}
    else:
        assert text, "no block is empty"
        assert block[block["type"]] == ""
        block[block["type"]] = text
        assert block.get("signature") != ""


# Transcripts


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_transcript(path: Path) -> None:
    said, _, rest = path.read_text().partition("\n=== stream\n")
    stream, _, message = rest.partition("\n=== message\n")
    lines = [orjson.loads(line) for line in said.splitlines() if line.startswith("{")]
    settings = next((line for line in lines if "reasoning_format" in line or "error" in line), {})
    deltas = [Delta(**line) for line in lines if line is not settings]
    shape = settings.get("reasoning_format", "both")
    error = ApiError(settings["error"], "it broke off") if "error" in settings else None
    assert streamed(deltas, shape, error).decode() == stream + "\n"
    if error is None:
        assert whole(deltas, shape) == orjson.loads(message)
        assert received(streamed(deltas, shape)) == orjson.loads(message)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 10


# Properties

SAID = ["thinking", "text", "0", "1", "2"]  # thoughts, text and three calls


@given(
    order=st.lists(st.sampled_from(SAID), max_size=24),
    arguments=st.tuples(*[st.dictionaries(st.text('{}"a', max_size=3), st.text('{}"\\é', max_size=4), max_size=2)] * 3),
    size=st.integers(1, 9),
)
def test_in_whatever_order_pieces_come_none_is_lost_or_doubled(
    order: list[str], arguments: tuple[dict[str, str], ...], size: int
) -> None:
    written = [orjson.dumps(argument).decode() for argument in arguments]
    waiting = [pieces_of(call, text, size) for call, text in enumerate(written)]
    told: dict[str, str] = {}
    deltas = []
    for position, kind in enumerate(order):
        if kind not in ("thinking", "text"):
            deltas += waiting[int(kind)][:1]
            told |= {kind: written[int(kind)]} if waiting[int(kind)] else {}
            del waiting[int(kind)][:1]
            continue
        text = f"{position}, "
        told[kind] = told.get(kind, "") + text
        deltas.append(Delta(reasoning=text) if kind == "thinking" else Delta(content=text))
    deltas += [delta for call, pieces in enumerate(waiting) if str(call) in told for delta in pieces]
    message = received(streamed([*deltas, Delta(finish_reason="stop")]))
    got: dict[str, str] = {}
    for block in message["content"]:
        if block["type"] == "tool_use":
            assert block["id"] not in got
            got[block["id"]] = orjson.dumps(block["input"]).decode()
        else:
            got[block["type"]] = got.get(block["type"], "") + block[block["type"]]
    assert got == told
    assert message["stop_reason"] == ("tool_use" if got.keys() - {"thinking", "text"} else "end_turn")


def pieces_of(call: int, text: str, size: int) -> list[Delta]:
    """A call as engines stream it: its name, then its arguments."""
    first = {"index": call, "id": str(call), "type": "function", "function": {"name": "f", "arguments": ""}}
    rest = [{"index": call, "function": {"arguments": text[at : at + size]}} for at in range(0, len(text), size)]
    return [Delta(tool_calls=[piece]) for piece in (first, *rest)]


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_bytes_of_an_engine_cut_anywhere_give_the_same_message(path: Path) -> None:
    raw = path.read_bytes()
    expected = received(streamed(read([raw])))
    assert expected["content"] == whole(read([raw]))["content"]
    for at in range(1, len(raw), 7):
        assert received(streamed(read([raw[:at], raw[at:]]))) == expected
    assert received(streamed(read([raw[at : at + 1] for at in range(len(raw))]))) == expected


def read(chunks: Iterable[bytes]) -> list[Delta]:
    reader = AnswerReader()
    found = [event for chunk in chunks for event in reader.feed(chunk)] + reader.end()
    return [event for event in found if isinstance(event, Delta)]


def test_the_usual_event_is_the_rare_one_in_short() -> None:
    """The short way and the long one word the same delta alike."""
    for field in ("content", "reasoning"):
        short, long = MessagesStream(identity()), MessagesStream(identity())
        first = Delta(**{field: "first "})
        assert short.encode(first) == long.encode(first)
        usual = asdict(Delta(**{field: 'ein "Wort" ü\n'}))
        assert short.encode(Delta(**usual)) == long.encode(Delta(**{**usual, "extra": {}}))


# Ends


@pytest.mark.parametrize(
    ("finish", "extra", "expected"),
    [
        ("stop", None, ("end_turn", None)),
        ("stop", {"stop_reason": None}, ("end_turn", None)),
        ("stop", {"stop_reason": 128_009}, ("end_turn", None)),
        ("stop", {"stop_reason": "END"}, ("stop_sequence", "END")),
        ("length", None, ("max_tokens", None)),
        ("content_filter", None, ("refusal", None)),
        (None, None, ("end_turn", None)),
    ],
)
def test_why_it_stopped(finish: str | None, extra: dict[str, Any] | None, expected: tuple[str, str | None]) -> None:
    deltas = [Delta(content="Well"), Delta(finish_reason=finish, extra=extra)]
    for message in (received(streamed(deltas)), whole(deltas)):
        assert (message["stop_reason"], message["stop_sequence"]) == expected


def test_a_call_is_a_reason_to_stop_whatever_the_engine_says() -> None:
    call = {"index": 0, "id": "call_0", "function": {"name": "f", "arguments": "{}"}}
    deltas = [Delta(tool_calls=[call]), Delta(finish_reason="stop")]
    assert received(streamed(deltas))["stop_reason"] == whole(deltas)["stop_reason"] == "tool_use"


def test_the_way_is_told_where_it_was_asked_for() -> None:
    stream, message = MessagesStream(identity()), MessagesMessage(identity())
    told = events(stream.finish(USAGE, {"candidates": []}, show_usage=True))
    assert next(event for name, event in told if name == "message_delta")["route"] == {"candidates": []}
    assert orjson.loads(message.body(USAGE, {"candidates": []}))["route"] == {"candidates": []}


def test_every_code_has_the_type_that_anthropic_gives_its_status() -> None:
    """https://docs.claude.com/en/api/errors, and 503 as its 529."""
    types = {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        405: "invalid_request_error",
        408: "invalid_request_error",
        409: "conflict_error",
        413: "request_too_large",
        422: "invalid_request_error",
        429: "rate_limit_error",
        500: "api_error",
        502: "api_error",
        503: "overloaded_error",
        504: "timeout_error",
    }
    for code, (status, _, _) in CODES.items():
        body = error_body(ApiError(code, "told", param="model"))
        assert body["type"] == "error"
        assert body["error"] == {"type": types[status], "message": "told", "param": "model", "code": code}
