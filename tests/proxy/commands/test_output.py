"""How commands answer: a table for people, JSON for programs."""

import argparse
from decimal import Decimal
from typing import Any

import orjson
import pytest

from proxy.commands.output import cell, emit, table


def printed(capsys: pytest.CaptureFixture[str], *args: Any, json: bool = False) -> str:
    emit(argparse.Namespace(json=json), *args)
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


ROWS = [
    {"name": "nebius", "input": "1.00", "region": None, "tokens": 131_072, "up": True},
    {"name": "b", "input": "10.25", "region": "eu", "tokens": 7, "up": False},
]


def test_a_table_has_numbers_to_the_right_and_no_trailing_space() -> None:
    assert table(ROWS) == "\n".join(
        [
            "name    input  region  tokens  up",
            "nebius   1.00  -       131072  yes",
            "b       10.25  eu           7  no",
        ]
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (Decimal("1.50"), "1.50"),
        ("text", "text"),
        ("", ""),
        ([], "-"),
        (["a", "b"], "a, b"),
        (("a", None), "a, -"),
        ({}, "-"),
        ({"a": 1, "b": True}, "a=1, b=yes"),
        ("é 漢", "é 漢"),
        ("two\nlines", "two\\nlines"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_a_cell(value: Any, text: str) -> None:
    assert cell(value) == text


def test_rows_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, ROWS, ROWS) == table(ROWS) + "\n"
    assert printed(capsys, [], []) == "none\n"


def test_one_thing_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, {"ok": True, "data_dir": "/x"}) == "ok        yes\ndata_dir  /x\n"
    assert printed(capsys, "done") == "done\n"


def test_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"ok": True, "price": Decimal("1.50"), "text": "a\nb"}
    assert orjson.loads(printed(capsys, value, ROWS, json=True)) == {"ok": True, "price": "1.50", "text": "a\nb"}
    assert orjson.loads(printed(capsys, [], [], json=True)) == []


@pytest.mark.parametrize(
    ("column", "right"),
    [(["1", "-2.5"], True), (["1,000", "7"], True), (["1", None], True), (["1", "x"], False), (["1.2.3", "4"], False)],
)
def test_what_is_a_column_of_numbers(column: list[Any], right: bool) -> None:
    shortest = table([{"a long name": value} for value in column]).splitlines()[2]
    assert shortest.startswith(" ") == right
