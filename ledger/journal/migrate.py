"""`caduceus migrate`: bring a database to the schema this program was written for. Safe when two run at once.

Runs as the owner of the tables. Alembic and SQLAlchemy are imported only here and only when called, because a serving
process has no use for them.
"""

import asyncio
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from ledger.errors import NotMigrated
from ledger.journal import connections
from ledger.journal.schema import MONTHS_AHEAD, SCHEMA_REVISION

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATION_LOCK = 0x6361647563657573  # "caduceus"


def upgrade(url: str) -> None:
    """Migrate the database at `url` (`postgresql://…`, by TCP or socket) to the newest revision, and add partitions."""
    asyncio.run(_upgrade(url))


def is_current(url: str) -> bool:
    """Whether the database has the newest schema already. Raises LedgerUnavailable."""
    return asyncio.run(_is_current(url))


async def _is_current(url: str) -> bool:
    async with connections.translated():
        connection = await asyncpg.connect(url, timeout=connections.CONNECT_TIMEOUT_S)
    try:
        await connections.check_schema(connection)
    except NotMigrated:
        return False
    finally:
        await connection.close()
    return True


async def _upgrade(url: str) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url)  # understands every form of URL that the serving processes do

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with connections.translated(), engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        await connection.run_sync(_run_alembic)
        await connection.execute(text("SELECT ensure_partitions(:months)"), {"months": MONTHS_AHEAD})
    await engine.dispose()


def _run_alembic(connection: "Connection") -> None:
    from alembic import command
    from alembic.config import Config

    with resources.as_file(resources.files("migrations")) as scripts:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        command.upgrade(config, SCHEMA_REVISION)
