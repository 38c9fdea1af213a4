"""What a key may know: its requests and what they cost to the pico-dollar, itself, its tenant's money and month."""

import asyncio
from decimal import Decimal
from importlib import resources
from typing import Any

import orjson
import pytest

from ledger.accounts.administration import administration, driver
from ledger.accounts.api_keys import create_key
from ledger.accounts.tenants import find_tenant
from ledger.papers.periods import month_period
from ledger.reports import standing
from ledger.reports.usage import GROUPS, MEASURES, Kind, usage
from proxy.sandbox.script import Script

SECRETS = ("cost_pusd", "margin", "reported", "disputed_pusd", "buy")


async def get(house: Any, path: str, key: str | None = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {key or house.key}"}
    async with house.client.get(f"{house.address}{path}", headers=headers) as response:
        return response.status, orjson.loads(await response.read())


async def data(house: Any, path: str, key: str | None = None) -> Any:
    status, body = await get(house, path, key)
    assert status == 200, body
    return body["data"]


async def test_a_generation_is_found_by_any_id_of_its_answer_and_its_receipt_adds_up(house: Any) -> None:
    answer = await house.stream("Add this up", user="anna", metadata={"job": "7"})
    answer_id = answer.events[0]["id"]
    row = await house.only_request()
    found = await data(house, f"/v1/generations/{answer_id}")
    assert found["id"] == answer_id
    for other in (str(row["id"]), f"msg_{row['id'].hex}", f"cmpl-{row['id']}", f"resp_{row['id'].hex}"):
        assert await data(house, f"/v1/generation?id={other}") == {**found, "id": other}
    usage = answer.usage
    assert (found["provider_name"], found["surface"], found["state"]) == ("first", "chat", "completed")
    assert (found["tokens_prompt"], found["tokens_completion"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert found["usage"]["source"] == "provider"
    assert found["usage"]["flags"] == []
    assert found["latency"] + found["generation_time"] == found["total_time"]
    assert (found["streamed"], found["finish_reason"], found["cancelled"]) == (True, "stop", False)
    assert (found["user"], found["metadata"]) == ("anna", {"job": "7"})
    assert found["attempts"][0]["endpoint"] == "first"
    receipt = found["receipt"]
    assert Decimal(receipt["charge"]) == Decimal(row["charge_pusd"]) / 10**12
    assert Decimal(receipt["hold"]) == Decimal(row["hold_pusd"]) / 10**12
    assert sum(Decimal(line["amount"]) for line in receipt["lines"]) == Decimal(receipt["charge"])
    for line in receipt["lines"]:
        assert Decimal(line["amount"]) == line["tokens"] * Decimal(line["unit_price"]) / 10**6
        assert line["price_version"] > 0
    assert [line["kind"] for line in receipt["lines"]] == ["prompt", "completion"]


async def test_a_plain_generation_after_a_failover_names_both_attempts_and_no_upstream_message(open_house: Any) -> None:
    house = await open_house({"ill": {"sandbox": {"script": Script(fault="status:500")}}, "well": {}})
    answer = await house.chat()
    status, body = await get(house, f"/v1/generations/{answer.body['id']}")
    assert status == 200
    found = body["data"]
    attempts = [(one["endpoint"], one["status"], one["failure"]) for one in found["attempts"]]
    assert attempts == [("ill", 500, "server_error"), ("well", 200, None)]
    assert (found["streamed"], found["finish_reason"]) == (False, "stop")
    said = orjson.dumps(body).decode()
    assert "fails on request" not in said
    assert not [word for word in SECRETS if word in said]


async def test_the_total_is_the_exact_decimal_as_a_number(house: Any) -> None:
    answer = await house.chat("Count me")
    headers = {"authorization": f"Bearer {house.key}"}
    async with house.client.get(f"{house.address}/v1/generations/{answer.body['id']}", headers=headers) as response:
        raw = await response.text()
    total = raw.partition('"total_cost":')[2].partition(",")[0]
    assert Decimal(total) == Decimal((await house.only_request())["charge_pusd"]) / 10**12


async def test_of_another_tenants_requests_nothing_is_known(house: Any) -> None:
    answer = await house.chat()
    stranger = await house.tenant("stranger")
    status, body = await get(house, f"/v1/generations/{answer.body['id']}", stranger)
    assert (status, body["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1/generations/gen-7", "/v1/generation?id=%00", "/v1/generations/..%2Fkey"])
async def test_what_is_no_id_is_not_found(house: Any, path: str) -> None:
    assert (await get(house, path))[0] == 404


async def test_without_an_id_or_a_key(house: Any) -> None:
    assert (await get(house, "/v1/generation"))[1]["error"]["param"] == "id"
    for path in ("/v1/generations/gen-7", "/v1/generation", "/v1/key", "/v1/usage", "/v1/credits"):
        async with house.client.get(f"{house.address}{path}") as response:
            assert response.status == 401, path


async def test_a_request_that_still_runs_is_not_settled_yet(open_house: Any) -> None:
    house = await open_house({"slow": {"sandbox": {"script": Script(interval_s=0.03)}}})
    async with house.post(house.body(stream=True)) as response:
        line = await response.content.readline()
        status, body = await get(house, f"/v1/generations/{orjson.loads(line[6:])['id']}")
        assert status == 404
        assert "not settled yet" in body["error"]["message"]
        await response.read()
    assert (await house.settled(1))[0]["state"] == "completed"


async def test_a_corrected_request_shows_what_it_came_to(house: Any) -> None:
    """A settlement that found its hold swept: its lines replace those of the estimate."""
    answer = await house.chat()
    row = await house.only_request()
    (line, *_) = orjson.loads(row["lines"])
    line = {**line, "completion": line["completion"] + 1, "charged_pusd": line["charged_pusd"] + line["output_pusd"]}
    line["amount_pusd"] = line["charged_pusd"]
    await house.db.execute(
        "INSERT INTO correction SELECT id, tenant_id, $2, 0, prompt_tokens, cached_tokens, completion_tokens + 1,"
        " reasoning_tokens, 'counted', $3, costs, now() FROM request WHERE id = $1",
        row["id"],
        line["output_pusd"],
        orjson.dumps([line]).decode(),
    )
    found = await data(house, f"/v1/generations/{answer.body['id']}")
    month = await data(house, "/v1/usage")
    await house.db.execute("ALTER TABLE correction DISABLE TRIGGER append_only")
    await house.db.execute("DELETE FROM correction")  # it moved no money
    assert found["tokens_completion"] == row["completion_tokens"] + 1
    assert found["usage"]["source"] == "counted"
    assert Decimal(found["receipt"]["charge"]) == Decimal(row["charge_pusd"] + line["output_pusd"]) / 10**12
    assert sum(Decimal(line["amount"]) for line in found["receipt"]["lines"]) == Decimal(found["receipt"]["charge"])
    assert found["receipt"]["corrected_at"] is not None
    assert month["completion_tokens"] == row["completion_tokens"] + 1
    assert month["charge"] == found["receipt"]["charge"]


async def test_a_key_without_limits(house: Any) -> None:
    key = await data(house, "/v1/key")
    assert (key["label"], key["usage"], key["limit"], key["limit_remaining"]) == ("default", 0, None, None)
    assert (key["rpm"], key["tpm"], key["concurrency"], key["expires_at"]) == (None, None, None, None)
    assert key["rate_limit"] == {"requests": -1, "interval": "60s"}
    assert key["is_free_tier"] is False  # its credit was paid for


async def test_a_key_with_limits_says_what_is_left_of_them(house: Any) -> None:
    limits = {"rpm": 60, "tpm": 9_000, "concurrency": 2, "budget_pusd": 5 * 10**12}
    key = await house.tenant("limited", "1.00", **limits)
    answer = await house.send(house.body(), key=key)
    cost = Decimal(str(answer.usage["cost"]))
    shown = await data(house, "/v1/key", key)
    assert (shown["rpm"], shown["tpm"], shown["concurrency"]) == (60, 9_000, 2)
    assert shown["rate_limit"] == {"requests": 60, "interval": "60s"}
    assert Decimal(str(shown["usage"])) == Decimal(str(shown["usage_monthly"])) == cost
    assert (shown["limit"], shown["limit_reset"]) == (5, "monthly")
    assert Decimal(str(shown["limit_remaining"])) == 5 - cost


async def test_credits_are_what_the_command_line_says(house: Any) -> None:
    await house.chat()
    credit = await data(house, "/v1/credits")
    async with administration(house.database_url) as db:
        tenant = await find_tenant(db, "default")
    charge = Decimal((await house.only_request())["charge_pusd"]) / 10**12
    assert (credit["total_credits"], Decimal(str(credit["total_usage"]))) == (100, charge)
    assert Decimal(credit["balance"]) == Decimal(tenant.balance_pusd) / 10**12 == 100 - charge
    assert Decimal(credit["available"]) == Decimal(tenant.available_pusd) / 10**12
    assert Decimal(credit["held"]) == 0


@pytest.mark.parametrize("by", GROUPS)
async def test_usage_is_what_the_command_line_says(house: Any, by: str) -> None:
    another = await house.tenant("another", "1.00")
    await asyncio.gather(
        house.chat(user="anna"), house.chat(user="ben"), house.chat(), house.send(house.body(), key=another)
    )
    rows = await house.settled(4)
    month = (rows[0]["posted_at"].year, rows[0]["posted_at"].month)
    period = month_period(*month, "UTC")
    async with administration(house.database_url) as db:
        tenant, connection = await find_tenant(db, "default"), await driver(db)
        whole = [row.shown() for row in await usage(connection, tenant.id, period, "UTC")]
        rows = await usage(connection, tenant.id, period, "UTC", by=by)
        grouped = [{by: row.group, **row.shown()} for row in rows]
    found = await data(house, f"/v1/usage?month={month[0]}-{month[1]:02}&by={by}")
    assert found["rows"] == grouped
    assert {name: found[name] for name in whole[0]} == whole[0] == found["key"]
    assert found["requests"] == 3
    assert found == await data(house, f"/v1/usage?by={by}")  # this month is the default


def test_the_document_describes_the_measures_of_the_report() -> None:
    schema = orjson.loads(resources.files("proxy.api").joinpath("openapi.json").read_bytes())["components"]["schemas"]
    wanted = {Kind.COUNT: {"type": "integer"}, Kind.MONEY: {"$ref": "#/components/schemas/Usd"}}
    assert schema["UsageSums"]["required"] == [measure.name for measure in MEASURES]
    assert schema["UsageSums"]["properties"] == {measure.name: wanted[measure.kind] for measure in MEASURES}


async def test_a_month_without_anything_and_what_is_no_month(house: Any) -> None:
    await house.chat()
    empty = await data(house, "/v1/usage?month=2020-02&by=day")
    assert (empty["requests"], empty["charge"], empty["rows"]) == (0, "0.00", [])
    for query, param in (("month=2026-13", "month"), ("month=0001-01", "month"), ("by=phase", "by")):
        status, body = await get(house, f"/v1/usage?{query}")
        assert (status, body["error"]["param"]) == (400, param)


async def test_the_usage_of_the_key_is_apart_from_that_of_its_tenant(house: Any) -> None:
    async with administration(house.database_url) as db:
        _, second = await create_key(db, "default", b"0123456789abcdef", actor="test", name="second")
    await asyncio.gather(house.chat(), house.send(house.body(), key=second), house.send(house.body(), key=second))
    found = await data(house, "/v1/usage", second)
    assert (found["requests"], found["key"]["requests"]) == (3, 2)


async def test_while_the_ledger_does_not_answer_nothing_is_shown(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "READ_TIMEOUT_S", 0.1)
    async with house.db.transaction():
        await house.db.execute("LOCK TABLE credit IN ACCESS EXCLUSIVE MODE")
        async with house.client.get(
            f"{house.address}/v1/credits", headers={"authorization": f"Bearer {house.key}"}
        ) as response:
            assert (response.status, response.headers["retry-after"]) == (503, "5")
            assert (await response.json())["error"]["code"] == "ledger_unavailable"
    assert (await data(house, "/v1/credits"))["total_credits"] == 100
