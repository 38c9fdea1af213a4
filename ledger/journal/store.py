"""The one door to Postgres of a serving process: holds, settlements, keys and prices.

While the store is open it writes (`group_commit`), reads keys and prices again when they change, renews the lease of
this process, and settles what dead processes left held (`sweep`). `ledger.accounts` is for administration.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from ledger.billing import Tokens
from ledger.errors import LedgerUnavailable, Refused
from ledger.journal import connections
from ledger.journal.group_commit import GroupCommit, Part, Write
from ledger.journal.reading import ClaimFound, load_claim, load_key, load_price_book
from ledger.journal.schema import MONTHS_AHEAD, check_schema
from ledger.journal.sweep import dead_holds, settle_from_checkpoint
from ledger.journal.writes import (
    Hold,
    HoldOutcome,
    Settlement,
    answer_row,
    checkpoint_row,
    claim_row,
    hold_row,
    settlement_row,
    transfer_rows,
)
from ledger.keys import KeyRecord
from ledger.prices import PriceBook

log = logging.getLogger("caduceus.ledger")

WATCH_INTERVAL_S = 0.5
CHECKPOINT_INTERVAL_S = 1.0
SETTLE_TIMEOUT_S = 30.0
CLOSE_TIMEOUT_S = 10.0
KEYS_CACHED = 50_000
PARTITIONS_INTERVAL_S = 6 * 3600.0
PURGE_INTERVAL_S = 600.0

REGISTER = "INSERT INTO server (name, lease_until) VALUES ($1, clock_timestamp() + $2) RETURNING id"
RENEW = "UPDATE server SET lease_until = clock_timestamp() + $2 WHERE id = $1"
FORGET_SERVERS = """
DELETE FROM server WHERE lease_until < clock_timestamp() - interval '1 day'
AND NOT EXISTS (SELECT FROM hold WHERE hold.owner = server.id)
"""
PURGE_CLAIMS = """
DELETE FROM claim WHERE id = ANY (ARRAY(
    SELECT id FROM claim WHERE finished_at < clock_timestamp() - claim_kept() LIMIT 1000 FOR UPDATE SKIP LOCKED))
"""


class Store:
    """Opened with `Store.open`."""

    prices: PriceBook
    """The price book as of at most a second ago."""

    def __init__(self, url: str, server_name: str, lease_s: float) -> None:
        self._url = url
        self._server_name = server_name
        self._lease_s = lease_s
        self._writer = GroupCommit(self._connect_writer)
        self._checkpoints: dict[UUID, tuple[str, Tokens]] = {}
        self._keys: dict[bytes, KeyRecord | None] = {}
        self._accounts: dict[tuple[str, str | None], int] = {}
        self._accounts_missing = False
        self._version = 0
        self._answers = True
        self._clock = (datetime.min, 0.0)
        self._pool: asyncpg.Pool
        self._owner: int | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, server_name: str, lease_s: float = 30.0) -> AsyncIterator["Store"]:
        """Connect as the serving role, sweep what an earlier run of `server_name` left held, and serve.

        `server_name` is this process's own: two at once under one name are refused. Raises NotMigrated,
        OldSchema, LedgerUnavailable, Refused. Leaving the block writes what is queued.
        """
        store = cls(url, server_name, lease_s)
        async with connections.pool(url, f"caduceus {server_name}") as store._pool:
            await store._read()
            async with store._writer.running(CLOSE_TIMEOUT_S):
                await store._register()
                await store._sweep()
                async with (
                    every(WATCH_INTERVAL_S, store.refresh),
                    every(lease_s / 3, store._renew),
                    every(CHECKPOINT_INTERVAL_S, store._flush),
                    every(PARTITIONS_INTERVAL_S, store._partition),
                    every(PURGE_INTERVAL_S, store._purge),
                ):
                    yield store
            await store._unregister()

    @property
    def healthy(self) -> bool:
        """Whether the last contact with Postgres was good."""
        return self._answers and not self._writer.away

    async def hold(self, hold: Hold) -> HoldOutcome:
        """Reserve money; the outcome is durable. A caller that is cancelled holds nothing.

        Raises LedgerUnavailable, and HoldRefused for a row that Postgres rejects.
        """
        future: asyncio.Future[HoldOutcome] = asyncio.get_running_loop().create_future()
        assert self._owner is not None
        row = hold_row(hold, self._owner)
        claim = claim_row(hold.request_id, hold.claim)
        return await self._writer.hold(Write(Part.HOLD, hold.request_id, hold.account_id, row, (), future, claim=claim))

    async def settle(self, settlement: Settlement, *, timeout_s: float = SETTLE_TIMEOUT_S) -> None:
        """Post the charge and the costs and release the hold; returns when that is durable. May be repeated.

        Raises SettlementRefused for a row that Postgres rejects, and LedgerUnavailable when Postgres was away for
        `timeout_s`; the settlement then stays queued, as it does when the caller is cancelled.
        """
        await self._put_settlement(settlement, timeout_s=timeout_s)

    def checkpoint(self, request_id: UUID, endpoint: str, tokens: Tokens) -> None:
        """Note the tokens of a running request so far, prompt included, in case this process dies. One assignment."""
        self._checkpoints[request_id] = (endpoint, tokens)

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        """The key with this digest (`ledger.keys.digest`), even if revoked; None where there is none.

        Raises LedgerUnavailable where it is not in memory and Postgres does not answer.
        """
        try:
            return self._keys[digest]
        except KeyError:
            pass
        version = self._version
        async with connections.reading(self._pool) as connection:
            record = await load_key(connection, digest)
        if version == self._version:  # else it may be older than the change that emptied the cache
            if len(self._keys) >= KEYS_CACHED:
                self._keys.clear()
            self._keys[digest] = record
        return record

    async def find_claim(self, claim_id: bytes) -> ClaimFound | None:
        """The claim with this id, if it was made in the last day or still runs. Raises LedgerUnavailable."""
        async with connections.reading(self._pool) as connection:
            return await load_claim(connection, claim_id)

    def reading(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """A connection for queries of other rooms. Raises LedgerUnavailable."""
        return connections.reading(self._pool)

    async def now(self) -> datetime:
        """The instant by the database's clock. Raises LedgerUnavailable."""
        async with connections.reading(self._pool) as connection:
            instant: datetime = await connection.fetchval("SELECT clock_timestamp()")
        return instant

    def instant(self) -> datetime:
        """The instant by the database's clock as last read, plus the time that has passed since. Asks nobody."""
        seen, at = self._clock
        return seen + timedelta(seconds=time.monotonic() - at)

    async def refresh(self) -> None:
        """Read keys, tenants, plans and prices again where they changed. Raises LedgerUnavailable."""
        try:
            async with connections.reading(self._pool) as connection:
                row = await connection.fetchrow("SELECT version, clock_timestamp() FROM change_counter")
                self._clock = (row[1], time.monotonic())
                if row[0] != self._version:
                    self.prices = await load_price_book(connection)
                    self._version = row[0]
                    self._keys.clear()
                if self._accounts_missing:
                    self._accounts_missing = False
                    self._accounts = await connections.shared_accounts(connection)
        except LedgerUnavailable:
            self._answers = False
            raise
        self._answers = True

    # What the tasks do

    async def _read(self) -> None:
        async with connections.reading(self._pool) as connection:
            await check_schema(connection)
            self._accounts = await connections.shared_accounts(connection)
        await self.refresh()
        await self._partition()

    async def _register(self) -> None:
        """Add a row for this run; delete those of runs that ended a day ago and left no hold."""
        async with connections.reading(self._pool) as connection:
            await connection.execute(FORGET_SERVERS)
            self._owner = await connection.fetchval(REGISTER, self._server_name, timedelta(seconds=self._lease_s))

    async def _unregister(self) -> None:
        with suppress(LedgerUnavailable):
            async with connections.reading(self._pool) as connection:
                await connection.execute(RENEW, self._owner, timedelta(0))

    async def _connect_writer(self) -> asyncpg.Connection:
        """Connect, and lock this process's name. After the first time the old connection may still have the lock."""
        connection = await connections.connect_writer(self._url, f"caduceus {self._server_name} writer")
        attempts = connections.NAME_ATTEMPTS if self._owner is None else 1
        if not await connections.take_name(connection, self._server_name, attempts) and self._owner is None:
            connection.terminate()
            raise Refused(f"another process serves as {self._server_name}; stop it, or give this one a name of its own")
        return connection

    async def _renew(self) -> None:
        async with connections.reading(self._pool) as connection:
            await connection.execute(RENEW, self._owner, timedelta(seconds=self._lease_s))
        await self._sweep()

    async def _sweep(self) -> None:
        assert self._owner is not None
        async with connections.reading(self._pool) as connection:
            found = await dead_holds(connection, self._owner, self._server_name)
        if found:
            log.warning("settling %d requests that their process left held, first %s", len(found), found[0].request_id)
        posted = [self._put_settlement(settle_from_checkpoint(hold), swept=True) for hold in found]
        await asyncio.gather(
            *posted, return_exceptions=True
        )  # those that Postgres refused are in the log and stay held

    async def _flush(self) -> None:
        if self._writer.away:
            return  # keep the latest of each request, and let no queue grow
        checkpoints, self._checkpoints = self._checkpoints, {}
        for request_id, (endpoint, tokens) in checkpoints.items():
            self._writer.put(Write(Part.CHECKPOINT, request_id, None, checkpoint_row(request_id, endpoint, tokens)))

    async def _partition(self) -> None:
        async with connections.reading(self._pool) as connection:
            await connection.execute("SELECT ensure_partitions($1)", MONTHS_AHEAD)

    async def _purge(self) -> None:
        async with connections.reading(self._pool) as connection:
            while await connection.execute(PURGE_CLAIMS) != "DELETE 0":
                pass

    def _put_settlement(
        self, settlement: Settlement, *, swept: bool = False, timeout_s: float = SETTLE_TIMEOUT_S
    ) -> "asyncio.Future[None]":
        """Queue it; the future is done when it is durable."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._checkpoints.pop(settlement.request_id, None)
        transfers = transfer_rows(settlement, self._accounts)
        self._accounts_missing |= None in [transfer.credit for transfer in transfers]
        row, answer = settlement_row(settlement, swept=swept), answer_row(settlement.request_id, settlement.answer)
        deadline = time.monotonic() + timeout_s
        self._writer.put(
            Write(
                Part.SETTLEMENT, settlement.request_id, settlement.account_id, row, transfers, future, deadline, answer
            )
        )
        return future


@asynccontextmanager
async def every(interval_s: float, act: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """While the block runs, call `act` each `interval_s`; a failure is logged and does not end that."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await act()
            except LedgerUnavailable as error:
                log.debug("%s", error)
            except Exception:
                log.exception("the ledger will try that again")

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
