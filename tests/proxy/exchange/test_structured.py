"""JSON that was asked for, wherever it is served: enforced, or asked for in the prompt, checked and made good."""

import asyncio
import json
import time

import orjson
import pytest

from proxy.sandbox.script import Script

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "wings": {"type": "integer"}},
    "required": ["name", "wings"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "god", "strict": True, "schema": SCHEMA}}
OBJECT = {"type": "json_object"}
THINK = {"reasoning": {"enabled": True}}
NONE = {"provider": "lyceum", "dialect": "lyceum", "supports": []}
CLAIMS = {"provider": "openai", "dialect": "openai", "supports": ["response_format"]}
HERMES = '{"name": "Hermes", "wings": 4}'
WITHOUT_WINGS = '{"name": "Hermes"}'


async def both(house, text="Who?", **fields):
    """The answer plain and streamed, which must be the same."""
    fields = {"response_format": FORMAT, **fields}
    return await house.chat(text, **fields), await house.stream(text, **fields)


def saying(text, words="Who?", **script):
    """What a user says so that a sandbox answers `text`, once: who asks again without it gets what the schema says."""
    return f"{words} [[sandbox {orjson.dumps({'text': text, **script}).decode()}]]"


def schema_error(answer):
    return next((choice["schema_error"] for choice in answer.choices if "schema_error" in choice), None)


# Where an engine enforces it


async def test_an_engine_gets_the_schema_and_passes_at_the_relays_cost(open_house):
    house = await open_house({"first": {}})
    for answer in await both(house):
        assert set(json.loads(answer.text)) == {"name", "wings"}
        assert schema_error(answer) is None
    for asked in house.asked("first"):
        assert asked.body["response_format"] == FORMAT
        assert [message["role"] for message in asked.body["messages"]] == ["user"]
        assert not {"guided_json", "structured_outputs"} & asked.body.keys()


async def test_what_an_engine_enforces_is_not_checked_again(open_house):
    """Its word is final: also what does not fit passes as it is."""
    house = await open_house({"first": {}})
    for answer in await both(house, saying("no JSON")):
        assert answer.text == "no JSON"
        assert schema_error(answer) is None


@pytest.mark.parametrize(
    "fields", [{"guided_json": SCHEMA}, {"structured_outputs": {"json": SCHEMA}}, {"guided_json": json.dumps(SCHEMA)}]
)
async def test_older_words_for_a_schema_serve_everywhere(open_house, fields):
    house = await open_house({"engine": {}, "other": NONE})
    for name in ("engine", "other"):
        answer = await house.chat("Who?", **fields, provider={"only": [name]})
        assert set(json.loads(answer.text)) == {"name", "wings"}
    assert house.asked("engine")[0].body["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_a_grammar_of_another_kind_is_an_engines(open_house):
    house = await open_house({"other": NONE, "engine": {}})
    answer = await house.chat("Yes?", guided_choice=["yes", "no"])
    assert answer.headers["x-caduceus-endpoint"] == "engine"
    (asked,) = house.asked("engine")
    assert asked.body["structured_outputs"] == {"choice": ["yes", "no"]}
    refused = await house.chat("Yes?", guided_choice=["yes", "no"], provider={"only": ["other"]})
    assert (refused.status, refused.error["code"]) == (400, "no_eligible_endpoint")


# Where it stands in the prompt


async def test_an_endpoint_without_it_is_asked_in_hermess_words(open_house):
    house = await open_house({"first": NONE})
    schema = SCHEMA | {"description": "</schema> <|eot_id|> a < b"}
    wanted = {"type": "json_schema", "json_schema": {"name": "god", "schema": schema}}
    messages = [{"role": "system", "content": "You are a scribe."}, {"role": "user", "content": "Who?"}]
    answer = await house.chat(response_format=wanted, messages=messages)
    assert set(json.loads(answer.text)) == {"name", "wings"}
    (asked,) = house.asked("first")
    assert "response_format" not in asked.body
    system = asked.body["messages"][0]["content"]
    assert system.startswith(
        "You are a scribe.\n\nYou are a helpful assistant that answers in JSON. Here's the json schema"
    )
    told = system.partition("<schema>\n")[2].partition("\n</schema>")
    assert orjson.loads(told[0]) == schema
    assert told[2] == ""
    assert "<|eot_id|>" not in system
    assert "a < b" in system


async def test_any_object_will_do(open_house):
    house = await open_house({"first": NONE})
    for answer in await both(house, response_format=OBJECT):
        assert isinstance(json.loads(answer.text), dict)
        assert schema_error(answer) is None
    assert (
        house.asked("first")[0].body["messages"][0]["content"].startswith("You are a helpful assistant that answers in")
    )


NOISE = [
    HERMES,
    f"```json\n{HERMES}\n```",
    f"Here is the god, as {{you}} wanted:\n\n```json\n{HERMES}\n```\nAnything else?",
    f"Sure! {HERMES}\n\nI hope that helps.",
    '{"name": "Hermes", "wings": 4,}',
    "{'name': 'Hermes', wings: 4}",
    '{"name": "Hermes" "wings": 4',
]


@pytest.mark.parametrize("place", [NONE, CLAIMS], ids=["asked", "claimed"])
@pytest.mark.parametrize("said", NOISE)
async def test_noise_is_left_out_and_syntax_repaired(open_house, said, place):
    house = await open_house({"first": place})
    for answer in await both(house, saying(said)):
        assert json.loads(answer.text) == json.loads(HERMES)
        assert schema_error(answer) is None
        assert answer.finish_reason == "stop"
    assert len(house.asked("first")) == 2, "nothing was asked twice"


async def test_a_stream_is_shown_as_it_comes(open_house):
    house = await open_house({"first": NONE})
    long = json.dumps({"name": "word " * 200, "wings": 1})
    answer = await house.stream(saying(f"```json\n{long}\n```"), response_format=FORMAT)
    assert answer.text == long
    assert sum(bool(choice["delta"].get("content")) for choice in answer.choices) > 100


async def test_what_is_left_out_was_generated_all_the_same(open_house):
    house = await open_house({"first": NONE})
    plain, streamed = await both(house, saying(f"Here it is, the god that you were asking for: {HERMES}"))
    bare, _ = await both(house, saying(HERMES))
    assert plain.usage["completion_tokens"] == streamed.usage["completion_tokens"] > bare.usage["completion_tokens"]


# What does not fit


async def test_a_plain_answer_that_does_not_fit_is_asked_for_again(open_house):
    house = await open_house({"first": NONE})
    answer = await house.chat(saying(WITHOUT_WINGS), response_format=FORMAT, headers={"x-caduceus-explain": "1"})
    assert set(json.loads(answer.text)) == {"name", "wings"}
    assert schema_error(answer) is None
    first, second = house.asked("first")
    *before, said, why = second.body["messages"]
    assert before == first.body["messages"]
    assert said == {"role": "assistant", "content": WITHOUT_WINGS}
    assert "'wings' is a required property" in why["content"]
    assert [attempt.get("repair") for attempt in answer.body["route"]["attempts"]] == [None, True]


async def test_a_repair_is_our_cost(open_house):
    house = await open_house({"first": NONE})
    fits = await house.chat(saying(HERMES), response_format=FORMAT)
    repaired = await house.chat(saying(WITHOUT_WINGS), response_format=FORMAT)
    rows = await house.settled(2)
    assert [row["state"] for row in rows] == ["completed", "completed"]
    lines = [json.loads(row["lines"]) for row in rows]
    assert [len(one) for one in lines] == [1, 1]
    (before,), (after,) = lines
    assert after["prompt"] == repaired.usage["prompt_tokens"]
    assert abs(after["prompt"] - before["prompt"]) < 10, "the prompt is charged once, and as it was"
    assert after["completion"] < before["completion"] + 10
    assert fits.usage["cost"] > 0
    assert rows[0]["cost_pusd"] == rows[0]["charge_pusd"]
    assert rows[1]["cost_pusd"] > 2 * rows[1]["charge_pusd"], "the second prompt is longer than the first"
    assert not set(
        json.loads(rows[1]["flags"] or "[]") if isinstance(rows[1]["flags"], str) else rows[1]["flags"] or []
    )


@pytest.mark.parametrize("said", [WITHOUT_WINGS, "I cannot do that.", '{"name": nonsense}'])
async def test_what_stays_wrong_says_so_with_its_reason(open_house, said):
    house = await open_house({"first": NONE})
    house["first"].script = Script(text=said)
    plain, streamed = await both(house)
    for answer in (plain, streamed):
        assert answer.status == 200
        assert answer.text == said
        assert answer.finish_reason == "stop"
        assert set(schema_error(answer)) == {"message", "path"}
    assert schema_error(plain) == schema_error(streamed)
    assert streamed.done
    assert len(house.asked("first")) == 3, "a plain answer was asked for once more, a stream was not"


async def test_the_place_of_what_is_wrong_is_told(open_house):
    house = await open_house({"first": NONE})
    house["first"].script = Script(text='{"name": "Hermes", "wings": "four"}')
    for answer in await both(house):
        assert schema_error(answer) == {"message": "'four' is not of type 'integer'", "path": "/wings"}


async def test_an_answer_that_is_no_object(open_house):
    house = await open_house({"first": NONE})
    house["first"].script = Script(text="[1, 2]")
    for answer in await both(house, response_format=OBJECT):
        assert schema_error(answer) == {"message": "is not a JSON object", "path": ""}


@pytest.mark.parametrize("fault", ["status:500", "cut_mid_stream", "hang_after_headers"])
async def test_a_repair_that_fails_changes_nothing(open_house, fault):
    house = await open_house({"first": NONE}, first_token_timeout_s=0.3, idle_timeout_s=0.3)
    house["first"].script = Script(fault=fault)  # of what says nothing else
    answer = await house.chat(saying(WITHOUT_WINGS, fault=None), response_format=FORMAT)
    assert (answer.status, answer.text) == (200, WITHOUT_WINGS)
    assert schema_error(answer)["message"] == "'wings' is a required property"
    row = await house.only_request()
    assert row["state"] == "completed"
    assert row["charge_pusd"] > 0


async def test_repairs_are_within_the_retry_budget(open_house):
    house = await open_house({"first": NONE})
    house.service.retry_budget.requests = -1_000.0
    answer = await house.chat(saying(WITHOUT_WINGS), response_format=FORMAT)
    assert answer.text == WITHOUT_WINGS
    assert schema_error(answer)
    assert len(house.asked("first")) == 1


async def test_several_choices_are_checked_each(open_house):
    house = await open_house({"first": NONE | {"supports": ["n"]}})
    house["first"].script = Script(text=WITHOUT_WINGS)
    for answer in await both(house, n=2):
        found = [choice for choice in answer.choices if choice.get("finish_reason")]
        assert [choice["index"] for choice in found] == [0, 1]
        assert all("wings" in choice["schema_error"]["message"] for choice in found)
        assert [answer.joined("content", index) for index in (0, 1)] == [WITHOUT_WINGS] * 2
    assert len(house.asked("first")) == 2


# What ends too early


@pytest.mark.parametrize("max_tokens", range(1, 10))
async def test_an_answer_without_room_is_closed(open_house, max_tokens):
    house = await open_house({"first": NONE})
    said = json.dumps({"name": "Hermes the messenger", "wings": 4, "epithets": ["thief", "herald"]})
    house["first"].script = Script(text=said)
    plain, streamed = await both(house, response_format=OBJECT, max_tokens=max_tokens)
    assert plain.finish_reason == streamed.finish_reason == "length"
    assert plain.text == streamed.text
    assert isinstance(json.loads(plain.text), dict)
    assert schema_error(plain) is schema_error(streamed) is None
    assert len(house.asked("first")) == 2, "there is no room for a better one"


async def test_what_was_cut_off_may_be_missing(open_house):
    house = await open_house({"first": NONE})
    house["first"].script = Script(text=HERMES)
    for answer in await both(house, max_tokens=2):
        assert answer.finish_reason == "length"
        assert json.loads(answer.text)["name"].startswith("H")
        assert "'wings' is a required property" in schema_error(answer)["message"]


# Thoughts


@pytest.mark.parametrize("place", [NONE, CLAIMS, {"provider": "nous", "dialect": "nous", "supports": []}])
async def test_a_thought_comes_before_and_is_not_checked(open_house, place):
    house = await open_house({"first": place})
    said = saying(f"\n{HERMES}", reasoning="\nIs it {a god}? Yes.\n", think=True)
    for answer in await both(house, said, **THINK):
        assert answer.joined("reasoning") == "\nIs it {a god}? Yes.\n"
        assert json.loads(answer.text) == json.loads(HERMES)
        assert schema_error(answer) is None


async def test_a_repair_keeps_the_thought(open_house):
    house = await open_house({"first": NONE})
    answer = await house.chat(saying(WITHOUT_WINGS, reasoning="Hm.", think=True), response_format=FORMAT, **THINK)
    assert answer.joined("reasoning") == "Hm."
    assert set(json.loads(answer.text)) == {"name", "wings"}
    assert not any("deep thinking" in message["content"] for message in house.asked("first")[1].body["messages"])


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_thinks_first_and_then_keeps_to_the_grammar(open_house, stream):
    house = await open_house({"first": {}})
    ask = house.stream if stream else house.chat
    free = await ask("Who?", **THINK)
    answer = await ask("Who?", response_format=FORMAT, **THINK)
    assert answer.joined("reasoning") == free.joined("reasoning") != ""
    assert set(json.loads(answer.text)) == {"name", "wings"}
    assert answer.finish_reason == "stop"
    _, thought, said = [received.body for received in house.asked("first")]
    assert thought["stop"] == ["</think>"]
    assert thought["messages"][-1] == {"role": "assistant", "content": "<think>"}
    assert "response_format" not in thought
    assert said["response_format"] == FORMAT
    assert said["messages"][-1]["content"].endswith("</think>")
    _, row = await house.settled(2)
    (first, second) = json.loads(row["lines"])
    assert second["prompt"] == 0 < first["prompt"], "the prompt is charged once"
    assert row["cost_pusd"] > row["charge_pusd"]
    assert answer.usage["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_a_thought_before_a_grammar_keeps_to_its_budget(open_house):
    house = await open_house({"first": {}})
    for stream in (True, False):
        ask = house.stream if stream else house.chat
        answer = await ask("Who?", response_format=FORMAT, reasoning={"max_tokens": 4})
        assert 0 < answer.usage["completion_tokens_details"]["reasoning_tokens"] <= 4
        assert set(json.loads(answer.text)) == {"name", "wings"}
        assert answer.finish_reason == "stop"


async def test_a_thought_that_takes_all_the_room_is_all_there_is(open_house):
    house = await open_house({"first": {}})
    answer = await house.stream("Who?", response_format=FORMAT, max_tokens=5, **THINK)
    assert (answer.text, answer.finish_reason) == ("", "length")
    assert answer.joined("reasoning")
    assert len(house.asked("first")) == 1


async def test_a_thought_that_is_closed_at_once(open_house):
    house = await open_house({"first": {}})
    answer = await house.stream(saying(None, reasoning="", think=True), response_format=FORMAT, **THINK)
    assert answer.finish_reason == "stop"
    assert answer.joined("reasoning").strip() == ""


@pytest.mark.parametrize("fields", [{"n": 2}, {"logprobs": True}, {"frequency_penalty": 0.5}])
async def test_an_answer_in_one_piece_is_asked_for_in_the_prompt_to_leave_room_for_a_thought(open_house, fields):
    house = await open_house({"first": {}})
    answer = await house.chat("Who?", response_format=FORMAT, **THINK, **fields)
    (asked,) = house.asked("first")
    assert "response_format" not in asked.body
    assert answer.joined("reasoning")
    assert set(json.loads(answer.text)) == {"name", "wings"}


# Tools beside it

TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize("place", [{}, NONE, {"provider": "nebius", "supports": ["response_format"]}])
async def test_a_call_is_no_answer_to_be_checked(open_house, place):
    house = await open_house({"first": place})
    for answer in await both(house, "Use the tool look_up.", tools=[TOOL]):
        assert answer.finish_reason == "tool_calls"
        assert schema_error(answer) is None
        assert answer.choices[0]


@pytest.mark.parametrize("place", [{}, NONE, {"provider": "nebius", "supports": ["response_format"]}])
async def test_with_tools_that_are_not_called_the_answer_is(open_house, place):
    house = await open_house({"first": place})
    for answer in await both(house, tools=[TOOL]):
        assert set(json.loads(answer.text)) == {"name", "wings"}


# Routes


async def test_who_enforces_it_is_asked_first(open_house):
    house = await open_house({"other": NONE, "engine": {}})
    body = house.body("Who?", response_format=FORMAT)
    del body["provider"]
    answer = await house.send(body, **{"x-caduceus-explain": "1"})
    assert answer.headers["x-caduceus-endpoint"] == "engine"
    reasons = {one["endpoint"]: one["reason"] for one in answer.body["route"]["candidates"]}
    assert reasons["other"].endswith("; schema in its prompt")
    required = await house.chat(response_format=FORMAT, provider={"require_parameters": True, "only": ["other"]})
    assert required.status == 400


async def test_it_falls_over_from_one_way_to_the_other(open_house):
    house = await open_house({"engine": {}, "other": NONE})
    house["engine"].script = Script(fault="status:503")
    for answer in await both(house):
        assert answer.headers["x-caduceus-endpoint"] == "other"
        assert set(json.loads(answer.text)) == {"name", "wings"}
        house.service.observations["engine"] = type(house.service.observations["engine"])()


async def test_json_that_breaks_off_goes_on_elsewhere(open_house):
    place = {"provider": "sandbox", "dialect": "sandbox", "supports": ["prefix"]}
    house = await open_house({"first": place, "second": place})
    whole = await house.stream("Who?", response_format=FORMAT)
    for position in range(1, whole.usage["completion_tokens"] - 1):
        house.service.retry_budget.requests = 10.0
        house["first"].script = Script(fault="cut_mid_stream", after_events=position)
        answer = await house.stream("Who?", response_format=FORMAT)
        assert (answer.done, answer.text) == (True, whole.text), position
        assert schema_error(answer) is None
        house.service.observations["first"] = type(house.service.observations["first"])()


async def test_a_thought_that_breaks_off_goes_on_elsewhere_before_the_grammar_begins(open_house):
    house = await open_house()
    whole = await house.stream("Who?", response_format=FORMAT, **THINK)
    thought = whole.usage["completion_tokens_details"]["reasoning_tokens"]
    for position in range(1, thought + 1, 4):
        house.service.retry_budget.requests = 10.0
        house["first"].script = Script(fault="cut_mid_stream", after_events=position)
        answer = await house.stream("Who?", response_format=FORMAT, **THINK)
        assert (answer.done, answer.joined("reasoning")) == (True, whole.joined("reasoning")), position
        assert answer.text == whole.text
        house.service.observations["first"] = type(house.service.observations["first"])()


async def test_a_grammar_that_breaks_off_ends_the_answer(open_house):
    house = await open_house()
    house["first"].script = Script(fault="cut_mid_stream", after_events=2)
    answer = await house.stream("Who?", response_format=FORMAT)
    assert not answer.done
    assert answer.error["code"] == "upstream_failed"


UNIQUE = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}


@pytest.mark.parametrize("fields", [{}, THINK], ids=["answer", "thought and answer"])
async def test_an_engine_that_cannot_enforce_a_schema_is_asked_in_its_prompt(open_house, fields):
    house = await open_house({"first": {}})
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": UNIQUE}}
    for answer in await both(house, response_format=wanted, **fields):
        assert list(json.loads(answer.text)) == ["a"]
        assert bool(answer.joined("reasoning")) == bool(fields)
        assert schema_error(answer) is None
    last = house.asked("first")[-1].body
    assert "response_format" not in last
    assert "<schema>" in last["messages"][0]["content"]
    for row in await house.settled(2):
        assert row["state"] == "completed"


async def test_noise_that_nobody_saw_does_not_keep_an_answer_where_it_failed(open_house):
    house = await open_house({"first": NONE, "second": NONE})
    house["first"].script = Script(text="Certainly! Here is the JSON that", fault="cut_mid_stream", after_events=5)
    answer = await house.stream("Who?", response_format=FORMAT)
    assert answer.done
    assert set(json.loads(answer.text)) == {"name", "wings"}
    row = await house.only_request()
    assert [line["endpoint"] for line in json.loads(row["lines"])] == ["second"]


# Every surface


async def post(house, path, body):
    headers = {"authorization": f"Bearer {house.key}"}
    async with house.client.post(f"{house.address}/v1/{path}", json=body, headers=headers) as response:
        return response.status, await response.text()


MESSAGES = {
    "model": "NousResearch/Hermes-4-405B",
    "max_tokens": 100,
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
RESPONSES = {
    "model": "NousResearch/Hermes-4-405B",
    "text": {"format": {"type": "json_schema", "name": "god", "schema": SCHEMA}},
}


async def test_messages(open_house):
    house = await open_house({"first": NONE})
    asked = MESSAGES | {"messages": [{"role": "user", "content": saying(f"Look:\n```json\n{HERMES}\n```")}]}
    status, text = await post(house, "messages", asked)
    assert (status, json.loads(text)["content"]) == (200, [{"type": "text", "text": HERMES}])
    house["first"].script = Script(text=WITHOUT_WINGS)
    asked = MESSAGES | {"messages": [{"role": "user", "content": "Who?"}]}
    _, text = await post(house, "messages", asked)
    assert json.loads(text)["schema_error"]["message"] == "'wings' is a required property"
    _, text = await post(house, "messages", asked | {"stream": True})
    (delta,) = [json.loads(line[6:]) for line in text.splitlines() if line.startswith('data: {"type":"message_delta"')]
    assert delta["schema_error"] == {"message": "'wings' is a required property", "path": ""}


async def test_responses(open_house):
    house = await open_house({"first": NONE})
    status, text = await post(house, "responses", RESPONSES | {"input": saying(f"Look:\n```json\n{HERMES}\n```")})
    assert (status, json.loads(text)["output"][0]["content"][0]["text"]) == (200, HERMES)
    house["first"].script = Script(text=WITHOUT_WINGS)
    _, text = await post(house, "responses", RESPONSES | {"input": "Who?"})
    assert json.loads(text)["schema_error"]["message"] == "'wings' is a required property"
    _, text = await post(house, "responses", RESPONSES | {"input": "Who?", "stream": True})
    last = json.loads(text.strip().splitlines()[-1][6:])
    assert last["type"] == "response.completed"
    assert last["response"]["schema_error"]["path"] == ""


BAD = {"type": "object", "properties": {"a": {"type": "nonsense"}}}


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (
            "chat/completions",
            {
                "messages": [{"role": "user", "content": "?"}],
                "response_format": {"type": "json_schema", "json_schema": {"schema": BAD}},
            },
            "response_format.json_schema.schema",
        ),
        (
            "responses",
            {"input": "?", "text": {"format": {"type": "json_schema", "name": "x", "schema": BAD}}},
            "text.format.schema",
        ),
        (
            "messages",
            {
                **MESSAGES,
                "messages": [{"role": "user", "content": "?"}],
                "output_config": {"format": {"type": "json_schema", "schema": BAD}},
            },
            "output_config.format.schema",
        ),
    ],
)
@pytest.mark.parametrize("place", [{}, NONE], ids=["engine", "asked"])
async def test_a_bad_schema_is_refused_by_its_name(open_house, path, fields, param, place):
    house = await open_house({"first": place})
    status, text = await post(house, path, {"model": "NousResearch/Hermes-4-405B", **fields})
    error = json.loads(text)["error"]
    assert (status, error["code"], error["param"]) == (400, "invalid_request", param)
    assert "'nonsense'" in error["message"]
    assert "/properties/a/type" in error["message"]
    assert house.asked("first") == []


# Hostile schemas


def doubling(levels):
    steps = {str(i): {"anyOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(levels)}
    return {"$ref": "#/$defs/0", "$defs": {**steps, str(levels): {"type": "string"}}}


HOSTILE = [
    (doubling(40), "{}"),
    ({"$ref": "#"}, "{}"),
    ({"type": "string", "pattern": "^(a|aa)+$"}, '"' + "a" * 60 + 'b"'),
    ({"properties": {"a": {"pattern": "^(a|aa)+$"}}}, '{"a": "' + "a" * 60 + 'b"}'),
]


@pytest.mark.parametrize(("schema", "said"), HOSTILE)
async def test_a_hostile_schema_stops_nobody(open_house, schema, said):
    house = await open_house({"first": NONE})
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    await house.chat("Warm up.", response_format=FORMAT)
    late_s, asked_s = 0.0, time.monotonic()
    running = asyncio.create_task(house.chat(saying(said), response_format=wanted))
    while not running.done():
        began_s = time.monotonic()
        await asyncio.sleep(0.01)
        late_s = max(late_s, time.monotonic() - began_s - 0.01)
    answer = await running
    assert answer.status == 200
    assert schema_error(answer) == {"message": "could not be checked: its schema asks for too much", "path": ""}
    assert late_s < max(0.5, (time.monotonic() - asked_s) / 2), "the loop goes on meanwhile"


@pytest.mark.parametrize("schema", [{"$ref": "http://127.0.0.1:1/x"}, {"description": "x" * 70_000}, {"pattern": "("}])
async def test_what_would_lead_out_or_astray_is_refused(open_house, schema):
    house = await open_house({"first": NONE})
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = await house.chat(response_format=wanted)
    assert (answer.status, answer.error["param"]) == (400, "response_format.json_schema.schema")
