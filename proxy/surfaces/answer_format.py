"""What a caller says of the shape of the answer, brought into one of two fields, whichever of the many was used.

JSON becomes `response_format`, which every endpoint can be made to give; what only an engine's grammar can do becomes
its `structured_outputs`. The `guided_…` of older engines mean the same, and newer engines ignore them silently.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.entry.api_errors import ApiError

GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}
KINDS = ("text", "json_object", "json_schema")


def settle_format(body: Mapping[str, Any], parameters: dict[str, Any]) -> None:
    """Put into `parameters` what `body` says. Raises ApiError, also where it says two things at once."""
    wanted = checked_response_format(parameters.pop("response_format", None))
    said = ["response_format"] if wanted else []
    said += [name for name in ("structured_outputs", *GUIDED) if body.get(name) is not None]
    if len(said) > 1:
        raise invalid(said[1], f"says another thing of the answer than {said[0]}; give one of them")
    guided = next((name for name in said if name in GUIDED), None)
    if guided:
        parameters["structured_outputs"] = {GUIDED[guided]: body[guided]}
    structured = parameters.get("structured_outputs")
    if structured and structured.keys() == {"json"}:
        wanted = format_of_schema(structured["json"], guided or "structured_outputs.json")
    elif structured == {"json_object": True}:
        wanted = {"type": "json_object"}
    if wanted:
        parameters.pop("structured_outputs", None)
        parameters["response_format"] = wanted


def checked_response_format(given: Any) -> dict[str, Any] | None:
    """A checked `response_format`, without what it does not need; None where any text will do. Raises ApiError."""
    if given is None:
        return None
    kind = given.get("type")
    if kind not in KINDS:
        raise invalid("response_format.type", f"must be one of {', '.join(KINDS)}")
    if kind == "text":
        return None
    if kind == "json_object":
        return {"type": kind}
    described = given.get("json_schema")
    if type(described) is not dict:
        raise invalid("response_format.json_schema", "must be an object")
    if type(described.get("schema")) is not dict:
        raise invalid("response_format.json_schema.schema", "must be an object")
    return {"type": kind, "json_schema": described}


def format_of_schema(schema: Any, param: str) -> dict[str, Any]:
    """The `response_format` of a schema, which is an object or, as older engines take it, its text."""
    if type(schema) is str:
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError:
            raise invalid(param, "is no JSON") from None
    if type(schema) is not dict:
        raise invalid(param, "must be a schema, an object")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def invalid(param: str, what: str) -> ApiError:
    return ApiError("invalid_request", f"{param} {what}", param=param)
