"""What people do: tenants, keys, credit, prices; and that it is recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from ledger.accounts.administration import administration
from ledger.accounts.api_keys import create_key, find_key, list_keys, revoke_key, rotate_key, set_key
from ledger.accounts.credit import add_credit
from ledger.accounts.price_list import is_endpoint, list_plans, list_prices, set_markup, set_price
from ledger.accounts.tenants import create_tenant, find_tenant, list_tenants, set_tenant
from ledger.errors import Conflict, LedgerUnavailable, NotFound, NotMigrated, Refused
from ledger.keys import checksum

USD = 10**12
SECRET = b"secret"


async def test_a_tenant_is_made_once_and_changed_by_name(books: Any) -> None:
    async with administration(books.url) as db:
        made = await create_tenant(db, "acme", actor="ann", jurisdictions=["EU"], credit_limit_pusd=5)
        assert (made.balance_pusd, made.jurisdictions, made.credit_limit_pusd) == (0, ("EU",), 5)
        changed = await set_tenant(db, "acme", actor="bob", legal_name="Acme Ltd", address=["1 Road", "Town"])
        assert (changed.legal_name, changed.address, changed.jurisdictions) == ("Acme Ltd", ("1 Road", "Town"), ("EU",))
        assert await list_tenants(db) == [changed]
    for wrong, error in (
        (lambda db: create_tenant(db, "acme", actor="ann"), Conflict),
        (lambda db: create_tenant(db, " ", actor="ann"), Refused),
        (lambda db: create_tenant(db, "other", actor="ann", plan="no such plan"), NotFound),
        (lambda db: set_tenant(db, "nobody", actor="ann", email="x"), NotFound),
        (lambda db: set_tenant(db, "acme", actor="ann", internal=True), Refused),
        (lambda db: find_tenant(db, "nobody"), NotFound),
    ):
        with pytest.raises(error):
            async with administration(books.url) as db:
                await wrong(db)
    async with administration(books.url) as db:
        assert [tenant.name for tenant in await list_tenants(db)] == ["acme"]


async def test_who_did_what_is_recorded_with_before_and_after(books: Any) -> None:
    async with administration(books.url) as db:
        await create_tenant(db, "acme", actor="ann")
        await set_tenant(db, "acme", actor="bob", country="DE")
    rows = await books.owner.fetch("SELECT * FROM audit_log ORDER BY id")
    assert [(row["actor"], row["action"], row["subject"]) for row in rows] == [
        ("ann", "tenant.create", "acme"),
        ("bob", "tenant.set", "acme"),
    ]
    before, after = orjson.loads(rows[1]["before"]), orjson.loads(rows[1]["after"])
    assert {name for name in after if before[name] != after[name]} == {"country"}


async def test_credit_is_added_once_per_reference(books: Any) -> None:
    async with administration(books.url) as db:
        await create_tenant(db, "acme", actor="ann")
        first = await add_credit(db, "acme", 5 * USD, reference="bank 1", actor="ann")
        again = await add_credit(db, "acme", 5 * USD, reference="bank 1", actor="ann")
        assert (first.new, again.new, first.transaction_id == again.transaction_id) == (True, False, True)
        await add_credit(db, "acme", USD, reference="welcome", actor="ann", kind="granted")
        assert (await find_tenant(db, "acme")).balance_pusd == 6 * USD
    for amount, reference, kind, error in (
        (6 * USD, "bank 1", "paid", Conflict),
        (5 * USD, "bank 1", "granted", Conflict),
        (0, "bank 2", "paid", Refused),
        (1, " ", "paid", Refused),
        (1, "bank 2", "stolen", Refused),
    ):
        with pytest.raises(error):
            async with administration(books.url) as db:
                await add_credit(db, "acme", amount, reference=reference, actor="ann", kind=kind)
    debited = await books.owner.fetch(
        "SELECT account.kind, amount FROM transfer JOIN account ON account.id = debit_account ORDER BY amount"
    )
    assert [tuple(row) for row in debited] == [("granted", USD), ("cash", 5 * USD)]


async def test_keys_are_shown_once_and_limited(books: Any) -> None:
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    async with administration(books.url) as db:
        await create_tenant(db, "acme", actor="ann")
        made, text = await create_key(
            db, "acme", SECRET, actor="ann", name="app", rpm=5, budget_pusd=USD, expires_at=expires
        )
        assert text[-6:] == checksum(text[7:-6])
        assert text.endswith(made.hint)
        assert (made.rpm, made.tpm, made.budget_pusd, made.expires_at) == (5, None, USD, expires)
        assert (await set_key(db, made.id, actor="ann", rpm=None, stream_usage="always")).rpm is None
        rotated, other = await rotate_key(db, made.id, SECRET, actor="ann")
        assert other != text
        assert (rotated.name, rotated.budget_pusd, rotated.stream_usage) == ("app", USD, "always")
        assert rotated.rotated_from == made.id
        revoked = await revoke_key(db, rotated.id, actor="ann")
        assert await revoke_key(db, rotated.id, actor="ann") == revoked
        assert [key.revoked_at is None for key in await list_keys(db, "acme")] == [False, False]
    for wrong, error in (
        (lambda db: create_key(db, "nobody", SECRET, actor="ann"), NotFound),
        (lambda db: create_key(db, "acme", SECRET, actor="ann", rpm=0), Refused),
        (lambda db: create_key(db, "acme", SECRET, actor="ann", digest=b""), Refused),
        (lambda db: rotate_key(db, rotated.id, SECRET, actor="ann"), Refused),
        (lambda db: find_key(db, 12345), NotFound),
    ):
        with pytest.raises(error):
            async with administration(books.url) as db:
                await wrong(db)
    dump = await books.owner.fetch("SELECT api_key::text FROM api_key UNION ALL SELECT audit_log::text FROM audit_log")
    assert not [row for row in dump if text in row[0] or other in row[0]]


async def test_prices_are_versions_and_plans_are_made_by_pricing_them(books: Any) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    async with administration(books.url) as db:
        await set_price(db, "nebius", 1, 3, None, is_plan=False, actor="ann")
        await set_price(db, "nebius", 2, 4, 1, is_plan=False, actor="ann")
        later = await set_price(db, "nebius", 5, 6, 0, is_plan=False, actor="ann", starts_at=tomorrow)
        assert (later.state, later.starts_at, later.source) == ("future", tomorrow, "cli")
        await set_price(db, "gold", 9, 9, None, is_plan=True, actor="ann")
        await set_markup(db, "silver", 50_000, actor="ann")
        await set_markup(db, "silver", 60_000, actor="ann")
        assert [(row.subject, row.input_pusd, row.cached_input_pusd, row.state) for row in await list_prices(db)] == [
            ("nebius", 1, 1, "past"),
            ("nebius", 2, 1, "in force"),
            ("nebius", 5, 0, "future"),
            ("gold", 9, 9, "in force"),
        ]
        assert [(plan.name, plan.markup_ppm) for plan in await list_plans(db)] == [("gold", None), ("silver", 60_000)]
        assert [await is_endpoint(db, name) for name in ("nebius", "gold")] == [True, False]
        assert (await create_tenant(db, "acme", actor="ann", plan="gold")).plan == "gold"
    for wrong in (
        lambda db: set_price(
            db, "nebius", 1, 1, 1, is_plan=False, actor="ann", starts_at=datetime(2020, 1, 1, tzinfo=UTC)
        ),
        lambda db: set_markup(db, "gold", -1_000_000, actor="ann"),
    ):
        with pytest.raises(Refused):
            async with administration(books.url) as db:
                await wrong(db)


async def test_what_cannot_be_reached_or_is_not_migrated_says_so(empty_database_url: str) -> None:
    with pytest.raises(NotMigrated, match="run `caduceus migrate`"):
        async with administration(empty_database_url):
            pass
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        async with administration("postgresql://nobody@127.0.0.1:1/nothing"):
            pass
