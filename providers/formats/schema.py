"""Whether a JSON text fits a schema, asked of the library `jsonschema` so that no schema can hurt.

Schemas are the callers' own: no reference leaves the schema, its size is bounded, checking takes a bounded number of
steps, and its patterns, matched by `regex` (which lets other threads run meanwhile), a bounded time. The library is
loaded at the first schema.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

import orjson

MOST_SCHEMA_BYTES = 65_536
DEEPEST_SCHEMA = 96  # the library asks itself some ten calls deeper for each level
DEEPEST_CHECK = 160  # keywords within keywords, each three or four calls
MOST_PATTERN_CHARACTERS = 2_000
MOST_MIXED = 500  # entries of a list that cannot be sorted: each is compared with each
LEAST_STEPS = 20_000
STEPS_A_CHARACTER = 4
PATTERNS_S = 0.25
LONGEST_MESSAGE = 300

Clock = Callable[[], float]
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


class TooCostly(Exception):
    """Checking has taken all the steps or all the time that it may take."""


@dataclass(slots=True)
class Budget:
    """What checking one text may still cost. `clock` tells seconds."""

    steps: int
    patterns_s: float
    clock: Clock
    depth: int = 0

    def spend(self, steps: int = 1) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise TooCostly

    def search(self, pattern: str, text: str) -> bool:
        began_s = self.clock()
        try:
            return compiled(pattern).search(text, timeout=self.patterns_s) is not None
        except TimeoutError:
            raise TooCostly from None
        finally:
            self.patterns_s -= self.clock() - began_s
            if self.patterns_s <= 0:
                raise TooCostly


def small_budget(clock: Clock) -> Budget:
    """Some milliseconds: enough for a small value and an honest schema."""
    return Budget(500, 0.002, clock)


def full_budget(text: str, clock: Clock) -> Budget:
    return Budget(LEAST_STEPS + STEPS_A_CHARACTER * len(text), PATTERNS_S, clock)


BUDGET: ContextVar[Budget] = ContextVar("budget")


@dataclass(frozen=True, slots=True)
class Checker:
    """A schema that is ready. Several threads may use one."""

    _validator: Any = field(repr=False)

    def problem(self, text: str, budget: Budget) -> Problem | None:
        """What of `text` fits least; None where all of it fits. Raises TooCostly."""
        from jsonschema.exceptions import best_match

        try:
            value = nameable(orjson.loads(text))
        except orjson.JSONDecodeError as error:
            return Problem(f"is not valid JSON: {error}")
        token = BUDGET.set(budget)
        try:
            misfit = best_match(self._validator.iter_errors(value))
        finally:
            BUDGET.reset(token)
        return None if misfit is None else Problem(shortened(misfit.message), pointer(misfit.absolute_path))


def make_checker(source: bytes) -> Checker:
    """From the schema's JSON. Raises BadSchema."""
    from referencing import Registry

    if len(source) > MOST_SCHEMA_BYTES:
        raise BadSchema(f"is larger than {MOST_SCHEMA_BYTES} bytes")
    schema = orjson.loads(source)
    if isinstance(schema, bool):
        return Checker(guarded(dialect_of(""), elsewhere=False)(schema, registry=Registry()))
    if not isinstance(schema, dict):
        raise BadSchema("must be an object")
    base = dialect_of(str(schema.pop("$schema", "")))
    schema.pop("$id", None)
    references, keys = look_through(schema)
    try:
        check_against_its_own(base, schema)
        check_references(references, schema, base)
    except RecursionError:
        raise BadSchema("is nested too deeply") from None
    elsewhere = bool(references) or "patternProperties" in keys
    return Checker(guarded(base, elsewhere=elsewhere)(schema, registry=Registry()))


def look_through(schema: Mapping[str, Any]) -> tuple[list[tuple[str, str]], set[str]]:
    """The references of a schema, with their places, and all its keys. What would lead out of it is refused."""
    found: list[tuple[str, str]] = []
    keys: set[str] = set()
    left: list[tuple[Any, str, int]] = [(schema, "", 0)]
    while left:
        node, path, depth = left.pop()
        if depth > DEEPEST_SCHEMA:
            raise BadSchema("is nested too deeply", path)
        if isinstance(node, list):
            if len(node) > MOST_MIXED and not all(isinstance(inner, str) for inner in node):
                raise BadSchema(f"has a list of more than {MOST_MIXED} entries that are not all strings", path)
            left += ((inner, f"{path}/{i}", depth + 1) for i, inner in enumerate(node))
        if not isinstance(node, dict):
            continue
        keys |= node.keys()
        for name, inner in node.items():
            place = f"{path}/{escaped(name)}"
            left.append((inner, place, depth + 1))
            if isinstance(inner, str):
                look_at(name, inner, place, found)
            if name == "patternProperties" and isinstance(inner, dict):
                for pattern in inner:
                    check_pattern(pattern, place)
    return found, keys


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
        compiled(pattern)
    except (regex.error, RecursionError, OverflowError, ValueError) as error:
        raise BadSchema(f"has a pattern that is none: {error}", place) from None


def check_against_its_own(base: Any, schema: Mapping[str, Any]) -> None:
    """The library's own class does: what it would take too long for `look_through` has refused."""
    from jsonschema.exceptions import best_match
    from referencing import Registry

    error = best_match(base(base.META_SCHEMA, registry=Registry()).iter_errors(schema))
    if error is not None:
        raise BadSchema(shortened(error.message), pointer(error.absolute_path))


def check_references(references: Sequence[tuple[str, str]], schema: Mapping[str, Any], base: Any) -> None:
    from referencing import Registry
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import specification_with

    resource = specification_with(base.META_SCHEMA["$schema"]).create_resource(schema)
    resolver: Any = Registry().resolver_with_root(resource)
    for reference, place in references:
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise BadSchema(f"refers to {shortened(reference)!r}, which is not in it", place) from None


@cache
def dialect_of(name: str) -> Any:
    """The library's class for a `$schema`; the latest one where it knows no such dialect."""
    from jsonschema import validators

    names = ("Draft4", "Draft6", "Draft7", "Draft201909", "Draft202012")
    classes = [getattr(validators, f"{name}Validator") for name in names]
    wanted = name.rstrip("#")
    return next((one for one in classes if one.META_SCHEMA["$schema"].rstrip("#") == wanted), classes[-1])


@cache
def guarded(base: Any, *, elsewhere: bool) -> Any:
    """The same, kept within the budget. `elsewhere`: what evaluates a value may stand in another place."""
    from jsonschema import validators

    checks = {**base.VALIDATORS, **OWN}
    for name in UNEVALUATED & checks.keys():
        checks[name] = give_up if elsewhere else quadratic(checks[name])
    return validators.extend(base, {name: counted(check) for name, check in checks.items()})


def counted(check: Callable[..., Errors | None]) -> Callable[..., Errors]:
    """The same keyword, its price paid. The interpreter's own limit is no guard: beneath the library is Rust."""

    def guard(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        budget = BUDGET.get()
        budget.spend()
        if budget.depth >= DEEPEST_CHECK:
            raise TooCostly
        budget.depth += 1
        try:
            yield from check(validator, value, instance, schema) or ()
        finally:
            budget.depth -= 1

    return guard


# Keywords for which the library takes its own engine for patterns, compares each with each, or trusts binary fractions.


def check_text(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Errors:
    if isinstance(instance, str) and not BUDGET.get().search(pattern, instance):
        yield failed(f"{instance!r} does not match {pattern!r}")


def check_matching(validator: Any, properties: Mapping[str, Any], instance: Any, _schema: Any) -> Errors:
    if isinstance(instance, dict):
        for pattern, schema in properties.items():
            for name, value in instance.items():
                if BUDGET.get().search(pattern, name):
                    yield from validator.descend(value, schema, path=name, schema_path=pattern)


def check_additional(validator: Any, allowed: Any, instance: Any, schema: Mapping[str, Any]) -> Errors:
    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", ())
    named = schema.get("properties", ())
    extras = [
        name
        for name in instance
        if name not in named and not any(BUDGET.get().search(pattern, name) for pattern in patterns)
    ]
    if isinstance(allowed, dict):
        for name in extras:
            yield from validator.descend(instance[name], allowed, path=name)
    elif not allowed and extras:
        yield failed(f"has properties that are not allowed: {', '.join(map(repr, extras[:10]))}")


def check_enum(_validator: Any, values: Sequence[Any], instance: Any, _schema: Any) -> Errors:
    BUDGET.get().spend(len(values) // 16)
    wanted = comparable(instance)
    if not any(comparable(value) == wanted for value in values):
        yield failed(f"{instance!r} is not one of {shortened(orjson.dumps(values).decode())}")


def check_unique(_validator: Any, wanted: bool, instance: Any, _schema: Any) -> Errors:
    if wanted and isinstance(instance, list):
        BUDGET.get().spend(len(instance))
        if len({comparable(value) for value in instance}) < len(instance):
            yield failed("has items that are not unique")


def check_multiple(_validator: Any, factor: Any, instance: Any, _schema: Any) -> Errors:
    """Of the decimal numbers that were written: 19.99 is a multiple of 0.01."""
    if type(instance) in (int, float) and Fraction(repr(instance)) % Fraction(repr(factor)):
        yield failed(f"{instance!r} is not a multiple of {factor!r}")


def give_up(*_: Any) -> Errors:
    """What the library does of its own to find out what was evaluated follows references without an end."""
    raise TooCostly


def quadratic(check: Callable[..., Errors]) -> Callable[..., Errors]:
    """It looks for each item among all the others."""

    def guard(validator: Any, value: Any, instance: Any, schema: Any) -> Errors:
        if isinstance(instance, list):
            BUDGET.get().spend(len(instance) ** 2 // 500)
        return check(validator, value, instance, schema)

    return guard


UNEVALUATED = frozenset({"unevaluatedItems", "unevaluatedProperties"})
OWN: Mapping[str, Callable[..., Errors]] = {
    "pattern": check_text,
    "patternProperties": check_matching,
    "additionalProperties": check_additional,
    "enum": check_enum,
    "uniqueItems": check_unique,
    "multipleOf": check_multiple,
}


def failed(message: str) -> Any:
    from jsonschema.exceptions import ValidationError

    return ValidationError(message)


@lru_cache(1_024)
def compiled(pattern: str) -> Any:
    import regex

    return regex.compile(pattern)


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
