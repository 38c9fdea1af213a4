"""Whether a JSON text fits a schema, as the library `jsonschema` says.

Nothing here bounds what a check costs: a schema is a caller's own and may ask for years of work, so whoever checks one
does it in a process that can be stopped (`proxy.exchange.formats.checker_process`). Nothing outside a schema is ever
read: references stay within it. The library is loaded at the first schema.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from typing import Any

import orjson

MOST_SCHEMA_BYTES = 65_536
DEEPEST_SCHEMA = 96  # the library calls itself some ten levels deeper for each level
MOST_PATTERN_CHARACTERS = 2_000
LONGEST_MESSAGE = 300

Errors = Iterator[Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a text does not fit, and where: a JSON Pointer, empty for the whole."""

    message: str
    path: str = ""


class BadSchema(Exception):
    """The schema is none that can be used. `path` is a JSON Pointer into it."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.path = path


@dataclass(frozen=True, slots=True)
class Checker:
    """A schema that is ready to check texts against."""

    _validator: Any = field(repr=False)

    def problem(self, text: str | bytes) -> Problem | None:
        """The most telling misfit of `text`; None where all of it fits. Raises RecursionError for too many levels."""
        from jsonschema.exceptions import best_match

        try:
            value = nameable(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            return Problem(f"is not valid JSON: {error}")
        misfit = best_match(self._validator.iter_errors(value))
        return None if misfit is None else Problem(shortened(misfit.message), pointer(misfit.absolute_path))


def make_checker(source: bytes) -> Checker:
    """Make a schema ready that is given as JSON. Raises BadSchema."""
    from referencing import Registry

    if len(source) > MOST_SCHEMA_BYTES:
        raise BadSchema(f"is larger than {MOST_SCHEMA_BYTES} bytes")
    schema = orjson.loads(source)
    if isinstance(schema, bool):
        return Checker(validator_of("")(schema, registry=Registry()))
    if not isinstance(schema, dict):
        raise BadSchema("must be an object")
    draft = validator_of(str(schema.pop("$schema", "")))
    schema.pop("$id", None)
    references = find_references(schema)
    try:
        check_against_draft(draft, schema)
        check_references(references, schema, draft)
    except RecursionError:
        raise BadSchema("is nested too deeply") from None
    return Checker(draft(schema, registry=Registry()))


def find_references(schema: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The references of a schema, with their places. Refuses what would lead out of it, and bad patterns."""
    found: list[tuple[str, str]] = []
    left: list[tuple[Any, str, int]] = [(schema, "", 0)]
    while left:
        node, path, depth = left.pop()
        if depth > DEEPEST_SCHEMA:
            raise BadSchema("is nested too deeply", path)
        if isinstance(node, list):
            left += ((inner, f"{path}/{i}", depth + 1) for i, inner in enumerate(node))
        if not isinstance(node, dict):
            continue
        for name, inner in node.items():
            place = f"{path}/{escaped(name)}"
            left.append((inner, place, depth + 1))
            if isinstance(inner, str):
                look_at(name, inner, place, found)
            if name == "patternProperties" and isinstance(inner, dict):
                for pattern in inner:
                    check_pattern(pattern, place)
    return found


def look_at(name: str, value: str, place: str, found: list[tuple[str, str]]) -> None:
    if name in ("$ref", "$dynamicRef", "$recursiveRef"):
        if not value.startswith("#"):
            raise BadSchema(
                f"refers to {shortened(value)!r}; only references within the schema (#/…) are followed", place
            )
        found.append((value, place))
    elif name in ("$id", "$schema"):
        raise BadSchema(f"has a {name} below its root, which is not supported", place)
    elif name == "pattern":
        check_pattern(value, place)


def check_pattern(pattern: str, place: str) -> None:
    import regex

    if len(pattern) > MOST_PATTERN_CHARACTERS:
        raise BadSchema(f"has a pattern of more than {MOST_PATTERN_CHARACTERS} characters", place)
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise BadSchema(f"has a pattern that is none: {error}", place) from None


def check_against_draft(draft: Any, schema: Mapping[str, Any]) -> None:
    from jsonschema.exceptions import best_match
    from referencing import Registry

    error = best_match(draft(draft.META_SCHEMA, registry=Registry()).iter_errors(schema))
    if error is not None:
        raise BadSchema(shortened(error.message), pointer(error.absolute_path))


def check_references(references: Sequence[tuple[str, str]], schema: Mapping[str, Any], draft: Any) -> None:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    resource = specification_with(draft.META_SCHEMA["$schema"]).create_resource(schema)
    resolver: Any = Registry().resolver_with_root(resource)
    for reference, place in references:
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise BadSchema(f"refers to {shortened(reference)!r}, which is not in it", place) from None


@cache
def drafts() -> Mapping[str, Any]:
    """The library's classes by their `$schema`, oldest first, with the keywords that are ours."""
    from jsonschema import validators

    names = ("Draft4", "Draft6", "Draft7", "Draft201909", "Draft202012")
    classes = [getattr(validators, f"{name}Validator") for name in names]
    return {draft.META_SCHEMA["$schema"].rstrip("#"): validators.extend(draft, OWN) for draft in classes}


def validator_of(name: str) -> Any:
    """The class for a `$schema`; the latest draft's where the library knows none of that name."""
    return drafts().get(name.rstrip("#")) or list(drafts().values())[-1]


# Keywords that are ours. The library matches patterns with `re`, which lacks much of ECMA 262 (`\p{L}`); it takes 19.99
# for no multiple of 0.01, and [[1], [true], [1]] for unique; and it names all of an `enum` in Python's words.


def check_text(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Errors:
    if isinstance(instance, str) and not matches(pattern, instance):
        yield failed(f"{instance!r} does not match {pattern!r}")


def check_matching(validator: Any, properties: Mapping[str, Any], instance: Any, _schema: Any) -> Errors:
    if isinstance(instance, dict):
        for pattern, schema in properties.items():
            for name, value in instance.items():
                if matches(pattern, name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)


def check_additional(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> Errors:
    if not isinstance(instance, dict):
        return
    named, patterns = schema.get("properties", ()), schema.get("patternProperties", ())
    extras = [
        name for name in instance if name not in named and not any(matches(pattern, name) for pattern in patterns)
    ]
    if isinstance(allowed, dict):
        for name in extras:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extras:
        yield failed(f"has properties that are not allowed: {', '.join(map(repr, extras[:10]))}")


def check_enum(_validator: Any, values: Sequence[Any], instance: Any, _schema: Any) -> Errors:
    wanted = comparable(instance)
    if not any(comparable(value) == wanted for value in values):
        yield failed(f"{instance!r} is not one of {shortened(orjson.dumps(values).decode())}")


def check_unique(_validator: Any, wanted: bool, instance: Any, _schema: Any) -> Errors:
    if wanted and isinstance(instance, list) and len({comparable(value) for value in instance}) < len(instance):
        yield failed("has items that are not unique")


def check_multiple(_validator: Any, factor: Any, instance: Any, _schema: Any) -> Errors:
    """Of the decimal numbers that were written."""
    if type(instance) in (int, float) and Fraction(repr(instance)) % Fraction(repr(factor)):
        yield failed(f"{instance!r} is not a multiple of {factor!r}")


OWN: Mapping[str, Callable[..., Errors]] = {
    "pattern": check_text,
    "patternProperties": check_matching,
    "additionalProperties": check_additional,
    "enum": check_enum,
    "uniqueItems": check_unique,
    "multipleOf": check_multiple,
}


def matches(pattern: str, text: str) -> bool:
    import regex

    return regex.search(pattern, text) is not None


def failed(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


def comparable(value: Any) -> Any:
    """Equal where JSON Schema says so: 1 is 1.0, but not true."""
    if isinstance(value, dict):
        return ("object", frozenset((name, comparable(inner)) for name, inner in value.items()))
    if isinstance(value, list):
        return ("array", *map(comparable, value))
    return ("boolean", value) if isinstance(value, bool) else value


class Object(dict[str, Any]):
    """Messages name a value by its `repr`, which must not be all of it."""

    def __repr__(self) -> str:
        return "the object"


class Array(list[Any]):
    def __repr__(self) -> str:
        return "the array"


class Text(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shortened(str(self), 60))


def nameable(value: Any) -> Any:
    if isinstance(value, dict):
        return Object((name, nameable(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return Array(map(nameable, value))
    return Text(value) if isinstance(value, str) else value


def shortened(text: str, most: int = LONGEST_MESSAGE) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def pointer(path: Sequence[Any]) -> str:
    return "".join(f"/{escaped(str(part))}" for part in path)


def escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")
