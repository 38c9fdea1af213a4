"""A database is brought to this version, or told what to do, and never broken."""

import asyncio
import tomllib
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from ledger.accounts.administration import administration
from ledger.errors import LedgerUnavailable, NotMigrated, OldSchema
from ledger.journal.migrate import upgrade
from ledger.journal.schema import SCHEMA_REVISION, SERVING_ROLE, fingerprint, read_stamp, wanted_stamp
from ledger.journal.store import Store

ROOT = Path(__file__).parents[3]
USD = 10**12

# What recognises a database of before there was a stamp.
UNSTAMPED = f"""
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('{{revision}}');
CREATE TABLE plan (name text PRIMARY KEY);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO {SERVING_ROLE};
"""
OBJECTS = """
SELECT oid, relname::text AS name, relkind::text AS kind FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT oid, tgname, 'trigger' FROM pg_trigger
UNION ALL SELECT oid, proname, 'function' FROM pg_proc WHERE pronamespace = 'public'::regnamespace
ORDER BY oid
"""


async def objects(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await connection.fetch(OBJECTS)]


async def test_migrating_twice_at_once_or_again_changes_nothing(empty_database_url: str) -> None:
    await asyncio.gather(*(asyncio.to_thread(upgrade, empty_database_url) for _ in range(2)))
    connection = await asyncpg.connect(empty_database_url)
    assert await read_stamp(connection) == wanted_stamp()
    before = await objects(connection)
    await asyncio.to_thread(upgrade, empty_database_url)
    assert await objects(connection) == before
    await connection.close()


async def test_migrating_again_does_not_disturb_a_process_that_serves(books: Any, store: Store) -> None:
    acme = await books.customer()
    for _ in range(2):
        hold = acme.hold(USD)
        assert (await store.hold(hold)).accepted
        await asyncio.to_thread(upgrade, books.url)
        await store.settle(books.settlement(hold))
    assert await books.value("SELECT count(*) FROM request") == 2


async def test_functions_triggers_and_row_types_are_made_as_they_should_be(books: Any) -> None:
    await books.owner.execute("""
        CREATE OR REPLACE FUNCTION claim_kept() RETURNS interval IMMUTABLE LANGUAGE sql AS $$ SELECT interval '1 s' $$;
        DROP TRIGGER append_only ON credit;
        ALTER TYPE hold_row ADD ATTRIBUTE odd integer;
        UPDATE schema_stamp SET functions = 'older'""")
    with pytest.raises(NotMigrated, match=r"functions of another version, .* run `caduceus migrate`"):
        async with books.store():
            pass
    await asyncio.to_thread(upgrade, books.url)
    assert str(await books.value("SELECT claim_kept()")) == "1 day, 0:00:00"
    acme = await books.customer()
    async with books.store() as store:
        assert (await store.hold(acme.hold(0))).accepted
        await store.settle(books.settlement(acme.hold(0)))
    with pytest.raises(asyncpg.RestrictViolationError):
        await books.owner.execute("DELETE FROM credit")


@pytest.mark.parametrize("revision", ["0001", "0002"])
async def test_a_database_of_an_older_shape_is_told_what_to_do_and_left_alone(
    empty_database_url: str, revision: str, template_database: str
) -> None:
    owner = await asyncpg.connect(empty_database_url)
    await owner.execute(UNSTAMPED.format(revision=revision))
    await refused_by_all_and_unchanged(owner, empty_database_url)
    await owner.close()


async def test_so_is_one_whose_first_migration_was_another(books: Any) -> None:
    await books.owner.execute("UPDATE schema_stamp SET tables = 'older'")
    await refused_by_all_and_unchanged(books.owner, books.url)
    await books.owner.execute("UPDATE schema_stamp SET tables = $1", wanted_stamp().tables)


async def refused_by_all_and_unchanged(owner: asyncpg.Connection, url: str) -> None:
    before = await objects(owner)
    advice = "left as it is; create an empty database, name it in `database.url`, and run `caduceus migrate`$"
    with pytest.raises(OldSchema, match=advice) as refused:
        await asyncio.to_thread(upgrade, url)
    assert "\n" not in str(refused.value)
    with pytest.raises(OldSchema, match=advice):
        async with Store.open(url, server_name="one"):
            pass
    with pytest.raises(OldSchema, match=advice):
        async with administration(url):
            pass
    assert await objects(owner) == before


def test_a_fingerprint_is_of_the_statements() -> None:
    assert fingerprint("CREATE TABLE a (  -- of b\n    c int\n);") == fingerprint("CREATE TABLE a ( c int );")
    assert fingerprint("CREATE TABLE a (c int);") != fingerprint("CREATE TABLE a (c bigint);")


def test_migrating_what_is_not_there_says_so() -> None:
    with pytest.raises(LedgerUnavailable, match="Postgres does not answer"):
        upgrade("postgresql://nobody@127.0.0.1:1/nothing")


async def test_the_revision_is_the_programs(books: Any) -> None:
    assert await books.value("SELECT version_num FROM alembic_version") == SCHEMA_REVISION


def test_every_file_of_statements_is_packaged() -> None:
    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    found = {path for room in ("ledger", "migrations") for path in (ROOT / room).rglob("*.sql")}
    assert found
    for path in found:
        package = ".".join(path.relative_to(ROOT).parent.parts)
        assert any(path.match(pattern) for pattern in packaged.get(package, ())), path
