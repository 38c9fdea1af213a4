"""Server-sent events come out the same however the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.answers.sse import EventSplitter, TooLarge, WholeBody

LIMIT_BYTES = 1 << 20
STREAM = (
    b": a comment\n\n"
    b'data: {"a":1}\n\n'
    b"event: ping\r\nid: 7\r\ndata:no space\r\n\r\n"
    b"data: two\ndata: lines\n\n"
    b"data: \xc3\xa9\xe2\x82\xac\r\rdata: [DONE]\n\n"
)
EVENTS = [b'{"a":1}', b"no space", b"two\nlines", "é€".encode(), b"[DONE]"]


def split(*chunks: bytes) -> list[bytes]:
    splitter = EventSplitter(LIMIT_BYTES)
    return [event for chunk in chunks for event in splitter.feed(chunk)] + splitter.end()


# Each read, and the events that it completes.
TRANSCRIPTS: dict[str, list[tuple[bytes, list[bytes]]]] = {
    "an event a read": [(b"data: a\n\n", [b"a"]), (b"data:b\n\n", [b"b"])],
    "several in one": [(b"data: a\n\n: hm\n\ndata: b\n\n", [b"a", b"b"])],
    "an event in pieces": [(b"da", []), (b"ta: a", []), (b"b\n", []), (b"\n", [b"ab"])],
    "two lines in two reads": [(b"data: a\n", []), (b"data: b\n\n", [b"a\nb"])],
    "half a line end": [(b"data: a\r", []), (b"\n\r", []), (b"\ndata: b\r\n\r\n", [b"a", b"b"])],
    "a comment before it": [(b": wait\n\n", []), (b"data: a\n\n", [b"a"])],
    "other fields": [(b"event: x\nid: 1\nretry: 9\ndata: a\n\n", [b"a"])],
    "no data": [(b"event: x\n\n", []), (b"\n\n\n", [])],
    "empty data": [(b"data\n\ndata:\n\n", [b"", b""])],
    "one space only": [(b"data:  a \n\n", [b" a "])],
    "a field that begins alike": [(b"database: a\n\n", [])],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    splitter = EventSplitter(LIMIT_BYTES)
    assert [(read, splitter.feed(read)) for read, _ in TRANSCRIPTS[name]] == TRANSCRIPTS[name]
    assert splitter.end() == []


def test_whole() -> None:
    assert split(STREAM) == EVENTS


@pytest.mark.parametrize("cut", range(len(STREAM)))
def test_cut_at_every_byte(cut: int) -> None:
    assert split(STREAM[:cut], STREAM[cut:]) == EVENTS


@given(st.lists(st.integers(1, 9), max_size=60))
def test_cut_anywhere(lengths: list[int]) -> None:
    chunks, rest = [], STREAM
    for length in lengths:
        chunks.append(rest[:length])
        rest = rest[length:]
    assert split(*chunks, rest) == EVENTS


def test_an_event_without_its_blank_line_is_still_read() -> None:
    assert split(b"data: last") == [b"last"]


def test_an_endless_event_is_refused() -> None:
    splitter = EventSplitter(100)
    with pytest.raises(TooLarge, match="larger than 100 bytes"):
        splitter.feed(b"data: " + b"x" * 200)


def test_lines_of_data_count_towards_the_limit_together() -> None:
    splitter = EventSplitter(100)
    splitter.feed(b"data: " + b"x" * 60 + b"\n")
    with pytest.raises(TooLarge) as refused:
        splitter.feed(b"data: " + b"x" * 60 + b"\n")
    assert refused.value.limit_bytes == 100


def test_a_whole_body_is_one_payload_at_the_end() -> None:
    body = WholeBody(5)
    assert [body.feed(b"ab"), body.feed(b"cde"), body.end()] == [[], [], [b"abcde"]]


def test_a_body_without_end_is_refused() -> None:
    body = WholeBody(5)
    body.feed(b"abcde")
    with pytest.raises(TooLarge, match="the body is larger than 5 bytes"):
        body.feed(b"f")
