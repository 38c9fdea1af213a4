"""What only lacks JSON's syntax is read; what lacks more is not."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats.lenient_json import MAX_DEPTH, REPAIRED_CHARACTERS, read_values

REPAIRED: dict[str, tuple[str, list[Any]]] = {
    "JSON": ('{"a": [1, 2.5e3, true, null, "b"]}', [{"a": [1, 2.5e3, True, None, "b"]}]),
    "a trailing comma": ('{"a": [1, 2,],}', [{"a": [1, 2]}]),
    "commas in a row": ("[1,, 2]", [[1, 2]]),
    "no comma": ('{"a": "x" "b": ["y" "z"]}', [{"a": "x", "b": ["y", "z"]}]),
    "single quotes": ("{'a': 'say \"so\"'}", [{"a": 'say "so"'}]),
    "an escaped single quote": ("{'a': 'it\\'s'}", [{"a": "it's"}]),
    "bare keys": ("{a: 1, b-c: 2, $d: 3}", [{"a": 1, "b-c": 2, "$d": 3}]),
    "Python's literals": ("[True, False, None]", [[True, False, None]]),
    "a line break": ('{"a": "b\n\tc"}', [{"a": "b\n\tc"}]),
    "a stray backslash": ('{"a": "\\d+\\.py"}', [{"a": "\\d+\\.py"}]),
    "JSON's own escapes": ("['\\u00e9\\ud83d\\ude00\\n\\\\']", [["é😀\n\\"]]),
    "brackets missing": ('{"a": [{"b": 1', [{"a": [{"b": 1}]}]),
    "brackets too many": ('{"a": 1}}]', [{"a": 1}]),
    "several": ('{"a": 1}\n{"a": 2}; [3]', [{"a": 1}, {"a": 2}, [3]]),
    "a block of code": ('```json\n{"a": 1}\n```', [{"a": 1}]),
    "a block of no language": ("```\n[1]```", [[1]]),
    "an inner bracket missing": ('{"a": [1, 2}', [{"a": [1, 2]}]),
    "a comma at the beginning": ("[, 1]", [[1]]),
}  # fmt: skip

REFUSED = {
    "nothing": "",
    "white space": " \n",
    "prose": "time of day",
    "prose behind": '{"a": 1} and so on',
    "a bare word": '{"a": yes}',
    "a key without a value": '{"a"}',
    "a key, and the end": '{"a":',
    "no key": "{1: 2}",
    "two values": '{"a": 1 2}',
    "a string without an end": '{"a": "b}',
    "an end within an escape": '{"a": "b\\',
    "another language's escape": '{"a": "\\x41",}',
    "half a surrogate pair": '{"a": "\\ud83d",}',
    "words in a fence's line": '```json {"a": 1}\n[2]\n```',
    "half an escape": '{"a": "\\u00",}',
    "no number": '{"a": NaN}',
    "a number of Python's": '{"a": 1_000,}',
    "a leading zero": '{"a": 007,}',
    "too deep": "[" * (MAX_DEPTH + 2) + "1",
    "far too deep": "[" * 100_000,
    "far too deep, and right": "[" * 100_000 + "]" * 100_000,
    "too long to repair": "[" + "1," * REPAIRED_CHARACTERS + "]",
}


def plain(values: list[Any] | None) -> Any:
    return None if values is None else json.loads(orjson.dumps(values))


@pytest.mark.parametrize("name", REPAIRED)
def test_what_is_repaired(name: str) -> None:
    text, expected = REPAIRED[name]
    assert plain(read_values(text)) == expected
    right = name in ("JSON",)
    assert (read_values(text, complete=False) is not None) == right, "what was cut off is not repaired"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    assert read_values(REFUSED[name]) is None


@pytest.mark.parametrize("number", ["12345678901234567890123", "1.10", "-0", "1E5", "0.1000000000000000055"])
@pytest.mark.parametrize("closing", ["}", ",}"])
def test_a_number_is_kept_as_it_was_written(number: str, closing: str) -> None:
    assert orjson.dumps(read_values(f'{{"a": {number}{closing}')).decode() == f'[{{"a":{number}}}]'


WORDS = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner),
    max_leaves=20,
)


@given(JSON)
def test_json_is_read_as_json(value: Any) -> None:
    assert plain(read_values(json.dumps(value))) == [value]


@given(st.dictionaries(WORDS, JSON, min_size=1))
def test_python_is_read_as_json_or_not_at_all(value: dict[str, Any]) -> None:
    """Where Python escapes as JSON does not, nothing is guessed."""
    found = plain(read_values(repr(value)))
    assert found == [value] or (found is None and "\\" in repr(value))


@given(JSON.filter(lambda value: isinstance(value, dict | list)), st.data())
def test_brackets_that_are_missing(value: Any, data: st.DataObject) -> None:
    text = json.dumps(value)
    end = len(text.rstrip("]}"))
    cut = data.draw(st.integers(end, len(text)))
    found = plain(read_values(text[:cut]))
    assert found == [value] or (found is None and cut == 0) or text[:cut] == ""


@given(st.text(st.sampled_from("{}[]\"',:\\ntrueNone01- \n")))
def test_nothing_breaks_it(text: str) -> None:
    values = read_values(text)
    assert values is None or plain(values) is not None
