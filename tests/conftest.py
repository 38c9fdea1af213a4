"""A Postgres server for each test process, a migrated template in it, and a database for each test that asks.

The server is `CADUCEUS_TEST_DATABASE_URL` (an owner: may create databases and roles) if that is set, else the embedded
one in a temporary directory, in memory where there is room.
"""

import asyncio
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

PREFIX, SERVER = "caduceus-tests-", "server"  # caduceus-tests-PID-…/server
SHARED_MEMORY = Path("/dev/shm")
ROOM_BYTES = 1 << 30  # a process takes about 150 MB
MIGRATING = 0x63616475  # an advisory lock: two migrations of one server may both want to create the serving role
MOST_PROCESSES = 8


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes for `-n auto`: twice as many as cores, because most tests wait for Postgres or for a timeout."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2 * cores, MOST_PROCESSES)


@pytest.fixture(scope="session")
def quick_path() -> Iterator[Path]:
    """A directory of this process whose files cost no disk, where there is memory for them.

    Copying a template takes 20 ms in memory, and up to half a second on a busy disk.
    """
    base = Path(tempfile.gettempdir())
    if os.access(SHARED_MEMORY, os.R_OK | os.W_OK | os.X_OK) and shutil.disk_usage(SHARED_MEMORY).free > ROOM_BYTES:
        base = SHARED_MEMORY
    remove_orphans(base)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=base) as directory:
        yield Path(directory)


def remove_orphans(base: Path) -> None:
    """Stop the servers of test processes that were killed, and free what their files take."""
    from proxy.postgres.cluster import open_cluster

    for directory in base.glob(f"{PREFIX}*"):
        try:
            os.kill(int(directory.name.removeprefix(PREFIX).split("-")[0]), 0)
        except ProcessLookupError:
            open_cluster(directory / SERVER, durable=False).stop()
            shutil.rmtree(directory, ignore_errors=True)
        except PermissionError:
            pass  # it lives, and is somebody else's


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of an owner on a Postgres server. Do not create tables there: ask for `database_url`."""
    if given := os.environ.get("CADUCEUS_TEST_DATABASE_URL"):
        yield given
        return
    from proxy.postgres.embedded import EmbeddedPostgres

    quick_path: Path = request.getfixturevalue("quick_path")
    with EmbeddedPostgres(quick_path / SERVER, durable=False) as embedded:
        yield embedded.url


@pytest.fixture(scope="session")
def server(postgres_url: str) -> Iterator["Server"]:
    """One connection that creates and drops databases."""
    server = Server(postgres_url)
    yield server
    server.close()


@pytest.fixture(scope="session")
def template_database(server: "Server") -> Iterator[str]:
    """The name of a database migrated once, for `CREATE DATABASE … TEMPLATE`. Nobody connects to it."""
    from ledger.journal.migrate import upgrade

    name = f"template_{uuid.uuid4().hex}"
    server.execute(f'CREATE DATABASE "{name}"')
    server.execute(f"SELECT pg_advisory_lock({MIGRATING})")
    upgrade(with_database(server.url, name))
    server.execute(f"SELECT pg_advisory_unlock({MIGRATING})")
    yield name
    server.drop(name)


@pytest.fixture
def database_url(server: "Server", template_database: str) -> Iterator[str]:
    """The URL, as owner, of a migrated and empty database that is this test's alone."""
    name = f"test_{uuid.uuid4().hex}"
    # Without fsync copying files takes a quarter of the time of the default, which writes every page to the log.
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}" STRATEGY FILE_COPY')
    yield with_database(server.url, name)
    server.drop(name)


class Server:
    """One connection with an event loop of its own, so that fixtures do not meddle with the loop of the test."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._loop = asyncio.new_event_loop()
        self._connection = self._loop.run_until_complete(asyncpg.connect(dsn=url))

    def drop(self, name: str) -> None:
        """Whoever is in it is thrown out; a vacuum that Postgres began there itself is the superuser's, and short."""
        for _ in range(300):
            try:
                return self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            except asyncpg.InsufficientPrivilegeError:
                time.sleep(0.1)
        return self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str) -> None:
        self._loop.run_until_complete(self._connection.execute(sql))

    def close(self) -> None:
        self._loop.run_until_complete(self._connection.close())
        self._loop.close()


def with_database(url: str, name: str) -> str:
    """`url` with another database; also for URLs whose host stands in the query."""
    return re.sub(r"^(\w+://[^/?]*)(/[^?]*)?", rf"\g<1>/{name}", url)
