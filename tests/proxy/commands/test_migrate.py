"""A development database of an older shape: every command says in one line what to do."""

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from proxy.postgres.embedded import EmbeddedPostgres

OLD = "CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('0002')"


async def execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(sql)
    await connection.close()


def test_the_advice_for_the_embedded_postgres_names_its_directory(
    caduceus: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CADUCEUS_DATABASE_URL")
    monkeypatch.setenv("CADUCEUS_DATA_DIR", str(tmp_path / "data"))
    with EmbeddedPostgres(tmp_path / "data", durable=False) as embedded:
        asyncio.run(execute(embedded.url, OLD))
        asyncio.run(execute(embedded.url, "CREATE ROLE caduceus_serving; GRANT caduceus_serving TO CURRENT_USER"))
        for command in ("migrate", "tenant list", "serve --demo"):
            answer = caduceus(*command.split())
            assert (answer.status, answer.out, answer.err) == (
                1,
                "",
                "caduceus: the database was made by another development version and is left as it is;"
                f" move {tmp_path / 'data'} away and start again\n",
            ), command


def test_the_advice_for_an_external_postgres_is_an_empty_database(caduceus: Any, database_url: str) -> None:
    asyncio.run(execute(database_url, "UPDATE schema_stamp SET tables = 'older'"))
    for command in ("migrate", "tenant list"):
        answer = caduceus(*command.split())
        assert (answer.status, answer.out, answer.err) == (
            1,
            "",
            "caduceus: the database was made by another development version and is left as it is;"
            " create an empty database, name it in `database.url`, and run `caduceus migrate`\n",
        ), command
