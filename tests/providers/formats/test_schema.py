"""What a schema says of a value."""

import json
import socket

import orjson
import pytest

from providers.formats.schema import DEEPEST_SCHEMA, MOST_SCHEMA_BYTES, BadSchema, make_checker

GOD = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "wings": {"type": "integer"},
        "epithets": {"type": "array", "items": {"$ref": "#/$defs/epithet"}},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"epithet": {"enum": ["messenger", "thief"]}},
}


class Raw(str):
    """A text as it stands, which need not be JSON."""


def problem(schema, value):
    text = str(value) if isinstance(value, Raw) else json.dumps(value)
    return make_checker(orjson.dumps(schema)).problem(text)


FITS = [
    (GOD, {"name": "Hermes", "wings": 4, "epithets": ["thief"]}),
    (
        GOD | {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.com/god"},
        {"name": "Pan"},
    ),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}, 2),
    ({"$schema": "https://example.com/of-its-own"}, "anything"),
    (True, "anything"),
    ({"multipleOf": 0.01}, 19.99),
    ({"multipleOf": 0.01}, 1e300),
    ({"enum": [1, "two"]}, 1.0),
    ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}]),
    ({"pattern": r"^\p{L}+$"}, "Ἑρμῆς"),
    ({"patternProperties": {"^x-": {"type": "integer"}}, "additionalProperties": False}, {"x-a": 1}),
    ({"properties": {"$ref": {"type": "string"}, "$schema": {}}}, {"$ref": "no reference"}),
    ({"anyOf": [{"type": "array"}, {"type": "object"}]}, {}),
    ({"allOf": [{"properties": {"a": {}}}], "unevaluatedProperties": False}, {"a": 1}),
    ({"prefixItems": [{"const": 1}], "unevaluatedItems": {"const": 2}}, [1, 2, 2]),
    ({"$ref": "#/definitions/a", "definitions": {"a": {"type": "array", "items": {"$ref": "#"}}}}, [[[]]]),
    ({"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": {"properties": {"a": {}}}}}, {"a": 1}),
    ({"patternProperties": {"^x-": {}}, "unevaluatedProperties": False}, {"x-a": 1}),
    ({"$schema": "http://json-schema.org/draft-04/schema#", "enum": [{"a": i} for i in range(2_000)]}, {"a": 1}),
    ({"items": {"type": "string", "minLength": 1}}, ["thief"] * 40_000),
]


@pytest.mark.parametrize(("schema", "value"), FITS)
def test_what_fits(schema, value):
    assert problem(schema, value) is None


MISFITS = [
    (GOD, {"name": 1}, "/name", "1 is not of type 'string'"),
    (GOD, {"name": "H"}, "/name", "'H' is too short"),
    (GOD, {"wings": 4}, "", "'name' is a required property"),
    (GOD, {"name": "Hermes", "staff": 1}, "", "has properties that are not allowed: 'staff'"),
    (
        GOD,
        {"name": "Hermes", "epithets": ["thief", "liar"]},
        "/epithets/1",
        '\'liar\' is not one of ["messenger","thief"]',
    ),
    (GOD, [1] * 1_000, "", "the array is not of type 'object'"),
    (GOD, Raw("x" * 50), "", "is not valid JSON: "),
    ({"type": "integer"}, Raw('{"a": ' * 3), "", "is not valid JSON: "),
    ({"type": "integer"}, "long " * 100, "", "…' is not of type 'integer'"),
    ({"properties": {"a/b": {"type": "integer"}}}, {"a/b": "~"}, "/a~1b", "'~' is not of type 'integer'"),
    ({"properties": {"a": {}}, "unevaluatedProperties": False}, {"b": 1}, "", "Unevaluated properties are not allowed"),
    (False, 1, "", "False schema does not allow 1"),
    ({"multipleOf": 0.01}, 19.999, "", "19.999 is not a multiple of 0.01"),
    ({"enum": [1]}, True, "", "True is not one of [1]"),
    ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], "", "has items that are not unique"),
    ({"uniqueItems": True}, [[1], [True], [1]], "", "has items that are not unique"),
    ({"enum": [{"a": [1]}]}, {"a": [True]}, "", "the object is not one of"),
    ({"const": [1]}, [True], "", "[1] was expected"),
    ({"pattern": "^a$"}, "b", "", "'b' does not match '^a$'"),
    ({"patternProperties": {"^x-": {"type": "integer"}}}, {"x-a": "b"}, "/x-a", "'b' is not of type 'integer'"),
    (
        {"patternProperties": {"^x-": {}}, "additionalProperties": {"type": "null"}},
        {"y": 1},
        "/y",
        "1 is not of type 'null'",
    ),
]


@pytest.mark.parametrize(("schema", "value", "path", "message"), MISFITS)
def test_what_does_not_fit_is_told_with_its_place(schema, value, path, message):
    found = problem(schema, value)
    assert found.path == path
    assert message in found.message
    assert len(found.message) <= 400


BAD = [
    ([], "", "must be an object"),
    ({"type": "nonsense"}, "/type", "'nonsense'"),
    ({"properties": {"a": {"minimum": "x"}}}, "/properties/a/minimum", "'x' is not of type 'number'"),
    ({"$ref": "https://example.com/schema"}, "/$ref", "only references within the schema"),
    ({"items": {"$ref": "file:///etc/passwd"}}, "/items/$ref", "only references within the schema"),
    ({"$dynamicRef": "other.json#x"}, "/$dynamicRef", "only references within the schema"),
    ({"$ref": "#/$defs/missing"}, "/$ref", "which is not in it"),
    ({"items": {"$id": "https://example.com/inner"}}, "/items/$id", "below its root"),
    ({"items": {"$schema": "http://json-schema.org/draft-07/schema#"}}, "/items/$schema", "below its root"),
    ({"pattern": "("}, "/pattern", "a pattern that is none"),
    ({"patternProperties": {"(": {}}}, "/patternProperties", "a pattern that is none"),
    ({"pattern": "a" * 2_001}, "/pattern", "more than 2000 characters"),
    ({"description": "x" * MOST_SCHEMA_BYTES}, "", "is larger than"),
]


@pytest.mark.parametrize(("schema", "path", "message"), BAD)
def test_a_bad_schema_is_refused_with_its_place(schema, path, message):
    with pytest.raises(BadSchema) as refused:
        make_checker(orjson.dumps(schema))
    assert refused.value.path == path
    assert message in refused.value.message


def test_a_schema_nested_too_deeply_is_refused():
    schema = {}
    for _ in range(DEEPEST_SCHEMA):
        schema = {"not": schema}
    make_checker(orjson.dumps(schema))
    schema = {"not": schema}
    with pytest.raises(BadSchema, match="nested too deeply"):
        make_checker(orjson.dumps(schema))


def test_nothing_is_ever_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "create_connection", refuse)
    for schema in (
        {"$ref": "http://127.0.0.1:1/a"},
        {"$schema": "http://127.0.0.1:1/b"},
        {"$id": "http://127.0.0.1:1/c"},
    ):
        try:
            make_checker(orjson.dumps(schema)).problem("1")
        except BadSchema:
            assert "$ref" in schema
