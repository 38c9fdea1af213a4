"""JSON in what a model writes: found, repaired, and never taken back."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.formats.lenient_json import ANY, ARRAY, MAX_DEPTH, OBJECT, WORDS_CHARACTERS, JsonText, Outcome, roots_of

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=5)
TEXTS = st.builds(json.dumps, OBJECTS, ensure_ascii=st.booleans(), indent=st.none() | st.integers(0, 2))


def read(text, *, roots=OBJECT, exact=False, cut=False, at=()):
    """What is shown of a text that comes in pieces cut `at` some places, and what it was."""
    reader = JsonText(roots, exact=exact)
    places = [0, *sorted(at), len(text)]
    shown = "".join(reader.feed(text[start:end]) for start, end in pairwise(places))
    return shown + reader.end(cut=cut), reader.outcome


@given(TEXTS, st.data())
def test_json_comes_out_as_it_is_wherever_it_is_cut(text, data):
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert read(text, at=places) == (text, Outcome.COMPLETE)


@given(TEXTS, st.data())
def test_what_came_before_an_end_is_json_and_the_beginning_of_the_whole(text, data):
    """Of a text that ends too early: closed, and nothing in it that the whole does not begin with."""
    place = data.draw(st.integers(1, len(text)))
    reader = JsonText()
    shown = reader.feed(text[:place])
    assert text.startswith(shown)
    assert isinstance(json.loads(shown + reader.end(cut=True)), dict)


@given(st.text("{}[]\"',:\\utrue1 \n`-", max_size=40), st.data())
def test_whatever_comes_cutting_it_changes_nothing(text, data):
    for roots, exact in ((OBJECT, False), (ARRAY, False), (ANY, False), (ANY, True)):
        places = data.draw(st.lists(st.integers(0, len(text)), max_size=4))
        shown, outcome = read(text, roots=roots, exact=exact, at=places)
        assert (shown, outcome) == read(text, roots=roots, exact=exact)
        if outcome is Outcome.COMPLETE or (exact and outcome is Outcome.CLOSED):
            json.loads(f"[{shown}]")
        if outcome is Outcome.NONE:
            assert shown == text


AROUND = [
    '{"a": 1}',
    '\n\n{"a": 1}\n',
    '```json\n{"a": 1}\n```',
    '```\n\n  {"a": 1}\n```\nThat is all.',
    '```json {"a": 1}```',
    'Here is the JSON:\n\n```json\n{"a": 1}\n```\nAsk me {anything}.',
    'Sure! {"a": 1} Have a nice day.',
    'As {you} wish, [1]: {"a": 1}',
    '{"a": 1}{"b": 2}',
    '{"a": 1}}',
]


@pytest.mark.parametrize("text", AROUND)
def test_what_stands_around_it_is_left_out(text):
    for place in range(len(text)):
        assert read(text, at=[place]) == ('{"a": 1}', Outcome.COMPLETE)


REPAIRS = [
    ('{"a": 1,}', '{"a": 1}'),
    ('{"a": 1,,"b": 2}', '{"a": 1,"b": 2}'),
    ('{"a": [1, 2, ], }', '{"a": [1, 2 ] }'),
    ('{"a": 1 "b": 2}', '{"a": 1, "b": 2}'),
    ('{"a": [{} {}]}', '{"a": [{}, {}]}'),
    ("{'a': 'it\\'s \"so\"'}", '{"a": "it\'s \\"so\\""}'),
    ("{a: 1, b_2: null}", '{"a": 1, "b_2": null}'),
    ('{"a": True, "b": None, "c": False}', '{"a": true, "b": null, "c": false}'),
    ('{"a": "two\nlines\tand \x01"}', '{"a": "two\\nlines\\tand \\u0001"}'),
    (r'{"a": "\d+ \. \'"}', r'{"a": "\\d+ \\. ' + "'" + '"}'),
    (
        r'{"a": "\u12 \ud83d \ude00 \ud83d\ude00 \ud83d\u0041"}',
        r'{"a": "\\u12 \ufffd \ufffd \ud83d\ude00 \ufffd\u0041"}',
    ),
    ('{"a": [1, {"b": 2}', '{"a": [1, {"b": 2}]}'),
    ('{"a": [1, 2}', '{"a": [1, 2]}'),
    ('{"a": "b', '{"a": "b"}'),
    ('{"a": 1, "b', '{"a": 1}'),
    ('{"a": 1, "b": ', '{"a": 1}'),
    ('{"a": {', '{"a": {}}'),
    ('{"a": 12', '{"a": 12}'),
    ('{\xa0"a":\u20031}', '{ "a": 1}'),
    ("{größe_1: 1}", '{"größe_1": 1}'),
]


@pytest.mark.parametrize(("text", "repaired"), REPAIRS)
def test_wrong_syntax_is_repaired(text, repaired):
    json.loads(repaired)
    for place in range(len(text)):
        shown, outcome = read(text, at=[place])
        assert shown == repaired
        assert outcome in (Outcome.COMPLETE, Outcome.CLOSED)


CUTS = [('{"a": 12', "{}"), ('{"a": 1, "b": tru', '{"a": 1}'), ('{"a": "x\\u00', '{"a": "x"}'), ('["a', '["a"]')]


@pytest.mark.parametrize(("text", "closed"), CUTS)
def test_of_a_text_without_room_no_half_of_a_number_is_kept(text, closed):
    assert read(text, roots=ANY, cut=True) == (closed, Outcome.CLOSED)


BROKEN = [
    ('{"a": nonsense, "b": 1}', '{"a": nonsense, "b": 1}'),
    ('{"a"}', '{"a"}'),
    ('{"a":}', '{"a":}'),
    ('{"a": "he said "no" to me"}', '{"a": "he said "no" to me"}'),
    ('{"a": 01}', '{"a": 01}'),
    ('{"a": "\\x41"}', '{"a": "\\x41"}'),
    ('{"a": 1 b: 2}', '{"a": 1 b: 2}'),
    ('{"a": 1]', '{"a": 1]'),
    ("{" + '"a":{' * MAX_DEPTH, "{" + '"a":{' * MAX_DEPTH),
    ("{" + "k" * 5_000, "{" + "k" * 5_000),
    ('{"' + "k" * 9_000, '{"' + "k" * 9_000),
]


@pytest.mark.parametrize(("text", "shown"), BROKEN)
def test_what_is_no_json_comes_as_it_is(text, shown):
    assert read(text, at=range(0, len(text), 7)) == (shown, Outcome.BROKEN)


# What is guessed for those who read, and not for those who act on it.
GUESSES = [
    ('{"a": "b', '{"a": "b"}', '{"a": "b'),
    ('{"a": 1, "b', '{"a": 1}', '{"a": 1, "b'),
    ('{"a": 1, "b"', '{"a": 1}', '{"a": 1, "b"'),
    ('{"a": 1, "b": ', '{"a": 1}', '{"a": 1, "b": '),
    ('{"a": 1, b', '{"a": 1}', '{"a": 1, "b"'),
    ('{"a": "\\u12"}', '{"a": "\\\\u12"}', '{"a": "\\u12"}'),
    ('{"a": "\\ud83d"}', '{"a": "\\ufffd"}', '{"a": "\\ud83d"}'),
    ('{"a": "\\ude00"}', '{"a": "\\ufffd"}', '{"a": "\\ude00"}'),
    ('{"a": "\\ud83d\\u0041"}', '{"a": "\\ufffd\\u0041"}', '{"a": "\\ud83d\\u0041"}'),
]


@pytest.mark.parametrize(("text", "guessed", "as_it_came"), GUESSES)
def test_an_exact_reader_guesses_nothing(text, guessed, as_it_came):
    for place in range(len(text)):
        shown, outcome = read(text, at=[place])
        assert (shown, outcome in (Outcome.COMPLETE, Outcome.CLOSED)) == (guessed, True)
        assert read(text, roots=ANY, exact=True, at=[place]) == (as_it_came, Outcome.BROKEN)


FURTHER = [
    ('{"a": 1}{"b": 2}', '{"a": 1},{"b": 2}', Outcome.COMPLETE),
    ('[1]\n; {"b": 2}]}', '[1],{"b": 2}', Outcome.COMPLETE),
    ("1 'a' null", '1,"a",null', Outcome.COMPLETE),
    ('{"a": 1} [', '{"a": 1},[]', Outcome.CLOSED),
    ('{"a": 1} and so on', '{"a": 1},and so on', Outcome.BROKEN),
]


@pytest.mark.parametrize(("text", "shown", "outcome"), FURTHER)
def test_an_exact_reader_reads_further_values(text, shown, outcome):
    for place in range(len(text)):
        assert read(text, roots=ANY, exact=True, at=[place]) == (shown, outcome)


@pytest.mark.parametrize("text", ["", "No.", "I cannot {do} it.", "[1, 2]", "x" * (WORDS_CHARACTERS + 9) + '{"a": 1}'])
def test_of_a_text_without_json_nothing_is_left_out(text):
    assert read(text, at=range(0, len(text), 5)) == (text, Outcome.NONE)


def test_a_long_text_is_not_held_for_ever():
    reader = JsonText()
    assert reader.feed("x" * WORDS_CHARACTERS) == ""
    assert reader.feed("xx") == "x" * WORDS_CHARACTERS + "xx"
    assert reader.feed("more") == "more"


def test_white_space_without_end_is_not_kept():
    reader = JsonText()
    reader.feed('{"a": 1')
    for _ in range(1_000):
        reader.feed(" " * 100)
    assert len(reader.end(cut=True)) < 10_000


@pytest.mark.parametrize(
    ("text", "shown"),
    [("42", "42"), ('"yes"', '"yes"'), ("true ", "true"), ("```\nnull\n```", "null"), ("-1.5e3", "-1.5e3")],
)
def test_any_value_may_be_wanted(text, shown):
    assert read(text, roots=ANY) == (shown, Outcome.COMPLETE)


ROOTS = [
    (None, OBJECT),
    ({"type": "object"}, OBJECT),
    ({"properties": {}}, OBJECT),
    ({"type": "array"}, ARRAY),
    ({"type": "string"}, ANY),
    ({"type": ["object", "null"]}, ANY),
    ({"anyOf": []}, ANY),
    (True, ANY),
]


@pytest.mark.parametrize(("schema", "roots"), ROOTS)
def test_a_schema_says_how_its_values_begin(schema, roots):
    assert roots_of(schema) == roots
