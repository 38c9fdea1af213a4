"""`caduceus audit`: proves every invariant of the ledger from the journal, in one consistent snapshot.

Each check is a query for rows that must not exist. It is ok when it finds none, and shows the first few otherwise.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

SHOWN = 5


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    checks: tuple[Check, ...]
    open_holds: int

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


async def audit(db: AsyncConnection) -> Audit:
    """Run all of CHECKS in one snapshot; the transaction of `db` must not have read anything."""
    await db.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
    return Audit(await prove(db), int(await db.scalar(text("SELECT count(*) FROM hold")) or 0))


async def prove(db: AsyncConnection) -> tuple[Check, ...]:
    """Run all of CHECKS in the transaction of `db`."""
    return tuple([await _check(db, name, promise, query) for name, promise, query in CHECKS])


async def _check(db: AsyncConnection, name: str, promise: str, query: str) -> Check:
    found = (await db.execute(text(f"SELECT * FROM ({query}) AS violation LIMIT {SHOWN}"))).mappings().all()
    if not found:
        return Check(name, True, promise)
    return Check(name, False, "; ".join(_shown(dict(row)) for row in found))


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


# name, what is promised, the query for what breaks it
CHECKS: tuple[tuple[str, str, str], ...] = (
    (
        "balances",
        "every tenant's balance is the sum of its transfers",
        """
        WITH moved AS (
            SELECT account_id, sum(amount) AS amount FROM (
                SELECT credit_account AS account_id, amount FROM transfer
                UNION ALL SELECT debit_account, -amount FROM transfer) AS side
            GROUP BY account_id)
        SELECT account.tenant_id AS tenant, available + held - owed AS balance, coalesce(amount, 0) AS journal
        FROM account LEFT JOIN moved ON moved.account_id = account.id
        WHERE kind = 'tenant' AND available + held - owed <> coalesce(amount, 0)
        """,
    ),
    (
        "held",
        "what every tenant has held is the sum of its open holds",
        """
        SELECT account.tenant_id AS tenant, account.held, coalesce(open.amount, 0) AS holds
        FROM (SELECT account_id, sum(amount) AS amount FROM hold GROUP BY account_id) AS open
        FULL JOIN (SELECT * FROM account WHERE kind = 'tenant') AS account ON account.id = open.account_id
        WHERE account.id IS NULL OR account.held <> coalesce(open.amount, 0)
        """,
    ),
    (
        "one state",
        "no request is both over and held",
        "SELECT request.id AS request FROM hold JOIN request ON request.id = hold.request_id",
    ),
    (
        "claims",
        "every idempotency key that is in use is that of a held request, and every other one's request is over",
        """
        SELECT claim.request_id AS request FROM claim LEFT JOIN hold ON hold.request_id = claim.request_id
        WHERE (finished_at IS NULL) = (hold.request_id IS NULL)
        """,
    ),
    (
        "charges",
        "every request's charge, corrected, is what its transfers took from its tenant",
        """
        WITH taken AS (
            SELECT transaction_id, sum(amount) AS amount FROM (
                SELECT transaction_id, amount FROM transfer JOIN account ON account.id = debit_account
                WHERE account.kind = 'tenant' AND transfer.kind <> 'credit'
                UNION ALL
                SELECT transaction_id, -amount FROM transfer JOIN account ON account.id = credit_account
                WHERE account.kind = 'tenant' AND transfer.kind <> 'credit') AS side
            GROUP BY transaction_id)
        SELECT coalesce(request.id, taken.transaction_id) AS request,
            charge_pusd + coalesce(difference_pusd, 0) AS charge, taken.amount AS journal
        FROM request LEFT JOIN correction ON correction.request_id = request.id
        FULL JOIN taken ON taken.transaction_id = request.id
        WHERE coalesce(charge_pusd, 0) + coalesce(difference_pusd, 0) <> coalesce(taken.amount, 0)
        """,
    ),
    (
        "charge accounts",
        "every charge was taken from the account of the request's own tenant",
        """
        SELECT request.id AS request, debit_account FROM transfer JOIN request ON request.id = transaction_id
        JOIN account ON account.id = request.account_id
        WHERE transfer.kind = 'charge' AND debit_account <> request.account_id OR account.tenant_id <> request.tenant_id
        """,
    ),
    (
        "costs",
        "every request's costs and disputed costs are what its transfers booked",
        """
        WITH booked AS (
            SELECT transaction_id, sum(amount) FILTER (WHERE kind = 'cost') AS cost,
                sum(amount) FILTER (WHERE kind = 'disputed') AS disputed
            FROM transfer WHERE ordinal < 100 GROUP BY transaction_id)
        SELECT request.id AS request, cost_pusd, disputed_pusd, booked.cost, booked.disputed
        FROM request LEFT JOIN booked ON booked.transaction_id = request.id
        WHERE cost_pusd <> coalesce(booked.cost, 0) OR disputed_pusd <> coalesce(booked.disputed, 0)
        """,
    ),
    (
        "lines",
        "every charge is the sum of its lines, and every line its tokens at its price",
        """
        WITH charged AS (
            SELECT id, charge_pusd AS charge, overrun_pusd AS overrun, lines FROM request
            UNION ALL
            SELECT request_id, charge_pusd + difference_pusd, NULL, correction.lines
            FROM correction JOIN request ON request.id = request_id)
        SELECT id AS request, charge, line.charged AS lines FROM charged, LATERAL (
            SELECT coalesce(sum(charged_pusd), 0) AS charged, coalesce(sum(amount_pusd - charged_pusd), 0) AS beyond,
                bool_or(amount_pusd <> (prompt - cached)::numeric * input_pusd
                    + cached::numeric * cached_input_pusd + completion::numeric * output_pusd) AS wrong
            FROM json_to_recordset(lines) AS l (
                prompt bigint, cached bigint, completion bigint, input_pusd bigint, output_pusd bigint,
                cached_input_pusd bigint, amount_pusd numeric, charged_pusd numeric)) AS line
        WHERE charge <> line.charged OR overrun <> line.beyond OR line.wrong
        """,
    ),
    (
        "orphans",
        "every transfer belongs to a request or a credit",
        """
        SELECT DISTINCT transaction_id AS transaction FROM transfer
        WHERE NOT EXISTS (SELECT FROM request WHERE request.id = transfer.transaction_id)
            AND NOT EXISTS (SELECT FROM credit WHERE credit.transaction_id = transfer.transaction_id)
        """,
    ),
    (
        "accounts",
        "every transfer moves between accounts that there are, of kinds that fit",
        """
        SELECT transaction_id AS transaction, ordinal, debited.kind AS debited, credited.kind AS credited
        FROM transfer LEFT JOIN account AS debited ON debited.id = debit_account
        LEFT JOIN account AS credited ON credited.id = credit_account
        WHERE transfer.kind <> 'reversal' AND (transfer.kind, coalesce(debited.kind, '?'), coalesce(credited.kind, '?'))
            NOT IN (('charge', 'tenant', 'revenue'), ('charge', 'tenant', 'sandbox_revenue'),
                ('cost', 'cost', 'payable'), ('cost', 'sandbox_cost', 'sandbox_payable'),
                ('disputed', 'disputed', 'payable'), ('disputed', 'sandbox_disputed', 'sandbox_payable'),
                ('credit', 'cash', 'tenant'), ('credit', 'granted', 'tenant'))
        """,
    ),
    (
        "credits",
        "every credit is one transfer of its amount to its tenant",
        """
        SELECT credit.tenant_id AS tenant, credit.reference, credit.amount_pusd, transfer.amount AS journal
        FROM credit LEFT JOIN transfer ON transfer.transaction_id = credit.transaction_id
        LEFT JOIN account ON account.id = transfer.credit_account
        WHERE transfer.amount IS DISTINCT FROM credit.amount_pusd OR account.tenant_id IS DISTINCT FROM credit.tenant_id
        """,
    ),
    (
        "corrections",
        "every correction reverses all of what a sweep had posted, and nothing else is reversed",
        """
        SELECT coalesce(original.transaction_id, reversal.transaction_id) AS request,
            coalesce(original.ordinal, reversal.corrects_ordinal) AS ordinal
        FROM (SELECT transfer.* FROM transfer JOIN correction ON request_id = transaction_id
            WHERE ordinal < 100) AS original
        FULL JOIN (SELECT * FROM transfer WHERE kind = 'reversal') AS reversal
            ON reversal.corrects_transaction = original.transaction_id AND reversal.corrects_ordinal = original.ordinal
        WHERE original.amount IS DISTINCT FROM reversal.amount
            OR original.debit_account <> reversal.credit_account OR original.credit_account <> reversal.debit_account
        """,
    ),
    (
        "budgets",
        "what keys spent in a month is the sum of their requests' charges",
        """
        WITH spent AS (
            SELECT key_id, date_trunc('month', posted_at AT TIME ZONE 'UTC')::date AS month, sum(charge) AS charged
            FROM (
                SELECT key_id, posted_at, charge_pusd AS charge FROM request
                UNION ALL
                SELECT key_id, correction.posted_at, difference_pusd
                FROM correction JOIN request ON request.id = request_id) AS posted
            GROUP BY 1, 2)
        SELECT coalesce(spent.key_id, key_month.key_id) AS key, coalesce(spent.month, key_month.month) AS month,
            charged_pusd, charged
        FROM spent FULL JOIN key_month ON key_month.key_id = spent.key_id AND key_month.month = spent.month
        WHERE coalesce(charged_pusd, 0) <> coalesce(charged, 0)
        """,
    ),
    (
        "partitions",
        "every row is in a partition of its month; the default ones are empty",
        """
        SELECT 'transfer_default' AS partition, transaction_id AS id FROM transfer_default
        UNION ALL SELECT 'request_default', id FROM request_default
        UNION ALL SELECT 'request_label_default', request_id FROM request_label_default
        """,
    ),
    (
        "invoice lines",
        "every invoice is the sum of its lines",
        """
        SELECT number, subtotal_pusd, sum(amount_pusd) AS lines,
            sum(amount_pusd) FILTER (WHERE invoice_line.kind <> 'rounding') AS exact
        FROM invoice LEFT JOIN invoice_line ON invoice_id = invoice.id GROUP BY invoice.id
        HAVING subtotal_pusd <> coalesce(sum(amount_pusd), 0)
            OR exact_pusd <> coalesce(sum(amount_pusd) FILTER (WHERE invoice_line.kind <> 'rounding'), 0)
            OR bool_or(quantity * unit_price_pusd::numeric <> amount_pusd)
        """,
    ),
    (
        "invoiced once",
        "the periods of a tenant's invoices in force do not overlap",
        """
        WITH in_force AS (
            SELECT * FROM invoice WHERE kind <> 'credit_note'
                AND NOT EXISTS (SELECT FROM invoice AS note WHERE note.cancels = invoice.id))
        SELECT earlier.number, later.number AS other FROM in_force AS earlier JOIN in_force AS later
            ON later.tenant_id = earlier.tenant_id AND later.id > earlier.id
            AND later.period_start < earlier.period_end AND earlier.period_start < later.period_end
        """,
    ),
    (
        "invoiced in full",
        "every invoice in force is the sum of the charges posted in its period, sandbox apart",
        """
        WITH in_force AS (
            SELECT * FROM invoice WHERE kind <> 'credit_note'
                AND NOT EXISTS (SELECT FROM invoice AS note WHERE note.cancels = invoice.id)),
        posted AS (
            SELECT tenant_id, posted_at, charge_pusd - sandbox_charge_pusd AS charge FROM request
            UNION ALL
            SELECT tenant_id, posted_at, difference_pusd - sandbox_difference_pusd FROM correction)
        SELECT number, exact_pusd, coalesce(sum(charge), 0) AS charged
        FROM in_force LEFT JOIN posted ON posted.tenant_id = in_force.tenant_id
            AND posted_at >= period_start AND posted_at < period_end
        GROUP BY in_force.id, number, exact_pusd HAVING exact_pusd <> coalesce(sum(charge), 0)
        """,
    ),
    (
        "numbers",
        "the numbers of every series are gapless",
        """
        SELECT name, next_number - 1 AS given, count(number) AS found,
            coalesce(max(substring(number FROM '[0-9]+$')::bigint), 0) AS last
        FROM series LEFT JOIN invoice ON number LIKE name || '-%' GROUP BY name, next_number
        HAVING next_number - 1 <> count(number)
            OR next_number - 1 <> coalesce(max(substring(number FROM '[0-9]+$')::bigint), 0)
        """,
    ),
)
