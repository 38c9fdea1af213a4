"""The document served at /openapi.json says what the code does: every route, every error, every field."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from proxy.api.paths import document
from proxy.entry.api_errors import CODES, ApiError
from proxy.routing import preferences
from proxy.serving.app import make_app
from proxy.surfaces import fields as request_fields
from proxy.surfaces.chat import request as chat_request
from proxy.surfaces.completions import request as completions_request
from proxy.surfaces.messages import request as messages_request
from proxy.surfaces.messages.answer import error_body
from proxy.surfaces.reasoning import EFFORTS, FORMATS
from proxy.surfaces.responses import request as responses_request

DOCUMENT = orjson.loads(document())
COMPONENTS = DOCUMENT["components"]
SCHEMAS = COMPONENTS["schemas"]


def fields(name: str) -> set[str]:
    """The properties of a schema and of all that it is made of."""
    schema = SCHEMAS[name]
    inherited = (fields(part["$ref"].rpartition("/")[2]) for part in schema.get("allOf", ()))
    return set(schema.get("properties", ())).union(*inherited)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method.upper(), operation


def errors(prefix: str) -> dict[str, tuple[int, str]]:
    """Each code's status and type, as the responses of one shape have it."""
    found = {}
    for _, method, operation in operations():
        for status, response in operation["responses"].items():
            name = response.get("$ref", "").rpartition("/")[2]
            if not name or name.startswith("Messages") is not bool(prefix):
                continue
            found.update(codes_of(name, int(status)))
        assert method in ("GET", "POST")
    found.update(codes_of(f"{prefix}MethodNotAllowed", 405))
    return found


def codes_of(name: str, status: int) -> dict[str, tuple[int, str]]:
    schema = COMPONENTS["responses"][name]["content"]["application/json"]["schema"]
    told = schema["properties"]["error"]["properties"]
    return dict.fromkeys(told["code"]["enum"], (status, told["type"]["const"]))


async def test_it_is_served_to_everybody(house):
    async with house.client.get(f"{house.address}/openapi.json") as response:
        assert (response.status, response.content_type) == (200, "application/json")
        assert orjson.loads(await response.read()) == DOCUMENT


async def test_every_route_is_in_it_and_nothing_else(house):
    app = make_app(house.service)
    routes = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None}
    served = {(method, path) for method, path in routes if method not in ("*", "HEAD")}
    assert served == {(method, path) for path, method, _ in operations()}


def test_every_error_is_in_it_with_its_status_and_type():
    assert errors("") == {code: (status, kind) for code, (status, kind, _) in CODES.items()}


def test_the_errors_of_messages_are_anthropics():
    told = {code: error_body(ApiError(code, "why"))["error"]["type"] for code in CODES}
    assert errors("Messages") == {code: (CODES[code][0], told[code]) for code in CODES}


@pytest.mark.parametrize(
    ("schema", "known"),
    [
        ("ChatRequest", chat_request.PASSED | chat_request.READ),
        ("CompletionRequest", completions_request.PASSED | completions_request.READ),
        ("ResponseRequest", responses_request.PASSED | responses_request.READ),
        ("MessagesRequest", messages_request.READ),
        ("Provider", preferences.FIELDS),
    ],
)
def test_every_field_that_is_read_is_in_it(schema: str, known: set[str]) -> None:
    assert fields(schema) == known


def test_the_prices_that_bound_a_request():
    assert set(SCHEMAS["Provider"]["properties"]["max_price"]["properties"]) == preferences.PRICES


BOUNDED = ["ChatRequest", "CompletionRequest", "ResponseRequest", "MessagesRequest"]


def properties(name: str) -> dict[str, Any]:
    schema = SCHEMAS[name]
    inherited = [properties(part["$ref"].rpartition("/")[2]) for part in schema.get("allOf", ())]
    return {name: value for part in [*inherited, schema.get("properties", {})] for name, value in part.items()}


@pytest.mark.parametrize("schema", BOUNDED)
def test_the_bounds_of_numbers_are_those_that_are_checked(schema: str) -> None:
    bounds: Mapping[str, tuple[float, float]] = {**request_fields.NUMBERS, **request_fields.INTEGERS}
    stated = {name: one for name, one in properties(schema).items() if name in bounds}
    assert stated
    for name, one in stated.items():
        assert (one["minimum"], one["maximum"]) == bounds[name], name
        assert one["type"] == ["integer" if name in request_fields.INTEGERS else "number", "null"], name


def test_the_words_of_choices_are_those_that_are_checked():
    said = {
        "Effort": EFFORTS,
        "ReasoningFormat": FORMATS,
    }
    for schema, words in said.items():
        assert SCHEMAS[schema]["enum"] == [*words, None]
    assert SCHEMAS["Provider"]["properties"]["sort"]["enum"] == [*preferences.SORTS, None]
    assert SCHEMAS["Metadata"]["maxProperties"] == request_fields.MAX_LABELS
    assert SCHEMAS["Label"]["maxLength"] == request_fields.LABEL_CHARACTERS["value"]


def test_everything_that_is_named_is_there_and_everything_there_is_named():
    named = set(references(DOCUMENT))
    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "parameters", "headers", "links", "responses")
        for name in COMPONENTS[kind]
    }
    assert named <= there
    # Of any path, so of none of those in the document.
    everywhere = {f"#/components/responses/{prefix}MethodNotAllowed" for prefix in ("", "Messages")}
    assert there - named == everywhere


def test_a_path_names_its_parameters():
    for path, _, operation in operations():
        given = [COMPONENTS["parameters"][ref.rpartition("/")[2]] for ref in references(operation.get("parameters"))]
        assert {one["name"] for one in given if one["in"] == "path"} == set(re.findall(r"{(\w+)}", path)), path
