"""`caduceus migrate`: bring a database to the schema of this program. Safe when two run at once.

Runs as the owner of the tables, in one transaction: the migrations of the tables, `functions.sql`, partitions.
Alembic and SQLAlchemy are imported only when it is called, because a serving process has no use for them.
"""

import asyncio
from importlib import resources
from typing import TYPE_CHECKING

import asyncpg

from ledger.journal import connections
from ledger.journal.schema import MONTHS_AHEAD, SCHEMA_REVISION, functions_sql, read_stamp, wanted_stamp

if TYPE_CHECKING:
    from sqlalchemy import Connection

MIGRATION_LOCK = 0x6361647563657573  # "caduceus"

STAMP = """
INSERT INTO schema_stamp (tables, functions) VALUES ($1, $2)
ON CONFLICT (only_row) DO UPDATE SET functions = excluded.functions
"""


def upgrade(url: str) -> None:
    """Migrate the database at `url` (`postgresql://…`, by TCP or socket) to the newest revision, and add partitions.

    Raises OldSchema, having changed nothing, and LedgerUnavailable.
    """
    asyncio.run(_upgrade(url))


async def _upgrade(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    async def connect() -> asyncpg.Connection:
        return await asyncpg.connect(url)  # understands every form of URL that the serving processes do

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    async with connections.translated(), engine.connect() as alembic_connection:
        owner = (await alembic_connection.get_raw_connection()).driver_connection
        assert owner is not None
        async with alembic_connection.begin():
            await alembic_connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
            await read_stamp(owner)
            await alembic_connection.run_sync(_run_alembic)
            await owner.execute(functions_sql())
            await owner.execute("SELECT ensure_partitions($1)", MONTHS_AHEAD)
            await owner.execute(STAMP, wanted_stamp().tables, wanted_stamp().functions)
    await engine.dispose()


def _run_alembic(connection: "Connection") -> None:
    from alembic import command
    from alembic.config import Config

    with resources.as_file(resources.files("migrations")) as scripts:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        command.upgrade(config, SCHEMA_REVISION)
