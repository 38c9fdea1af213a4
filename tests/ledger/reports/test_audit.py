"""The audit finds what is wrong: for every check something that breaks it, and nothing else."""

from typing import Any

import pytest
from sqlalchemy import text

from ledger.accounts.administration import administration
from ledger.billing import Tokens
from ledger.journal.store import Store
from ledger.journal.sweep import dead_holds, settle_from_checkpoint
from ledger.papers.invoicing import Seller, issue_invoice
from ledger.reports.audit import CHECKS, Check, audit, prove

USD = 10**12

# Check → a statement that breaks it.
CORRUPTIONS = {
    "balances": "UPDATE account SET available = available + 1 WHERE tenant_id IS NOT NULL",
    "held": "UPDATE hold SET amount = amount + 1",
    "one state": """
        INSERT INTO hold SELECT id, account_id, tenant_id, key_id, 0, 1, '{}', now(), now() FROM request LIMIT 1""",
    "claims": """
        INSERT INTO claim (id, body, request_id, claimed_at)
        SELECT sha256('id'), sha256('body'), id, now() FROM request LIMIT 1""",
    "charges": "UPDATE request SET charge_pusd = charge_pusd - 1 WHERE NOT swept",
    "charge accounts": "UPDATE request SET tenant_id = tenant_id + 1000 WHERE NOT swept",
    "costs": "UPDATE request SET cost_pusd = cost_pusd + 1 WHERE NOT swept",
    "lines": "UPDATE request SET lines = '[]' WHERE NOT swept",
    "orphans": """
        INSERT INTO transfer SELECT lowest_id(now()), 0, 4, id, 1, 'cost' FROM account WHERE kind = 'payable'""",
    "accounts": """
        UPDATE transfer SET debit_account = 1
        WHERE kind = 'cost' AND transaction_id IN (SELECT id FROM request WHERE NOT swept)""",
    "credits": "UPDATE credit SET amount_pusd = amount_pusd + 1",
    "corrections": "UPDATE transfer SET corrects_ordinal = 50 WHERE ordinal = 100",
    "budgets": "UPDATE key_month SET charged_pusd = charged_pusd + 1",
    "partitions": "INSERT INTO request_label VALUES ('00000000-0000-4000-8000-000000000000', 1)",
    "invoice lines": "UPDATE invoice_line SET amount_pusd = amount_pusd + 1 WHERE kind = 'rounding'",
    "invoiced once": """
        UPDATE invoice
        SET period_start = period_start - interval '1 day', period_end = period_end + interval '1 day'""",
    "invoiced in full": "UPDATE invoice SET period_end = period_start WHERE exact_pusd > 0",
    "numbers": "UPDATE series SET next_number = next_number + 1",
}
# What a corruption cannot help breaking too.
FOLLOWING = {
    "charges": {"lines", "budgets", "invoiced in full"},
    "charge accounts": {"invoiced in full"},
    "invoiced once": {"invoiced in full"},
}


@pytest.fixture
async def full(books: Any, store: Store) -> Any:
    """A ledger with something in every table: settled, held, swept and corrected requests, and two invoices."""
    acme = await books.customer("10.00")
    settled, swept, held = acme.hold(USD), acme.hold(USD, expires_after_s=0), acme.hold(USD)
    for hold in (settled, swept, held):
        await store.hold(hold)
    await store.settle(books.settlement(settled))
    store.checkpoint(swept.request_id, "nebius", Tokens(100, completion=7))
    await books.eventually(lambda: books.value("SELECT count(checkpoint_completion) FROM hold"), 1)
    [dead] = await dead_holds(books.owner, store._owner, "one")
    await store._put_settlement(settle_from_checkpoint(dead), swept=True)
    month = await books.value("SELECT now()")
    seller = Seller("USD", "UTC", None)
    for late in (None, books.settlement(swept)):
        if late is not None:
            await store.settle(late)
        async with administration(books.url) as db:
            await issue_invoice(db, acme.name, (month.year, month.month), seller=seller, actor="test", interim=True)
    result = await books.audit()
    assert result.ok, result
    assert result.open_holds == 1
    return books


async def test_every_check_can_fail(full: Any) -> None:
    assert set(CORRUPTIONS) == {name for name, _, _ in CHECKS}
    for check, corruption in CORRUPTIONS.items():
        found = await proved_after(full, corruption)
        failed = {proof.name for proof in found if not proof.ok}
        assert {check} <= failed <= {check} | FOLLOWING.get(check, set()), check
        assert next(proof.detail for proof in found if proof.name == check)


async def proved_after(full: Any, corruption: str) -> tuple[Check, ...]:
    """What the checks find after a statement of the owner's, which is then taken back."""
    async with administration(full.url) as db, db.begin_nested() as savepoint:
        await db.execute(text("SET LOCAL ROLE NONE"))
        for table in ("transfer", "request", "credit", "invoice", "invoice_line"):
            await db.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER append_only"))
        changed = await db.execute(text(corruption))
        assert changed.rowcount > 0, corruption
        found = await prove(db)
        await savepoint.rollback()
    return found


async def test_an_audit_is_of_one_instant_and_changes_nothing(full: Any) -> None:
    async with administration(full.url) as db:
        await audit(db)
        assert (await db.execute(text("SHOW transaction_isolation"))).scalar() == "repeatable read"
        assert (await db.execute(text("SHOW transaction_read_only"))).scalar() == "on"
