"""Anthropic's Messages through the whole proxy: as a client of that API speaks, and what the books say of it."""

import asyncio
from typing import Any

import orjson

from providers.tokenizer import count_prompt
from proxy.sandbox.script import Script

MODEL = "NousResearch/Hermes-4-405B"
HELLO = [{"role": "user", "content": "Hello there"}]
TOOL = {
    "name": "get_time",
    "description": "Tells the time",
    "input_schema": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
}
PATH = "/v1/messages"


async def ask(house: Any, path: str = PATH, *, key: str | None = None, **fields: Any) -> tuple[int, Any, Any]:
    """Status, headers and the parsed body, which for a stream is the list of its events."""
    body: dict[str, Any] = {"model": MODEL, "max_tokens": 1_000, "messages": HELLO} | fields
    body.setdefault("provider", {"order": list(house.places)})
    headers = {"x-api-key": key or house.key, "anthropic-version": "2023-06-01"}
    async with house.client.post(house.address + path, data=orjson.dumps(body), headers=headers) as response:
        raw = await response.read()
        if response.content_type == "text/event-stream":
            return response.status, response.headers, events(raw)
        return response.status, response.headers, orjson.loads(raw)


def events(raw: bytes) -> list[Any]:
    found = []
    for block in raw.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        event = orjson.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        found.append(event)
    return found


def assembled(told: list[Any]) -> Any:
    """The message that the events of a whole stream come to."""
    message = next(event["message"] for event in told if event["type"] == "message_start")
    for event in told:
        match event:
            case {"type": "content_block_start", "content_block": block}:
                message["content"].append(block)
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": text}}:
                block["input"] = (block["input"] or "") + text
            case {"type": "content_block_delta", "delta": {"type": _, **piece}}:
                for name, text in piece.items():
                    block[name] += text
            case {"type": "content_block_stop"} if block["type"] == "tool_use":
                block["input"] = orjson.loads(block["input"])
            case {"type": "message_delta"}:
                message |= event["delta"] | {"usage": event["usage"]}
    assert told[-1] == {"type": "message_stop"}
    return message


def without_id(message: Any) -> Any:
    """What is the same of two answers to one question."""
    content = [{name: value for name, value in block.items() if name != "signature"} for block in message["content"]]
    return {**message, "id": None, "content": content}


async def test_plain_and_streamed_are_one_message_and_one_charge(house: Any) -> None:
    wanted = {"system": "Be brief.", "thinking": {"type": "enabled", "budget_tokens": 500}}
    status, headers, plain = await ask(house, **wanted)
    assert status == 200
    assert plain["id"] == f"msg_{headers['request-id']}"
    assert headers["request-id"] == headers["x-request-id"]
    assert [block["type"] for block in plain["content"]] == ["thinking", "text"]
    assert "You said: Hello there" in plain["content"][1]["text"]
    assert (plain["type"], plain["role"], plain["provider"]) == ("message", "assistant", "first")
    assert (plain["stop_reason"], plain["stop_sequence"]) == ("end_turn", None)

    status, headers, told = await ask(house, stream=True, **wanted)
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert without_id(assembled(told)) == without_id(plain)

    usage = plain["usage"]
    for row in await house.settled(2):
        assert row["surface"] == "messages"
        assert row["prompt_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"]
        assert row["completion_tokens"] == usage["output_tokens"]
        assert row["reasoning_tokens"] == usage["output_tokens_details"]["thinking_tokens"] > 0
        assert row["charge_pusd"] == round(usage["cost"] * 1e12) > 0


async def test_a_tool_is_called_and_its_result_read(house: Any) -> None:
    history = [{"role": "user", "content": "Use the tool get_time"}]
    _, _, plain = await ask(house, messages=history, tools=[TOOL], thinking={"type": "adaptive"})
    _, _, told = await ask(house, messages=history, tools=[TOOL], thinking={"type": "adaptive"}, stream=True)
    assert without_id(assembled(told)) == without_id(plain)
    assert plain["stop_reason"] == "tool_use"
    thought, call = plain["content"]
    assert (thought["type"], call["type"], call["name"]) == ("thinking", "tool_use", "get_time")
    assert call["input"] == {"zone": "Use the tool get_time"}

    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "noon"}]}
    history += [{"role": "assistant", "content": plain["content"]}, {"role": "user", "content": [result]}]
    _, _, answer = await ask(house, messages=history, tools=[TOOL])
    assert "The tool answered: noon" in answer["content"][-1]["text"]
    sent = house.asked("first")[-1].body["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool"]
    assert sent[1]["reasoning"] == thought["thinking"]
    assert sent[1]["tool_calls"][0]["id"] == sent[2]["tool_call_id"] == call["id"]


async def test_thoughts_that_are_not_wanted_are_paid_but_not_shown(house: Any) -> None:
    _, _, plain = await ask(house, thinking={"type": "adaptive"}, reasoning={"exclude": True})
    _, _, told = await ask(house, thinking={"type": "adaptive"}, reasoning_format="none", stream=True)
    for message in (plain, assembled(told)):
        assert [block["type"] for block in message["content"]] == ["text"]
        assert message["usage"]["output_tokens_details"]["thinking_tokens"] > 0


async def test_why_it_stopped(house: Any) -> None:
    _, _, cut = await ask(house, max_tokens=3)
    assert (cut["stop_reason"], cut["usage"]["output_tokens"]) == ("max_tokens", 3)
    _, _, stopped = await ask(house, stop_sequences=["sandbox"])
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "sandbox")


async def test_who_asked_is_kept_with_the_charge(house: Any) -> None:
    await ask(house, metadata={"user_id": "u-1", "team": "blue"})
    row = await house.only_request()
    kept = await house.db.fetchrow("SELECT * FROM request_label WHERE request_id = $1", row["id"])
    assert (kept["user_label"], orjson.loads(kept["metadata"])) == ("u-1", {"team": "blue"})


async def test_what_nobody_understands_is_named(house: Any) -> None:
    _, headers, _ = await ask(house, service_tier="auto")
    assert headers["x-caduceus-ignored"] == "service_tier"


async def test_silence_is_filled_with_pings(open_house: Any) -> None:
    house = await open_house(keepalive_comment_s=0.1)
    house["first"].script = Script(first_token_s=0.6)
    _, _, told = await ask(house, stream=True)
    kinds = [event["type"] for event in told]
    begins = kinds.index("message_start")
    assert begins > 1
    assert set(kinds[:begins]) == {"ping"}
    assert kinds[-1] == "message_stop"


async def test_a_stream_that_breaks_off_ends_with_an_error(open_house: Any) -> None:
    house = await open_house({"first": {"provider": "nebius", "supports": []}})
    house["first"].script = Script(fault="cut_mid_stream", after_events=4)
    status, headers, told = await ask(house, stream=True)
    assert status == 200
    assert "message_stop" not in [event["type"] for event in told]
    last = told[-1]
    assert (last["type"], last["error"]["type"], last["error"]["code"]) == ("error", "api_error", "upstream_failed")
    assert last["request_id"] == headers["x-request-id"]
    row = await house.only_request()
    assert row["completion_tokens"] == last["usage"]["output_tokens"] > 0
    assert row["charge_pusd"] == round(last["usage"]["cost"] * 1e12) > 0


async def test_errors_have_anthropics_shape(open_house: Any) -> None:
    house = await open_house({"first": {}}, body_bytes=20_000)
    poor = await house.tenant("poor")
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/x.png"}}
    cases: list[tuple[dict[str, Any], int, str, str]] = [
        ({"key": "sk-cad-unknown"}, 401, "authentication_error", "invalid_api_key"),
        ({"key": poor}, 402, "billing_error", "insufficient_credit"),
        ({"model": "claude"}, 404, "not_found_error", "model_not_found"),
        ({"path": "/v1/messages/batches"}, 404, "not_found_error", "not_found"),
        ({"system": "x" * 30_000}, 413, "request_too_large", "request_too_large"),
        ({"messages": [{"role": "user", "content": [image]}]}, 400, "invalid_request_error", "unsupported_modality"),
        ({"max_tokens": None}, 400, "invalid_request_error", "missing_required_parameter"),
        ({"path": PATH + "/count_tokens", "messages": []}, 400, "invalid_request_error", "missing_required_parameter"),
    ]
    for fields, expected, kind, code in cases:
        status, headers, body = await ask(house, **fields)
        assert (status, body["type"], body["error"]["type"], body["error"]["code"]) == (expected, "error", kind, code)
        assert body["error"]["message"]
        assert body["request_id"] == headers["request-id"]
    async with house.client.get(house.address + PATH) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert (await response.json())["error"]["type"] == "invalid_request_error"
    assert not house.asked("first")


async def test_an_endpoint_that_fails_is_an_error_of_the_api(open_house: Any) -> None:
    house = await open_house({"first": {}})
    house["first"].script = Script(fault="status:500")
    for stream in (False, True):
        status, _, body = await ask(house, stream=stream)
        assert (status, body["error"]["type"]) == (502, "api_error")
        assert body["error"]["attempts"][0]["endpoint"] == "first"


async def test_counting_is_free(house: Any) -> None:
    status, _, counted = await ask(house, PATH + "/count_tokens", max_tokens=None)
    assert (status, counted) == (200, {"input_tokens": count_prompt(HELLO)})
    _, _, more = await ask(house, PATH + "/count_tokens", system="Be brief.", tools=[TOOL])
    assert more["input_tokens"] > counted["input_tokens"]
    assert await house.settled() == []
    assert not house.asked("first")


async def test_counting_is_bounded_by_the_keys_limits(house: Any) -> None:
    key = await house.tenant("slow", "1", rpm=2)
    answers = await asyncio.gather(*(ask(house, PATH + "/count_tokens", key=key) for _ in range(4)))
    assert sorted(status for status, _, _ in answers) == [200, 200, 429, 429]
    limited = next(body for status, _, body in answers if status == 429)
    assert limited["error"]["type"] == "rate_limit_error"
