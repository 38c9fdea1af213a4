"""Group commit: while one batch is being committed the next one gathers, with no timer.

One task writes, over one connection, one batch after the other; a batch is one call of `post_batch`, which is one
transaction. Writes keep the order in which they were handed over. `remedy` decides what becomes of a batch that
failed: it is posted again (everything may be posted twice), cut in two until the bad row is alone, or kept until
Postgres is back.
"""

import asyncio
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, IntEnum, auto
from typing import Any, assert_never
from uuid import UUID

import asyncpg

from ledger.errors import HoldRefused, LedgerUnavailable, SettlementRefused
from ledger.journal.writes import AnswerRow, ClaimRow, HoldOutcome, TransferRow

log = logging.getLogger("caduceus.ledger")

BATCH_WRITES = 500
BACKLOG_WRITES = 20_000
BATCH_ANSWER_BYTES = 8 << 20  # kept answers are large; a batch must be posted in its time
POST_TIMEOUT_S = 3.0
CLOSE_CONNECTION_TIMEOUT_S = 2.0
PATIENCE_FAILURES = 2
BACKOFF_S = (0.05, 0.1, 0.2, 0.4, 0.5)
CONFLICT_PAUSE_S = 0.02
REASONS = (None, "credit", "budget", "over", "claimed")  # what `post_holds` returns

POST = "SELECT outcomes, affordable FROM post_batch($1, $2, $3, $4, $5, $6, $7, $8)"


class Part(IntEnum):
    """The parts of a batch, in the order in which `post_batch` posts them."""

    CHECKPOINT = 0
    VOID = 1
    SETTLEMENT = 2
    HOLD = 3


@dataclass(slots=True, eq=False)
class Write:
    """One row to be posted; `future` is None where nobody waits, `deadline` when a settlement's caller gives up."""

    part: Part
    request_id: UUID
    account_id: int | None
    row: Any  # as `ledger.journal.writes` made it; of a void the request id
    transfers: Sequence[TransferRow] = ()
    future: "asyncio.Future[Any] | None" = None
    deadline: float = 0.0
    claim: ClaimRow | AnswerRow | None = None  # of a hold what it claims, of a settlement what answers that


class Remedy(Enum):
    """What becomes of a batch that failed."""

    AGAIN = auto()  # it lost a race: post it again at once
    REFUSED = auto()  # one of its rows is bad: find it
    AWAY = auto()  # Postgres cannot write, or did not say whether it has: connect and post it again


AGAIN_CODES = {"40001", "40P01", "55P03", "57014"}  # serialization, deadlock, lock not available, query cancelled
REFUSED_CLASSES = {"21", "22", "23", "54", "P0", "XX"}  # a row's fault; other classes are the server's


def remedy(error: Exception, *, connected: bool) -> Remedy:
    """`connected`: the connection survived the error."""
    code = getattr(error, "sqlstate", None) or ""
    if code in AGAIN_CODES:
        return Remedy.AGAIN
    if not connected or isinstance(error, OSError) or (code and code[:2] not in REFUSED_CLASSES):
        return Remedy.AWAY
    return Remedy.REFUSED


class GroupCommit:
    """Owned by the store; writes while the block of `running` runs."""

    def __init__(self, connect: Callable[[], Awaitable[asyncpg.Connection]]) -> None:
        self._connect = connect
        self._connection: asyncpg.Connection | None = None
        self._queue: deque[Write] = deque()
        self._arrived = asyncio.Event()
        self._closing = False
        self.away = False

    @asynccontextmanager
    async def running(self, close_timeout_s: float) -> AsyncIterator[None]:
        """Connect, raising what that raises. Leaving writes what is queued, for at most `close_timeout_s`."""
        self._connection = await self._connect()
        writing = asyncio.create_task(self._run(), name="ledger writer")
        try:
            yield
        finally:
            await self._close(writing, close_timeout_s)

    def put(self, write: Write) -> None:
        """Queue a write. Raises LedgerUnavailable when the backlog is full, and for a hold while Postgres is away."""
        if self.away and write.part is Part.HOLD:
            raise LedgerUnavailable("Postgres does not answer; nothing can be held now")
        if self._closing or (write.future is not None and len(self._queue) >= BACKLOG_WRITES):
            raise LedgerUnavailable("the ledger is closing" if self._closing else "the ledger's backlog is full")
        self._queue.append(write)
        self._arrived.set()

    async def hold(self, write: Write) -> HoldOutcome:
        """Post a hold and wait for its outcome; a caller that is cancelled holds nothing."""
        assert write.future is not None
        self.put(write)
        try:
            outcome: HoldOutcome = await write.future
        except asyncio.CancelledError:
            if write.future.done() and not write.future.cancelled() and write.future.exception() is None:
                self._give_back(write)
            raise
        return outcome

    async def _run(self) -> None:
        while not (self._closing and not self._queue):
            if not self._queue:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            batch = self._take()
            try:
                await self._commit(batch)
            except asyncio.CancelledError:
                for write in batch:
                    fail(write, LedgerUnavailable("the ledger closed before this was written"))
                raise

    async def _close(self, writing: "asyncio.Task[None]", timeout_s: float) -> None:
        self._closing = True
        self._arrived.set()
        _, late = await asyncio.wait({writing}, timeout=timeout_s)
        for task in late:
            task.cancel()
            await asyncio.wait({task})
        for write in self._queue:
            fail(write, LedgerUnavailable("the ledger closed before this was written"))
        if self._connection is not None:
            with suppress(Exception):  # it may be broken
                await self._connection.close(timeout=CLOSE_CONNECTION_TIMEOUT_S)

    def _take(self) -> list[Write]:
        """The next batch, in order. It ends before a second write of a request, which must come after the first."""
        batch: list[Write] = []
        seen: set[int] = set()  # request ids; an integer hashes faster than a UUID
        answer_bytes = 0
        while self._queue and len(batch) < BATCH_WRITES:
            write = self._queue[0]
            if write.request_id.int in seen or answer_bytes > BATCH_ANSWER_BYTES:
                break
            self._queue.popleft()
            if write.future is not None and write.future.cancelled() and write.part is Part.HOLD:
                continue  # its caller left before it was posted
            if write.part is not Part.CHECKPOINT:
                seen.add(write.request_id.int)
            if isinstance(write.claim, AnswerRow):
                answer_bytes += len(write.claim.sealed or b"")
            batch.append(write)
        return batch

    async def _commit(self, batch: Sequence[Write]) -> None:
        """Post until every write of `batch` is resolved."""
        failures = 0
        while batch:
            if failures >= PATIENCE_FAILURES:  # connected, but something blocks, perhaps a lock
                batch = self._without_holds(batch)
                self._fail_overdue(batch)
            try:
                outcomes = await self._post(batch)
            except Exception as error:
                connected = self._connection is not None and not self._connection.is_closed()
                match remedy(error, connected=connected):
                    case Remedy.AGAIN:
                        failures += 1
                        await asyncio.sleep(CONFLICT_PAUSE_S * random.random())
                    case Remedy.REFUSED if len(batch) == 1:
                        refuse(batch[0], error)
                        return
                    case Remedy.REFUSED:
                        middle = len(batch) // 2
                        await self._commit(batch[:middle])
                        batch = batch[middle:]
                    case Remedy.AWAY:
                        if failures:
                            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S)) - 1])
                        failures += 1
                        batch = await self._reconnect(batch, error)
                    case _ as never:
                        assert_never(never)
            else:
                self._resolve(batch, outcomes)
                return

    async def _post(self, batch: Sequence[Write]) -> Sequence[HoldOutcome]:
        if self._connection is None:
            raise ConnectionError("not connected")
        accounts = {write.account_id for write in batch if write.account_id is not None}
        row = await self._connection.fetchrow(POST, sorted(accounts), *parameters(batch), timeout=POST_TIMEOUT_S)
        if row[0] is None:
            return ()
        return [HoldOutcome(code == 0, pusd, REASONS[code]) for code, pusd in zip(row[0], row[1], strict=True)]

    def _resolve(self, batch: Sequence[Write], outcomes: Sequence[HoldOutcome]) -> None:
        held = iter(outcomes)
        for write in batch:
            outcome = next(held) if write.part is Part.HOLD else None
            if write.future is None:
                continue
            if not write.future.done():
                write.future.set_result(outcome)
            elif outcome is not None and outcome.accepted:
                self._give_back(write)

    def _give_back(self, write: Write) -> None:
        """Void a hold that nobody waits for and that may have been written."""
        self._queue.append(Write(Part.VOID, write.request_id, write.account_id, write.request_id))
        self._arrived.set()

    async def _reconnect(self, batch: Sequence[Write], error: Exception) -> Sequence[Write]:
        """Connect again, repeatedly until Postgres is back. Holds fail meanwhile; returns what is left of `batch`."""
        log.warning("the ledger could not write and tries again: %s", error)
        for attempt in itertools.count():
            await self._disconnect()
            try:
                self._connection = await self._connect()
            except Exception as failure:
                if not self.away:
                    self.away = True
                    log.error("the ledger is without Postgres: %s", failure)
                batch = self._without_holds(batch)
                self._fail_overdue(batch)
                await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
            else:
                if self.away:
                    log.warning("the ledger has Postgres again")
                self.away = False
                return batch
        raise AssertionError("unreachable")

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _without_holds(self, batch: Sequence[Write]) -> Sequence[Write]:
        """`batch` without its holds. Those fail, as do those that wait; those of the batch may have been written."""
        waiting = [write for write in self._queue if write.part is not Part.HOLD]
        if len(waiting) < len(self._queue):
            for write in self._queue:
                if write.part is Part.HOLD:
                    fail(write, LedgerUnavailable("Postgres does not answer; nothing can be held now"))
            self._queue = deque(waiting)
        for write in batch:
            if write.part is Part.HOLD:
                fail(write, LedgerUnavailable("Postgres does not answer; nothing can be held now"))
                self._give_back(write)
        return [write for write in batch if write.part is not Part.HOLD]

    def _fail_overdue(self, batch: Iterable[Write]) -> None:
        """Fail the callers whose deadline has passed; their settlements stay queued."""
        now = time.monotonic()
        for write in (*batch, *self._queue):
            if write.deadline < now:
                fail(write, LedgerUnavailable("Postgres does not answer; the settlement is queued"))


def parameters(batch: Sequence[Write]) -> tuple[list[Any], ...]:
    """What `post_batch` takes: checkpoints, voids, settlements, transfers, holds, claims, answers."""
    rows: tuple[list[Any], ...] = ([], [], [], [])  # by part
    transfers: list[TransferRow] = []
    claims: list[ClaimRow] = []
    answers: list[AnswerRow] = []
    for write in batch:
        rows[write.part].append(write.row)
        transfers.extend(write.transfers)
        if isinstance(write.claim, ClaimRow):
            claims.append(write.claim)
        elif write.claim is not None:
            answers.append(write.claim)
    checkpoints, voids, settlements, holds = rows
    return checkpoints, voids, settlements, transfers, holds, claims, answers


def fail(write: Write, error: Exception) -> None:
    if write.future is not None and not write.future.done():
        write.future.set_exception(error)


def refuse(write: Write, error: Exception) -> None:
    """Fail the caller whose row Postgres rejected."""
    log.error("the ledger refused the %s of request %s: %s", write.part.name.lower(), write.request_id, error)
    if write.part is Part.SETTLEMENT:
        fail(write, SettlementRefused(write.request_id, str(error)))
    elif write.part is Part.HOLD:
        fail(write, HoldRefused(write.request_id, str(error)))
