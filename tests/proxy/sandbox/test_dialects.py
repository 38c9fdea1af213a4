"""How each dialect words the same answer, held against transcripts to read, and what else a provider serves.

`CADUCEUS_TEST_RECORD=1` writes the transcripts anew.
"""

import asyncio
import json
import os
import re
from pathlib import Path

import aiohttp
import pytest

from proxy.sandbox.dialects import DIALECTS
from proxy.sandbox.script import Script
from proxy.sandbox.server import Sandbox

RECORDINGS = Path(__file__).parents[2] / "providers" / "recordings"
TRANSCRIPTS = Path(__file__).with_name("transcripts")
MODEL = "NousResearch/Hermes-4-405B"
TOOL = {
    "type": "function",
    "function": {"name": "look_up", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}},
}
HELLO = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
FLAG = {"chat_template_kwargs": {"thinking": True}, "reasoning": {"enabled": True}}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
CONTINUOUS = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
THOUGHT = Script(think=True, reasoning="\nHm, so.\n", text="\nHello to you.")

CASES = (
    ("a thought and an answer, streamed", HELLO | FLAG | STREAM, THOUGHT),
    ("the same at once", HELLO | FLAG, THOUGHT),
    ("a tool call, streamed", HELLO | STREAM | {"tools": [TOOL], "tool_choice": "required"}, Script()),
    ("a tool call at once", HELLO | {"tools": [TOOL], "tool_choice": "required"}, Script()),
    ("an error in the stream", HELLO | STREAM, Script(text="One two", fault="error_mid_stream", after_events=1)),
    ("rate limited", HELLO, Script(fault="status:429", retry_after_s=30)),
    ("rate limited, no word for how long", HELLO, Script(fault="status:429")),
    ("unavailable", HELLO, Script(fault="status:503")),
    ("beyond the context", HELLO | {"max_tokens": 1_000_000}, Script()),
    ("another model", HELLO | {"model": "another"}, Script()),
    ("provider preferences", HELLO | {"provider": {"sort": "price"}}, Script(text="Hello.")),
)


async def exchange(client, sandbox, body, path="/chat/completions", **headers):
    head = {"x-request-id": "0", **headers}
    async with client.post(sandbox.base_url + path, json=body, headers=head) as response:
        head = "".join(f"{name.lower()}: {value}\n" for name, value in response.headers.items())
        return response.status, f"{response.status}\n{head}\n{await response.text()}".rstrip()


@pytest.fixture
async def client():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_the_transcript(client, dialect):
    parts = []
    async with Sandbox(dialect) as sandbox:
        for title, body, script in CASES:
            sandbox.scripts.append(script)
            parts.append(f"# {title}\n\n{(await exchange(client, sandbox, body))[1]}\n")
    async with Sandbox(dialect, api_key="sk-right") as sandbox:
        _, text = await exchange(client, sandbox, HELLO, authorization="Bearer sk-wrong")
        parts.append(f"# the wrong key\n\n{text}\n")
    said = re.sub(r'"created":\d+', '"created":0', "\n".join(parts))
    file = TRANSCRIPTS / f"{dialect}.txt"
    if os.environ.get("CADUCEUS_TEST_RECORD"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(said)
    assert said == file.read_text()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("reasoning", {"reasoning": "Hm", "content": "Yes"}),
        ("reasoning_content", {"reasoning_content": "Hm", "content": "Yes"}),
        ("both", {"reasoning": "Hm", "reasoning_content": "Hm", "content": "Yes"}),
        ("inline", {"content": "<think>Hm</think>Yes"}),
        ("inline_no_opener", {"content": "Hm</think>Yes"}),
        ("hidden", {"content": "Yes"}),
    ],
)
async def test_a_script_chooses_the_shape_of_reasoning(client, shape, expected):
    script = Script(think=True, reasoning="Hm", text="Yes", reasoning_as=shape)
    async with Sandbox("nebius", script=script) as sandbox:
        _, text = await exchange(client, sandbox, HELLO)
        plain = json.loads(text.split("\n\n")[1])["choices"][0]["message"]
        assert plain == {"role": "assistant", **expected}
        _, text = await exchange(client, sandbox, HELLO | STREAM)
        assert joined(text) == expected


async def test_hidden_reasoning_is_counted(client):
    async with Sandbox(
        "openai", script=Script(think=True, reasoning_as="hidden", reasoning="a b c", text="d")
    ) as sandbox:
        _, text = await exchange(client, sandbox, HELLO)
    usage = json.loads(text.split("\n\n")[1])["usage"]
    assert usage["completion_tokens"] == 4
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3


@pytest.mark.parametrize("exclude", [{"include_reasoning": False}, {"reasoning": {"enabled": True, "exclude": True}}])
async def test_reasoning_can_be_excluded(client, exclude):
    async with Sandbox("openrouter", script=Script(think=True, reasoning="Hm", text="Yes")) as sandbox:
        _, text = await exchange(client, sandbox, HELLO | STREAM | exclude)
    assert joined(text) == {"content": "Yes"}


async def test_vllm_leaves_the_tags_in_streams_and_where_no_flag_asked(client):
    """As the real one does (see the tests of the engine)."""
    flag = {"chat_template_kwargs": {"thinking": True}}
    async with Sandbox("vllm", script=THOUGHT) as sandbox:
        _, text = await exchange(client, sandbox, HELLO | STREAM | flag)
        assert joined(text) == {"content": "<think>\nHm, so.\n</think>\nHello to you."}
        _, text = await exchange(client, sandbox, HELLO)
        message = json.loads(text.split("\n\n")[1])["choices"][0]["message"]
        assert (message["content"], message["reasoning"]) == ("<think>\nHm, so.\n</think>\nHello to you.", None)
        _, text = await exchange(client, sandbox, HELLO | flag)
        message = json.loads(text.split("\n\n")[1])["choices"][0]["message"]
        assert (message["content"], message["reasoning"]) == ("\nHello to you.", "\nHm, so.\n")


@pytest.mark.parametrize(
    ("recording", "body"),
    [
        ("vllm-plain-thinking.http", HELLO | FLAG),
        ("vllm-plain-thinking-tool-call.http", HELLO | FLAG | {"tools": [TOOL], "tool_choice": "required"}),
        ("vllm-stream.sse", HELLO | {"stream": True}),
        ("vllm-stream-thinking-inline.sse", HELLO | FLAG | CONTINUOUS),
        ("vllm-stream-thinking-inline-tool-call.sse", HELLO | FLAG | CONTINUOUS | {"tools": [TOOL]}),
        ("vllm-stream-cut-by-length.sse", HELLO | CONTINUOUS | {"max_tokens": 3}),
        ("vllm-error-max-tokens.http", HELLO | {"max_tokens": 1_000_000}),
        ("vllm-error-context.http", HELLO | {"messages": [{"role": "user", "content": "Hello! " * 3_000}]}),
        ("vllm-error-model.http", HELLO | {"model": "another"}),
    ],
)
async def test_vllm_is_no_other_than_the_recorded_one(client, recording, body):
    """Every field that the sandbox sends stood in the same place of what a real vLLM said."""
    recorded = (RECORDINGS / recording).read_text()
    async with Sandbox("vllm", context_tokens=2_048) as sandbox:
        status, text = await exchange(client, sandbox, body)
    if recording.endswith(".sse"):
        said, known = chunks(text), chunks(recorded)
        assert text.splitlines()[-1] == recorded.splitlines()[-2] == "data: [DONE]"
    else:
        said, known = [json.loads(text.split("\n\n", 1)[1])], [json.loads(recorded.split("\n\n", 1)[1])]
        assert recorded.startswith(f"HTTP/1.1 {status} ")
    places = set().union(*map(places_of, known))
    assert set().union(*map(places_of, said)) <= places
    if "error" in recording:
        numberless = [re.sub(r"\d+", "0", body["error"]["message"]) for body in (*said, *known)]
        assert numberless[0] == numberless[1]


def places_of(value, place=""):
    """`.choices[].delta.content` and so on, for all that stands in a JSON value."""
    if isinstance(value, dict):
        return {place}.union(*(places_of(part, f"{place}.{name}") for name, part in value.items()))
    if isinstance(value, list):
        return {place}.union(*(places_of(part, f"{place}[]") for part in value))
    return {place}


async def test_usage_goes_along_when_vllm_is_asked_for_it(client):
    async with Sandbox("vllm", script=Script(text="one two")) as sandbox:
        _, text = await exchange(client, sandbox, HELLO | CONTINUOUS)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks(text)] == [0, 1, 2, 2, 2]


async def test_an_answer_cut_by_length_ends_with_its_last_token(client):
    """vLLM's way; others send the finish reason by itself."""
    for dialect, on_last in (("vllm", True), ("nebius", False)):
        async with Sandbox(dialect, script=Script(text="one two three")) as sandbox:
            _, text = await exchange(client, sandbox, HELLO | {"stream": True, "max_tokens": 2})
        said = [chunk["choices"][0] for chunk in chunks(text)]
        (finish,) = [choice for choice in said if choice["finish_reason"]]
        assert finish["finish_reason"] == "length"
        assert (finish["delta"].get("content") == " two") is on_last


async def test_choices_and_logprobs(client):
    body = HELLO | {"n": 2, "logprobs": True, "top_logprobs": 1}
    async with Sandbox(script=Script(text="Yes.")) as sandbox:
        _, text = await exchange(client, sandbox, body)
        choices = json.loads(text.split("\n\n")[1])["choices"]
        assert [choice["index"] for choice in choices] == [0, 1]
        (token,) = choices[0]["logprobs"]["content"]
        assert (token["token"], token["bytes"], token["top_logprobs"][0]["token"]) == ("Yes.", list(b"Yes."), "Yes.")
        _, text = await exchange(client, sandbox, body | STREAM)
        assert {choice["index"] for chunk in chunks(text) for choice in chunk["choices"]} == {0, 1}


async def test_raw_completions(client):
    body = {"model": MODEL, "prompt": "Hello there"}
    async with Sandbox("vllm", script=Script(text="Yes, hello.")) as sandbox:
        _, text = await exchange(client, sandbox, body, "/completions")
        answer = json.loads(text.split("\n\n")[1])
        assert answer["object"] == "text_completion"
        assert answer["choices"][0]["text"] == "Yes, hello."
        assert answer["usage"]["prompt_tokens"] == 2
        _, text = await exchange(client, sandbox, body | {"stream": True}, "/completions")
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks(text)) == "Yes, hello."


@pytest.mark.parametrize("base", ["/v1", "/api/v1", "/api/v2/external/serverless", ""])
async def test_any_base_path_serves(client, base):
    async with Sandbox() as sandbox:
        origin = sandbox.base_url.removesuffix("/v1")
        async with client.post(f"{origin}{base}/chat/completions", json=HELLO) as response:
            assert response.status == 200
        async with client.get(f"{origin}{base}/models") as response:
            (model,) = (await response.json())["data"]
        async with client.get(f"{origin}{base}/nothing") as response:
            assert response.status == 404
    assert (model["id"], model["max_model_len"]) == (MODEL, 131_072)


@pytest.mark.parametrize("asked", [MODEL, "nousresearch/hermes-4-405b", "Hermes-4-405B", "x/Hermes-4-405B-FP8-TEE"])
async def test_a_model_has_several_names(client, asked):
    async with Sandbox() as sandbox:
        assert (await exchange(client, sandbox, HELLO | {"model": asked}))[0] == 200


async def test_the_key_is_asked_for(client):
    async with Sandbox(api_key="sk-right") as sandbox:
        assert (await exchange(client, sandbox, HELLO))[0] == 401
        assert (await exchange(client, sandbox, HELLO, authorization="Bearer sk-right"))[0] == 200
        for page, status in (("models", 401), ("health", 200), ("metrics", 200)):
            async with client.get(f"{sandbox.base_url}/{page}") as response:
                assert response.status == status


async def test_what_is_not_json_is_a_400(client):
    async with Sandbox() as sandbox, client.post(f"{sandbox.base_url}/chat/completions", data=b"{") as response:
        assert response.status == 400
        assert "not JSON" in (await response.json())["error"]["message"]


async def test_the_metrics_say_what_was_done(client):
    async with Sandbox("vllm", script=Script(interval_s=0.1, tokens=10)) as sandbox:
        task = asyncio.create_task(exchange(client, sandbox, HELLO))
        await until(lambda: sandbox.counters.running)
        during = await metrics(client, sandbox)
        await task
        await exchange(client, sandbox, HELLO | {"max_tokens": 2})
        after = await metrics(client, sandbox)
    assert during["vllm:num_requests_running"] == 1
    assert 0 < during["vllm:kv_cache_usage_perc"] < 0.01
    assert after["vllm:num_requests_running"] == after["vllm:kv_cache_usage_perc"] == 0
    assert after["vllm:generation_tokens_total"] == 12
    assert after["vllm:prompt_tokens_total"] == 20
    assert after["stop"] == after["length"] == 1


async def test_with_slots_the_others_wait(client):
    async with Sandbox("vllm", slots=1, script=Script(tokens=8)) as sandbox:
        sandbox.scripts.append(Script(interval_s=0.2, tokens=8))
        counters, tasks = sandbox.counters, []
        for number in range(3):  # one after the other, and the first one takes its time
            tasks.append(asyncio.create_task(exchange(client, sandbox, HELLO)))
            await until(lambda number=number: (counters.running, counters.waiting) == (1, number))
        during = await metrics(client, sandbox)
        assert (during["vllm:num_requests_running"], during["vllm:num_requests_waiting"]) == (1, 2)
        tasks[2].cancel()
        await until(lambda: sandbox.counters.waiting == 1)
        assert [status for status, _ in await asyncio.gather(*tasks[:2])] == [200, 200]
        assert (sandbox.counters.running, sandbox.counters.waiting) == (0, 0)
        assert [received.client_left for received in sandbox.requests if received.method == "POST"] == [
            False,
            False,
            True,
        ]


async def test_a_connection_is_kept_and_closed_when_idle():
    async with Sandbox(keepalive_s=0.05, script=Script(text="Yes.")) as sandbox:
        port = int(sandbox.base_url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
        writer.write(asked + asked)  # pipelined
        answered = await reader.read()  # until it is closed
        writer.close()
        assert answered.count(b"HTTP/1.1 200 OK") == 2
        assert sandbox.connections_accepted == 1


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"nonsense\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n", b"HTTP/1.1 200 OK"),
        (
            b"POST /health HTTP/1.1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            b"HTTP/1.1 405 Method Not Allowed",
        ),
    ],
)
async def test_the_connection_ends_when_it_should(sent, answered):
    async with Sandbox() as sandbox:
        port = int(sandbox.base_url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        assert (await asyncio.wait_for(reader.read(), 30)).startswith(answered)
        writer.close()


async def until(true):
    """Wait for something to be so."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 (whatever it is, it knows no event)
            await asyncio.sleep(0.01)


def chunks(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def joined(text):
    """The fields of all deltas, put together."""
    fields = {}
    for chunk in chunks(text):
        for choice in chunk["choices"]:
            for name, value in choice["delta"].items():
                if isinstance(value, str) and name != "role":
                    fields[name] = fields.get(name, "") + value
    return {name: value for name, value in fields.items() if value}


async def metrics(client, sandbox):
    async with client.get(sandbox.base_url.removesuffix("/v1") + "/metrics") as response:
        lines = [line for line in (await response.text()).splitlines() if not line.startswith("#")]
    values = {line.split("{")[0]: float(line.split()[-1]) for line in lines}
    return values | {
        reason: float(line.split()[-1]) for line in lines for reason in re.findall(r'finished_reason="(\w+)"', line)
    }
