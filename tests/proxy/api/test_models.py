"""The model and its endpoints, as a tenant may see them."""

from collections.abc import Mapping
from typing import Any

import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key
from ledger.accounts.price_list import set_price
from ledger.accounts.tenants import create_tenant
from ledger.money import parse_price
from proxy.sandbox.script import Script

SECRET_KEY = b"0123456789abcdef"  # the house's
MODEL = "NousResearch/Hermes-4-405B"
PLACES: Mapping[str, Any] = {
    "here": {"region": "eu-north1", "jurisdiction": "EU", "price": ("1.00", "3.00"), "quantization": "fp8"},
    "there": {"region": "us-east1", "jurisdiction": "US", "price": ("0.90", "2.80"), "supports": ["tools"]},
}


async def get(house: Any, path: str, key: str | None = None) -> tuple[int, Any]:
    headers = {"authorization": f"Bearer {key or house.key}"}
    async with house.client.get(f"{house.address}{path}", headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    "written", ["NousResearch/Hermes-4-405B", "NousResearch%2FHermes-4-405B", "hermes-4-405b:floor"]
)
async def test_a_model_by_its_id_however_it_is_written(open_house: Any, written: str) -> None:
    house = await open_house(PLACES)
    status, model = await get(house, f"/v1/models/{written}")
    assert status == 200
    assert model["id"] == written.replace("%2F", "/")
    assert model["pricing"] == {"prompt": "0.0000009", "completion": "0.0000028", "input_cache_read": "0.0000009"}
    assert {"temperature", "tools", "logprobs", "max_tokens"} <= set(model["supported_parameters"])
    assert model in (await get(house, "/v1/models"))[1]["data"] or written.endswith(":floor")


@pytest.mark.parametrize("written", ["NousResearch/Hermes-4-405B", "NousResearch%2fHermes-4-405B"])
async def test_endpoints_say_where_they_are_what_they_can_and_what_was_seen_of_them(
    open_house: Any, written: str
) -> None:
    house = await open_house(PLACES)
    before = (await get(house, f"/v1/models/{written}/endpoints"))[1]["data"]["endpoints"][0]
    assert (before["uptime_last_30s"], before["latency"], before["throughput"]) == (None, None, None)
    assert (await house.stream()).done
    status, body = await get(house, f"/v1/models/{written}/endpoints")
    assert status == 200
    assert body["data"]["id"] == MODEL
    here, there = body["data"]["endpoints"]
    assert (here["name"], here["provider_name"], here["region"], here["jurisdiction"]) == (
        "here",
        "vllm",
        "eu-north1",
        "EU",
    )
    assert here["pricing"] == {"prompt": "0.000001", "completion": "0.000003", "input_cache_read": "0.000001"}
    assert (here["context_length"], here["max_completion_tokens"], here["quantization"]) == (131072, 8192, "fp8")
    assert (here["status"], here["uptime_last_30s"]) == (0, 100.0)
    assert here["latency"] >= 0
    assert here["throughput"] > 0
    assert "tools" in there["supported_parameters"]
    assert "logprobs" not in there["supported_parameters"]


async def test_an_endpoint_that_fails_is_seen_to_rest(open_house: Any) -> None:
    house = await open_house({"ill": {"sandbox": {"script": Script(fault="status:500")}}, "well": {}})
    for _ in range(5):
        assert (await house.chat()).status == 200
    ill, well = (await get(house, f"/v1/models/{MODEL}/endpoints"))[1]["data"]["endpoints"]
    assert (ill["status"], ill["uptime_last_30s"]) == (-2, 0.0)
    assert (well["status"], well["uptime_last_30s"]) == (0, 100.0)


async def test_a_tenant_sees_its_own_prices_and_jurisdictions(open_house: Any) -> None:
    house = await open_house(PLACES)
    async with administration(house.database_url) as db:
        await set_price(
            db, "gold", parse_price("2.00"), parse_price("5.00"), parse_price("0.50"), is_plan=True, actor="test"
        )
        await create_tenant(db, "european", actor="test", plan="gold", jurisdictions=["EU"])
        _, key = await create_key(db, "european", SECRET_KEY, actor="test")
    await house.until(lambda: house.store.prices.tenant_price("gold", "here", house.store.instant()))
    (only,) = (await get(house, f"/v1/models/{MODEL}/endpoints", key))[1]["data"]["endpoints"]
    assert only["name"] == "here"
    assert only["pricing"] == {"prompt": "0.000002", "completion": "0.000005", "input_cache_read": "0.0000005"}


async def test_what_is_not_served_and_who_is_not_known(open_house: Any) -> None:
    house = await open_house(PLACES)
    for path in ("/v1/models/gpt-4", "/v1/models/gpt-4/endpoints", f"/v1/models/{MODEL}:best"):
        status, body = await get(house, path)
        assert (status, body["error"]["code"]) == (404, "model_not_found")
    for path in (f"/v1/models/{MODEL}", f"/v1/models/{MODEL}/endpoints"):
        status, body = await get(house, path, key="sk-cad-wrong")
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    async with house.client.post(f"{house.address}/v1/models/{MODEL}") as response:
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
