"""What this program expects of the database that it is given, and whether it finds that."""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

import asyncpg

from ledger.errors import NotMigrated, OldSchema

SCHEMA_REVISION = "0001"
SERVING_ROLE = "caduceus_serving"
MONTHS_AHEAD = 3


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a database was made by: Alembic's revision, and fingerprints of the first migration and of the functions.

    Until 0.1.0 is released the first migration is rewritten under one revision; its fingerprint tells the shapes apart.
    """

    revision: str
    tables: str
    functions: str


@cache
def wanted_stamp() -> Stamp:
    tables = resources.files("migrations").joinpath("versions", "0001_ledger.sql").read_text(encoding="utf-8")
    return Stamp(SCHEMA_REVISION, fingerprint(tables), fingerprint(functions_sql()))


def functions_sql() -> str:
    """The statements of functions.sql, which may be repeated."""
    return resources.files("ledger.journal").joinpath("functions.sql").read_text(encoding="utf-8")


def fingerprint(sql: str) -> str:
    """A digest of the statements; comments and white space do not count."""
    statements = " ".join(re.sub(r"--[^\n]*", "", sql).split())
    return hashlib.sha256(statements.encode()).hexdigest()[:16]


async def read_stamp(connection: asyncpg.Connection) -> Stamp | None:
    """What `migrate` wrote; None where it never ran. Raises OldSchema for tables that no migration leads on from."""
    try:
        migrated, stamped = await connection.fetchrow(
            "SELECT to_regclass('alembic_version') IS NOT NULL, to_regclass('schema_stamp') IS NOT NULL"
        )
        if not migrated:
            return None
        if not stamped:
            raise OldSchema
        row = await connection.fetchrow(
            "SELECT version_num AS revision, tables, functions FROM alembic_version, schema_stamp"
        )
    except asyncpg.InsufficientPrivilegeError:  # the role exists, but this database grants it nothing
        return None
    if row is None or row["tables"] != wanted_stamp().tables:
        raise OldSchema
    return Stamp(**row)


async def check_schema(connection: asyncpg.Connection) -> None:
    """Raises NotMigrated, OldSchema."""
    found = await read_stamp(connection)
    if found != wanted_stamp():
        raise NotMigrated(None if found is None else found.revision, SCHEMA_REVISION)
