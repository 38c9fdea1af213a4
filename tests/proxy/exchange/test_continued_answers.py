"""One answer in several parts: an endpoint fails within it, or its thought has used up its budget."""

import json

import pytest

from proxy.sandbox.script import Script

PLACES = {"first": {"provider": "sandbox"}, "second": {"provider": "sandbox"}}
THINK = {"reasoning": {"enabled": True}}
QUICK = {"idle_timeout_s": 0.3}


async def whole(house, **fields):
    answer = await house.stream(**fields)
    assert answer.done
    return answer


def lines(row):
    return [(line["endpoint"], line["prompt"], line["completion"]) for line in json.loads(row["lines"])]


@pytest.mark.parametrize("fields", [{}, THINK], ids=["answer", "thought and answer"])
async def test_cut_after_any_event_the_answer_goes_on_elsewhere(open_house, fields):
    house = await open_house(PLACES)
    uncut = await whole(house, **fields)
    pieces = uncut.usage["completion_tokens"]
    for position in range(1, pieces, 3):
        house.service.retry_budget.requests = 10.0
        house["first"].script = Script(fault="cut_mid_stream", after_events=position)
        answer = await house.stream(**fields)
        assert answer.done, position
        assert answer.error is None
        assert answer.joined("reasoning") == uncut.joined("reasoning"), position
        assert answer.text == uncut.text, position
        assert answer.usage["completion_tokens"] == pieces, position
        assert answer.usage["prompt_tokens"] == uncut.usage["prompt_tokens"], "the prompt is charged once"
        house.service.observations["first"] = type(house.service.observations["first"])()


@pytest.mark.parametrize("fault", ["hang_mid_stream", "reset_mid_stream", "error_mid_stream", "bad_chunk_framing"])
async def test_however_it_breaks_off(open_house, fault):
    house = await open_house(PLACES, **QUICK)
    uncut = await whole(house)
    house["first"].script = Script(fault=fault, after_events=4)
    answer = await house.stream()
    assert (answer.done, answer.text, answer.finish_reason) == (True, uncut.text, "stop")
    _, row = await house.settled(2)
    assert row["state"] == "completed"
    (first, prompt, _), (second, none, _) = lines(row)
    assert (first, second, none) == ("first", "second", 0)
    assert prompt > 0
    assert row["cost_pusd"] > row["charge_pusd"], "the second prompt is our cost"


CANNOT = [
    ({"first": {"provider": "sandbox"}, "second": {"provider": "nebius", "supports": []}}, {}),
    (PLACES, {"frequency_penalty": 0.5}),
    (PLACES, {"response_format": {"type": "json_object"}}),
]


@pytest.mark.parametrize(("places", "fields"), CANNOT)
async def test_what_cannot_be_continued_ends_with_an_error(open_house, places, fields):
    house = await open_house(places)
    house["first"].script = Script(fault="cut_mid_stream", after_events=3)
    answer = await house.stream(**fields)
    assert not answer.done
    assert answer.error["code"] == "upstream_failed"
    assert answer.finish_reason == "error"


async def test_a_key_can_switch_it_off(open_house):
    house = await open_house(PLACES)
    key = await house.tenant("careful", "10", continuation=False)
    house["first"].script = Script(fault="cut_mid_stream", after_events=3)
    answer = await house.send(house.body(stream=True), key=key)
    assert not answer.done
    assert answer.error["code"] == "upstream_failed"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_thought_ends_with_its_budget(open_house, stream):
    house = await open_house(PLACES)
    free = await whole(house, **THINK)
    ask = house.stream if stream else house.chat
    answer = await ask(reasoning={"max_tokens": 4})
    assert answer.usage["completion_tokens_details"]["reasoning_tokens"] <= 4
    assert free.joined("reasoning").startswith(answer.joined("reasoning"))
    assert answer.finish_reason == "stop"
    assert answer.text.strip()
    assert answer.usage["prompt_tokens"] == free.usage["prompt_tokens"]
    asked = [received.body for received in house.asked("first")][1:]
    assert asked[0]["max_tokens"] == 4
    assert asked[1]["continue_final_message"] is True
    assert asked[1]["messages"][-1]["content"].endswith("</think>")
    assert [row["state"] for row in await house.settled(2)] == ["completed", "completed"]


async def test_effort_is_a_share_of_the_answer(open_house):
    house = await open_house(PLACES)
    answer = await house.stream(reasoning={"effort": "low"}, max_tokens=20)
    assert house.asked("first")[0].body["max_tokens"] == 4
    assert answer.usage["completion_tokens"] <= 20


async def test_a_short_thought_is_left_alone(open_house):
    house = await open_house(PLACES)
    free = await whole(house, **THINK)
    answer = await house.stream(reasoning={"max_tokens": 4_000})
    assert (answer.joined("reasoning"), answer.text) == (free.joined("reasoning"), free.text)
    assert len(house.asked("first")) == 2
