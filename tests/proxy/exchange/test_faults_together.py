"""Everything at once: a crowd of clients, endpoints that fail as the dice say, a ledger that loses its connections."""

import asyncio
import json
import random

import orjson
import pytest

REQUESTS = 120
PLACES = {
    "vllm": {"provider": "vllm"},
    "nebius": {"provider": "nebius", "supports": []},
    "sandbox": {"provider": "sandbox"},
}
LIMITS = {
    "first_token_timeout_s": 0.3,
    "idle_timeout_s": 0.3,
    "drain_upstream_s": 0.5,
    "slow_client_timeout_s": 0.5,
    "keepalive_comment_s": 0.2,
}
FAULTS = [
    None,
    "refuse",
    "reset_before_headers",
    "hang_before_headers",
    "hang_after_headers",
    "hang_mid_stream",
    "cut_mid_stream",
    "reset_mid_stream",
    "bad_chunk_framing",
    "error_mid_stream",
    "error_first_event",
    "error_200",
    "not_json_event",
    "no_done",
    "no_finish_no_done",
    "gzip",
    "html_200",
    "empty_200",
    "stale_keepalive",
    "status:429",
    "status:500",
    "status:503",
]
BACKENDS = """
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'caduceus test%'"""


def directive(dice, name):
    script = {
        "only": name,
        "fault": dice.choice(FAULTS),
        "after_events": dice.randrange(12),
        "torn": dice.random() < 0.5,
        "interval_s": dice.choice([0, 0, 0.003, 0.01]),
        "usage": dice.choice(["normal", "normal", "missing", "zero", "negative", "inflated", "every_chunk"]),
    }
    if dice.random() < 0.2:
        script["split_bytes"] = dice.randrange(1, 50)
    return script


async def act(house, dice, number):
    """One client: what it got, or None if it left. The fault strikes at one endpoint; the others are well."""
    name = dice.choice(list(PLACES))
    words = f"number {number}"
    text = f"{words} [[sandbox {orjson.dumps(directive(dice, name)).decode()}]]"
    order = [name, *(other for other in PLACES if other != name)]
    body = house.body(text, stream=dice.random() < 0.7, provider={"order": order})
    if body["stream"]:
        body["stream_options"] = {"include_usage": True}
    await asyncio.sleep(dice.random() * 2)
    if dice.random() < 0.3:
        _, writer = await house.raw()
        writer.write(house.request_bytes(body))
        await asyncio.sleep(dice.random() * 0.3)
        writer.transport.abort()
        return None
    return words, await house.send(body)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_bad_day(open_house, seed):
    dice = random.Random(seed)
    house = await open_house(PLACES, **LIMITS)
    began_s = asyncio.get_running_loop().time()
    assert (await house.chat()).status == 200

    async def lose_connections():
        while True:
            await asyncio.sleep(0.3)
            await house.db.execute(BACKENDS)

    losing = asyncio.create_task(lose_connections())
    done = await asyncio.gather(*(act(house, random.Random(dice.random()), i) for i in range(REQUESTS)))
    losing.cancel()
    await asyncio.wait({losing})
    await house.until(lambda: not house.service.running.exchanges and not house.service.running.tasks)
    rows = {str(row["id"]): row for row in await house.settled()}

    for words, answer in filter(None, done):
        row = rows.get(answer.headers["x-request-id"])
        if answer.status != 200:
            assert answer.status in (429, 502, 503, 504), answer.raw
            assert row is None or (row["state"], row["charge_pusd"]) == ("failed", 0)
        elif answer.done or answer.body:
            assert f"You said: {words} No model wrote this: the same question always gets the same" in answer.text
            assert answer.text.count("This is the Caduceus sandbox") == 1
            assert row["state"] == "completed"
        else:
            assert answer.error["code"] in ("upstream_failed", "upstream_timeout", "upstream_rate_limited"), answer.raw
            assert row["state"] in ("cut", "failed")
        if answer.usage:
            assert round(answer.usage["cost"] * 1e12) == row["charge_pusd"], "what is shown is what is charged"
            assert answer.usage["completion_tokens"] == row["completion_tokens"]
    asked = sum(len(house.asked(name)) for name in PLACES)
    budget = 1.2 * (REQUESTS + 1) + 20 + asyncio.get_running_loop().time() - began_s
    assert asked <= budget + sum(len(json.loads(row["attempts"])) > 3 for row in rows.values())
    for name in PLACES:
        assert house.service.observations[name].in_flight == 0
    house.forget()
    assert (await house.chat()).status == 200
