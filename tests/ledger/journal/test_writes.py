"""The rows of a batch are those that the database takes, and each field arrives in its column."""

from datetime import datetime
from typing import Any, NamedTuple

import orjson
import pytest

from ledger.billing import Bill, BillLine, Cost, Tokens, UsageSource
from ledger.journal.connections import connect_writer, shared_accounts
from ledger.journal.group_commit import POST, Part, Write, parameters
from ledger.journal.store import Store
from ledger.journal.writes import (
    AnswerRow,
    CheckpointRow,
    ClaimRow,
    Hold,
    HoldRow,
    Settlement,
    SettlementRow,
    TransferRow,
    settlement_row,
    transfer_rows,
)
from ledger.prices import Price

FIELDS = """
SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
"""
ROWS = {
    "checkpoint_row": CheckpointRow,
    "settlement_row": SettlementRow,
    "transfer_row": TransferRow,
    "hold_row": HoldRow,
    "claim_row": ClaimRow,
    "answer_row": AnswerRow,
}
LABEL = ("user_label", "metadata")


@pytest.mark.parametrize("name", ROWS)
async def test_a_row_has_the_fields_of_its_type(books: Any, name: str) -> None:
    row: type[NamedTuple] = ROWS[name]
    assert await books.value(FIELDS, name) == list(row._fields)


async def test_every_field_of_a_settlement_arrives_in_the_column_of_its_name(books: Any, store: Store) -> None:
    acme = await books.customer("10.00")
    hold = acme.hold(1_000)
    settlement = distinct(hold)
    given = settlement_row(settlement)
    values = [value for value in given if not isinstance(value, bool)]
    assert len(set(values)) == len(values), "no two fields may hold the same, or one could stand for the other"
    await store.hold(hold)
    writer = await connect_writer(books.url, "test")
    transfers = transfer_rows(settlement, await shared_accounts(books.owner))
    write = Write(Part.SETTLEMENT, hold.request_id, acme.account_id, given, transfers)
    await writer.fetchrow(POST, [acme.account_id], *parameters([write]))
    await writer.close()
    request, label = await books.request(hold.request_id), await books.owner.fetchrow("SELECT * FROM request_label")
    for name, value in given._asdict().items():
        stored = label[name] if name in LABEL else request[name]
        assert (tuple(stored) if name == "flags" else stored) == value, name
    assert set(request.keys()) - set(SettlementRow._fields) == {"posted_at"}
    assert isinstance(request["posted_at"], datetime)


def distinct(hold: Hold) -> Settlement:
    """With a value of its own in every field, though such a bill could not be."""
    price = Price(41, 1, 3, 1)
    line = BillLine("nebius", False, price, Tokens(70, 12, 60, 5), 250, 240)
    cost = Cost("nebius", "nebius", False, Tokens(70, 12, 60, 5), None, 230, 21, False)
    due = Bill(240, 22, Tokens(70, 12, 60, 5), UsageSource.ESTIMATED, (line,), (cost,), 21, 10, ("usage_missing",))
    return Settlement(
        request_id=hold.request_id,
        account_id=hold.account_id,
        tenant_id=hold.tenant_id,
        key_id=77,
        hold_pusd=1_000,
        bill=due,
        state="cut",
        endpoint="an endpoint",
        surface="a surface",
        model="a model",
        region="a region",
        attempts=b'["an attempt"]',
        total_ms=31,
        upstream_contacted=True,
        ttft_ms=32,
        user="a user",
        metadata={"job": "33"},
    )


def test_costs_are_kept_under_these_names() -> None:
    cost = Cost("nebius", "company", True, Tokens(4, 3, 2, 1), Tokens(8, 7, 6, 5), 9, 10, False)
    assert orjson.loads(orjson.dumps((cost,))) == [
        {
            "endpoint": "nebius",
            "provider": "company",
            "sandbox": True,
            "tokens": {"prompt": 4, "cached": 3, "completion": 2, "reasoning": 1},
            "reported": {"prompt": 8, "cached": 7, "completion": 6, "reasoning": 5},
            "cost_pusd": 9,
            "disputed_pusd": 10,
            "unknown": False,
        }
    ]
