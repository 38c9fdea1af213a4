"""The adapters and the sandbox understand one another: what is asked in a dialect is done, what is said is read."""

import json

import aiohttp
import pytest

from providers.adapter import ADAPTERS, Target
from providers.chat_request import ChatRequest, Reasoning
from providers.events import Delta, Failure, FailureKind
from providers.failures import classify
from providers.means import Means
from proxy.sandbox.dialects import DIALECTS
from proxy.sandbox.script import Script
from proxy.sandbox.server import Sandbox

TARGET = Target("NousResearch/Hermes-4-405B", frozenset({"tools"}))
HELLO = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"})
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def request(*, thinks=None, **parameters):
    return ChatRequest(
        messages=HELLO,
        parameters=parameters,
        max_tokens=None,
        stream=True,
        include_usage=True,
        reasoning=Reasoning(enabled=thinks),
        model="m",
    )


async def exchange(sandbox, asked, *, plain):
    """The reader after it has read all, and its events."""
    adapter = ADAPTERS[sandbox.dialect.name]
    body = adapter.encode(asked, TARGET, adapter.means(asked, TARGET), max_tokens=1_000, stream=not plain)
    reader = adapter.reader(plain=plain)
    events = []
    async with aiohttp.ClientSession() as client, client.post(f"{sandbox.base_url}/chat/completions", data=body) as got:
        assert got.status == 200, await got.text()
        async for data in got.content.iter_any():
            events += reader.feed(data)
    events += reader.end()
    return reader, events


def joined(events, field):
    return "".join(getattr(event, field) or "" for event in events if isinstance(event, Delta))


def test_there_is_a_sandbox_for_every_adapter():
    assert set(DIALECTS) == set(ADAPTERS)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("split_bytes", [None, 5])
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_thoughts_and_text_are_told_apart(dialect, split_bytes, plain):
    script = Script(reasoning="\nHm <b>so</b>.\n", text="\nHello, é!", split_bytes=split_bytes)
    async with Sandbox(dialect, script=script) as sandbox:
        reader, events = await exchange(sandbox, request(thinks=True), plain=plain)
    assert joined(events, "reasoning") == "\nHm <b>so</b>.\n"
    assert joined(events, "content") == "\nHello, é!"
    assert [event.finish_reason for event in events if event.finish_reason] == ["stop"]
    assert reader.done
    assert reader.finished
    assert not reader.skipped_events
    assert reader.usage.completion_tokens == sandbox.counters.generation_tokens
    assert reader.usage.prompt_tokens == sandbox.counters.prompt_tokens


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_without_asking_there_are_no_thoughts(dialect):
    async with Sandbox(dialect) as sandbox:
        _, events = await exchange(sandbox, request(), plain=False)
    assert joined(events, "reasoning") == ""
    assert joined(events, "content").startswith(f"This is the Caduceus sandbox speaking as {dialect}. You said: Hello")


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dialect", [name for name, dialect in DIALECTS.items() if dialect.native_tools])
async def test_a_tool_is_called(dialect, plain):
    async with Sandbox(dialect) as sandbox:
        _, events = await exchange(sandbox, request(tools=[TOOL], tool_choice="required"), plain=plain)
    deltas = [call for event in events for call in event.tool_calls or ()]
    assert deltas[0]["function"]["name"] == "look_up"
    assert json.loads("".join(call["function"]["arguments"] for call in deltas)) == {}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_an_error_in_the_stream_is_a_failure(dialect):
    async with Sandbox(dialect, script=Script(fault="error_mid_stream")) as sandbox:
        _, events = await exchange(sandbox, request(), plain=False)
    assert isinstance(events[-1], Failure)
    assert "on request (error_mid_stream)" in events[-1].message


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status:429", FailureKind.RATE_LIMITED),
        ("status:500", FailureKind.SERVER_ERROR),
        ("status:503", FailureKind.UNAVAILABLE),
        ("status:401", FailureKind.UNAUTHORIZED),
        ("status:404", FailureKind.NOT_FOUND),
        ("status:400-context", FailureKind.CONTEXT_LENGTH),
        ("status:400-filter", FailureKind.CONTENT_FILTER),
        ("html_502", FailureKind.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("dialect", sorted(DIALECTS))
async def test_a_refusal_is_understood(dialect, fault, kind):
    body = ADAPTERS[dialect].encode(request(), TARGET, Means(), max_tokens=10, stream=True)
    async with (
        Sandbox(dialect, script=Script(fault=fault, retry_after_s=9)) as sandbox,
        aiohttp.ClientSession() as client,
        client.post(f"{sandbox.base_url}/chat/completions", data=body) as got,
    ):
        headers = {name.lower(): value for name, value in got.headers.items()}
        failure = classify(got.status, headers, await got.read(), 0.0)
    assert failure.kind is kind
    assert failure.message != "no reason given"
    waits = fault in ("status:429", "status:503") and dialect != "chutes"
    assert failure.retry_after_s == (9 if waits else None)
