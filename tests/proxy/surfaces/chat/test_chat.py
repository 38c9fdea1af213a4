"""Chat Completions as they should go, and the refusals that are the caller's own affair."""

import asyncio
import json

import orjson
import pytest

from ledger.journal.store import WATCH_INTERVAL_S
from proxy.sandbox.script import Script

INPUT_PUSD, OUTPUT_PUSD = 1_000_000, 3_000_000  # a token, at $1 and $3 a million
THOUGHT, SAID = "The user greets me.", "Good evening."
THINKING = Script(reasoning=THOUGHT, text=SAID)
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


# A stream


async def test_a_stream_reads_as_openai_words_it(house):
    answer = await house.stream()
    row = await house.only_request()
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["x-request-id"] == str(row["id"])
    *chunks, last = answer.events
    identity = {"id": f"gen-{row['id']}", "object": "chat.completion.chunk", "model": "NousResearch/Hermes-4-405B"}
    for chunk in answer.events:
        assert identity.items() <= chunk.items()
        assert (chunk["created"], chunk["provider"]) == (chunks[0]["created"], "first")
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.get("usage") is None for chunk in chunks)
    assert (last["choices"], answer.done) == ([], True)
    usage = last["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len(answer.text.split()) == row["completion_tokens"]
    assert round(usage["cost"] * 1e12) == row["charge_pusd"]
    assert usage["cost_details"].keys() == {"prompt", "completion"}
    assert row["charge_pusd"] == usage["prompt_tokens"] * INPUT_PUSD + usage["completion_tokens"] * OUTPUT_PUSD
    assert row["ttft_ms"] <= row["total_ms"] < 10_000


async def test_usage_comes_when_it_is_asked_for_and_once(house):
    for options in (None, {}, {"include_usage": False}):
        answer = await house.stream(stream_options=options)
        assert (answer.done, answer.usage) == (True, None)
    always = await house.tenant("always", "1", stream_usage="always")
    answer = await house.stream(stream_options=None, key=always)
    assert [bool(event.get("usage")) for event in answer.events].count(True) == 1
    assert (answer.events[-1]["choices"], answer.done) == ([], True)


async def test_what_a_plain_answer_says_and_costs(house):
    answer = await house.chat()
    row = await house.only_request()
    body = answer.body
    assert (body["id"], body["object"], body["provider"]) == (f"gen-{row['id']}", "chat.completion", "first")
    (choice,) = body["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"].keys() == {"role", "content", "refusal"}, "no reasoning where there is none"
    assert answer.headers["x-request-id"] == str(row["id"])
    assert (answer.headers["x-caduceus-endpoint"], answer.headers["x-caduceus-attempts"]) == ("first", "1")
    assert int(float(answer.headers["x-caduceus-cost"]) * 1e12 + 0.5) == row["charge_pusd"]
    assert int(float(answer.headers["x-caduceus-hold"]) * 1e12 + 0.5) == row["hold_pusd"] > row["charge_pusd"]
    assert answer.headers["server-timing"].startswith("gateway;dur=")
    assert b'"cost":0.0000' in answer.raw, "the exact decimal, not a float's exponent"


async def test_a_region_is_named_where_there_is_one(open_house):
    house = await open_house({"first": {"region": "eu-north1", "jurisdiction": "EU"}})
    assert (await house.chat()).headers["x-caduceus-region"] == "eu-north1"
    assert (await house.stream()).headers["x-caduceus-region"] == "eu-north1"


# Reasoning


FORMATS = {
    None: {"reasoning": THOUGHT, "reasoning_content": THOUGHT, "content": SAID},
    "both": {"reasoning": THOUGHT, "reasoning_content": THOUGHT, "content": SAID},
    "reasoning": {"reasoning": THOUGHT, "content": SAID},
    "reasoning_content": {"reasoning_content": THOUGHT, "content": SAID},
    "inline": {"content": f"<think>{THOUGHT}</think>{SAID}"},
    "none": {"content": SAID},
    "details": {"content": SAID, "reasoning_details": THOUGHT},
}


@pytest.mark.parametrize("provider", ["vllm", "nebius", "lyceum", "openrouter", "nous"])
async def test_thoughts_come_as_the_caller_reads_them_whatever_the_provider_writes(open_house, provider):
    house = await open_house({"first": {"provider": provider}})
    house["first"].script = THINKING
    for wanted, expected in FORMATS.items():
        fields = {"reasoning": {"enabled": True}, **({"reasoning_format": wanted} if wanted else {})}
        for answer in (await house.stream(**fields), await house.chat(**fields)):
            found = {name: answer.joined(name).strip() for name in ("reasoning", "reasoning_content", "content")}
            parts = [choice.get("delta") or choice.get("message") or {} for choice in answer.choices]
            details = [detail for part in parts for detail in part.get("reasoning_details") or ()]
            if details:
                found["reasoning_details"] = "".join(detail["text"] for detail in details).strip()
            assert {name: text for name, text in found.items() if text} == expected, wanted
            assert all(part.get("reasoning") is not None for part in parts if "reasoning" in part)
            assert answer.usage["completion_tokens_details"]["reasoning_tokens"] > 0
    excluded = await house.chat(reasoning={"enabled": True, "exclude": True})
    assert (excluded.text.strip(), excluded.joined("reasoning")) == (SAID, "")
    preferring = await house.tenant("preferring", "1", reasoning_format="reasoning")
    answer = await house.chat(reasoning={"enabled": True}, key=preferring)
    assert (answer.joined("reasoning").strip(), answer.joined("reasoning_content")) == (THOUGHT, "")


# Tools, choices, limits


async def test_a_tool_call_comes_whole(house):
    fields = {"tools": [TOOL], "tool_choice": "required"}
    streamed, plain = await house.stream(**fields), await house.chat(**fields)
    assert streamed.finish_reason == plain.finish_reason == "tool_calls"
    deltas = [call for choice in streamed.choices for call in choice["delta"].get("tool_calls") or ()]
    (whole,) = plain.body["choices"][0]["message"]["tool_calls"]
    assert plain.body["choices"][0]["message"]["content"] is None
    assert "index" not in whole
    assert [call["id"] for call in deltas if call.get("id")] == [whole["id"]]
    assert "".join(call["function"].get("arguments") or "" for call in deltas) == whole["function"]["arguments"]
    assert json.loads(whole["function"]["arguments"]).keys() == {"city"}


async def test_several_choices_are_kept_apart_and_paid_for_together(house):
    for ask in (house.stream, house.chat):
        answer = await ask(n=2)
        first, second = answer.joined("content", 0), answer.joined("content", 1)
        assert second == f"{first} This is choice 2."
        assert answer.usage["completion_tokens"] == len(first.split()) + len(second.split())
        row = await house.only_request()
        assert row["completion_tokens"] == answer.usage["completion_tokens"]


async def test_a_limit_of_tokens_is_the_providers_limit_too(house):
    answer = await house.stream(max_tokens=3)
    assert (answer.text, answer.finish_reason) == ("This is the", "length")
    assert house.asked("first")[-1].body["max_tokens"] == 3
    assert (await house.chat()).status == 200
    assert house.asked("first")[-1].body["max_tokens"] == 8_192, "one is always sent"
    few = (await house.chat(max_tokens=10)).headers["x-caduceus-hold"]
    many = (await house.chat(max_tokens=1_000)).headers["x-caduceus-hold"]
    assert round((float(many) - float(few)) * 1e12) == 990 * OUTPUT_PUSD


async def test_cached_tokens_have_a_price_of_their_own(open_house):
    house = await open_house({"first": {"price": ("1.00", "3.00", "0.10")}})
    turns = [{"role": "system", "content": "word " * 60}, {"role": "user", "content": "Hi"}]
    answer = await house.chat(messages=turns)
    usage = answer.usage
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached > 0
    row = await house.only_request()
    expected = (usage["prompt_tokens"] - cached) * 1_000_000 + cached * 100_000 + usage["completion_tokens"] * 3_000_000
    assert row["charge_pusd"] == row["cost_pusd"] == expected


async def test_a_plan_with_a_markup_earns_a_margin(house):
    await house.db.execute("INSERT INTO plan (name, markup_ppm) VALUES ('retail', 250000)")
    key = await house.tenant("retail", "1", who={"plan": "retail"})
    await house.until(lambda: house.service.catalogue.offers("retail")[0].sell)
    answer = await house.chat(key=key)
    row = await house.only_request()
    assert row["charge_pusd"] * 4 == row["cost_pusd"] * 5
    assert round(answer.usage["cost"] * 1e12) == row["charge_pusd"]


async def test_what_the_caller_says_of_its_request_is_kept_apart(house):
    answer = await house.chat(user="ann", metadata={"job": "42"})
    assert answer.status == 200
    await house.only_request()
    label = await house.db.fetchrow("SELECT user_label, metadata FROM request_label")
    assert (label["user_label"], json.loads(label["metadata"])) == ("ann", {"job": "42"})
    assert "user" not in house.asked("first")[0].body
    assert "metadata" not in house.asked("first")[0].body


async def test_a_field_that_nobody_knows_is_named(house):
    answer = await house.chat(colour="blue", flavour=1)
    assert (answer.status, answer.headers["x-caduceus-ignored"]) == (200, "colour, flavour")
    refused = await house.chat(colour="blue", provider={"require_parameters": True})
    assert (refused.status, refused.error["param"]) == (400, "colour")


# Where it goes, and why


PLACES = {
    "first": {"price": ("2.00", "6.00"), "region": "eu-north1", "jurisdiction": "EU", "quantization": "fp8"},
    "second": {"price": ("1.00", "3.00"), "region": "us-east1", "jurisdiction": "US", "data_collection": "deny"},
    "third": {"provider": "nebius", "price": ("9.00", "9.00")},
}


async def test_the_caller_says_where_it_goes(open_house):
    house = await open_house(PLACES)
    for wish, expected in (
        ({"order": ["third", "second"]}, "third"),
        ({"order": ["nebius"]}, "third"),
        ({"only": ["second"]}, "second"),
        ({"ignore": ["second", "third"]}, "first"),
        ({"sort": "price"}, "second"),
        ({"regions": ["EU"]}, "first"),
        ({"regions": ["us-east1"]}, "second"),
        ({"quantizations": ["fp8"]}, "first"),
        ({"data_collection": "deny"}, "second"),
        ({"max_price": {"prompt": 1.5}}, "second"),
        ({"order": ["first"], "max_price": {"completion": "8"}}, "first"),
    ):
        answer = await house.chat(provider=wish)
        assert (answer.status, (answer.body or {}).get("provider")) == (200, expected), wish
    answer = await house.chat(provider=None, model="hermes-4-405b:floor")
    assert answer.body["provider"] == "second"
    for wish in ({"only": ["nobody"]}, {"regions": ["CH"]}, {"max_price": {"prompt": 0.5}}, {"zdr": True}):
        answer = await house.chat(provider=wish)
        assert (answer.status, answer.error["code"]) == (400, "no_eligible_endpoint"), wish
        assert {exclusion["endpoint"] for exclusion in answer.error["excluded"]} == set(PLACES)
    for wish in ({"colour": 1}, {"sort": "beauty"}, {"only": "first"}, {"max_price": {"prompt": "x"}}, []):
        answer = await house.chat(provider=wish)
        assert (answer.status, answer.error["code"]) == (400, "invalid_request"), wish
        assert answer.error["param"].startswith("provider")


async def test_a_caller_who_wants_no_fallback_gets_none(house):
    house["first"].script = Script(fault="status:500")
    answer = await house.chat(provider={"order": ["first"], "allow_fallbacks": False})
    assert (answer.status, len(answer.error["attempts"])) == (502, 1)
    assert not house.asked("second")


async def test_a_tenant_stays_in_its_jurisdictions(open_house):
    house = await open_house(PLACES)
    key = await house.tenant("european", "1", who={"jurisdictions": ["EU"]})
    answer = await house.chat(key=key)
    assert answer.body["provider"] == "first"
    house["first"].script = Script(fault="status:500")
    answer = await house.chat(key=key)
    assert (answer.status, [attempt["endpoint"] for attempt in answer.error["attempts"]]) == (502, ["first"])
    assert not house.asked("second")
    assert not house.asked("third")


async def test_an_answer_can_say_why_it_went_where_it_went(house):
    house["first"].script = Script(fault="status:500")
    why = {"x-caduceus-explain": "1"}
    streamed, plain = await house.stream(headers=why), await house.chat(headers=why)
    unasked = await house.stream(headers=why, stream_options=None)
    house["second"].script = Script(fault="status:503")
    failed = await house.chat(headers=why)
    for route in (streamed.events[-1]["route"], plain.body["route"], unasked.events[-1]["route"]):
        assert {candidate["endpoint"] for candidate in route["candidates"]} == {"first", "second"}
        assert [(attempt["endpoint"], attempt["failure"]) for attempt in route["attempts"]] == [
            ("first", "server_error"),
            ("second", None),
        ]
    assert [attempt["failure"] for attempt in failed.error["route"]["attempts"]] == ["server_error", "unavailable"]
    for answer in (streamed, plain, failed):
        assert not {"cost_pusd", "score", "buy", "margin"} & set(answer.raw.decode().replace('"', " ").split())
        assert "fails on request" not in answer.raw.decode()
    assert "route" not in (await house.chat()).raw.decode()


# Money that is not there


async def test_a_request_that_the_credit_does_not_reach_is_told_what_it_reaches(house):
    key = await house.tenant("poor", "0.001")  # 333 tokens of output, less the prompt
    answer = await house.chat(key=key, max_tokens=5_000)
    assert (answer.status, answer.error["code"], answer.error["type"]) == (
        402,
        "insufficient_credit",
        "insufficient_quota",
    )
    affordable = answer.error["affordable_max_tokens"]
    assert 280 < affordable < 333
    assert not house.asked("first")
    assert (await house.chat(key=key, max_tokens=affordable + 1)).status == 402
    within = await house.chat(key=key, max_tokens=affordable)
    assert within.status == 200
    assert (await house.only_request())["hold_pusd"] <= 10**9


async def test_without_a_limit_the_credit_sets_it_as_long_as_it_is_worth_it(house):
    key = await house.tenant("poor", "0.001")
    answer = await house.chat(key=key)
    assert answer.status == 200
    assert 256 <= house.asked("first")[0].body["max_tokens"] < 333
    poorer = await house.tenant("poorer", "0.0007")
    answer = await house.chat(key=poorer)
    assert (answer.status, answer.error["affordable_max_tokens"] < 256) == (402, True)
    nothing = await house.tenant("nothing")
    answer = await house.chat(key=nothing)
    assert (answer.status, answer.error["affordable_max_tokens"]) == (402, 0)


async def test_a_budget_ends_for_its_key_alone(house):
    key = await house.tenant("thrifty", "10", budget_pusd=10**9)
    answer = await house.chat(key=key, max_tokens=5_000)
    assert (answer.status, answer.error["code"]) == (402, "budget_exceeded")
    assert (await house.chat(key=key, max_tokens=100)).status == 200


# Refusals


async def test_who_may_not_is_told_so(house):
    good = house.body()
    async with house.client.post(f"{house.address}/v1/chat/completions", json=good) as response:
        assert response.status == 401
        assert response.headers["www-authenticate"] == "Bearer"
    for wrong in ("sk-cad-wrong", "", "x" * 5_000, house.key[:-1], house.key + "x"):
        answer = await house.send(good, key=wrong or " ")
        assert (answer.status, answer.error["code"]) == (401, "invalid_api_key"), wrong
    async with house.client.post(
        f"{house.address}/v1/chat/completions", json=good, headers={"x-api-key": house.key}
    ) as response:
        assert response.status == 200
    expired = await house.tenant("expired", "1")
    suspended = await house.tenant("suspended", "1")
    await house.db.execute(
        "UPDATE api_key SET expires_at = clock_timestamp() - interval '1 s' FROM tenant"
        " WHERE tenant_id = tenant.id AND tenant.name = 'expired'"
    )
    await house.db.execute("UPDATE tenant SET suspended = true WHERE name = 'suspended'")
    answer = await house.send(good, key=expired)
    assert (answer.status, answer.error["code"]) == (401, "expired_api_key")
    answer = await house.send(good, key=suspended)
    assert (answer.status, answer.error["code"]) == (403, "tenant_suspended")


async def test_a_revoked_key_is_so_within_a_second(house):
    assert WATCH_INTERVAL_S < 1
    assert (await house.chat()).status == 200
    await house.db.execute("UPDATE api_key SET revoked_at = clock_timestamp()")
    async with asyncio.timeout(30):
        while (await house.chat()).status == 200:  # noqa: ASYNC110 (it asks)
            await asyncio.sleep(0.05)


async def test_requests_that_are_wrong_cost_nothing(house):
    message = {"role": "user", "content": "Hi"}
    for fields, status, param in (
        ({"model": None}, 400, "model"),
        ({"model": "gpt-5"}, 404, "model"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "king", "content": "Hi"}]}, 400, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": 3}, 400, "temperature"),
        ({"n": 0}, 400, "n"),
        ({"stream": "yes"}, 400, "stream"),
        ({"messages": [{**message, "content": "word " * 200_000}]}, 400, "messages"),
    ):
        answer = await house.chat(**fields)
        shown = str(fields)[:200]
        assert (answer.status, answer.error and answer.error["param"]) == (status, param), shown
        assert answer.headers["x-should-retry"] == "false"
    answer = await house.send(orjson.dumps(house.body("x" * 5_000_000)))
    assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert not house.asked("first")
    assert not await house.settled()


async def test_paths_and_methods_that_are_not_there(house):
    async def ask(method, path):
        async with house.client.request(method, f"{house.address}{path}") as response:
            return response.status, response.headers, await response.json()

    status, _, body = await ask("GET", "/v1/nothing")
    assert (status, body["error"]["code"]) == (404, "not_found")
    status, headers, body = await ask("GET", "/v1/chat/completions")
    assert (status, body["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "POST")
    assert (await ask("GET", "/healthz"))[0] == 200
    assert (await ask("GET", "/readyz"))[2]["status"] == "ready"


async def test_a_key_has_its_pace(house):
    key = await house.tenant("paced", "1", rpm=2, tpm=100_000)
    first = await house.chat(key=key)
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert (await house.stream(key=key)).headers["x-ratelimit-remaining-requests"] == "0"
    answer = await house.chat(key=key)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    assert 25 <= int(answer.headers["retry-after"]) <= 30
    assert len(await house.settled()) == 2
