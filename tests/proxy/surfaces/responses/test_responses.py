"""The Responses API through the whole proxy: routed, metered and billed like any other answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.sandbox.script import Script

from .client import Client

TOOL = {
    "type": "function",
    "name": "time",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
}


@asynccontextmanager
async def asked(house: Any, **fields: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    body = {"model": "Hermes-4-405B", "input": "Hello there", "provider": {"order": list(house.places)}} | fields
    headers = {"authorization": f"Bearer {house.key}", "x-caduceus-explain": "1"}
    async with house.client.post(f"{house.address}/v1/responses", data=orjson.dumps(body), headers=headers) as response:
        yield response


async def plain(house: Any, **fields: Any) -> Any:
    async with asked(house, **fields) as response:
        assert response.status == 200, await response.text()
        return orjson.loads(await response.read())


async def stream(house: Any, **fields: Any) -> Client:
    async with asked(house, **fields, stream=True) as response:
        assert response.headers["content-type"] == "text/event-stream"
        return Client(await response.read())


def said(response: Any, kind: str = "message") -> str:
    return "".join(item["content"][0]["text"] for item in response["output"] if item["type"] == kind)


async def test_a_plain_answer_is_billed_as_it_says(house: Any) -> None:
    async with asked(house, user="u1", store=True) as response:
        answer = orjson.loads(await response.read())
        assert response.headers["x-caduceus-ignored"] == "store"
    row = await house.only_request()
    assert (row["surface"], row["state"], row["endpoint"]) == ("responses", "completed", "first")
    assert answer["id"] == f"resp_{row['id']}"
    assert answer["provider"] == "first"
    assert "Hello there" in said(answer)
    usage = answer["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (row["prompt_tokens"], row["completion_tokens"])
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert round(usage["cost"] * 1e12) == row["charge_pusd"] > 0


async def test_a_stream_says_the_same_as_a_plain_answer(house: Any) -> None:
    wish: dict[str, Any] = {"reasoning": {"effort": "high"}, "instructions": "Be brief."}
    answer, client = await plain(house, **wish), await stream(house, **wish)
    assert [item["type"] for item in client.items] == ["reasoning", "message"]
    for kind in ("reasoning", "message"):
        assert said(client.response, kind) == said(answer, kind) != ""
    assert client.response["usage"] == answer["usage"]
    assert client.response["instructions"] == answer["instructions"] == "Be brief."
    assert client.response["route"]["attempts"][0]["endpoint"] == "first"
    assert len(await house.settled(2)) == 2


@pytest.mark.parametrize("shape", ["none", "inline"])
async def test_thoughts_come_as_the_caller_wants_them(house: Any, shape: str) -> None:
    client = await stream(house, reasoning={"effort": "high"}, reasoning_format=shape)
    assert [item["type"] for item in client.items] == ["message"]
    assert said(client.response).startswith("<think>") == (shape == "inline")
    assert client.response["usage"]["output_tokens_details"]["reasoning_tokens"] > 0


async def test_a_tool_s_loop(house: Any) -> None:
    client = await stream(house, tools=[TOOL], tool_choice="required")
    (call,) = (item for item in client.response["output"] if item["type"] == "function_call")
    assert (call["name"], call["status"]) == ("time", "completed")
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "noon"}
    history = [{"role": "user", "content": "Hello there"}, *client.response["output"], output]
    assert "noon" in said(await plain(house, input=history, tools=[TOOL]))
    told = house.asked("first")[-1].body["messages"]
    assert [message["role"] for message in told] == ["user", "assistant", "tool"]
    assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"] == call["call_id"]


async def test_the_limit_leaves_it_incomplete(house: Any) -> None:
    client = await stream(house, max_output_tokens=4)
    assert client.last["type"] == "response.incomplete"
    assert client.response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert client.response["usage"]["output_tokens"] == 4


async def test_an_endpoint_that_fails_before_its_first_word_is_not_noticed(house: Any) -> None:
    house["first"].script = Script(fault="status:500")
    client = await stream(house)
    assert client.response["provider"] == "second"
    assert client.last["type"] == "response.completed"


async def test_an_answer_that_breaks_off_fails_and_is_paid_as_far_as_it_came(open_house: Any) -> None:
    house = await open_house({"only": {"sandbox": {"script": Script(fault="cut_mid_stream")}}})
    client = await stream(house)
    assert client.last["type"] == "response.failed"
    assert client.error is not None
    assert client.error["code"] == "upstream_failed"
    row = await house.only_request()
    assert row["state"] == "cut"
    assert round(client.response["usage"]["cost"] * 1e12) == row["charge_pusd"] > 0


async def test_an_error_before_the_answer_has_openai_s_shape(house: Any) -> None:
    async with asked(house, previous_response_id="resp_1") as response:
        assert response.status == 400
        error = orjson.loads(await response.read())["error"]
    assert (error["code"], error["param"]) == ("unsupported_parameter", "previous_response_id")
    async with asked(house, stream=True, provider={"only": ["nobody"]}) as response:
        assert response.status == 400
        assert orjson.loads(await response.read())["error"]["code"] == "no_eligible_endpoint"
    assert not house.asked("first")
