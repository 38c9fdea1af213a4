"""Endpoints that fail, in every way there is: what the client sees of it, and what the books say."""

import asyncio
import gzip
import json
import zlib

import pytest

from providers.tokenizer import count_prompt, count_text
from proxy.sandbox.script import Script

INPUT_PUSD, OUTPUT_PUSD = 1_000_000, 3_000_000  # a token, at $1 and $3 a million
HELLO = "Hello there"
HELLO_TOKENS = count_prompt([{"role": "user", "content": HELLO}])
QUICK = {"first_token_timeout_s": 0.5, "idle_timeout_s": 0.5, "connect_timeout_s": 0.5}
# An endpoint that takes no prefix: what it began nobody else goes on with.
NO_PREFIX = {"first": {"provider": "nebius", "supports": []}, "second": {"provider": "nebius", "supports": []}}


def attempts(row):
    return [(one["endpoint"], one["failure"]) for one in json.loads(row["attempts"])]


def costs(row):
    return [(one["endpoint"], one["cost_pusd"]) for one in json.loads(row["costs"])]


def due(row):
    """What `row`'s tokens come to."""
    return row["prompt_tokens"] * INPUT_PUSD + row["completion_tokens"] * OUTPUT_PUSD


BEFORE_CONTENT = [
    ("refuse", "no_response"),
    ("reset_before_headers", "no_response"),
    ("hang_before_headers", "timeout"),
    ("hang_after_headers", "timeout"),
    ("error_200", "server_error"),
    ("choices_error_200", "unavailable"),
    ("html_200", "protocol"),
    ("html_502", "unavailable"),
    ("empty_200", "protocol"),
    ("status:401", "unauthorized"),
    ("status:404", "not_found"),
    ("status:429", "rate_limited"),
    ("status:500", "server_error"),
    ("status:503", "unavailable"),
    ("error_first_event", "server_error"),
]


async def test_before_the_first_content_another_endpoint_answers(open_house, subtests):
    house = await open_house(**QUICK)
    for fault, kind in BEFORE_CONTENT:
        house.forget()
        house["first"].script = Script(fault=fault)
        with subtests.test(fault):
            streamed = await house.stream()
            assert (streamed.status, streamed.done, streamed.error) == (200, True, None)
            assert streamed.text.endswith("always gets the same answer.")
            assert streamed.headers["x-caduceus-endpoint"] == "second"
            assert streamed.headers["x-caduceus-attempts"] == "2"
            row = await house.only_request()
            assert (row["state"], row["endpoint"]) == ("completed", "second")
            assert attempts(row) == [("first", kind), ("second", None)]
            assert row["charge_pusd"] == row["cost_pusd"] == due(row) > 0
            assert costs(row) == [("first", 0), ("second", row["cost_pusd"])]
            house.forget()
            plain = await house.chat()
            assert (plain.status, plain.body["provider"], plain.text) == (200, "second", streamed.text)
            row = await house.only_request()
            assert [one for one, _ in attempts(row)] == ["first", "second"]
            assert row["charge_pusd"] == due(row)


async def test_an_end_after_the_preamble_is_before_the_first_content(open_house, subtests):
    house = await open_house(**QUICK)
    for fault in ("cut_mid_stream", "reset_mid_stream", "bad_chunk_framing", "error_mid_stream"):
        house["first"].script = Script(fault=fault, after_events=0)
        with subtests.test(fault):
            answer = await house.stream()
            assert (answer.done, answer.error) == (True, None)
            assert answer.headers["x-caduceus-endpoint"] == "second"
            row = await house.only_request()
            assert row["charge_pusd"] == due(row)


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [
        ("http://127.0.0.1:1/v1", "connect"),
        ("http://nowhere.invalid/v1", "connect"),
        ("https://{first}/v1", "connect"),
    ],
    ids=["refused", "no such name", "no TLS there"],
)
async def test_where_no_connection_is_made_another_endpoint_answers(open_house, upstream, base_url, kind):
    async def silent(reader, writer):
        await asyncio.sleep(60)

    there = await upstream(silent)
    base_url = base_url.replace("{first}", there.split("/")[2])
    house = await open_house({"first": {"base_url": base_url}, "second": {}}, **QUICK)
    answer = await house.chat()
    assert (answer.status, answer.body["provider"]) == (200, "second")
    alone = await house.chat(provider={"only": ["first"]})
    assert alone.status == 502
    assert alone.error["attempts"] == [{"endpoint": "first", "failure": kind}]
    first, second = await house.settled(2)
    assert costs(first)[0] == ("first", 0)
    assert (second["state"], second["charge_pusd"], second["cost_pusd"]) == ("failed", 0, 0)
    assert not second["upstream_contacted"]
    assert house.service.observations["first"].in_flight == 0


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("hang_before_headers", 504, "upstream_timeout"),
        ("html_200", 502, "upstream_failed"),
        ("status:500", 502, "upstream_failed"),
    ],
)
async def test_when_every_endpoint_fails_the_client_is_told_and_pays_nothing(open_house, fault, status, code):
    house = await open_house(**QUICK)
    house["first"].script = house["second"].script = Script(fault=fault)
    for answer in (await house.stream(), await house.chat()):
        assert (answer.status, answer.error["code"]) == (status, code)
        assert [one["endpoint"] for one in answer.error["attempts"]] == ["first", "second"]
        assert "sandbox fails" not in answer.raw.decode(), "a provider's message is for the operator"
    for row in await house.settled(2):
        assert (row["state"], row["charge_pusd"], row["cost_pusd"]) == ("failed", 0, 0)
        assert ("cost_unknown" in row["flags"]) == fault.startswith("hang")
    house["first"].script = Script()
    assert (await house.chat()).status == 200


async def test_headers_that_had_to_go_out_do_not_hinder_failing_over(open_house):
    """Silence longer than the comments' interval: the answer is open, and still another endpoint gives it."""
    house = await open_house({"first": {}, "second": {}}, first_token_timeout_s=0.5, keepalive_comment_s=0.1)
    house["first"].script = Script(fault="hang_after_headers")
    answer = await house.stream()
    assert (answer.status, answer.done, answer.error) == (200, True, None)
    assert answer.comments > 0
    assert answer.events[0]["provider"] == "second"
    house["second"].script = house["first"].script
    silent = await house.stream()
    assert silent.status == 200
    assert not silent.done
    assert silent.error["code"] == "upstream_timeout"
    assert silent.finish_reason == "error"
    assert silent.usage["cost"] == 0
    _, row = await house.settled(2)
    assert (row["state"], row["charge_pusd"], row["flags"]) == ("failed", 0, ["cost_unknown"])


MID_STREAM = [
    ("hang_mid_stream", "stalled"),
    ("cut_mid_stream", "cut"),
    ("reset_mid_stream", "cut"),
    ("bad_chunk_framing", "cut"),
    ("error_mid_stream", "server_error"),
    ("no_finish_no_done", "cut"),
]


async def test_a_stream_that_cannot_go_on_ends_honestly(open_house, subtests):
    house = await open_house(NO_PREFIX, **QUICK)
    for fault, kind in MID_STREAM:
        house.forget()
        house["first"].script = Script(fault=fault, after_events=5, torn=True)
        with subtests.test(fault):
            answer = await house.stream()
            assert (answer.status, answer.done, answer.finish_reason) == (200, False, "error")
            assert answer.error["code"] == ("upstream_timeout" if kind == "stalled" else "upstream_failed")
            assert answer.text == "This is the Caduceus sandbox"
            row = await house.only_request()
            assert (row["state"], attempts(row)) == ("cut", [("first", kind)])
            assert (row["prompt_tokens"], row["completion_tokens"]) == (HELLO_TOKENS, count_text(answer.text))
            assert row["charge_pusd"] == due(row) == row["cost_pusd"]
            assert row["usage_source"] == "counted"
            assert set(row["flags"]) == {"usage_missing", "cost_unknown"}
            assert answer.usage["completion_tokens"] == row["completion_tokens"], "what is shown is what is billed"
            assert round(answer.usage["cost"] * 1e12) == row["charge_pusd"]
    assert not house.asked("second")


async def test_continuous_usage_says_what_a_cut_stream_took(open_house):
    """vLLM's count on every chunk is the provider's own, also of an answer that it did not end."""
    house = await open_house({"first": {"supports": []}}, **QUICK)
    house["first"].script = Script(fault="cut_mid_stream", after_events=5)
    answer = await house.stream()
    assert not answer.done
    row = await house.only_request()
    assert (row["usage_source"], row["completion_tokens"], row["flags"]) == ("continuous", 5, [])
    assert row["charge_pusd"] == due(row)


async def test_a_plain_answer_that_broke_off_is_begun_again_elsewhere(open_house, subtests):
    """Nothing of it had reached the client: it gets one whole answer and pays for that one."""
    house = await open_house(NO_PREFIX, **QUICK)
    for fault, kind in MID_STREAM:
        house.forget()
        house["first"].script = Script(fault=fault, after_events=5)
        with subtests.test(fault):
            answer = await house.chat()
            assert (answer.status, answer.body["provider"]) == (200, "second")
            assert answer.text.startswith("This is the Caduceus sandbox speaking")
            assert answer.text.count("This is") == 1
            row = await house.only_request()
            assert attempts(row) == [("first", kind), ("second", None)]
            assert row["charge_pusd"] == due(row)
            assert "cost_unknown" in row["flags"]


async def test_a_plain_answer_that_broke_off_everywhere_costs_nothing(open_house):
    house = await open_house(NO_PREFIX, **QUICK)
    house["first"].script = house["second"].script = Script(fault="cut_mid_stream", after_events=5)
    answer = await house.chat()
    assert (answer.status, answer.error["code"]) == (502, "upstream_failed")
    row = await house.only_request()
    assert (row["state"], row["charge_pusd"], row["completion_tokens"]) == ("failed", 0, 0)


async def test_what_a_stall_between_events_is(open_house, upstream):
    """Comments keep a connection alive, not an answer."""

    async def comments(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"One"}}]}\n\n')
        while True:
            writer.write(b": PROCESSING\n\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    house = await open_house({"first": {"base_url": await upstream(comments), "supports": []}}, **QUICK)
    answer = await house.stream()
    assert (answer.text, answer.done, answer.error["code"]) == ("One", False, "upstream_timeout")
    assert attempts(await house.only_request()) == [("first", "stalled")]


async def test_a_slow_but_steady_stream_is_left_alone(open_house):
    house = await open_house(**QUICK)
    house["first"].script = Script(interval_s=0.1, text="nine words that take longer than any timeout here")
    answer = await house.stream()
    assert answer.done
    assert answer.headers["x-caduceus-endpoint"] == "first"


async def test_the_total_timeout_ends_even_a_steady_stream(open_house):
    house = await open_house(NO_PREFIX, total_timeout_s=0.6)
    house["first"].script = Script(interval_s=0.05, tokens=500)
    answer = await house.stream()
    assert (answer.done, answer.error["code"]) == (False, "upstream_timeout")
    assert 0 < count_text(answer.text) < 500
    await asyncio.wait_for(house.asked("first")[0].over.wait(), 30)
    assert house.asked("first")[0].client_left


async def test_after_the_total_timeout_nobody_else_is_asked(open_house):
    """The other endpoint could go on with the answer; but its time is over."""
    house = await open_house(total_timeout_s=0.4)
    house["first"].script = Script(interval_s=0.05, tokens=100)
    answer = await house.stream()
    assert (answer.done, answer.error["code"]) == (False, "upstream_timeout")
    await house.only_request()
    assert not house.asked("second")


async def test_a_stream_without_done_is_whole_once_it_gave_its_finish_reason(house):
    house["first"].script = Script(fault="no_done")
    answer = await house.stream()
    assert (answer.done, answer.finish_reason) == (True, "stop")
    row = await house.only_request()
    assert (row["state"], row["usage_source"]) == ("completed", "provider")


async def test_a_connection_left_open_after_done_is_not_waited_for(open_house, upstream):
    async def lingering(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        writer.write(b'data: {"choices":[{"index":0,"delta":{"content":"<th"}}]}\n\n')
        writer.write(b"data: [DONE]\n\n")
        await reader.read()

    house = await open_house({"first": {"base_url": await upstream(lingering)}}, idle_timeout_s=60)
    async with asyncio.timeout(30):
        answer = await house.stream()
    assert (answer.done, answer.text) == (True, "<th"), "what was held back for a tag that never came is text"
    row = await house.only_request()
    assert (row["usage_source"], row["completion_tokens"]) == ("counted", count_text("<th"))


# Connections


async def test_a_connection_is_used_again(house):
    for _ in range(3):
        assert (await house.chat()).status == 200
    assert house["first"].connections_accepted == 1


async def test_a_stale_connection_costs_one_more_try_and_no_blame(open_house):
    """The endpoint dropped an idle connection and says so when it is used: that tells nothing about its health."""
    house = await open_house()
    house["first"].script = Script(fault="stale_keepalive")
    for _ in range(8):
        answer = await house.stream()
        assert (answer.done, answer.headers["x-caduceus-endpoint"]) == (True, "first")
    assert len(house.asked("first")) == 8
    assert house["first"].connections_accepted == 8
    rows = await house.settled(8)
    assert [len(attempts(row)) for row in rows] == [1] + [2] * 7
    assert all(row["charge_pusd"] == due(row) for row in rows)
    observation = house.service.observations["first"]
    assert (observation.rests, observation.consecutive_failures, observation.in_flight) == (0, 0, 0)


async def test_connections_that_the_endpoint_closed_are_not_used(open_house):
    house = await open_house({"first": {"sandbox": {"keepalive_s": 0.05}}})
    assert (await house.chat()).status == 200
    await house.until(lambda: not house["first"].connections)
    await asyncio.sleep(0.05)  # the end is there; the loop has but to look
    assert (await house.chat()).status == 200
    assert [len(attempts(row)) for row in await house.settled(2)] == [1, 1]


async def test_an_error_with_a_whole_body_does_not_cost_the_connection(open_house):
    house = await open_house({"first": {}})
    house["first"].script = Script(fault="status:400")
    for _ in range(3):
        assert (await house.chat()).status == 400
    assert house["first"].connections_accepted == 1


# Bytes


STRANGE = "Grüße, 世界 🌍! Say <think> and </think> and <tool_call>{}</tool_call>; 𝒻𝒾𝓃."
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


THINK = {"reasoning": {"enabled": True}}
CUT_UP = [
    ("nebius", {"text": STRANGE}, {}),
    ("vllm", {"text": STRANGE, "reasoning": "Hm — 世界?"}, THINK),
    ("lyceum", {"text": STRANGE, "reasoning": "Hm — 世界?"}, THINK),
    ("openrouter", {"text": STRANGE, "reasoning": "Hm — 世界?"}, THINK),
    ("vllm", {"tool_call": True}, {"tools": [TOOL]}),
]


async def test_every_cut_of_the_bytes_gives_the_same_answer(open_house, subtests):
    house = await open_house({name: {"provider": name} for name in ("nebius", "vllm", "lyceum", "openrouter")})

    async def heard(name, script, fields, split_bytes):
        house[name].script = Script(**script, split_bytes=split_bytes)
        answer = await house.stream(**fields, provider={"only": [name]})
        assert (answer.status, answer.done) == (200, True)
        calls = [call for choice in answer.choices for call in choice["delta"].get("tool_calls") or ()]
        arguments = "".join(call["function"].get("arguments") or "" for call in calls)
        names = [call["function"]["name"] for call in calls if call["function"].get("name")]
        return answer.text, answer.joined("reasoning"), names, arguments, answer.finish_reason, answer.usage

    for name, script, fields in CUT_UP:
        whole = await heard(name, script, fields, None)
        if "text" in script:
            assert whole[0].strip() == STRANGE
        if "reasoning" in script:
            assert whole[1].strip() == script["reasoning"]
        if "tools" in fields:
            assert (whole[2], json.loads(whole[3]).keys(), whole[4]) == (["get_weather"], {"city"}, "tool_calls")
        for split_bytes in (1, 2, 3, 7):
            with subtests.test(name, split_bytes=split_bytes):
                assert await heard(name, script, fields, split_bytes) == whole


async def test_headers_that_come_byte_by_byte_are_read(house):
    house["first"].script = Script(fault="slow_headers")
    answer = await house.stream()
    assert (answer.done, answer.headers["x-caduceus-endpoint"]) == (True, "first")


async def test_an_event_that_is_not_json_is_passed_over(house):
    whole = await house.stream()
    house["first"].script = Script(fault="not_json_event")
    answer = await house.stream()
    assert (answer.done, answer.text, answer.usage) == (True, whole.text, whole.usage)


async def test_a_compressed_answer_is_read_though_nobody_asked_for_it(house):
    whole = await house.stream()
    house["first"].script = Script(fault="gzip")
    for answer in (await house.stream(), await house.chat()):
        assert (answer.status, answer.text, answer.usage) == (200, whole.text, whole.usage)
    assert [attempts(row) for row in await house.settled(3)] == [[("first", None)]] * 3


def ok(body, *headers):
    lines = ("HTTP/1.1 200 OK", "content-type: text/event-stream", f"content-length: {len(body)}", *headers)
    return "\r\n".join((*lines, "", "")).encode() + body


ONE = b'data: {"choices":[{"index":0,"delta":{"content":"One"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
BOMB = gzip.compress(b"data: " + b"0" * (20 << 20))


UNREADABLE = {
    "br": ok(ONE, "content-encoding: br"),
    "no gzip": ok(ONE, "content-encoding: gzip"),
    "a gzip bomb": ok(BOMB, "content-encoding: gzip"),
    "cut deflate": ok(zlib.compress(ONE)[:20], "content-encoding: deflate"),
    "two lengths": ok(ONE).replace(b"content-length", b"content-length: 3\r\ncontent-length"),
    "a huge chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n" + ONE,
    "SSH": b"SSH-2.0-OpenSSH_9.9\r\n",
    "zeros": b"\x00" * 1_000,
    "a redirection": b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    "an end alone": ok(b"data: [DONE]\n\n"),
    "comments alone": ok(b": hello\n\n: world\n\n"),
    "a stream of something else": ok(b'data: {"hello": "world"}\n\ndata: [1]\n\ndata: [DONE]\n\n'),
}
# Everything here is legal HTTP, and the answer "One".
ODD = {
    "informational responses": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + ok(ONE),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n" + ONE,
    "no reason phrase": ok(ONE).replace(b"200 OK", b"200 "),
    "no content type": ok(ONE).replace(b"content-type", b"x-type"),
    "chunk extensions and trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x;a=b\r\n%b\r\n0\r\nx: y\r\n\r\n" % (len(ONE), ONE),
    "gzip": ok(gzip.compress(ONE), "content-encoding: gzip"),
    "deflate": ok(zlib.compress(ONE), "content-encoding: deflate"),
    "lines that end in CR LF": ok(ONE.replace(b"\n", b"\r\n")),
    "lines that end in CR": ok(ONE.replace(b"\n", b"\r")),
    "other fields": ok(b"event: message\nid: 1\nretry: 5\n" + ONE),
    "data of two lines": ok(ONE.replace(b'"delta"', b'\ndata: "delta"', 1)),
    "no blank line at the end": ok(ONE.removesuffix(b"\n\n")),
}


async def test_a_response_that_cannot_be_read_goes_to_another_endpoint(open_house, upstream, subtests):
    response = b""

    async def write(reader, writer):
        writer.write(response)

    house = await open_house({"first": {"base_url": await upstream(write)}, "second": {}}, **QUICK)
    for what, response in UNREADABLE.items():  # noqa: B007 (`write` reads it)
        house.forget()
        answer, row = await house.stream(), await house.only_request()
        with subtests.test(what):
            assert (answer.done, answer.headers["x-caduceus-endpoint"]) == (True, "second")
            assert [one for one, _ in attempts(row)] == ["first", "second"]
            assert costs(row)[0] == ("first", 0)


async def test_whatever_is_legal_is_read(open_house, upstream, subtests):
    response = b""

    async def write(reader, writer):
        writer.write(response)

    house = await open_house({"first": {"base_url": await upstream(write)}, "second": {}}, **QUICK)
    for what, response in ODD.items():  # noqa: B007 (`write` reads it)
        house.forget()
        answer = await house.stream()
        await house.only_request()
        with subtests.test(what):
            assert (answer.done, answer.text, answer.finish_reason) == (True, "One", "stop")
            assert answer.headers["x-caduceus-endpoint"] == "first"


ENDLESS = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x-filler: " + b"0" * 1_000 + b"\r\n"),
    "one header": (b"HTTP/1.1 200 OK\r\nx-filler: ", b"0" * 1_000),
    "a plain body": (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n", b" " * 65_536),
    "one event": (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: ", b" " * 65_536),
    "an error's body": (b"HTTP/1.1 500 Oops\r\ncontent-type: text/plain\r\n\r\n", b" " * 65_536),
}


async def test_a_response_without_end_is_left(open_house, upstream, subtests):
    """Bounded by its size, long before any timeout."""
    head = more = b""
    sent = 0

    async def endless(reader, writer):
        nonlocal sent
        writer.write(head)
        while True:
            writer.write(more)
            sent += len(more)
            await writer.drain()

    house = await open_house({"first": {"base_url": await upstream(endless)}, "second": {}}, first_token_timeout_s=90)
    for what, (head, more) in ENDLESS.items():  # noqa: B007 (`endless` reads them)
        house.forget()
        sent = 0
        with subtests.test(what):
            answer = await asyncio.wait_for(house.stream(), 60)
            assert (answer.done, answer.headers["x-caduceus-endpoint"]) == (True, "second")
            assert sent < 64 << 20
            await house.only_request()


# Capacity and health


async def test_a_429_closes_the_endpoint_for_as_long_as_it_says(open_house):
    house = await open_house()
    house["first"].script = Script(fault="status:429", retry_after_s=40)
    for _ in range(3):
        assert (await house.chat()).body["provider"] == "second"
    assert len(house.asked("first")) == 1
    house["second"].script = house["first"].script
    answer = await house.chat()
    assert (answer.status, answer.error["code"]) == (429, "upstream_rate_limited")
    assert 10 <= int(answer.headers["retry-after"]) <= 40
    again = await house.chat()
    assert again.status == 429
    assert 10 <= int(again.headers["retry-after"]) <= 40
    assert len(house.asked("second")) == 4
    assert [row["state"] for row in await house.settled()] == ["completed"] * 3 + ["failed"]


async def test_a_429_without_a_time_is_tried_again_before_long(open_house):
    house = await open_house({"first": {}})
    house["first"].script = Script(fault="status:429")
    began_s = asyncio.get_running_loop().time()
    answer = await house.chat()
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    observation = house.service.observations["first"]
    assert began_s < observation.saturated_until_s <= asyncio.get_running_loop().time() + 1.0
    observation.saturated_until_s = 0.0
    house["first"].script = Script()
    assert (await house.chat()).status == 200
    assert observation.rate_limits == 0


async def test_a_storm_of_429s_is_not_amplified(open_house):
    """Each request is tried once, and more only within the retry budget: a fifth of them, ten, and one a second."""
    house = await open_house({"first": {}, "second": {}, "third": {}})
    for sandbox in house.sandboxes.values():
        sandbox.script = Script(fault="status:429")
    began_s = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(house.stream() for _ in range(60)))
    assert {answer.status for answer in answers} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    asked = sum(len(house.asked(name)) for name in house.places)
    assert asked <= 60 + 60 // 5 + 10 + asyncio.get_running_loop().time() - began_s
    before = asked
    for name, observation in house.service.observations.items():
        assert observation.saturated_until_s > began_s or not house.asked(name), "the retry budget may end before it"
        observation.saturated_until_s = asyncio.get_running_loop().time() + 60  # not over yet, however long this took
    assert (await house.stream()).status == 429
    assert sum(len(house.asked(name)) for name in house.places) == before, "all of them are saturated for now"
    assert {row["charge_pusd"] for row in await house.settled()} == {0}


async def test_a_storm_of_errors_is_not_amplified(open_house):
    house = await open_house({"first": {}, "second": {}, "third": {}})
    for sandbox in house.sandboxes.values():
        sandbox.script = Script(fault="status:503")
    began_s = asyncio.get_running_loop().time()
    answers = await asyncio.gather(*(house.stream() for _ in range(60)))
    assert {answer.status for answer in answers} == {502}
    asked = sum(len(house.asked(name)) for name in house.places)
    assert asked <= 60 + 60 // 5 + 10 + asyncio.get_running_loop().time() - began_s


async def test_one_500_is_forgiven(house):
    house["first"].scripts.append(Script(fault="status:500"))
    assert (await house.chat()).body["provider"] == "second"
    assert (await house.chat()).body["provider"] == "first"
    assert house.service.observations["first"].rests == 0


async def test_an_endpoint_that_is_down_rests_and_is_probed_when_its_time_has_come(house):
    house["first"].script = Script(fault="status:503")
    began_s = asyncio.get_running_loop().time()
    for _ in range(8):
        assert (await house.chat()).body["provider"] == "second"
    assert len(house.asked("first")) == 5, "five failures in a row open the breaker"
    observation = house.service.observations["first"]
    assert began_s + 2.5 <= observation.resting_until_s <= asyncio.get_running_loop().time() + 5.0
    observation.resting_until_s = 0.0  # the rest is over
    assert (await house.chat()).body["provider"] == "second"
    assert len(house.asked("first")) == 6, "one probe, and it failed"
    assert (await house.chat()).body["provider"] == "second"
    assert len(house.asked("first")) == 6
    observation.resting_until_s = 0.0
    house["first"].script = Script()
    assert (await house.chat()).body["provider"] == "first"
    assert (await house.chat()).body["provider"] == "first"


async def test_a_flapping_endpoint_rests(house):
    house["first"].script = Script(fault="flap")
    for _ in range(12):
        assert (await house.chat()).status == 200
    assert house.service.observations["first"].rests > 0
    assert len(house.asked("first")) < 8
    assert {row["state"] for row in await house.settled(12)} == {"completed"}


async def test_when_all_rest_they_are_tried_all_the_same(open_house):
    """Fail open among the candidates: nobody is told no because everybody was ill a moment ago."""
    house = await open_house({"first": {}})
    house["first"].script = Script(fault="status:500")
    for _ in range(6):
        assert (await house.chat()).status == 502
    house["first"].script = Script()
    assert (await house.chat()).status == 200


# What the endpoint refuses


REFUSALS = [
    ("status:400-context", "context_length_exceeded", "maximum context length"),
    ("status:400-filter", "content_filter", "content filter"),
    ("status:400", "upstream_rejected_request", "fails on request"),
    ("status:422", "upstream_rejected_request", "fails on request"),
]


async def test_a_request_that_is_at_fault_is_told_so_and_not_tried_elsewhere(house, subtests):
    for fault, code, says in REFUSALS:
        house["first"].script = Script(fault=fault)
        for ask in (house.stream, house.chat):
            with subtests.test(fault):
                answer = await ask()
                assert (answer.status, answer.error["code"]) == (400, code)
                assert answer.error["type"] == "invalid_request_error"
                assert says in answer.error["message"]
                assert answer.headers["x-should-retry"] == "false"
                row = await house.only_request()
                assert (row["state"], row["charge_pusd"]) == ("failed", 0)
    assert not house.asked("second")
    assert house.service.observations["first"].consecutive_failures == 0


async def test_a_prompt_too_long_for_one_endpoint_goes_to_a_longer_one(open_house):
    places = {"first": {"context_tokens": 16_000}, "second": {"context_tokens": 15_000}, "third": {}}
    house = await open_house(places)
    house["first"].script = house["second"].script = Script(fault="status:400-context")
    answer = await house.chat()
    assert (answer.status, answer.body["provider"]) == (200, "third")


async def test_a_parameter_that_one_endpoint_does_not_know_is_put_to_the_next(open_house, upstream):
    async def refuse(reader, writer):
        body = b'{"error": {"message": "logit_bias is not supported by this model", "code": 400}}'
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    house = await open_house({"first": {"base_url": await upstream(refuse)}, "second": {}})
    answer = await house.chat(logit_bias={"1": 1})
    assert (answer.status, answer.body["provider"]) == (200, "second")


async def test_a_filter_in_the_middle_is_an_end_and_not_a_failure(house):
    house["first"].script = Script(fault="content_filter", after_events=3)
    answer = await house.stream()
    assert (answer.done, answer.finish_reason, answer.text) == (True, "content_filter", "This is the")
    row = await house.only_request()
    assert (row["state"], row["completion_tokens"]) == ("completed", 3)


# Plain upstream


async def test_an_endpoint_that_streams_nothing(open_house):
    """Its whole answer is the first content: it has as long as so many tokens may take."""
    house = await open_house({"first": {"stream_plain": False}}, first_token_timeout_s=0.3)
    house["first"].script = Script(interval_s=0.03, tokens=20, text="Twenty words")
    answer = await house.chat()
    assert (answer.status, answer.text.split()[0]) == (200, "Twenty")
    assert "stream" not in house.asked("first")[0].body
    assert (await house.only_request())["completion_tokens"] == 20


async def test_an_endpoint_that_answers_a_stream_whole(open_house, upstream):
    async def whole(reader, writer):
        body = (
            b'{"choices":[{"index":0,"message":{"role":"assistant","content":"One","reasoning_content":"Hm"},'
            b'"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":2}}'
        )
        writer.write(ok(body).replace(b"text/event-stream", b"application/json; charset=utf-8"))

    house = await open_house({"first": {"base_url": await upstream(whole)}})
    answer = await house.stream()
    assert (answer.done, answer.text, answer.joined("reasoning"), answer.finish_reason) == (True, "One", "Hm", "stop")
    assert (answer.usage["prompt_tokens"], answer.usage["completion_tokens"]) == (20, 2)


# Usage


PLAIN_TEXT = "A short answer of no great interest."


CLAIMS = [
    ("missing", "counted", ["usage_missing"]),
    ("zero", "counted", ["usage_implausible"]),
    ("negative", "counted", ["usage_implausible"]),
    ("absurd", "counted", ["usage_implausible"]),
    ("inflated", "counted", ["usage_disputed"]),
    ("normal", "provider", []),
    ("twice", "provider", []),
    ("every_chunk", "provider", []),
]


async def test_whatever_the_provider_claims_the_answer_is_whole_and_the_charge_right(open_house, subtests):
    house = await open_house({"first": {"provider": "nebius"}, "second": {"provider": "vllm"}})
    second = {"provider": {"only": ["second"]}}  # which claims on every chunk
    for usage, source, flags in CLAIMS:
        house["first"].script = house["second"].script = Script(usage=usage, text=PLAIN_TEXT)
        for ask, where in ((house.stream, {}), (house.chat, {}), (house.stream, second)):
            with subtests.test(usage):
                answer = await ask(**where)
                assert (answer.status, answer.text, answer.finish_reason) == (200, PLAIN_TEXT, "stop")
                assert sum(bool(event.get("usage")) for event in answer.events) <= 1
                claimed = len(PLAIN_TEXT.split())
                expected = claimed if source == "provider" else count_text(PLAIN_TEXT)
                assert answer.usage["completion_tokens"] == expected
                assert answer.usage["prompt_tokens_details"]["cached_tokens"] == 0
                row = await house.only_request()
                assert (row["usage_source"], row["flags"]) == (source, flags)
                assert row["charge_pusd"] == row["cost_pusd"] == due(row) <= row["hold_pusd"]
                assert (row["disputed_pusd"] > 0) == (usage == "inflated")
                assert row["prompt_tokens"] == (HELLO_TOKENS if source == "counted" and usage != "inflated" else 11)


async def test_a_checkpoint_of_an_absurd_claim_is_written(open_house, caplog, monkeypatch):
    """vLLM's continuous usage goes into the checkpoints; a number that no column holds must not."""
    monkeypatch.setattr("proxy.exchange.relay.CHECKPOINT_S", 0.1)
    monkeypatch.setattr("ledger.journal.store.CHECKPOINT_INTERVAL_S", 0.1)
    house = await open_house({"first": {}})
    house["first"].script = Script(usage="absurd", interval_s=0.1, tokens=30)
    asked = asyncio.create_task(house.stream())
    async with asyncio.timeout(30):
        while not await house.db.fetchval("SELECT checkpoint_completion FROM hold"):
            assert not asked.done()
            await asyncio.sleep(0.05)
    assert (await asked).done
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_charge_never_exceeds_its_hold(open_house, upstream):
    """The endpoint pays no heed to `max_tokens`: the client is not the one who pays for that."""

    async def talkative(reader, writer):
        body = b'data: {"choices":[{"index":0,"delta":{"content":" word"}}]}\n\n' * 300
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":300}}\n\n'
        writer.write(ok(body + ONE.replace(b"data: [DONE]\n\n", usage + b"data: [DONE]\n\n")))

    house = await open_house({"first": {"base_url": await upstream(talkative)}})
    answer = await house.stream(max_tokens=5)
    assert answer.done
    row = await house.only_request()
    assert row["charge_pusd"] == row["hold_pusd"]
    assert row["overrun_pusd"] > 0
    assert row["flags"] == ["beyond_hold"]
    assert row["cost_pusd"] == 12 * INPUT_PUSD + 300 * OUTPUT_PUSD
