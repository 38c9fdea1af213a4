"""Usage, invoices and the audit by command, over one request that was charged."""

import asyncio
import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from ledger.billing import Delivery, Ending, Tokens, UsageSource, bill
from ledger.journal.pins import Pin, encode_pins
from ledger.journal.store import Store
from ledger.journal.writes import Hold, Settlement
from ledger.keys import digest
from ledger.prices import Price
from ledger.request_ids import new_request_id

PRICE = Price(1, 1_000_000, 3_000_000, 100_000)
MONTH = datetime.now(UTC).strftime("%Y-%m")


@pytest.fixture
def charged(caduceus: Any, database_url: str) -> Any:
    """1,000,000 prompt and 200,000 completion tokens at 1.00 and 3.00 USD per million: 1.60 USD."""
    caduceus("tenant", "create", "acme", "--credit", "10")
    key = caduceus("key", "create", "acme", "--json").json["key"]
    asyncio.run(request(database_url, key))
    return caduceus


async def request(url: str, key: str) -> None:
    async with Store.open(url, server_name="test") as store:
        record = await store.find_key(digest(key, b"the secret key of the tests"))
        assert record is not None
        tokens = Tokens(1_000_000, 0, 200_000, 0)
        due = bill(
            [
                Delivery(
                    "nebius", "nebius", False, PRICE, PRICE, tokens, UsageSource.PROVIDER, tokens, True, Ending.COMPLETE
                )
            ],
            2 * 10**12,
        )
        hold = Hold(
            new_request_id(),
            record.account_id,
            record.tenant_id,
            record.key_id,
            2 * 10**12,
            0,
            60.0,
            encode_pins({"nebius": Pin("nebius", False, PRICE, PRICE)}),
        )
        await store.hold(hold)
        await store.settle(
            Settlement(
                hold.request_id,
                hold.account_id,
                hold.tenant_id,
                hold.key_id,
                hold.amount_pusd,
                due,
                "completed",
                "nebius",
                "chat",
                "hermes",
                None,
                b"[]",
                12,
                True,
                user="bob",
            )
        )


def test_usage(charged: Any) -> None:
    whole = charged("usage", "acme", "--month", MONTH, "--json").json
    assert {name: whole[name] for name in ("requests", "prompt_tokens", "completion_tokens", "charge")} == {
        "requests": 1,
        "prompt_tokens": 1_000_000,
        "completion_tokens": 200_000,
        "charge": "1.60",
    }
    assert charged("usage", "acme", "--month", "2020-01", "--json").json["requests"] == 0
    assert [row["user"] for row in charged("usage", "acme", "--by", "user", "--json").json] == ["bob"]
    assert charged("usage", "acme", "--by", "endpoint").out.splitlines()[0].split()[0] == "endpoint"


def test_an_invoice_from_preview_to_cancellation(charged: Any, tmp_path: Path) -> None:
    refused = charged("invoice", "issue", "acme", MONTH)
    assert (refused.status, refused.err) == (1, f"caduceus: {MONTH} is not over; add --interim to invoice up to now\n")
    assert charged("invoice", "preview", "acme", MONTH, "--json").json["number"] is None
    paper = charged("invoice", "issue", "acme", MONTH, "--interim", "--json").json
    assert {name: paper[name] for name in ("subtotal", "tax", "total", "prepaid", "amount_due", "currency")} == {
        "subtotal": "1.60",
        "tax": "0.00",
        "total": "1.60",
        "prepaid": "1.60",
        "amount_due": "0.00",
        "currency": "USD",
    }
    assert [line["amount"] for line in paper["lines"]] == ["1.00", "0.60"]
    number = paper["number"]
    assert charged("invoice", "issue", "acme", MONTH, "--interim", "--json").json == paper
    assert charged("invoice", "issue", "--all", MONTH, "--interim", "--json").json == [paper]
    assert charged("invoice", "show", number, "--json").json == {**paper, "cancelled_by": None}
    assert "Prompt tokens at nebius" in charged("invoice", "show", number).out
    assert charged("invoice", "export", number, "--format", "csv", "-o", "out.csv").status == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert [row["amount"] for row in rows[:3]] == ["1.00", "0.60", "1.60"]
    assert orjson.loads((charged("invoice", "export", number, "--format", "json")).out)["total"] == "1.60"
    note = charged("invoice", "cancel", number, "--json").json
    assert (note["kind"], note["total"], note["cancels"]) == ("credit_note", "-1.60", number)
    anew = charged("invoice", "issue", "acme", MONTH, "--interim", "--json").json
    assert (anew["replaces"], anew["total"]) == (number, "1.60")
    assert [invoice["number"] for invoice in charged("invoice", "list", "acme", "--json").json] == [
        number,
        note["number"],
        anew["number"],
    ]
    assert charged("audit").status == 0


def test_wrong_usage_of_invoice(charged: Any, tmp_path: Path) -> None:
    for words in (
        "issue acme",
        "issue --all",
        f"issue acme {MONTH} --all",
        "issue --all soon",
        "export N --format pdf",
    ):
        assert charged("invoice", *words.split()).status == 2, words
    number = charged("invoice", "issue", "acme", MONTH, "--interim", "--json").json["number"]
    answer = charged("invoice", "export", number, "--format", "csv", "-o", "no/such/file")
    assert (answer.status, answer.err) == (1, "caduceus: no/such/file cannot be written: No such file or directory\n")


def test_the_audit_exits_1_when_something_is_wrong(charged: Any, database_url: str) -> None:
    sound = charged("audit", "--json")
    assert (sound.status, sound.json["ok"], sound.json["open_holds"]) == (0, True, 0)
    assert {"name", "ok", "detail"} == set(sound.json["checks"][0])

    async def steal() -> None:
        connection = await asyncpg.connect(database_url)
        await connection.execute("UPDATE account SET available = available - 1 WHERE kind = 'tenant'")
        await connection.close()

    asyncio.run(steal())
    broken = charged("audit", "--json")
    assert (broken.status, broken.json["ok"]) == (1, False)
    assert [check["name"] for check in broken.json["checks"] if not check["ok"]] == ["balances"]
    assert charged("audit").out.endswith("NOT OK, 0 holds open\n")
