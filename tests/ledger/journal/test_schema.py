"""The schema holds the rules, whoever asks."""

import asyncio
import uuid
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects import postgresql

from ledger.accounts import tables
from ledger.accounts.administration import administration
from ledger.accounts.credit import add_credit
from ledger.accounts.tenants import erase_user
from ledger.billing import Tokens
from ledger.journal.connections import connect_writer, shared_accounts
from ledger.journal.group_commit import POST, Part, Write, parameters
from ledger.journal.schema import SERVING_ROLE
from ledger.journal.store import Store
from ledger.journal.writes import (
    Answer,
    Claim,
    answer_row,
    checkpoint_row,
    claim_row,
    hold_row,
    settlement_row,
    transfer_rows,
)
from ledger.request_ids import month_bounds

USD = 10**12
APPEND_ONLY = ("transfer", "request", "correction", "credit", "price", "invoice", "invoice_line", "audit_log")


@pytest.fixture
async def used(books: Any, store: Store) -> Any:
    """A ledger with a row in the tables that a request writes."""
    await books.price(store, {"nebius": ("1.00", "3.00", None)})
    acme = await books.customer("10.00")
    hold = acme.hold()
    await store.hold(hold)
    await store.settle(books.settlement(hold, user="bob"))
    return books


@pytest.mark.parametrize("as_owner", [True, False])
async def test_what_was_posted_cannot_be_changed(used: Any, as_owner: bool) -> None:
    if not as_owner:
        await used.owner.execute(f"SET ROLE {SERVING_ROLE}")
    wanted = asyncpg.RestrictViolationError if as_owner else asyncpg.InsufficientPrivilegeError
    for table in ("transfer", "request", "price", "credit", "audit_log"):
        column = tables.metadata.tables[table].columns.keys()[-1]
        for change in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(wanted):
                await used.owner.execute(change)


async def test_nor_can_it_be_through_a_partition(used: Any) -> None:
    for partition in await used.owner.fetch("SELECT tableoid::regclass::text AS name FROM transfer"):
        for change in ("DELETE FROM", "TRUNCATE"):
            with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
                await used.owner.execute(f"{change} {partition['name']}")


async def test_every_append_only_table_refuses_at_any_rate_the_serving_role(books: Any) -> None:
    for table in APPEND_ONLY:
        held = await books.owner.fetchrow(
            """SELECT has_table_privilege($1, $2, 'INSERT'), has_table_privilege($1, $2, 'SELECT'),
            has_table_privilege($1, $2, 'UPDATE,DELETE,TRUNCATE')""",
            SERVING_ROLE,
            table,
        )
        assert tuple(held) == (True, True, False), table
        triggers = await books.owner.fetch("SELECT tgname FROM pg_trigger WHERE tgrelid = $1::regclass", table)
        assert {"append_only", "never_truncated"} <= {row["tgname"] for row in triggers}


async def test_what_clients_said_can_be_erased_and_the_journal_stays(used: Any) -> None:
    async with administration(used.url) as db:
        assert await erase_user(db, "tenant-0", "bob", actor="test") == 1
    assert await used.value("SELECT count(*) FROM request_label") == 0
    assert await used.value("SELECT count(*) FROM request") == 1


async def test_no_balance_can_be_below_zero(books: Any) -> None:
    acme = await books.customer()
    for position in ((-1, 0, 0), (0, -1, 0), (0, 0, -1), (1, 0, 1), (None, 0, 0)):
        with pytest.raises(asyncpg.CheckViolationError):
            await books.owner.execute(
                "UPDATE account SET available = $2, held = $3, owed = $4 WHERE id = $1", acme.account_id, *position
            )


async def test_a_transfer_moves_something_somewhere_else(books: Any) -> None:
    insert = "INSERT INTO transfer (transaction_id, ordinal, debit_account, credit_account, amount, kind) VALUES"
    for values in ("1, 1, 5, 'cost'", "1, 2, 0, 'cost'", "1, 2, -5, 'cost'", "1, 2, 5, 'gift'"):
        with pytest.raises(asyncpg.CheckViolationError):
            await books.owner.execute(f"{insert} ('{uuid.uuid4()}', 0, {values})")


async def test_every_column_that_sqlalchemy_sees_is_as_the_migrations_make_it(books: Any) -> None:
    rows = await books.owner.fetch(
        """SELECT relname, attname, format_type(atttypid, atttypmod) AS kind FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid WHERE relnamespace = 'public'::regnamespace AND attnum > 0"""
    )
    found = {(row["relname"], row["attname"]): row["kind"].replace("numeric(38,0)", "numeric(38, 0)") for row in rows}
    for name, table in tables.metadata.tables.items():
        for column in table.columns:
            assert found[name, column.name] == column.type.compile(postgresql.dialect()).lower(), (name, column.name)


async def test_months_are_bounded_as_ids_are(books: Any) -> None:
    bounds = (
        await books.value("SELECT lowest_id('2026-12-01T00:00Z')"),
        await books.value("SELECT lowest_id('2027-01-01T00:00Z')"),
    )
    assert bounds == month_bounds(2026, 12)


async def test_partitions_are_made_ahead_by_the_serving_role_and_only_where_missing(books: Any) -> None:
    count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'request'::regclass"
    assert await books.value(count) == 6  # last month, this one, three to come, and the default
    await books.owner.execute(f"SET ROLE {SERVING_ROLE}")
    await books.owner.execute("SELECT ensure_partitions(5)")
    await books.owner.execute("SELECT ensure_partitions(5)")
    assert await books.value(count) == 8
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await books.owner.execute("CREATE TABLE request_2000_01 PARTITION OF request FOR VALUES FROM (1) TO (2)")


async def test_making_partitions_gives_way_to_who_reads_the_journal(books: Any, store: Store) -> None:
    acme = await books.customer()
    reader = await asyncpg.connect(books.url)
    async with reader.transaction():
        await reader.execute("SELECT FROM request")
        making = asyncio.create_task(books.owner.execute("SELECT ensure_partitions(9)"))
        hold = acme.hold()
        async with asyncio.timeout(2):
            await store.hold(hold)
            await store.settle(books.settlement(hold))
            await making
    await reader.close()
    count = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'request'::regclass"
    assert await books.value(count) == 6
    await books.owner.execute("SELECT ensure_partitions(9)")
    assert await books.value(count) == 12


async def test_new_credit_pays_what_is_owed_first(books: Any) -> None:
    acme = await books.customer(None)
    await books.owner.execute("UPDATE account SET owed = 5 WHERE id = $1", acme.account_id)
    books.tampered = True
    async with administration(books.url) as db:
        await add_credit(db, acme.name, 3, reference="a", actor="test")
        await add_credit(db, acme.name, 3, reference="b", actor="test")
    assert await books.position(acme) == (1, 0, 0)


# Nothing that a batch does may read a table from end to end, however full or empty it was when that was first planned.


async def test_a_batch_reads_by_index(books: Any, store: Store) -> None:
    acme = await books.customer("100000.00", key={"budget_pusd": 10**18})
    await asyncio.gather(*(store.hold(acme.hold()) for _ in range(300)))
    await books.owner.execute("ANALYZE")
    owner, accounts = await books.value("SELECT max(id) FROM server"), await shared_accounts(books.owner)
    before = await full_scans(books)
    writer = await connect_writer(books.url, "plans")
    for _ in range(3):
        holds = [acme.hold() for _ in range(20)]
        settlements = [books.settlement(hold) for hold in holds[:10]]
        claims = [Claim(hold.request_id.bytes * 2, hold.request_id.bytes * 2) for hold in holds]
        held = [
            Write(
                Part.HOLD,
                hold.request_id,
                acme.account_id,
                hold_row(hold, owner),
                claim=claim_row(hold.request_id, claim),
            )
            for hold, claim in zip(holds, claims, strict=True)
        ]
        settled = [
            Write(
                Part.SETTLEMENT,
                settlement.request_id,
                acme.account_id,
                settlement_row(settlement, swept=swept),
                transfer_rows(settlement, accounts),
                claim=answer_row(settlement.request_id, Answer(whole=number % 2 == 0, sealed=b"sealed")),
            )
            for swept in (True, False)
            for number, settlement in enumerate(settlements)
        ]
        others = [Write(Part.VOID, hold.request_id, acme.account_id, hold.request_id) for hold in holds[10:15]]
        others += [
            Write(Part.CHECKPOINT, hold.request_id, None, checkpoint_row(hold.request_id, "nebius", Tokens(1)))
            for hold in holds[15:]
        ]
        for batch in (held, settled[:10], settled[10:], others):
            await writer.fetchrow(POST, [acme.account_id], *parameters(batch))
    await writer.close()
    await books.eventually(
        lambda: books.value("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'plans'"), 0
    )
    assert await full_scans(books) == before
    assert await books.value("SELECT count(*) FROM correction") == 30
    assert await books.value("SELECT count(*) FROM claim") == 3 * 10  # 5 answered, 5 that run


async def full_scans(books: Any) -> dict[str, int]:
    """How often the tables of the hot path were read from end to end; backends report that as they end.

    The owner's own reads are reported before the answer, so that none of them is counted later.
    """
    await books.owner.execute("SELECT pg_stat_force_next_flush()")
    await books.owner.execute("SELECT pg_stat_clear_snapshot()")
    rows = await books.owner.fetch(
        """SELECT relname, seq_scan FROM pg_stat_user_tables
        WHERE relname ~ '^(hold|claim|account|api_key|key_month|correction|(request|transfer|request_label)_.*)$'"""
    )
    return {row["relname"]: row["seq_scan"] for row in rows}
