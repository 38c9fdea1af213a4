"""Connections to Postgres, as the serving role, and the seam where its errors become the ledger's."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from ledger.errors import LedgerUnavailable, NotMigrated
from ledger.journal.schema import SCHEMA_REVISION, SERVING_ROLE

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 5.0
NAME_ATTEMPTS = 20
NAME_PAUSE_S = 0.25

# Plans must use the indexes, however empty the tables were when a connection first made the plans.
WRITER_SETTINGS = {"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off", "jit": "off"}

# A server that the network cut off must notice, and release the locks of the connection.
KEEPALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}


@asynccontextmanager
async def pool(url: str, name: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections for reading. Raises NotMigrated, LedgerUnavailable."""
    with_role = {"role": SERVING_ROLE, "application_name": name, **KEEPALIVE}
    async with translated():
        opened = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=4,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=READ_TIMEOUT_S,
            server_settings=with_role,
            init=prepare,
        )
    try:
        yield opened
    finally:
        try:
            await asyncio.wait_for(opened.close(), CONNECT_TIMEOUT_S)
        except TimeoutError:
            opened.terminate()


async def connect_writer(url: str, name: str) -> asyncpg.Connection:
    """A connection for `post_batch`."""
    settings = {"role": SERVING_ROLE, "application_name": name, **WRITER_SETTINGS, **KEEPALIVE}
    connection = await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, server_settings=settings)
    try:
        await prepare(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def prepare(connection: asyncpg.Connection) -> None:
    """Read and write JSON as bytes, and NUMERIC as int."""
    await whole_numbers(connection)
    await connection.set_type_codec("json", encoder=bytes, decoder=bytes, schema="pg_catalog", format="binary")


async def whole_numbers(connection: asyncpg.Connection) -> None:
    """Read and write NUMERIC as int: balances and sums are whole numbers of pico-dollars."""
    await connection.set_type_codec("numeric", encoder=str, decoder=int, schema="pg_catalog", format="text")


@asynccontextmanager
async def reading(source: asyncpg.Pool) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the pool. Raises LedgerUnavailable where none answers in time."""
    async with translated(), source.acquire(timeout=READ_TIMEOUT_S) as connection:
        yield connection


@asynccontextmanager
async def translated() -> AsyncIterator[None]:
    """Turn "no answer" into LedgerUnavailable and a missing role into NotMigrated."""
    try:
        yield
    except asyncpg.InvalidParameterValueError as error:
        if "role" in str(error):
            raise NotMigrated(None, SCHEMA_REVISION) from None
        raise
    except (
        OSError,
        asyncpg.InterfaceError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,
    ) as error:
        raise LedgerUnavailable(f"Postgres does not answer: {error or type(error).__name__}") from error


async def take_name(connection: asyncpg.Connection, name: str, attempts: int) -> bool:
    """Lock `name` for as long as the connection lives; False where another process keeps the lock.

    More than one attempt, because the connection of a process that was killed may take a moment to end.
    """
    for attempt in range(attempts):
        if attempt:
            await asyncio.sleep(NAME_PAUSE_S)
        if await connection.fetchval("SELECT pg_try_advisory_lock(hashtext('caduceus.server'), hashtext($1))", name):
            return True
    return False


async def shared_accounts(connection: asyncpg.Connection) -> dict[tuple[str, str | None], int]:
    """Ids of the accounts that are no tenant's, by kind and provider."""
    rows = await connection.fetch("SELECT id, kind, provider FROM account WHERE kind <> 'tenant'")
    return {(row["kind"], row["provider"]): row["id"] for row in rows}
