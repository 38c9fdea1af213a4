"""The JSON that a caller wants an answer to be, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """The answer is to be JSON that fits `schema`, a JSON Schema; where that is None, any JSON object."""

    schema: Any = None


def read_json_format(parameters: Mapping[str, Any]) -> JsonFormat | None:
    """What `response_format` (OpenAI's, checked by the surface) asks for; None where any text will do."""
    response_format = parameters.get("response_format") or {}
    match response_format.get("type"):
        case "json_object":
            return JsonFormat()
        case "json_schema":
            return JsonFormat(response_format["json_schema"]["schema"])
    return None
