"""Many at once: on one balance, and on one key."""

import asyncio

from ledger.money import format_usd
from proxy.sandbox.script import Script

MANY = 200


async def test_of_200_requests_at_once_exactly_those_are_served_that_the_credit_reaches(house):
    """Nobody has finished when all have asked: what decides is what each may cost, not what it will."""
    hold = (await house.chat(max_tokens=500)).headers["x-caduceus-hold"]
    hold_pusd = (await house.only_request())["hold_pusd"]
    assert format_usd(hold_pusd) == hold
    key = await house.tenant("tight", format_usd(37 * hold_pusd))
    house["first"].script = Script(fault="hang_after_headers")
    waiting = [asyncio.create_task(house.stream(key=key, max_tokens=500)) for _ in range(MANY)]
    await house.until(lambda: sum(task.done() for task in waiting) == MANY - 37)
    refused = [task.result() for task in waiting if task.done()]
    assert {(answer.status, answer.error["code"]) for answer in refused} == {(402, "insufficient_credit")}
    assert {answer.error["affordable_max_tokens"] for answer in refused} == {0}
    account = "SELECT available, held, owed FROM account JOIN tenant ON tenant.id = tenant_id WHERE name = 'tight'"
    assert tuple(await house.db.fetchrow(account)) == (0, 37 * hold_pusd, 0)
    await house.until(lambda: len(house.asked("first")) == 1 + 37)
    house.service.retry_budget.requests = float(MANY)
    for connection in list(house["first"].connections):
        connection.transport.abort()  # they fail over, and are answered
    answers = await asyncio.gather(*waiting)
    assert [answer.done for answer in answers].count(True) == 37
    rows = await house.settled(1 + 37)
    available, held, owed = await house.db.fetchrow(account)
    assert (held, owed) == (0, 0)
    assert available == 37 * hold_pusd - sum(row["charge_pusd"] for row in rows[1:])


async def test_a_key_runs_no_more_than_it_may_at_once(house):
    key = await house.tenant("narrow", "10", concurrency=3)
    house["first"].script = Script(first_token_s=0.3)
    answers = await asyncio.gather(*(house.chat(key=key) for _ in range(10)))
    assert sorted(answer.status for answer in answers) == [200] * 3 + [429] * 7
    assert {answer.headers["retry-after"] for answer in answers if answer.status == 429} == {"1"}
    house["first"].script = Script()
    assert (await house.chat(key=key)).status == 200
    await house.settled(4)


async def test_many_streams_at_once_do_not_mix(house):
    house["first"].script = Script(interval_s=0.002)
    answers = await asyncio.gather(*(house.stream(f"number {i}") for i in range(100)))
    for i, answer in enumerate(answers):
        assert answer.done
        assert f"You said: number {i} No model" in answer.text
    rows = await house.settled(100)
    assert len({answer.headers["x-request-id"] for answer in answers}) == 100
    assert {row["state"] for row in rows} == {"completed"}
