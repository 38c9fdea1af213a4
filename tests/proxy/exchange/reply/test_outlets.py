"""What a client is sent of an answer, and when: write by write."""

import asyncio
from typing import Any

import pytest
from aiohttp import HttpVersion10

from providers.events import Delta
from proxy.entry.api_errors import ApiError
from proxy.exchange.reply.idempotency import Recording
from proxy.exchange.reply.outlets import FIRST_WRITE_BYTES, HELD_BYTES, PlainOutlet, StreamOutlet
from tests.proxy.exchange.reply.client import LAST_CHUNK, Client, Message, Words, chunk
from tests.proxy.upstream.wire import Clock

USAGE = {"total_tokens": 15}
ROUTE: dict[str, Any] = {"candidates": []}
BROKE = ApiError("upstream_failed", "it broke off")


def streamed(client: Client, **more: Any) -> StreamOutlet:
    return StreamOutlet(client.request, Words(), **{"clock": Clock(), **more})


def says(outlet: StreamOutlet | PlainOutlet, *texts: str) -> bool:
    """One read of the endpoint's connection."""
    for text in texts:
        outlet.write(Delta(content=text))
    return outlet.flush()


# A stream begins


async def test_nothing_is_sent_before_the_stream_is_opened() -> None:
    client = Client()
    outlet = streamed(client)
    assert (outlet.wanted, client.sent) == (False, [])
    assert says(outlet, "Hel") is True
    assert says(outlet, "lo") is True
    assert (outlet.wanted, client.sent) == (True, [])
    await outlet.open({"x-caduceus-endpoint": "here"})
    assert client.status == "HTTP/1.1 200 OK"
    assert client.headers["content-type"] == "text/event-stream"
    assert client.headers["x-caduceus-endpoint"] == "here"
    assert client.body == [chunk(b"Hello")]
    assert outlet.wanted is False


async def test_the_head_waits_for_something_to_say() -> None:
    outlet = streamed(Client())
    assert outlet.flush() is False
    outlet.write(Delta(reasoning="a hidden thought"))
    assert (outlet.flush(), outlet.wanted) == (False, False)


async def test_a_long_beginning_goes_in_two_writes() -> None:
    client = Client()
    outlet = streamed(client)
    says(outlet, "a" * FIRST_WRITE_BYTES + "b")
    await outlet.open({})
    assert client.body == [chunk(b"a" * FIRST_WRITE_BYTES), chunk(b"b")]


async def test_a_stream_that_is_not_opened_congests() -> None:
    outlet = streamed(Client())
    says(outlet, "a" * HELD_BYTES)
    assert not outlet.congested
    says(outlet, "b")
    assert outlet.congested
    await outlet.open({})
    assert not outlet.congested


# It goes on


async def test_every_flush_is_one_write() -> None:
    client = Client()
    outlet = streamed(client)
    await outlet.open({})
    assert says(outlet, "Hel", "lo") is False
    assert says(outlet) is False
    assert says(outlet, "!") is False
    assert client.body == [chunk(b"Hello"), chunk(b"!")]


async def test_http_1_0_knows_no_chunks() -> None:
    client = Client(HttpVersion10)
    outlet = streamed(client)
    says(outlet, "Hel")
    await outlet.open({})
    says(outlet, "lo")
    await outlet.close({}, b"[end]")
    assert client.status == "HTTP/1.0 200 OK"
    assert "transfer-encoding" not in client.headers
    assert client.body == [b"Hel", b"lo", b"[end]"]


async def test_a_client_that_stops_reading_is_waited_for() -> None:
    client = Client()
    outlet = streamed(client)
    await outlet.open({})
    client.stops_reading()
    assert says(outlet, "Hel") is True
    assert outlet.congested
    draining = asyncio.ensure_future(outlet.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    client.reads_on()
    await draining
    assert not outlet.congested
    assert says(outlet, "lo") is False
    assert client.body == [chunk(b"Hel"), chunk(b"lo")]


async def test_a_comment_is_sent_only_after_a_silence() -> None:
    client, clock = Client(), Clock(100.0)
    outlet = streamed(client, clock=clock)
    await outlet.open({})
    clock.now_s = 107.0
    says(outlet, "Hel")
    outlet.keep_alive(122.0, 15.0)
    assert client.body == [chunk(b"Hel")]
    clock.now_s = 122.5
    outlet.keep_alive(122.5, 15.0)
    outlet.keep_alive(137.5, 15.0)
    assert client.body == [chunk(b"Hel"), chunk(b"[here]")]


async def test_a_comment_opens_a_stream_that_was_not_opened() -> None:
    client = Client()
    outlet = streamed(client)
    assert outlet.keep_alive(15.0, 15.0) is False
    assert outlet.keep_alive(15.1, 15.0) is True
    assert outlet.wanted
    await outlet.open({})
    assert client.body == [chunk(b"[here]")]


@pytest.mark.parametrize("gone", ["closing", "lost"])
async def test_to_a_client_that_left_nothing_is_written(gone: str) -> None:
    client = Client()
    outlet = streamed(client)
    await outlet.open({})
    if gone == "closing":
        client.close()
    else:
        client.leaves()
    assert says(outlet, "Hel") is False
    assert client.body == []


# It ends


async def test_the_end_follows_what_was_said() -> None:
    client = Client()
    outlet = streamed(client)
    says(outlet, "Hel")
    await outlet.open({})
    outlet.write(Delta(content="lo"))
    await outlet.close({}, b"[end]")
    assert client.body == [chunk(b"Hel"), chunk(b"lo"), chunk(b"[end]"), LAST_CHUNK]


async def test_a_stream_that_was_not_opened_is_opened_with_its_end() -> None:
    client = Client()
    outlet = streamed(client)
    says(outlet, "Hello")
    await outlet.close({"x-caduceus-endpoint": "here"}, b"[end]")
    assert client.headers["x-caduceus-endpoint"] == "here"
    assert client.body == [chunk(b"Hello"), chunk(b"[end]"), LAST_CHUNK]


@pytest.mark.parametrize(("show_usage", "said"), [(False, b"[end of here]"), (True, b"[end of here 15 tokens]")])
async def test_the_end_of_a_stream_shows_the_usage_where_it_is_asked_for(show_usage: bool, said: bytes) -> None:
    outlet = streamed(Client(), show_usage=show_usage)
    outlet.name_provider("here")
    assert outlet.ending(USAGE, None) == said


async def test_a_failure_before_anything_of_a_stream_was_sent_is_raised() -> None:
    client = Client()
    outlet = streamed(client)
    says(outlet, "Hel")
    with pytest.raises(ApiError) as raised:
        await outlet.fail(BROKE, USAGE)
    assert (raised.value, client.sent) == (BROKE, [])


async def test_a_failure_after_something_was_sent_is_said_within_the_stream() -> None:
    client = Client()
    outlet = streamed(client)
    await outlet.open({})
    outlet.write(Delta(content="Hel"))
    await outlet.fail(BROKE, USAGE)
    assert client.body == [chunk(b"Hel"), chunk(b"[upstream_failed]"), LAST_CHUNK]


async def test_restart_takes_nothing_of_a_stream_back() -> None:
    client = Client()
    outlet = streamed(client)
    says(outlet, "Hel")
    outlet.restart()
    await outlet.open({})
    assert client.body == [chunk(b"Hel")]


@pytest.mark.parametrize("make", [streamed, lambda client: PlainOutlet(client.request, Message)])
async def test_a_client_can_be_dropped(make: Any) -> None:
    client = Client()
    outlet = make(client)
    outlet.abort()
    assert client.end == "aborted"
    client.leaves()
    outlet.abort()  # it is gone


# What is kept of it


async def test_what_belongs_to_the_answer_is_recorded() -> None:
    client = Client()
    outlet = streamed(client, recording=Recording(100))
    says(outlet, "Hel")
    await outlet.open({})
    outlet.keep_alive(60.0, 15.0)
    outlet.write(Delta(content="lo"))
    assert outlet.copy(b"[end]", 0) == b"Hello[end]"
    assert client.body == [chunk(b"Hel"), chunk(b"[here]"), chunk(b"lo")]


async def test_an_answer_that_is_longer_than_the_recording_is_not_kept() -> None:
    for limit_bytes, kept in ((10, b"Hello[end]"), (9, None), (4, None)):
        outlet = streamed(Client(), recording=Recording(limit_bytes))
        says(outlet, "Hel")
        says(outlet, "lo")
        assert outlet.copy(b"[end]", 1_000) == kept


async def test_without_a_recording_nothing_is_kept() -> None:
    outlet = streamed(Client())
    says(outlet, "Hello")
    assert outlet.copy(b"[end]", 1_000) is None


# A plain answer


def plain(client: Client) -> PlainOutlet:
    return PlainOutlet(client.request, Message)


async def test_a_plain_answer_is_sent_with_its_end() -> None:
    client = Client()
    outlet = plain(client)
    outlet.name_provider("here")
    assert says(outlet, "Hel") is False
    await outlet.open({"x-of": "the head of a stream"})
    await outlet.drain()
    assert says(outlet, "lo") is False
    assert (outlet.keep_alive(1_000.0, 15.0), outlet.wanted, outlet.congested) == (False, False, False)
    assert client.sent == []
    body = outlet.ending(USAGE, ROUTE)
    assert body == b"Hello[end of here 15 tokens explained]"
    await outlet.close({"x-caduceus-endpoint": "here"}, body)
    assert client.status == "HTTP/1.1 200 OK"
    assert client.headers["content-type"] == "application/json"
    assert client.headers["content-length"] == str(len(body))
    assert client.headers["x-caduceus-endpoint"] == "here"
    assert b"".join(client.body) == body


async def test_a_plain_answer_that_begins_again_forgets_what_came() -> None:
    outlet = plain(Client())
    says(outlet, "Hel")
    outlet.restart()
    outlet.name_provider("there")
    says(outlet, "Hello")
    assert outlet.ending({}, None) == b"Hello[end of there]"


async def test_of_a_plain_answer_no_more_than_the_limit_is_kept() -> None:
    outlet = plain(Client())
    assert outlet.copy(b"Hello", 5) == b"Hello"
    assert outlet.copy(b"Hello", 4) is None


async def test_a_plain_answer_that_fails_is_raised() -> None:
    client = Client()
    outlet = plain(client)
    says(outlet, "Hel")
    with pytest.raises(ApiError) as raised:
        await outlet.fail(BROKE, USAGE)
    assert (raised.value, client.sent) == (BROKE, [])
