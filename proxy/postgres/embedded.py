"""The embedded Postgres: one server below the data directory, shared by every command, stopped by its last user.

No process owns the server. Whoever needs it takes a shared lock, asks whether it answers, and launches it if nobody
runs; whoever leaves tries for the exclusive lock, and who gets it was the last and stops the server. The locks vanish
with the processes that hold them, so a user that was killed does not count, and a server whose starter was killed is
found by the next. Alive means that it answers a login; a pid file proves nothing.

Started as root, Postgres runs as another account: `proxy.postgres.programs` says how. The layout of the directory and
the parts are in `proxy.postgres`.
"""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from proxy.postgres.answer import Answer, State, ask
from proxy.postgres.cluster import DATABASE, OWNER, PORT, last_words, open_cluster, try_to_own
from proxy.postgres.errors import DataDirectoryInUse, DataDirectoryUnusable, PostgresFailed, PostgresSilent
from proxy.postgres.locks import EXCLUSIVE, SHARED, try_become_the_only_one, try_lock
from proxy.postgres.programs import wheel_binaries

SOCKET_PATH_BYTES = 103  # macOS takes that many, Linux 107
PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")  # nothing that a URL or a list of hosts would read differently
ANSWER_TIMEOUT_S, POLL_S, SHOW_WAIT_AFTER_S, SHOW_WAIT_EVERY_S = 2.0, 0.02, 1.0, 5.0


class EmbeddedPostgres:
    """Context manager: one user of the Postgres below `data_dir`; starts it if nobody has, stops it if it is the last.

    Entering creates the cluster when there is none and waits for a recovery; `status` is told. `start_timeout_s` bounds
    silence, not a recovery that Postgres itself reports. Raises the errors of `proxy.postgres.errors`. `durable=False`
    is for tests: a crash of the machine loses the data.
    """

    url: str  # of the owner of the database; the owner may create databases and roles and is no superuser
    binaries: Path  # pg_dump, pg_restore, psql, pgbench …

    def __init__(
        self,
        data_dir: Path,
        *,
        status: Callable[[str], None] = lambda _: None,
        start_timeout_s: float = 60.0,
        durable: bool = True,
    ) -> None:
        self._data_dir = data_dir.absolute()
        self._status = status
        self._timeout_s = start_timeout_s
        self._durable = durable
        self._reviving = threading.Lock()
        self._leave = contextlib.ExitStack()
        self._outside = threading.Event()  # ends every wait

    def __enter__(self) -> Self:
        self._outside.clear()
        with usable(self._data_dir), contextlib.ExitStack() as stack:
            self.binaries = wheel_binaries()
            self._cluster = open_cluster(self._data_dir, durable=self._durable)
            stack.enter_context(self._membership())
            self._socket_dir = stack.enter_context(reachable(self._cluster.pgdata))
            self.url = f"postgresql://{OWNER}@/{DATABASE}?host={self._socket_dir}&port={PORT}"
            self._ensure_ready()
            self._leave = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._outside.set()
        with self._reviving, usable(self._data_dir):
            self._leave.close()

    def revive(self) -> bool:
        """Wait until the server answers, and launch it again if it died: True if it was launched.

        Blocks for as long as a start takes, or until the context manager is left, so call it in a thread. Raises as
        entering does, and may then be called again. Does nothing after leaving.
        """
        with self._reviving, usable(self._data_dir):
            return self._ensure_ready()

    @contextlib.contextmanager
    def _membership(self) -> Iterator[None]:
        """Hold the shared lock of the users. The last one to leave stops the server; who enters meanwhile waits."""
        users = self._join()
        try:
            yield
        finally:
            try:
                if try_become_the_only_one(users) and not self._cluster.stop():
                    self._status(f"Postgres does not stop; it is left as it is (see {self._cluster.log})")
            finally:
                os.close(users)

    def _join(self) -> int:
        path, until = self._cluster.directory / "users.lock", time.monotonic() + self._timeout_s
        while (users := try_lock(path, SHARED)) is None:
            if time.monotonic() > until:
                raise PostgresSilent(self._timeout_s, self._cluster.log)
            time.sleep(POLL_S)
        return users

    def _ensure_ready(self) -> bool:
        """Wait until it answers; create and launch it when no process of it lives. True if it was launched."""
        self._cluster.trim_log()
        launched_at: int | None = None  # where the log stood then
        waiting = Waiting(self._status)
        while not self._outside.is_set() and (answer := self._ask()).state is not State.READY:
            if answer.state is State.REFUSED:
                raise PostgresFailed("the login to Postgres", answer.message, self._cluster.log)
            if answer.state is State.SILENT and (alive := try_to_own(self._cluster)) is not None:
                try:
                    if launched_at is not None:
                        raise PostgresFailed("Postgres", last_words(self._cluster.log, launched_at), self._cluster.log)
                    launched_at = self._launch(alive)
                    waiting = Waiting(self._status)
                finally:
                    os.close(alive)
            elif waiting.silence_s(answer) > self._timeout_s:
                raise PostgresSilent(self._timeout_s, self._cluster.log)
            self._outside.wait(POLL_S)
        return launched_at is not None

    def _ask(self) -> Answer:
        return ask(self._socket_dir / f".s.PGSQL.{PORT}", OWNER, DATABASE, ANSWER_TIMEOUT_S)

    def _launch(self, alive: int) -> int:
        cluster = self._cluster
        if not cluster.pgdata.exists():
            account = cluster.programs.account
            self._status(f"Setting up Postgres in {cluster.pgdata}" + (f", run as {account.name}" if account else ""))
            cluster.create(alive, self._timeout_s)
        elif cluster.was_cut():
            self._status("Postgres was not shut down the last time: it recovers from its log")
        log_bytes = cluster.log.stat().st_size if cluster.log.exists() else 0
        cluster.launch(alive, self._timeout_s)
        return log_bytes


class Waiting:
    """How long the server has said nothing; after a second, people are told what is waited for."""

    def __init__(self, status: Callable[[str], None]) -> None:
        self._status = status
        self._began = self._heard = time.monotonic()
        self._show_at = self._began + SHOW_WAIT_AFTER_S

    def silence_s(self, answer: Answer) -> float:
        """Seconds since the server last said that it is not ready yet."""
        now = time.monotonic()
        if answer.state is State.NOT_YET:
            self._heard = now
        if now >= self._show_at:
            self._show_at = now + SHOW_WAIT_EVERY_S
            self._status(f"Waiting for Postgres, {now - self._began:.0f} s: {answer.message or 'no answer yet'}")
        return now - self._heard


@contextlib.contextmanager
def usable(data_dir: Path) -> Iterator[None]:
    """Raise what the file system refuses in this block as `DataDirectoryUnusable`."""
    try:
        yield
    except OSError as error:
        raise DataDirectoryUnusable(data_dir, error) from error


@contextlib.contextmanager
def reachable(pgdata: Path) -> Iterator[Path]:
    """`pgdata`, or a link to it from a private directory where its path is too long or too odd for a socket's."""
    if fits(pgdata):
        yield pgdata
        return
    bases = (Path(tempfile.gettempdir()), Path("/tmp"))
    base = next(base for base in bases if fits(base / "caduceus-12345678" / "pg"))
    with tempfile.TemporaryDirectory(prefix="caduceus-", dir=base) as directory:
        link = Path(directory) / "pg"
        link.symlink_to(pgdata)
        yield link


def fits(directory: Path) -> bool:
    path = str(directory / f".s.PGSQL.{PORT}")
    return PLAIN_PATH.fullmatch(path) is not None and len(path) <= SOCKET_PATH_BYTES


class DataDirectoryLock:
    """Context manager: the right to serve from `data_dir`, gone with the process. Raises `DataDirectoryInUse`."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        with usable(self._data_dir):
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = try_lock(self._data_dir / "server.lock", EXCLUSIVE)
        if self._descriptor is None:
            raise DataDirectoryInUse(self._data_dir)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
