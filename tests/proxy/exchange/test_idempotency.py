"""Idempotency-Key through the whole proxy: the same answer again, and one charge."""

import asyncio
from dataclasses import replace

import orjson
import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key
from ledger.journal.store import Store
from proxy.sandbox.script import Script
from proxy.serving.app import open_service, serving

REPLAYED = "x-caduceus-idempotent-replay"
SECRET_KEY = b"0123456789abcdef"
HEADERS = {"Idempotency-Key": "order 66"}
SURFACES = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/completions": {"prompt": "Once"},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50},
}


async def post(house, path, body, headers=HEADERS, key=None):
    """Status, headers and bytes."""
    headers = {"authorization": f"Bearer {key or house.key}", "content-type": "application/json", **headers}
    data = orjson.dumps({"model": "hermes-4-405b", **body})
    async with house.client.post(house.address + path, data=data, headers=headers) as response:
        return response.status, response.headers, await response.read()


async def leave_after(house, until, **fields):
    """A client that asks for a stream and leaves when `until` has come."""
    reader, writer = await house.raw()
    writer.write(house.request_bytes(house.body(stream=True, **fields), "idempotency-key: order 66"))
    await reader.readuntil(until)
    writer.transport.abort()


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("path", SURFACES)
async def test_the_same_key_and_body_get_the_same_answer_and_one_charge(house, path, streamed):
    body = {**SURFACES[path], "stream": streamed}
    status, first_headers, first = await post(house, path, body)
    again_status, headers, again = await post(house, path, body)
    assert (status, again_status, again) == (200, 200, first)
    assert (REPLAYED in first_headers, headers[REPLAYED]) == (False, "1")
    for name in ("content-type", "x-request-id", "x-caduceus-endpoint", "x-caduceus-hold", "cache-control"):
        assert headers[name] == first_headers[name], name
    assert "server-timing" not in headers
    assert headers.get("request-id") == first_headers.get("request-id")
    assert len(await house.settled(1)) == 1
    assert sum(len(house.asked(name)) for name in house.places) == 1


async def test_a_stream_and_a_plain_answer_are_two_bodies(house):
    assert (await house.stream(headers=HEADERS)).done
    answer = await house.chat(headers=HEADERS)
    assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    assert answer.headers["x-should-retry"] == "false"
    await house.settled(1)


async def test_how_the_body_is_written_does_not_matter(house):
    body = house.body()
    first = await house.send(orjson.dumps(body), **HEADERS)
    written_otherwise = orjson.dumps(dict(reversed(body.items())), option=orjson.OPT_INDENT_2)
    assert (await house.send(written_otherwise, **HEADERS)).raw == first.raw
    await house.settled(1)


async def test_another_body_is_a_422_whatever_became_of_the_first(house):
    house["first"].script = Script(interval_s=0.02, tokens=20)
    running = asyncio.create_task(house.chat(headers=HEADERS))
    await house.until(lambda: house.asked("first"))
    while_it_runs = await house.chat("Goodbye", headers=HEADERS)
    assert (await running).status == 200
    afterwards = await house.chat("Goodbye", headers=HEADERS)
    for answer in (while_it_runs, afterwards):
        assert (answer.status, answer.error["code"]) == (422, "idempotency_key_reused")
    await house.settled(1)


async def test_while_the_first_runs_it_is_a_409_to_be_tried_again(house):
    house["first"].script = Script(interval_s=0.02, tokens=20)
    running = asyncio.create_task(house.stream(headers=HEADERS))
    await house.until(lambda: house.asked("first"))
    answer = await house.stream(headers=HEADERS)
    assert (answer.status, answer.error["code"]) == (409, "idempotency_key_in_use")
    assert (answer.headers["retry-after"], answer.headers.get("x-should-retry")) == ("1", None)
    first = await running
    assert (await house.stream(headers=HEADERS)).raw == first.raw
    await house.settled(1)


async def test_of_many_at_once_one_runs(house):
    house["first"].script = Script(first_token_s=0.3)
    answers = await asyncio.gather(*(house.chat(headers=HEADERS) for _ in range(30)))
    codes = sorted(answer.status for answer in answers)
    assert codes == [200] + [409] * 29
    assert len(await house.settled()) == len(house.asked("first")) == 1


async def test_another_api_key_or_route_or_tenant_is_another_scope(house):
    other_tenant = await house.tenant("other", "1.00")
    async with administration(house.database_url) as db:
        _, sibling = await create_key(db, "default", SECRET_KEY, actor="test")
    ids = {(await house.send(house.body(), key=key, **HEADERS)).body["id"] for key in (None, other_tenant, sibling)}
    status, _, _ = await post(house, "/v1/completions", SURFACES["/v1/completions"])
    assert (len(ids), status) == (3, 200)
    assert len(await house.settled(4)) == 4


@pytest.mark.parametrize("given", ["", "x" * 256, "a\tb", "schlüssel"])
async def test_a_key_that_is_none_is_a_400(house, given):
    answer = await house.chat(headers={"Idempotency-Key": given})
    assert (answer.status, answer.error["param"]) == (400, "Idempotency-Key")
    assert await house.settled(0) == []


async def test_two_keys_in_one_request_are_a_400(house):
    reader, writer = await house.raw()
    writer.write(house.request_bytes(house.body(), "idempotency-key: a", "idempotency-key: b"))
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 400 ")
    writer.close()


async def test_a_refusal_for_credit_claims_nothing(house):
    poor = await house.tenant("poor")
    assert (await house.send(house.body(), key=poor, **HEADERS)).status == 402
    assert await house.db.fetchval("SELECT count(*) FROM claim") == 0
    assert (await house.send(house.body("Goodbye"), key=poor, **HEADERS)).status == 402


async def test_a_replay_needs_neither_credit_nor_endpoints(house):
    poor = await house.tenant("poor", "0.10")
    first = await house.send(house.body(), key=poor, **HEADERS)
    await house.settled(1)
    # All but what was charged is held by nobody any more; take it away as another request would.
    await house.db.execute("UPDATE account SET held = held + available, available = 0 WHERE tenant_id = 2")
    for name in house.places:
        house[name].script = Script(fault="status:503")
    again = await house.send(house.body(), key=poor, **HEADERS)
    await house.db.execute("UPDATE account SET available = held, held = 0 WHERE tenant_id = 2")
    assert (first.status, again.status, again.raw) == (200, 200, first.raw)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_a_failure_frees_the_key(house, streamed):
    for name in house.places:
        house[name].script = Script(fault="status:500")
    ask = house.stream if streamed else house.chat
    assert (await ask(headers=HEADERS)).status == 502
    for name in house.places:
        house[name].script = Script()
    assert (await ask(headers=HEADERS)).status == 200
    await house.settled(2)


async def test_an_answer_that_breaks_off_frees_the_key(open_house):
    house = await open_house({"first": {}})
    house["first"].script = Script(fault="cut_mid_stream")
    broken = await house.stream(headers=HEADERS)
    assert (broken.done, bool(broken.error)) == (False, True)
    house["first"].script = Script()
    assert (await house.stream(headers=HEADERS)).done
    assert [row["state"] for row in await house.settled(2)] == ["cut", "completed"]


async def test_a_client_that_leaves_frees_the_key(house):
    house["first"].script = Script(interval_s=0.02, tokens=500)
    await leave_after(house, b"sandbox")
    await house.settled(1)
    house["first"].script = Script()
    answer = await house.chat(stream=True, headers=HEADERS)
    assert (answer.done, REPLAYED in answer.headers) == (True, False)
    await house.settled(2)


async def test_who_left_gets_the_answer_that_was_drained_to_its_end(open_house):
    house = await open_house({"first": {"provider": "nebius"}})
    house["first"].script = Script(interval_s=0.01, tokens=40)
    await leave_after(house, b"sandbox")
    row = await house.only_request()
    answer = await house.chat(stream=True, headers=HEADERS)
    assert (answer.done, answer.headers[REPLAYED], answer.finish_reason) == (True, "1", "stop")
    assert (row["state"], row["completion_tokens"]) == ("client_left", 40)
    assert answer.text.split() == (await house.chat(stream=True)).text.split()
    await house.settled(2)


async def test_a_client_that_leaves_before_anything_is_held_claims_nothing(house):
    transaction = house.db.transaction()
    await transaction.start()
    await house.db.execute("SELECT * FROM account WHERE kind = 'tenant' FOR UPDATE")
    _, writer = await house.raw()
    writer.write(house.request_bytes(house.body(), "idempotency-key: order 66"))
    await house.until(lambda: house.service.running.exchanges)
    await house.blocked()
    writer.transport.abort()
    await house.until(lambda: not house.service.running.exchanges)
    await transaction.rollback()
    assert (await house.chat("Goodbye")).status == 200  # what was given back has been written before this
    assert await house.db.fetchval("SELECT count(*) FROM claim") == 0


async def test_comments_are_not_part_of_the_answer(open_house):
    house = await open_house({"first": {}}, keepalive_comment_s=0.1)
    house["first"].script = Script(first_token_s=0.6)
    first = await house.stream(headers=HEADERS)
    again = await house.stream(headers=HEADERS)
    assert first.comments > 0
    assert (again.comments, again.events, again.done) == (0, first.events, True)


async def test_a_client_that_does_not_take_its_replay_is_dropped(open_house):
    house = await open_house(slow_client_timeout_s=0.3, idempotent_answer_bytes=8 << 20)
    house["first"].script = Script(text=("w" * 4_000 + " ") * 1_500)
    body = house.body(max_tokens=8_000)
    first = await house.send(body, **HEADERS)
    assert len(first.raw) > 6_000_000
    connections = house.service.silent_clients._heard
    others = len(connections)
    reader, writer = await house.raw(receive_bytes=4_096)
    writer.write(house.request_bytes(body, "idempotency-key: order 66"))
    await house.until(lambda: len(connections) > others)
    await house.until(lambda: len(connections) == others)
    got = await asyncio.wait_for(reader.read(), 30)
    assert got.startswith(b"HTTP/1.1 200 ")
    assert len(got) < 6_000_000
    writer.close()
    assert (await house.send(body, **HEADERS)).raw == first.raw
    await house.settled(1)


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_an_answer_too_large_is_not_kept_and_not_charged_again(open_house, streamed):
    house = await open_house(idempotent_answer_bytes=1_024)
    house["first"].script = Script(text="word " * 500)
    ask = house.stream if streamed else house.chat
    assert (await ask(headers=HEADERS)).status == 200
    answer = await ask(headers=HEADERS)
    assert (answer.status, answer.error["code"]) == (422, "idempotent_answer_not_kept")
    assert (answer.headers["x-should-retry"], "retry-after" in answer.headers) == ("false", False)
    assert (await ask("Goodbye", headers=HEADERS)).status == 422
    await house.settled(1)
    assert await house.db.fetchval("SELECT answer FROM claim") is None


async def test_nothing_of_it_can_be_read_in_the_database(house):
    house["first"].script = Script(text="xyzzy plugh")
    first = await house.chat("frobozz", headers=HEADERS)
    assert "plugh" in first.text
    row = await house.db.fetchrow("SELECT * FROM claim")
    stored = b"".join(value for value in row.values() if isinstance(value, bytes))
    assert len(stored) > len(first.raw)
    for secret in (b"xyzzy", b"plugh", b"frobozz", b"order 66", b"gen-", b'{"id":', house.key.encode()):
        assert secret not in stored


async def test_an_answer_opens_for_its_own_claim_alone(house):
    """Whoever can write into the database still cannot give one tenant another's answer."""
    other = await house.tenant("other", "1.00")
    await house.chat("mine", headers=HEADERS)
    await house.send(house.body("yours"), key=other, **HEADERS)
    await house.settled(2)
    await house.db.execute("UPDATE claim SET answer = (SELECT answer FROM claim AS one ORDER BY claimed_at LIMIT 1)")
    answer = await house.send(house.body("yours"), key=other, **HEADERS)
    assert (answer.status, answer.error["code"]) == (500, "internal_error")
    assert (await house.chat("mine", headers=HEADERS)).headers[REPLAYED] == "1"


async def test_it_outlives_the_process(open_house):
    house = await open_house()
    first = await house.stream(headers=HEADERS)
    await house.settled(1)
    await house.stop()
    service = house.service
    async with (
        Store.open(house.database_url, server_name="again") as store,
        open_service(service.settings, store, SECRET_KEY, service.catalogue.endpoints) as opened,
        serving(opened) as address,
    ):
        again = replace(house, address=address)
        answer = await again.stream(headers=HEADERS)
        assert (answer.raw, answer.headers[REPLAYED]) == (first.raw, "1")
    await house.settled(1)


async def test_a_day_later_it_is_a_new_request(house):
    first = await house.chat(headers=HEADERS)
    await house.db.execute("UPDATE claim SET finished_at = finished_at - interval '25 hours'")
    second = await house.chat("Goodbye", headers=HEADERS)
    assert (second.status, REPLAYED in second.headers) == (200, False)
    assert second.body["id"] != first.body["id"]
    assert (await house.chat("Goodbye", headers=HEADERS)).raw == second.raw
    await house.settled(2)


async def test_while_postgres_is_away_it_is_a_503(open_house, wire):
    house = await open_house(url=wire.url)
    first = await house.chat(headers=HEADERS)
    wire.cut()
    for key in ("order 66", "another"):
        answer = await house.chat(headers={"Idempotency-Key": key})
        assert (answer.status, answer.error["code"]) == (503, "ledger_unavailable")
    await wire.mend()
    await house.until(lambda: house.store.healthy)
    assert (await house.chat(headers=HEADERS)).raw == first.raw
    await house.settled(1)
