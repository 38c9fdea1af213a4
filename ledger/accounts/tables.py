"""The tables as SQLAlchemy sees them: those, and of `transfer`, `request` and `correction` the columns, that are used.

The migrations make the tables; a test compares. Amounts are NUMERIC(38, 0) and arrive as int (see
`ledger.journal.connections.prepare`). A serving process does not import this.
"""

from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()

INSTANT = DateTime(timezone=True)
PUSD = Numeric(38, 0)
JSON_OR_NULL = JSON(none_as_null=True)


def _table(table: str, /, *, key: str, **columns: type[TypeEngine[Any]] | TypeEngine[Any]) -> Table:
    return Table(
        table, metadata, *(Column(column, kind, primary_key=column in key.split()) for column, kind in columns.items())
    )


plan = _table("plan", key="name", name=Text, markup_ppm=BigInteger, created_at=INSTANT)

tenant = _table(
    "tenant",
    key="id",
    id=BigInteger,
    name=Text,
    plan=Text,
    jurisdictions=ARRAY(Text),
    credit_limit_pusd=PUSD,
    internal=Boolean,
    suspended=Boolean,
    legal_name=Text,
    address=ARRAY(Text),
    country=Text,
    vat_id=Text,
    email=Text,
    created_at=INSTANT,
)

api_key = _table(
    "api_key",
    key="id",
    id=BigInteger,
    tenant_id=BigInteger,
    name=Text,
    digest=LargeBinary,
    hint=Text,
    rpm=Integer,
    tpm=Integer,
    concurrency=Integer,
    budget_pusd=PUSD,
    stream_usage=Text,
    reasoning_format=Text,
    continuation=Boolean,
    expires_at=INSTANT,
    revoked_at=INSTANT,
    rotated_from=BigInteger,
    created_at=INSTANT,
)

price = _table(
    "price",
    key="id",
    id=BigInteger,
    subject_kind=Text,
    subject=Text,
    input_pusd=BigInteger,
    output_pusd=BigInteger,
    cached_input_pusd=BigInteger,
    starts_at=INSTANT,
    source=Text,
    created_at=INSTANT,
)

account = _table(
    "account",
    key="id",
    id=BigInteger,
    kind=Text,
    tenant_id=BigInteger,
    provider=Text,
    available=PUSD,
    held=PUSD,
    owed=PUSD,
)

transfer = _table(
    "transfer",
    key="transaction_id ordinal",
    transaction_id=Uuid,
    ordinal=SmallInteger,
    debit_account=BigInteger,
    credit_account=BigInteger,
    amount=PUSD,
    kind=Text,
    posted_at=INSTANT,
)

request = _table(
    "request",
    key="id",
    id=Uuid,
    tenant_id=BigInteger,
    charge_pusd=BigInteger,
    sandbox_charge_pusd=BigInteger,
    lines=JSON_OR_NULL,
    posted_at=INSTANT,
)

request_label = _table(
    "request_label", key="request_id", request_id=Uuid, tenant_id=BigInteger, user_label=Text, metadata=JSON_OR_NULL
)

correction = _table(
    "correction", key="request_id", request_id=Uuid, tenant_id=BigInteger, lines=JSON_OR_NULL, posted_at=INSTANT
)

credit = _table(
    "credit",
    key="tenant_id reference",
    tenant_id=BigInteger,
    reference=Text,
    kind=Text,
    amount_pusd=PUSD,
    transaction_id=Uuid,
    posted_at=INSTANT,
)

series = _table("series", key="name", name=Text, next_number=BigInteger)

invoice = _table(
    "invoice",
    key="id",
    id=BigInteger,
    kind=Text,
    number=Text,
    tenant_id=BigInteger,
    month=Date,
    period_start=INSTANT,
    period_end=INSTANT,
    interim=Boolean,
    currency=Text,
    exact_pusd=PUSD,
    subtotal_pusd=PUSD,
    tax_pusd=PUSD,
    total_pusd=PUSD,
    prepaid_pusd=PUSD,
    due_pusd=PUSD,
    cancels=BigInteger,
    replaces=BigInteger,
    document=JSON_OR_NULL,
    issued_at=INSTANT,
)

invoice_line = _table(
    "invoice_line",
    key="invoice_id ordinal",
    invoice_id=BigInteger,
    ordinal=Integer,
    kind=Text,
    correction=Boolean,
    endpoint=Text,
    price_version=BigInteger,
    quantity=BigInteger,
    unit_price_pusd=BigInteger,
    amount_pusd=PUSD,
)

audit_log = _table(
    "audit_log",
    key="id",
    id=BigInteger,
    at=INSTANT,
    actor=Text,
    action=Text,
    subject=Text,
    before=JSON_OR_NULL,
    after=JSON_OR_NULL,
)
