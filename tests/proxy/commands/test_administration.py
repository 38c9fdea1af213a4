"""Tenants, keys, credit and prices by command."""

import re
from typing import Any

import pytest

from ledger.journal.schema import SCHEMA_REVISION


def test_a_tenant_is_created_shown_changed_and_suspended(caduceus: Any) -> None:
    made = caduceus("tenant", "create", "acme", "--credit", "10", "--jurisdictions", "EU,US", "--json")
    assert made.status == 0
    assert {name: made.json[name] for name in ("name", "balance", "held", "available", "jurisdictions")} == {
        "name": "acme",
        "balance": "10.00",
        "held": "0.00",
        "available": "10.00",
        "jurisdictions": ["EU", "US"],
    }
    changed = caduceus(
        "tenant", "set", "acme", "--legal-name", "Acme", "--address", "1 Road; Town", "--postpaid", "5", "--json"
    )
    assert (changed.json["legal_name"], changed.json["address"], changed.json["credit_limit"]) == (
        "Acme",
        ["1 Road", "Town"],
        "5.00",
    )
    assert changed.json["jurisdictions"] == ["EU", "US"]
    cleared = caduceus("tenant", "set", "acme", "--jurisdictions", "", "--plan", "", "--address", "", "--json").json
    assert [cleared[name] for name in ("jurisdictions", "plan", "address")] == [None, None, None]
    assert caduceus("tenant", "suspend", "acme", "--json").json["suspended"] is True
    assert caduceus("tenant", "set", "acme", "--active", "--json").json["suspended"] is False
    assert [tenant["name"] for tenant in caduceus("tenant", "list", "--json").json] == ["acme"]
    assert caduceus("tenant", "show", "acme", "--json").json == caduceus("tenant", "list", "--json").json[0]
    assert caduceus("tenant", "erase-user", "acme", "bob", "--json").json == {
        "tenant": "acme",
        "user": "bob",
        "requests": 0,
    }


def test_people_get_a_table(caduceus: Any) -> None:
    assert caduceus("tenant", "list").out == "none\n"
    caduceus("tenant", "create", "acme", "--credit", "10")
    head, row = caduceus("tenant", "list").out.splitlines()
    assert head.split()[:4] == ["name", "balance", "held", "available"]
    assert row.split()[:4] == ["acme", "10.00", "0.00", "10.00"]


def test_a_key_is_shown_once(caduceus: Any) -> None:
    caduceus("tenant", "create", "acme")
    made = caduceus(
        "key", "create", "acme", "--name", "app", "--rpm", "60", "--budget", "5.00", "--expires", "2030-01-01", "--json"
    ).json
    assert re.fullmatch(r"sk-cad-[0-9A-Za-z]{38}", made["key"])
    assert (made["id"], made["rpm"], made["budget"], made["expires_at"]) == (1, 60, "5.00", "2030-01-01T00:00:00+00:00")
    listed = caduceus("key", "list", "acme", "--json")
    assert made["key"] not in listed.out
    assert listed.json[0]["hint"] == f"…{made['key'][-4:]}"
    changed = caduceus(
        "key", "set", "1", "--no", "rpm", "--tpm", "1000", "--stream-usage", "always", "--no-continuation", "--json"
    ).json
    assert (changed["rpm"], changed["tpm"], changed["budget"], changed["stream_usage"], changed["continuation"]) == (
        None,
        1000,
        "5.00",
        "always",
        False,
    )
    rotated = caduceus("key", "rotate", "1", "--json").json
    assert (rotated["rotated_from"], rotated["tpm"]) == (1, 1000)
    assert rotated["key"] != made["key"]
    assert caduceus("key", "revoke", "2", "--json").json["revoked_at"] is not None


def test_credit_is_idempotent_by_reference(caduceus: Any) -> None:
    caduceus("tenant", "create", "acme")
    added = [caduceus("credit", "add", "acme", "5.00", "--reference", "bank 1", "--json").json for _ in range(2)]
    assert [(credit["new"], credit["balance"]) for credit in added] == [(True, "5.00"), (False, "5.00")]


def test_prices_and_plans(caduceus: Any) -> None:
    endpoint = caduceus("price", "set", "nebius", "--input", "1.00", "--output", "3.00", "--json").json
    assert (endpoint["kind"], endpoint["cached_input"], endpoint["state"]) == ("endpoint", "1.00", "in force")
    future = caduceus(
        "price",
        "set",
        "nebius",
        "--input",
        "2",
        "--output",
        "3",
        "--cached-input",
        "0.2",
        "--from",
        "2100-01-01",
        "--json",
    ).json
    assert (future["state"], future["cached_input"]) == ("future", "0.20")
    assert caduceus("price", "set", "gold", "--markup", "12.5", "--json").json == {
        "kind": "plan",
        "name": "gold",
        "markup": "12.5 %",
    }
    assert caduceus("price", "set", "own", "--input", "4", "--output", "5", "--json").json["kind"] == "plan"
    shown = caduceus("price", "list", "--json").json
    assert [row["name"] for row in shown["prices"]] == ["nebius", "nebius", "own"]
    assert [plan["name"] for plan in shown["plans"]] == ["gold", "own"]
    assert caduceus("tenant", "create", "acme", "--plan", "gold", "--json").json["plan"] == "gold"
    assert "12.5 %" in caduceus("price", "list").out


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            "tenant show nobody",
            1,
            "caduceus: there is no tenant nobody; `caduceus tenant list` shows those there are\n",
        ),
        (
            "tenant create acme --plan gold",
            1,
            "caduceus: there is no plan gold; `caduceus price set gold --input USD --output USD` makes it\n",
        ),
        ("key create nobody", 1, "caduceus: there is no tenant nobody; `caduceus tenant list` shows those there are\n"),
        ("key revoke 7", 1, "caduceus: there is no key 7; `caduceus key list TENANT` shows those there are\n"),
        (
            "price set nebius",
            1,
            "caduceus: give --input and --output, in USD per million tokens, or for a plan --markup PERCENT\n",
        ),
        ("price set nebius --markup 5", 1, "caduceus: nebius is an endpoint; a markup belongs to a plan\n"),
        ("usage nobody", 1, "caduceus: there is no tenant nobody; `caduceus tenant list` shows those there are\n"),
        (
            "invoice show INV-1",
            1,
            "caduceus: there is no invoice INV-1; `caduceus invoice list` shows those there are\n",
        ),
        ("price set x --input 0.0000001 --output 1", 2, "at most 6 decimals"),
        ("credit add acme 1e3 --reference r", 2, "is no decimal amount in USD"),
        ("credit add acme 1", 2, "--reference"),
        ("key create acme --rpm 0", 2, "is no whole number above zero"),
        ("key create acme --expires soon", 2, "is no instant like 2026-12-01"),
        ("usage acme --month 2026-13", 2, "is no month like 2026-11"),
        ("tenant", 2, "required: COMMAND"),
    ],
)
def test_errors_say_what_to_do(caduceus: Any, words: str, status: int, said: str) -> None:
    answer = caduceus(*words.split())
    assert (answer.status, answer.out) == (status, "")
    assert answer.err == said if status == 1 else said in answer.err


def test_what_needs_migrating_says_so_and_migrate_does_it(
    caduceus: Any, server: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "empty_" + database_url.rpartition("test_")[2].partition("?")[0]
    server.execute(f'CREATE DATABASE "{name}"')
    monkeypatch.setenv("CADUCEUS_DATABASE_URL", database_url.replace(f"test_{name.removeprefix('empty_')}", name))
    try:
        assert caduceus("tenant", "list").err == (
            f"caduceus: the database is empty, this program needs revision {SCHEMA_REVISION}; run `caduceus migrate`\n"
        )
        assert caduceus("migrate", "--json").json == {"revision": SCHEMA_REVISION}
        assert caduceus("tenant", "list").out == "none\n"
    finally:
        server.drop(name)


def test_a_postgres_that_is_away_is_named(caduceus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADUCEUS_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    answer = caduceus("audit")
    assert (answer.status, answer.err.startswith("caduceus: Postgres does not answer")) == (1, True)
    assert answer.err.count("\n") == 1
