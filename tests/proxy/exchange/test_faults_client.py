"""Clients that are slow, leave, or send nonsense; and what happens around a running request."""

import asyncio
import gzip
import json
import os
import resource
import threading
import zlib
from contextlib import contextmanager, suppress

import orjson
import pytest

from providers.tokenizer import count_prompt, count_text
from proxy.sandbox.script import Script

INPUT_PUSD, OUTPUT_PUSD = 1_000_000, 3_000_000  # a token, at $1 and $3 a million
HELLO = "Hello there"
HELLO_TOKENS = count_prompt([{"role": "user", "content": HELLO}])
# Words of 4 kB: much to send, few tokens to count.
BIG_WORD = "-word" * 800
HUGE = {"context_tokens": 10_000_000, "max_output_tokens": 1_000_000}


def due(row):
    """What `row`'s tokens come to."""
    return row["prompt_tokens"] * INPUT_PUSD + row["completion_tokens"] * OUTPUT_PUSD


async def stream_begun(house, *, receive_bytes=None, until=b'"content":"', **fields):
    """A bare connection on which a stream has begun."""
    reader, writer = await house.raw(receive_bytes=receive_bytes)
    writer.write(house.request_bytes(house.body(stream=True, **fields)))
    if until is not None:
        await reader.readuntil(until)
    return reader, writer


def leave(writer):
    writer.transport.abort()


async def read_response(reader):
    """Status, headers and body of a response with a length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


def ok(body):
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":2}}\n\n'


def gated(begin=b'data: {"choices":[{"index":0,"delta":{"content":"One"}}]}\n\n', usage=USAGE):
    """An endpoint that begins an answer and goes on when it is told to: the function that serves, and the gate."""
    gate = asyncio.Event()

    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + begin)
        await gate.wait()
        writer.write(
            b'data: {"choices":[{"index":0,"delta":{"content":" two"},"finish_reason":"stop"}]}\n\n%b'
            b"data: [DONE]\n\n" % usage
        )

    return serve, gate


# Slow to send


@pytest.mark.parametrize("sent", [b"", b'{"model": "Hermes-4-405B", "x": "' + b"0" * 1_000], ids=["nothing", "half"])
async def test_a_body_that_does_not_come_is_a_408(open_house, sent):
    house = await open_house(body_timeout_s=0.3)
    reader, writer = await house.raw()
    writer.write(house.request_bytes(sent, "content-length: 5000"))
    status, headers, body = await asyncio.wait_for(read_response(reader), 30)
    assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
    assert headers["connection"] == "close"
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()
    assert (await house.chat()).status == 200
    await house.settled(1)


async def test_a_body_of_a_byte_now_and_then_is_a_408(open_house):
    house = await open_house(body_timeout_s=0.4)
    reader, writer = await house.raw()
    writer.write(house.request_bytes(b"", "content-length: 5000"))

    async def dribble():
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)

    dribbling = asyncio.create_task(dribble())
    status, _, _ = await asyncio.wait_for(read_response(reader), 30)
    assert status == 408
    with suppress(ConnectionResetError):  # which is what sending into a closed connection may bring
        assert await asyncio.wait_for(reader.read(), 30) == b"", "it does not go on for as long as bytes come"
    dribbling.cancel()
    writer.close()


async def test_headers_that_never_end_are_a_408(open_house):
    house = await open_house(header_timeout_s=0.2)

    async def begin(sent):
        reader, writer = await house.raw()
        writer.write(sent)
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        return answer

    beginnings = (b"", b"POST /v1/chat/comp", b"POST /v1/chat/completions HTTP/1.1\r\nhost: te")
    for answer in await asyncio.gather(*map(begin, beginnings)):
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_connection_between_two_requests_is_not_taken_for_a_silent_one(open_house):
    house = await open_house(header_timeout_s=0.3)
    assert (await house.chat()).status == 200
    await asyncio.sleep(0.5)
    reader, writer = await house.raw()
    for _ in range(2):
        writer.write(house.request_bytes(house.body()))
        assert (await read_response(reader))[0] == 200
        await asyncio.sleep(0.5)
    writer.close()


# Slow to read


async def test_a_client_that_reads_slowly_slows_the_endpoint_down(open_house):
    """Nothing is piled up for it: what waits, waits at the endpoint."""
    house = await open_house({"first": HUGE})
    house["first"].script = Script(text=" ".join([BIG_WORD] * 8_000), tokens=8_000)  # 32 MB
    reader, writer = await stream_begun(house, receive_bytes=4_096, max_tokens=9_000)
    (asked,) = house.asked("first")
    player = next(iter(house["first"].connections))._player
    (exchange,) = house.service.running.exchanges
    before = -1
    while not exchange.reply.waits_for_client or player.tokens != before:  # until nothing moves any more
        before = player.tokens
        await asyncio.sleep(0.2)
    assert player.tokens < 7_000
    assert exchange.reply.outlet._request.transport.get_write_buffer_size() < 2 << 20
    received = 0
    while data := await asyncio.wait_for(reader.read(1 << 20), 30):
        received += len(data)
        if data.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
            break
    assert received > 32_000_000
    assert asked.finished
    writer.close()
    row = await house.only_request()
    assert (row["state"], row["completion_tokens"], row["usage_source"]) == ("completed", 8_000, "provider")


@pytest.mark.parametrize("first_word", ["", "-word" * 700_000], ids=["steadily", "with one huge event"])
async def test_a_client_that_stops_reading_is_closed(open_house, first_word):
    house = await open_house({"first": HUGE}, slow_client_timeout_s=0.3)
    house["first"].script = Script(text=f"{first_word} " + " ".join([BIG_WORD] * 8_000), tokens=8_000)
    _, writer = await stream_begun(house, receive_bytes=4_096, until=None, max_tokens=9_000)
    row = await house.only_request()
    assert row["state"] == "client_left"
    assert row["charge_pusd"] == min(due(row), row["hold_pusd"])
    assert row["completion_tokens"] < 8_000 or first_word
    (asked,) = house.asked("first")
    assert asked.client_left
    assert house.service.observations["first"].in_flight == 0
    leave(writer)


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_does_not_take_the_end_is_closed(open_house, upstream, streamed):
    """The answer is whole and settled; only its last bytes find no reader."""
    word = orjson.dumps({"choices": [{"index": 0, "delta": {"content": BIG_WORD * 900}, "finish_reason": "stop"}]})

    async def huge(reader, writer):
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":20}}\n\ndata: [DONE]\n\n'
        writer.write(ok(b"data: " + word + b"\n\n" + usage))

    house = await open_house({"first": {"base_url": await upstream(huge)}}, slow_client_timeout_s=0.4)
    reader, writer = await house.raw(receive_bytes=4_096)
    writer.write(house.request_bytes(house.body(stream=streamed)))
    await reader.read(1)
    await house.until(lambda: not house.service.running.exchanges)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await asyncio.wait_for(reader.readexactly(1 << 30), 30)
    writer.close()
    row = await house.only_request()
    assert (row["state"], row["completion_tokens"]) == ("completed", 20)


# Leaving


async def test_a_client_that_leaves_mid_stream_stops_the_engine(house):
    house["first"].script = Script(interval_s=0.02, tokens=500)
    _, writer = await stream_begun(house, until=b"sandbox")
    leave(writer)
    row = await house.only_request()
    (asked,) = house.asked("first")
    await asyncio.wait_for(asked.over.wait(), 30)
    assert (asked.client_left, asked.tokens < 500) == (True, True)
    assert row["state"] == "client_left"
    assert 5 <= row["completion_tokens"] <= asked.tokens
    assert (row["usage_source"], row["flags"]) == ("continuous", [])
    assert row["charge_pusd"] == row["cost_pusd"] == due(row)
    assert house.service.observations["first"].in_flight == 0
    assert not house.asked("second")


async def test_where_leaving_does_not_stop_the_bill_the_answer_is_drained_to_its_usage(open_house):
    house = await open_house({"first": {"provider": "nebius"}})
    house["first"].script = Script(interval_s=0.01, tokens=40)
    _, writer = await stream_begun(house, until=b"sandbox")
    leave(writer)
    row = await house.only_request()
    (asked,) = house.asked("first")
    assert (asked.finished, asked.tokens) == (True, 40)
    assert (row["state"], row["completion_tokens"], row["usage_source"]) == ("client_left", 40, "provider")
    assert row["charge_pusd"] == row["cost_pusd"] == due(row)


async def test_draining_is_bounded(open_house):
    house = await open_house({"first": {"provider": "nebius"}}, drain_upstream_s=0.3)
    house["first"].script = Script(fault="hang_mid_stream", after_events=5)
    _, writer = await stream_begun(house, until=b"sandbox")
    leave(writer)
    row = await house.only_request()
    assert (row["state"], row["usage_source"], row["flags"]) == ("client_left", "counted", ["usage_missing"])
    assert row["completion_tokens"] == count_text("This is the Caduceus sandbox")
    assert row["charge_pusd"] == due(row)
    await asyncio.wait_for(house.asked("first")[0].over.wait(), 30)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("fault", ["hang_before_headers", "hang_after_headers"])
async def test_a_client_that_leaves_before_the_first_byte_pays_the_prompt(house, streamed, fault):
    house["first"].script = Script(fault=fault)
    _, writer = await house.raw()
    writer.write(house.request_bytes(house.body(stream=streamed)))
    await house.until(lambda: house.asked("first"))
    leave(writer)
    row = await house.only_request()
    await asyncio.wait_for(house.asked("first")[0].over.wait(), 30)
    assert house.asked("first")[0].client_left
    assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == ("client_left", HELLO_TOKENS, 0)
    assert row["charge_pusd"] == due(row)
    assert house.service.observations["first"].in_flight == 0
    assert not house.asked("second")


async def test_a_client_that_leaves_a_plain_request_stops_the_engine_too(house):
    house["first"].script = Script(interval_s=0.02, tokens=500)
    _, writer = await house.raw()
    writer.write(house.request_bytes(house.body()))
    await house.until(house.attempts)
    await house.until(lambda: house.attempts()[-1].reading.pieces > 3)
    leave(writer)
    row = await house.only_request()
    await asyncio.wait_for(house.asked("first")[0].over.wait(), 30)
    assert row["state"] == "client_left"
    assert 3 < row["completion_tokens"] <= house.asked("first")[0].tokens < 500
    assert row["charge_pusd"] == due(row)


async def test_a_client_that_leaves_while_we_connect_pays_nothing(open_house, upstream):
    async def silent(reader, writer):
        await asyncio.sleep(60)

    base_url = (await upstream(silent)).replace("http:", "https:")  # a handshake that nobody answers
    house = await open_house({"first": {"base_url": base_url}})
    _, writer = await house.raw()
    writer.write(house.request_bytes(house.body(stream=True)))
    await house.until(house.attempts)
    leave(writer)
    row = await house.only_request()
    assert (row["state"], row["charge_pusd"], row["cost_pusd"]) == ("client_left", 0, 0)
    assert not row["upstream_contacted"]
    assert house.service.observations["first"].in_flight == 0


async def test_a_client_that_leaves_while_the_endpoint_refuses_pays_nothing(open_house, upstream):
    refusing = asyncio.Event()

    async def refuse(reader, writer):
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 100\r\n\r\n")
        await writer.drain()
        refusing.set()
        await asyncio.sleep(60)

    house = await open_house({"first": {"base_url": await upstream(refuse)}})
    _, writer = await house.raw()
    writer.write(house.request_bytes(house.body(stream=True)))
    await refusing.wait()
    await house.until(lambda: house.attempts()[-1].status)
    leave(writer)
    row = await house.only_request()
    assert (row["state"], row["charge_pusd"], row["cost_pusd"]) == ("client_left", 0, 0)


async def test_a_client_that_leaves_while_its_money_is_being_held_has_nothing_held(house):
    transaction = house.db.transaction()
    await transaction.start()
    await house.db.execute("SELECT * FROM account WHERE kind = 'tenant' FOR UPDATE")
    _, writer = await house.raw()
    writer.write(house.request_bytes(house.body(stream=True)))
    await house.until(lambda: house.service.running.exchanges)
    await house.blocked()
    leave(writer)
    await house.until(lambda: not house.service.running.exchanges)
    await transaction.rollback()
    assert (await house.chat()).status == 200
    assert len(await house.settled()) == 1
    assert len(house.asked("first")) == 1


async def test_a_client_that_leaves_during_its_settlement_is_charged_once(open_house, upstream):
    """Its charge is being posted, and that takes a while: somebody holds a lock."""
    serve, gate = gated()
    house = await open_house({"first": {"base_url": await upstream(serve)}})
    _, writer = await stream_begun(house)
    (exchange,) = house.service.running.exchanges
    transaction = house.db.transaction()
    await transaction.start()
    await house.db.execute("LOCK TABLE account IN SHARE MODE")
    gate.set()
    await house.until(lambda: not exchange.reservation.unsettled)
    await house.blocked()
    leave(writer)
    await house.until(lambda: not house.service.running.exchanges)
    await transaction.rollback()
    row = await house.only_request()
    assert (row["prompt_tokens"], row["completion_tokens"]) == (20, 2)
    assert row["charge_pusd"] == due(row)


async def test_a_client_that_leaves_while_its_tokens_are_counted_is_charged_once(open_house, upstream):
    """A long answer without usage is counted in a thread; here none is free for a while."""
    serve, gate = gated(b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"word " * 1_000), usage=b"")
    house = await open_house({"first": {"base_url": await upstream(serve)}})
    _, writer = await stream_begun(house)
    (exchange,) = house.service.running.exchanges
    free = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, free.wait, 60) for _ in range(40)]
    gate.set()
    await house.until(lambda: not exchange.reservation.unsettled)
    leave(writer)
    await house.until(lambda: not house.service.running.exchanges)
    free.set()
    await asyncio.gather(*busy)
    row = await house.only_request()
    assert (row["prompt_tokens"], row["usage_source"]) == (HELLO_TOKENS, "counted")
    assert 1_000 <= row["completion_tokens"] <= 1_010
    assert row["charge_pusd"] == due(row)


async def test_many_clients_that_leave_at_any_moment(house):
    """At whatever instant: one terminal state each, and nobody pays more than the whole answer."""
    house["first"].script = Script(first_token_s=0.05, interval_s=0.01, tokens=10)

    async def come_and_go(stay):
        reader, writer = await house.raw()
        writer.write(house.request_bytes(house.body(stream=True)))
        await stay(reader)
        leave(writer)

    def for_a_while(number):
        return lambda reader: asyncio.sleep(number * 0.006)

    def for_some_events(number):
        async def listen(reader):
            for _ in range(number):
                await reader.readuntil(b"data: ")

        return listen

    stays = [*map(for_a_while, range(40)), *map(for_some_events, range(1, 11))]
    await asyncio.gather(*map(come_and_go, stays))
    await house.until(lambda: not house.service.running.exchanges and not house.service.running.tasks)
    rows = await house.settled()
    assert 10 <= len(rows) <= 50
    assert {row["state"] for row in rows} <= {"client_left", "completed"}
    whole = HELLO_TOKENS * INPUT_PUSD + 10 * OUTPUT_PUSD
    assert all(row["charge_pusd"] == due(row) <= whole for row in rows)
    assert house.service.observations["first"].in_flight == 0


# Nonsense


def chat_of(content, more=b""):
    """A body whose bytes need not be JSON."""
    return b'{"model": "Hermes-4-405B", "messages": [{"role": "user", "content": ' + content + b"}]" + more + b"}"


BAD_BODIES = {
    "nothing": b"",
    "no JSON": b"hello",
    "half": chat_of(b'"x"')[:-5],
    "a list": b"[]",
    "null": b"null",
    "NaN": chat_of(b'"x"', b', "temperature": NaN'),
    "infinity": chat_of(b'"x"', b', "temperature": -Infinity'),
    "a lone surrogate": chat_of(b'"\\ud800"'),
    "no UTF-8": chat_of(b'"\xff"'),
    "UTF-16": chat_of(b'"x"').decode().encode("utf-16"),
    "a bare NUL": chat_of(b'"\x00"'),
    "one name twice": chat_of(b'"x"', b', "model": "another"'),
    "nested lists": chat_of(b"[" * 100_000 + b"]" * 100_000),
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a nested tool": chat_of(b'"x"', b', "tools": ' + b"[" * 1_000 + b"]" * 1_000),
}


async def test_a_body_that_makes_no_sense_is_a_400(house):
    for what, body in BAD_BODIES.items():
        answer = await house.send(body)
        assert (answer.status, answer.error["code"]) == (400, "invalid_json"), what
        assert answer.error["type"] == "invalid_request_error"
        assert answer.headers["x-should-retry"] == "false"
    assert (await house.chat()).status == 200
    await house.settled(1)


async def test_odd_characters_are_text(house):
    odd = "a\x00b\x7f\u2028\ufeff\U0010ffff"
    answer = await house.stream(odd)
    assert (answer.status, answer.done) == (200, True)
    assert odd in answer.text
    await house.only_request()


async def test_a_body_of_100_mb_is_a_413_before_it_is_read(house):
    reader, writer = await house.raw()
    writer.write(house.request_bytes(b'{"model": "', "content-length: 104857600"))
    status, _, body = await asyncio.wait_for(read_response(reader), 30)
    assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
    assert await asyncio.wait_for(reader.read(), 30) == b""
    writer.close()


async def test_a_body_without_a_length_is_a_413_when_it_grows_too_large(house):
    reader, writer = await house.raw()
    writer.write(house.request_bytes(b"", "transfer-encoding: chunked"))

    async def pour():
        while True:
            writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.001)

    pouring = asyncio.create_task(pour())
    status, _, _ = await asyncio.wait_for(read_response(reader), 30)
    assert status == 413
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(pouring, 30)
    writer.close()


async def test_a_compressed_bomb_is_a_413_before_it_goes_off(house):
    bomb = b" " * (100 << 20)
    for encoding, compressed in (("gzip", gzip.compress(bomb, 1)), ("deflate", zlib.compress(bomb, 1))):
        answer = await house.send(compressed, **{"content-encoding": encoding})
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")


async def test_an_honestly_compressed_body_is_read(house):
    answer = await house.send(gzip.compress(orjson.dumps(house.body())), **{"content-encoding": "gzip"})
    assert answer.status == 200


async def test_a_body_that_is_not_what_its_encoding_says_is_a_400(house):
    answer = await house.send(orjson.dumps(house.body()), **{"content-encoding": "gzip"})
    assert answer.status == 400


BAD_HEADERS = {
    "10,000": [f"x-header-{i}: {i}" for i in range(10_000)],
    "100 kB": ["x-header: " + "0" * 100_000],
    "a NUL": ["x-header: a\x00b"],
    "two lengths": ["content-length: 1", "content-length: 2"],
    "a negative length": ["content-length: -1"],
    "length and chunks": ["transfer-encoding: chunked", "content-length: 5"],
}


async def test_headers_that_make_no_sense_are_a_400(house):
    for what, headers in BAD_HEADERS.items():
        reader, writer = await house.raw()
        writer.write(house.request_bytes(b"", *headers))
        answer = await asyncio.wait_for(reader.read(), 30)
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), (what, answer[:200])
        writer.close()
    assert (await house.chat()).status == 200


@pytest.mark.parametrize("name", ["authorization: Bearer ", "x-api-key: "])
@pytest.mark.parametrize("key", [b"\xff\xfe", "sk-cad-\u00e9".encode(), b"\xed\xa0\x80", b" ", b"a" * 9_000])
async def test_a_key_of_any_bytes_is_a_401(house, name, key):
    reader, writer = await house.raw()
    writer.write(b"GET /v1/key HTTP/1.1\r\nhost: test\r\nconnection: close\r\n" + name.encode() + key + b"\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 401 "), answer[:200]
    assert b'"code":"invalid_api_key"' in answer


HOSTILE_TARGETS = (
    "/v1/models/%ff",
    "/v1/models/%ed%a0%80/endpoints",
    "/v1/models/%00",
    "/v1/models/%zz%",
    "/v1/generations/%ff",
    "/v1/generation?id=%ed%a0%80",
    "/v1/usage?month=%ff&by=%00",
    "/v1/messages/%ff",
    "/v1/../v1/key",
    "//v1/key",
    "http://[::1/v1/key",
    "http://test:99999/v1/key",
    "*",
)


async def test_a_target_that_makes_no_sense_is_a_400_or_a_404(house):
    for target in HOSTILE_TARGETS:
        reader, writer = await house.raw()
        head = f"GET {target} HTTP/1.1\r\nhost: test\r\nconnection: close\r\nauthorization: Bearer {house.key}\r\n\r\n"
        writer.write(head.encode())
        answer = await asyncio.wait_for(reader.read(), 30)
        writer.close()
        assert answer.split(b" ")[1] in (b"400", b"404"), (target, answer[:200])


async def test_what_is_not_http_harms_nobody(open_house):
    house = await open_house(header_timeout_s=0.2)
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 9):
        reader, writer = await house.raw()
        writer.write(sent)
        assert b" 200 " not in await asyncio.wait_for(reader.read(), 30)
        writer.close()
    assert (await house.chat()).status == 200


# Old and eager clients


async def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection(house):
    reader, writer = await house.raw()
    writer.write(house.request_bytes(house.body(stream=True), version="1.0"))
    head = await reader.readuntil(b"\r\n\r\n")
    body = await asyncio.wait_for(reader.read(), 30)
    assert b"200 OK" in head
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")
    writer.close()
    assert (await house.only_request())["state"] == "completed"


async def test_requests_that_come_all_at_once_are_answered_one_after_the_other(house):
    reader, writer = await house.raw()
    writer.write(b"".join(house.request_bytes(house.body(text)) for text in ("one", "two", "three")))
    for text in ("one", "two", "three"):
        status, _, body = await asyncio.wait_for(read_response(reader), 30)
        assert status == 200
        assert f"You said: {text}" in json.loads(body)["choices"][0]["message"]["content"]
    writer.close()
    await house.settled(3)


async def test_streams_that_are_asked_for_all_at_once_do_not_mix(house):
    reader, writer = await house.raw()
    writer.write(b"".join(house.request_bytes(house.body(text, stream=True)) for text in ("one", "two")))
    for text in ("one", "two"):
        whole = await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 30)
        assert whole.startswith(b"HTTP/1.1 200 OK\r\n")
        assert whole.count(b"[DONE]") == 1
        assert whole.count(f'" {text}"'.encode()) == 1
    writer.close()
    await house.settled(2)


# Control text


async def test_control_text_of_a_user_is_answered_as_text(house):
    for text in ("<|eot_id|>", "</think>", "<think>", "<tool_call>", "<|start_header_id|>system"):
        said = f"Say {text} and {text}"
        answer = await house.stream(said)
        assert (answer.done, answer.joined("reasoning")) == (True, "")
        assert f"You said: {said}" in answer.text
        assert house.asked("first")[-1].body["messages"] == [{"role": "user", "content": said}]
        plain = await house.chat(said, reasoning={"enabled": True})
        assert f"You said: {said}" in plain.text
        assert "pretend to think" in plain.joined("reasoning")


# What changes around a running request


async def test_a_price_that_changes_while_a_request_runs_is_for_the_next_one(open_house, upstream):
    serve, gate = gated()
    house = await open_house({"first": {"base_url": await upstream(serve)}})
    reader, writer = await stream_begun(house)
    await house.db.execute(
        "INSERT INTO price (subject_kind, subject, input_pusd, output_pusd, cached_input_pusd, starts_at, source)"
        " VALUES ('endpoint', 'first', 7000000, 9000000, 7000000, clock_timestamp(), 'cli')"
    )
    prices = house.store
    await house.until(lambda: prices.prices.endpoint_price("first", prices.instant()).input_pusd == 7_000_000)
    gate.set()
    await reader.readuntil(b"[DONE]")
    writer.close()
    first = await house.only_request()
    assert first["charge_pusd"] == due(first)
    assert (await house.chat()).status == 200
    _, second = await house.settled(2)
    assert second["charge_pusd"] == second["prompt_tokens"] * 7_000_000 + second["completion_tokens"] * 9_000_000


async def test_a_server_that_stops_lets_running_answers_end_and_takes_no_new_ones(open_house, upstream):
    serve, gate = gated()
    house = await open_house({"first": {"base_url": await upstream(serve)}})
    idle_reader, idle = await house.raw()
    idle.write(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n")
    assert (await read_response(idle_reader))[0] == 200
    reader, writer = await stream_begun(house)
    stopping = asyncio.create_task(house.stop())
    await house.until(lambda: house.service.running.draining)
    idle.write(house.request_bytes(house.body()))
    status, headers, body = await asyncio.wait_for(read_response(idle_reader), 30)
    assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
    assert (headers["retry-after"], headers["connection"]) == ("1", "close")
    with pytest.raises(ConnectionRefusedError):
        await house.raw()
    assert not stopping.done()
    gate.set()
    assert b" two" in await asyncio.wait_for(reader.readuntil(b"[DONE]"), 30)
    await asyncio.wait_for(stopping, 30)
    for one in (idle, writer):
        one.close()
    assert (await house.only_request())["state"] == "completed"


@pytest.mark.parametrize("began", [True, False])
async def test_an_answer_that_outlasts_the_grace_period_is_cut_and_charged_as_far_as_it_came(
    open_house, upstream, began
):
    serve, _ = gated() if began else gated(b": wait\n\n")
    house = await open_house({"first": {"base_url": await upstream(serve)}}, drain_s=0.2)
    reader, writer = await stream_begun(house, until=b'"content":"' if began else None)
    await house.until(house.attempts)
    await asyncio.wait_for(house.stop(), 30)
    assert b"[DONE]" not in await reader.read()
    writer.close()
    row = await house.only_request()
    assert (row["state"], row["completion_tokens"]) == (("cut", 1) if began else ("failed", 0))
    assert row["charge_pusd"] == due(row)
    assert (row["charge_pusd"] > 0) == began, "it was us who ended it"


async def test_what_is_being_drained_when_the_server_stops_is_settled_all_the_same(open_house):
    house = await open_house({"first": {"provider": "nebius"}}, drain_upstream_s=0.3)
    house["first"].script = Script(fault="hang_mid_stream", after_events=5)
    _, writer = await stream_begun(house, until=b"sandbox")
    leave(writer)
    await house.until(lambda: house.service.running.tasks)
    # Leaving the house now proves its books.


BACKENDS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'caduceus test%'"""


async def test_a_ledger_connection_that_dies_while_a_request_runs_costs_nobody_anything(open_house, upstream):
    serve, gate = gated()
    house = await open_house({"first": {"base_url": await upstream(serve)}})
    reader, writer = await stream_begun(house)
    gate.set()
    await asyncio.wait_for(reader.readuntil(b"[DONE]"), 30)
    gate.clear()
    writer.close()
    reader, writer = await stream_begun(house)
    assert await house.db.fetchval(BACKENDS) > 0
    gate.set()
    await asyncio.wait_for(reader.readuntil(b"[DONE]"), 30)
    writer.close()
    rows = await house.settled(2)
    assert [(row["state"], row["completion_tokens"]) for row in rows] == [("completed", 2)] * 2


async def test_ledger_connections_that_die_under_load_settle_every_request_once(house):
    assert (await house.chat()).status == 200
    house["first"].script = Script(interval_s=0.01, tokens=20)

    async def kill():
        """Once while all ask for their hold, which bears one failure; then after each request that is settled."""
        await house.db.execute(BACKENDS)
        await house.until(lambda: len(house.asked("first")) == 31)
        settled = 0
        while settled < 31:
            await house.db.execute(BACKENDS)
            before = settled
            while settled == before:
                await asyncio.sleep(0.02)
                settled = await house.db.fetchval("SELECT count(*) FROM request")

    answers = asyncio.gather(*(house.stream() for _ in range(30)))
    await kill()
    assert [(answer.status, answer.done) for answer in await answers] == [(200, True)] * 30
    rows = await house.settled(31)
    assert {row["state"] for row in rows} == {"completed"}


async def test_while_postgres_is_away_running_answers_wait_for_it_and_new_ones_are_a_503(open_house, upstream, wire):
    serve, gate = gated()
    house = await open_house({"first": {"base_url": await upstream(serve)}, "second": {}}, url=wire.url)
    assert (await house.chat(provider={"only": ["second"]})).status == 200
    reader, writer = await stream_begun(house)
    wire.cut()
    gate.set()
    assert b" two" in await asyncio.wait_for(reader.readuntil(b'"stop"'), 30)
    await house.until(lambda: not house.store.healthy)
    answer = await house.chat()
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    await wire.mend()
    assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"[DONE]"), 30)
    writer.close()
    await house.until(lambda: house.store.healthy)
    assert (await house.chat()).status == 200
    assert [row["state"] for row in await house.settled()] == ["completed"] * 3


async def test_a_key_that_cannot_be_looked_up_is_a_503(open_house, wire):
    """Not in memory yet, and Postgres is away: that is no reason to call the key wrong."""
    house = await open_house(url=wire.url)
    wire.cut()
    answer = await house.chat()
    assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
    await wire.mend()
    await house.until(lambda: house.store.healthy)
    assert (await house.chat()).status == 200


@pytest.fixture
def exhausted():
    """`with exhausted():` this process has no file descriptor left."""

    @contextmanager
    def exhausted():
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        opened = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/dev/fd"))) + 8, limits[1]))
        try:
            with suppress(OSError):
                while True:
                    opened.append(os.open(os.devnull, os.O_RDONLY))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for number in opened:
                os.close(number)

    return exhausted


async def test_without_file_descriptors_it_is_a_503_and_nobodys_fault(house, exhausted):
    """One client is connected already, another is not; no endpoint can be reached."""
    reader, writer = await house.raw()
    with exhausted():
        for stream in (True, False):
            writer.write(house.request_bytes(house.body(stream=stream)))
            status, headers, body = await asyncio.wait_for(read_response(reader), 30)
            assert (status, json.loads(body)["error"]["code"]) == (503, "no_endpoint_available")
            assert headers["retry-after"] == "1"
    for name in house.places:
        seen = house.service.observations[name]
        assert (seen.consecutive_failures, seen.in_flight) == (0, 0)
    assert (await house.chat()).status == 200
    rows = await house.settled(3)
    assert [(row["state"], row["charge_pusd"] > 0) for row in rows] == [("failed", False)] * 2 + [("completed", True)]
