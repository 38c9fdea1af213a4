"""Every fault as it looks from the other end of the socket, and what the sandbox remembers of it."""

import asyncio
import gzip
import json
import time

import aiohttp
import pytest

from proxy.sandbox.script import FAULTS, Script
from proxy.sandbox.server import Sandbox

BODY = {"model": "Hermes-4-405B", "messages": [{"role": "user", "content": "Hello"}]}
STREAMED = BODY | {"stream": True, "stream_options": {"include_usage": True}}
SHORT = {"text": "one two three four five"}
SILENCE_S = 0.5
WHOLE = b"0\r\n\r\n"  # ends a chunked body


@pytest.fixture
async def client():
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


def url(sandbox):
    return f"{sandbox.base_url}/chat/completions"


def events(body):
    """The `data` of each event, JSON where it is."""
    found = []
    for block in body.decode().split("\n\n"):
        if block.startswith("data: "):
            try:
                found.append(json.loads(block[6:]))
            except json.JSONDecodeError:
                found.append(block[6:])
    return found


def text_of(chunks):
    choices = [choice for chunk in chunks if isinstance(chunk, dict) for choice in chunk.get("choices", ())]
    return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)


async def streamed(client, sandbox, body=None):
    async with client.post(url(sandbox), json=body or STREAMED) as response:
        return response, await response.read()


class Raw:
    """A socket that reads until the end and tells how it ended."""

    def __init__(self, sandbox):
        self.port = int(sandbox.base_url.split(":")[2].split("/")[0])

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_):
        self.writer.transport.abort()

    async def ask(self, body=STREAMED, head=""):
        content = json.dumps(body).encode()
        request = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(content)}\r\n\r\n"
        self.writer.write(request.encode() + content)

    async def until_end(self, silence_s=30):
        """All bytes, and "FIN", "RST" or "silence": nothing came for so long."""
        got = b""
        try:
            while data := await asyncio.wait_for(self.reader.read(65_536), silence_s):
                got += data
        except ConnectionResetError:
            return got, "RST"
        except TimeoutError:
            return got, "silence"
        return got, "FIN"


async def raw_answer(script, body=STREAMED):
    async with Sandbox(script=script) as sandbox, Raw(sandbox) as raw:
        await raw.ask(body)
        got, end = await raw.until_end(SILENCE_S if "hang" in (script.fault or "") else 30)
        return got, end, sandbox.requests[-1] if sandbox.requests else None


async def test_without_a_fault_the_stream_is_whole(client):
    async with Sandbox(script=Script(**SHORT)) as sandbox:
        response, body = await streamed(client, sandbox)
    chunks = events(body)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert text_of(chunks) == "one two three four five"
    assert chunks[-3]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["usage"]["completion_tokens"] == 5
    assert chunks[-1] == "[DONE]"


@pytest.mark.parametrize("fault", ["refuse", "reset_before_headers"])
async def test_a_reset_instead_of_an_answer(fault):
    got, end, _ = await raw_answer(Script(fault=fault))
    assert (got, end) == (b"", "RST")


async def test_refused_connections_are_not_even_read(client):
    async with Sandbox(script=Script(**SHORT)) as sandbox:
        sandbox.scripts.append(Script(fault="refuse"))
        with pytest.raises(aiohttp.ClientError):
            await streamed(client, sandbox)
        assert not sandbox.requests
        _, body = await streamed(client, sandbox)
        assert text_of(events(body)) == "one two three four five"


@pytest.mark.parametrize("body", [BODY, STREAMED])
async def test_silence_before_and_after_the_headers(body):
    got, end, received = await raw_answer(Script(fault="hang_before_headers"), body)
    assert (got, end) == (b"", "silence")
    assert not received.finished
    got, end, _ = await raw_answer(Script(fault="hang_after_headers"), body)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"\r\n\r\n")
    assert end == "silence"


@pytest.mark.parametrize(
    ("fault", "ending"),
    [
        ("hang_mid_stream", "silence"),
        ("cut_mid_stream", "FIN"),
        ("reset_mid_stream", "RST"),
        ("bad_chunk_framing", "FIN"),
    ],
)
@pytest.mark.parametrize("after_events", [0, 2])
async def test_faults_in_the_middle_of_a_stream(fault, ending, after_events):
    got, end, received = await raw_answer(Script(fault=fault, after_events=after_events, **SHORT))
    assert end == ending
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert not body.endswith(b"0\r\n\r\n")
    assert body.endswith(b"ZZ\r\nThis is no chunk.\r\n") is (fault == "bad_chunk_framing")
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    assert text_of(map(json.loads, lines)) == ("" if after_events == 0 else "one two")
    assert received.tokens == after_events
    assert not received.finished


async def test_a_torn_stream_ends_within_an_event():
    got, _, _ = await raw_answer(Script(fault="cut_mid_stream", after_events=2, torn=True, **SHORT))
    last = got.decode().split("data: ")[-1]
    assert last.startswith('{"id"')
    with pytest.raises(json.JSONDecodeError):
        json.loads(last.split("\r\n")[0])


@pytest.mark.parametrize(
    ("fault", "ending"), [("hang_mid_stream", "silence"), ("cut_mid_stream", "FIN"), ("reset_mid_stream", "RST")]
)
async def test_faults_in_the_middle_of_a_plain_body(fault, ending):
    got, end, _ = await raw_answer(Script(fault=fault), BODY)
    head, _, body = got.partition(b"\r\n\r\n")
    promised = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert end == ending
    assert len(body) == promised // 2


async def test_a_plain_body_with_bad_framing():
    got, end, _ = await raw_answer(Script(fault="bad_chunk_framing"), BODY)
    assert b"transfer-encoding: chunked" in got
    assert got.endswith(b"ZZ\r\nThis is no chunk.\r\n")
    assert end == "FIN"


async def test_slow_headers_come_byte_by_byte():
    async with Sandbox(script=Script(fault="slow_headers", **SHORT)) as sandbox, Raw(sandbox) as raw:
        await raw.ask()
        first = await raw.reader.read(65_536)
        assert first == b"H"
        head = first + await raw.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        rest = await raw.reader.readuntil(WHOLE)
    assert rest.endswith(b"data: [DONE]\n\n\r\n" + WHOLE)


async def test_ends_without_done(client):
    async with Sandbox() as sandbox:
        sandbox.scripts += [Script(fault="no_done", **SHORT), Script(fault="no_finish_no_done", **SHORT)]
        chunks = events((await streamed(client, sandbox))[1])
        assert chunks[-1]["usage"]["completion_tokens"] == 5
        assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
        chunks = events((await streamed(client, sandbox))[1])
        assert text_of(chunks) == "one two three four five"
        assert all(choice["finish_reason"] is None for chunk in chunks for choice in chunk["choices"])
        sandbox.scripts.append(Script(fault="no_finish_no_done", **SHORT))
        response, body = await streamed(client, sandbox, BODY)
        assert response.status == 200
        assert json.loads(body)["choices"][0]["finish_reason"] is None


async def test_an_event_that_is_not_json(client):
    async with Sandbox(script=Script(fault="not_json_event", **SHORT)) as sandbox:
        chunks = events((await streamed(client, sandbox))[1])
        assert text_of(chunks) == "one two three four five"
        assert [chunk for chunk in chunks if isinstance(chunk, str)] == [
            '{"id": "sandbox", "choices": [{"delta": {"content"',
            "[DONE]",
        ]
        _, body = await streamed(client, sandbox, BODY)
        with pytest.raises(json.JSONDecodeError):
            json.loads(body)


@pytest.mark.parametrize("body", [BODY, STREAMED])
async def test_gzip_that_was_not_asked_for(client, body):
    async with Sandbox() as sandbox:
        sandbox.scripts += [Script(fault="gzip", **SHORT), Script(**SHORT)]
        response, packed = await streamed(client, sandbox, body)
        assert response.headers["content-encoding"] == "gzip"
        _, expected = await streamed(client, sandbox, body)
    unpacked = gzip.decompress(packed)
    assert [len(part) for part in unpacked.split(b"\n\n")] == [len(part) for part in expected.split(b"\n\n")]


@pytest.mark.parametrize(
    ("fault", "status", "kind", "begins"),
    [
        ("html_200", 200, "text/html; charset=utf-8", b"<!DOCTYPE html>"),
        ("html_502", 502, "text/html", b"<html>"),
        ("empty_200", 200, "application/json", b""),
        ("error_200", 200, "application/json", b'{"error"'),
        ("status:500", 500, "application/json", b'{"error"'),
        ("status:529", 529, "application/json", b'{"error"'),
        ("status:401", 401, "application/json", b'{"error":"Unauthorized"}'),
        ("status:400-context", 400, "application/json", b'{"error":{"message":"This model\'s maximum context length'),
        ("status:400-filter", 400, "application/json", b'{"error":{"message":"The prompt was refused by the content'),
    ],
)
@pytest.mark.parametrize("body", [BODY, STREAMED])
async def test_answers_that_are_none(client, fault, status, kind, begins, body):
    async with Sandbox(script=Script(fault=fault)) as sandbox:
        response, got = await streamed(client, sandbox, body)
    assert (response.status, response.headers["content-type"]) == (status, kind)
    assert got.startswith(begins)
    assert bool(got) is bool(begins)


async def test_a_429_says_when_to_return_or_does_not(client):
    async with Sandbox() as sandbox:
        sandbox.scripts += [Script(fault="status:429", retry_after_s=7), Script(fault="status:429")]
        response, _ = await streamed(client, sandbox)
        assert (response.status, response.headers["retry-after"]) == (429, "7")
        response, _ = await streamed(client, sandbox)
        assert (response.status, response.headers.get("retry-after")) == (429, None)


async def test_errors_in_a_stream(client):
    async with Sandbox() as sandbox:
        sandbox.scripts += [
            Script(fault="error_first_event"),
            Script(fault="error_mid_stream", after_events=2, **SHORT),
            Script(fault="choices_error_200"),
        ]
        first = events((await streamed(client, sandbox))[1])
        assert [list(chunk) if isinstance(chunk, dict) else chunk for chunk in first] == [["error"], "[DONE]"]
        middle = events((await streamed(client, sandbox))[1])
        assert text_of(middle) == "one two"
        assert middle[-2]["error"]["code"] == 500
        inside = events((await streamed(client, sandbox))[1])
        assert inside[0]["choices"][0]["error"]["code"] == 502


async def test_errors_of_a_plain_answer(client):
    async with Sandbox() as sandbox:
        sandbox.scripts += [Script(fault="error_mid_stream"), Script(fault="choices_error_200")]
        response, _ = await streamed(client, sandbox, BODY)
        assert response.status == 500
        response, body = await streamed(client, sandbox, BODY)
        assert response.status == 200
        assert json.loads(body)["choices"][0]["error"]["code"] == 502


async def test_the_content_filter_stops_an_answer(client):
    async with Sandbox(script=Script(fault="content_filter", after_events=2, **SHORT)) as sandbox:
        chunks = events((await streamed(client, sandbox))[1])
        assert text_of(chunks) == "one two"
        assert chunks[-3]["choices"][0]["finish_reason"] == "content_filter"
        assert chunks[-2]["usage"]["completion_tokens"] == 2
        plain = json.loads((await streamed(client, sandbox, BODY))[1])
        assert plain["choices"][0]["message"]["content"] == "one two"
        assert plain["usage"]["completion_tokens"] == 2


async def test_a_stale_connection_is_reset_when_it_is_used_again():
    async with Sandbox(script=Script(fault="stale_keepalive", **SHORT)) as sandbox, Raw(sandbox) as raw:
        await raw.ask()
        await raw.reader.readuntil(WHOLE)
        assert await raw.until_end(SILENCE_S) == (b"", "silence")
        await raw.ask()
        assert await raw.until_end() == (b"", "RST")
        assert len(sandbox.requests) == 1


async def test_it_flaps(client):
    async with Sandbox(script=Script(fault="flap", **SHORT)) as sandbox:
        statuses = [(await streamed(client, sandbox))[0].status for _ in range(4)]
    assert statuses == [503, 200, 503, 200]


@pytest.mark.parametrize(
    ("mode", "claims"),
    [
        ("normal", [5]),
        ("missing", []),
        ("zero", [0]),
        ("negative", [-6]),
        ("absurd", [10**12]),
        ("twice", [5, 5]),
        ("every_chunk", [0, 1, 2, 3, 4, 5, 5, 5]),
        ("inflated", [60]),
    ],
)
async def test_what_usage_claims(client, mode, claims):
    async with Sandbox(script=Script(usage=mode, **SHORT)) as sandbox:
        chunks = events((await streamed(client, sandbox))[1])
        told = [chunk["usage"]["completion_tokens"] for chunk in chunks if isinstance(chunk, dict) and "usage" in chunk]
        assert told == claims
        plain = json.loads((await streamed(client, sandbox, BODY))[1])
    assert plain.get("usage", {}).get("completion_tokens") == (claims[-1] if claims else None)


async def test_every_fault_leaves_the_sandbox_serving(client):
    async with Sandbox() as sandbox:
        for fault in [*FAULTS, "status:500"]:
            for body in (BODY, STREAMED):
                sandbox.scripts.append(Script(fault=fault, **SHORT))
                try:
                    async with asyncio.timeout(0.05):
                        await streamed(client, sandbox, body)
                except (aiohttp.ClientError, TimeoutError):
                    pass
        sandbox.scripts.clear()
        response, body = await streamed(client, sandbox)
        assert response.status == 200
        assert body.endswith(b"data: [DONE]\n\n")


# Choosing a script


async def test_a_header_and_a_directive_choose_the_script(client):
    header = {"x-sandbox-script": '{"text": "by header"}'}
    said = {"role": "user", "content": 'Hello [[sandbox {"reasoning": "Hm", "think": true}]]'}
    body = BODY | {"messages": [said]}
    async with Sandbox() as sandbox, client.post(url(sandbox), json=body, headers=header) as response:
        message = (await response.json())["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == ("by header", "Hm")


async def test_a_directive_is_not_repeated_and_can_be_meant_for_one(client):
    said = {"role": "user", "content": 'Hello [[sandbox {"fault": "status:500", "only": "b"}]]'}
    for name, status in (("a", 200), ("b", 500)):
        async with Sandbox(name=name) as sandbox:
            response, body = await streamed(client, sandbox, BODY | {"messages": [said]})
            assert response.status == status
            assert b"[[" not in body


async def test_the_fault_of_a_directive_does_not_strike_the_continuation(client):
    messages = [
        {"role": "user", "content": 'Hello [[sandbox {"fault": "cut_mid_stream", "text": "one two three"}]]'},
        {"role": "assistant", "content": "one two"},
    ]
    more = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    async with Sandbox() as sandbox:
        _, body = await streamed(client, sandbox, STREAMED | more)
    assert text_of(events(body)) == " three"


@pytest.mark.parametrize("script", ["{", '{"fault": "explode"}', '{"tokens": "many"}'])
async def test_a_bad_script_is_a_400_that_explains_itself(client, script):
    header = {"x-sandbox-script": script}
    async with Sandbox() as sandbox, client.post(url(sandbox), json=BODY, headers=header) as response:
        assert response.status == 400
        assert "The sandbox's script" in (await response.json())["error"]["message"]


async def test_queued_scripts_are_used_up_one_a_completion(client):
    async with Sandbox(script=Script(text="default")) as sandbox:
        sandbox.scripts += [Script(text="first"), Script(text="second")]
        async with client.get(f"{sandbox.base_url}/models"):
            pass
        said = [text_of(events((await streamed(client, sandbox))[1])) for _ in range(3)]
    assert said == ["first", "second", "default"]


# Pace, disconnects, pieces


async def test_the_pace_is_kept(client):
    async with Sandbox(script=Script(first_token_s=0.03, interval_s=0.01, tokens=5)) as sandbox:
        for body in (BODY, STREAMED):
            began = time.perf_counter()
            await streamed(client, sandbox, body)
            assert 0.07 <= time.perf_counter() - began < 10


async def test_headers_do_not_wait_for_the_first_token(client):
    async with (
        Sandbox(script=Script(first_token_s=60)) as sandbox,
        asyncio.timeout(30),
        client.post(url(sandbox), json=STREAMED) as response,
    ):
        assert response.status == 200


@pytest.mark.parametrize("body", [BODY, STREAMED])
async def test_a_client_that_leaves_stops_the_generation(body):
    async with Sandbox(script=Script(interval_s=0.01, tokens=1_000)) as sandbox:
        async with Raw(sandbox) as raw:
            await raw.ask(body)
            while not any(one._player and one._player.tokens > 1 for one in sandbox.connections):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (received,) = sandbox.requests
        async with asyncio.timeout(30):
            await received.over.wait()
        assert received.client_left
        assert not received.finished
        assert 2 <= received.tokens < 1_000
        seen = received.tokens
        await asyncio.sleep(0.03)
        assert received.tokens == seen == sandbox.counters.generation_tokens
        assert sandbox.counters.running == 0


async def test_a_client_that_stays_is_not_said_to_have_left(client):
    async with Sandbox(script=Script(**SHORT)) as sandbox:
        await streamed(client, sandbox)
        (received,) = sandbox.requests
    assert (received.finished, received.client_left, received.tokens) == (True, False, 5)
    assert (received.method, received.path) == ("POST", "/v1/chat/completions")
    assert received.body == STREAMED
    assert received.headers["content-type"] == "application/json"


async def test_a_slow_reader_slows_the_generation():
    async with Sandbox(script=Script(tokens=40_000)) as sandbox, Raw(sandbox) as raw:
        await raw.ask()
        written = [-1, await written_bytes(sandbox)]
        while written[-1] != written[-2]:  # until neither side takes more
            await asyncio.sleep(0.05)
            written.append(await written_bytes(sandbox))
        (received,) = sandbox.requests
        assert not received.over.is_set()
        assert 0 < written[-1] < 200_000
        while not received.over.is_set():
            await raw.reader.read(1 << 20)
        assert received.tokens == 40_000


async def written_bytes(sandbox):
    """What waits in the server's own buffer, once there is something."""
    for _ in range(500):
        waiting = [connection.transport.get_write_buffer_size() for connection in sandbox.connections]
        if any(waiting):
            return waiting[0]
        await asyncio.sleep(0.01)
    raise AssertionError("nothing waits to be read")


@pytest.mark.parametrize("split_bytes", [1, 7, 100])
async def test_bytes_come_in_pieces(split_bytes):
    async with Sandbox(script=Script(**SHORT)) as sandbox, Raw(sandbox) as raw:
        await raw.ask()
        expected = await raw.reader.readuntil(WHOLE)
    async with Sandbox(script=Script(split_bytes=split_bytes, **SHORT)) as sandbox, Raw(sandbox) as raw:
        await raw.ask()
        reads = []
        while not b"".join(reads).endswith(WHOLE):
            reads.append(await asyncio.wait_for(raw.reader.read(65_536), 30))
    assert len(b"".join(reads)) == len(expected)
    assert len(reads) > len(expected) / split_bytes / 4


async def test_many_streams_at_once(client):
    async with Sandbox(script=Script(interval_s=0.005, tokens=20)) as sandbox:
        bodies = await asyncio.gather(*(streamed(client, sandbox) for _ in range(100)))
        assert all(body.endswith(b"data: [DONE]\n\n") for _, body in bodies)
        assert sandbox.counters.generation_tokens == 2_000
