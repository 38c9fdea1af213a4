"""A Postgres server for the session, a migrated template in it, and for each test that asks a database of its own.

The server is `CADUCEUS_TEST_DATABASE_URL` (an owner: may create databases and roles) if that is set, else the embedded
one in a temporary directory.
"""

import asyncio
import os
import re
import time
import uuid
from collections.abc import Iterator

import asyncpg
import pytest


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an owner on a Postgres server. Do not create tables there: ask for `database_url`."""
    if given := os.environ.get("CADUCEUS_TEST_DATABASE_URL"):
        yield given
        return
    from proxy.postgres.embedded import EmbeddedPostgres

    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres"), durable=False) as embedded:
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
    upgrade(with_database(server.url, name))
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
        for _ in range(50):
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
