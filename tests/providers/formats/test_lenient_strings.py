"""The inside of a string: what a model wrote on the left, what JSON makes of it on the right."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats.lenient_strings import LenientString


def read(text: str, *, quote: str = '"', exact: bool = False, at: list[int] | None = None) -> tuple[str, str, str]:
    """What was written, what was left behind it, and how it ended."""
    string = LenientString(exact=exact)
    string.begin(quote)
    written, rest = "", ""
    for start, end in pairwise([0, *sorted(at or []), len(text)]):
        piece = text[start:end]
        if string.over or string.broken:
            rest += piece
            continue
        shown, stopped = string.read(piece, 0)
        written, rest = written + shown, rest + piece[stopped:]
    return written, rest, "over" if string.over else "broken" if string.broken else "open"


OVER = [
    ('so"', "so"),
    ('two\nlines\t\x01"', r"two\nlines\t\u0001"),
    (r'\" \\ \/ \b \n"', r"\" \\ \/ \b \n"),
    (r"it\'s" + '"', "it's"),
    (r'\d+\.py"', r"\\d+\\.py"),
    (r'\u00e9 \ud83d\ude00"', r"\u00e9 \ud83d\ude00"),
    ('"', ""),
]
GUESSED = [
    (r'\u12"', r"\\u12"),
    (r'\u"', r"\\u"),
    (r'\ud83d"', r"\ufffd"),
    (r'\ude00"', r"\ufffd"),
    (r'\ud83dx"', r"\ufffdx"),
    (r'\ud83d\n"', r"\ufffd\n"),
    (r'\ud83d\u0041"', r"\ufffd\u0041"),
    (r'\ud83d\ud83d\ude00"', r"\ufffd\ud83d\ude00"),
    (r'\ud83d\u12"', r"\ufffd\\u12"),
]


@pytest.mark.parametrize(("text", "written"), OVER)
def test_repairs(text: str, written: str) -> None:
    json.loads(f'"{written}"')
    for place in range(len(text)):
        for exact in (True, False):
            assert read(text + " x", exact=exact, at=[place]) == (written, " x", "over")


def test_within_single_quotes_a_double_one_is_text() -> None:
    assert read("say \"so\", it\\'s' x", quote="'") == ('say \\"so\\", it\'s', " x", "over")


@pytest.mark.parametrize(("text", "written"), GUESSED)
def test_half_an_escape_is_guessed_or_breaks_the_string(text: str, written: str) -> None:
    json.loads(f'"{written}"')
    for place in range(len(text)):
        assert read(text, at=[place]) == (written, "", "over")
        shown, rest, end = read(text, exact=True, at=[place])
        assert (shown + rest, end) == (text, "broken"), "as it came"


@pytest.mark.parametrize("text", [r'\x41"', r'\U0001F600"', r'\N{DASH}"', r'\0"'])
def test_an_escape_of_another_language_is_none(text: str) -> None:
    for exact in (True, False):
        assert read(text, exact=exact) == ("\\", text[1:], "broken")


@pytest.mark.parametrize("text", ["so", "so\\", r"\u00", r"\ud83d\u"])
def test_what_is_not_over_stays_open(text: str) -> None:
    shown, rest, end = read(text)
    assert (rest, end) == ("", "open")
    assert text.startswith(shown)


@given(st.text(), st.booleans(), st.data())
def test_a_string_of_jsons_own_stays_as_it_is(value: str, ascii_only: bool, data: st.DataObject) -> None:
    inside = json.dumps(value, ensure_ascii=ascii_only)[1:]
    places = data.draw(st.lists(st.integers(0, len(inside)), max_size=4))
    assert read(inside, exact=True, at=places) == (inside[:-1], "", "over")
