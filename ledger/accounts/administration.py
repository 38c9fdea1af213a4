"""Connections for people and reports: SQLAlchemy, as the serving role, one transaction a block.

`async with administration(url) as db:` commits at its end and rolls back when it fails. What is done in it is recorded
with `record`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from ledger.accounts import tables
from ledger.journal import connections
from ledger.journal.schema import SERVING_ROLE, check_schema

CONNECT_TIMEOUT_S = 5.0


@asynccontextmanager
async def administration(url: str) -> AsyncIterator[AsyncConnection]:
    """A transaction as the serving role. Raises NotMigrated, OldSchema, LedgerUnavailable."""

    async def connect() -> asyncpg.Connection:
        settings = {"role": SERVING_ROLE, "application_name": "caduceus administration", "jit": "off"}
        connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
        try:
            await check_schema(connection)
            await connections.whole_numbers(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        poolclass=NullPool,
        json_serializer=lambda value: orjson.dumps(value, default=str).decode(),
        json_deserializer=orjson.loads,
    )
    async with connections.translated(), engine.begin() as db:
        yield db


async def driver(db: AsyncConnection) -> asyncpg.Connection:
    """The asyncpg connection of `db`, in the same transaction."""
    await db.execute(text("SELECT 1"))  # SQLAlchemy begins its transaction with the first statement of its own
    connection = (await db.get_raw_connection()).driver_connection
    assert connection is not None
    return connection


async def record(
    db: AsyncConnection,
    actor: str,
    action: str,
    subject: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write to the audit log who changed what, and what it was before."""
    await db.execute(
        insert(tables.audit_log).values(actor=actor, action=action, subject=subject, before=before, after=after)
    )
