"""Where the ledger's Postgres is: the one that the configuration names, else the embedded one in the data directory."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ledger.errors import OldSchema
from proxy.config import Settings
from proxy.postgres.embedded import EmbeddedPostgres
from proxy.secrets import secret_key


@dataclass(frozen=True, slots=True)
class Database:
    """An open door to the ledger. `embedded` is None when the server is the operator's own."""

    url: str
    migrate_url: str
    secret_key: bytes
    embedded: EmbeddedPostgres | None


@contextmanager
def open_database(settings: Settings, *, status: Callable[[str], None] = lambda _: None) -> Iterator[Database]:
    """Start or share the embedded Postgres for as long as the block runs; leave an external one alone.

    An OldSchema that the block raises gets the advice for the embedded Postgres, where that is in use.
    """
    key = secret_key(settings, os.environ)
    if settings.database.url:
        yield Database(settings.database.url, settings.database.migrate_url or settings.database.url, key, None)
        return
    with EmbeddedPostgres(settings.data_dir, status=status) as embedded:
        try:
            yield Database(embedded.url, embedded.url, key, embedded)
        except OldSchema:
            raise OldSchema(f"move {settings.data_dir.absolute()} away and start again") from None
