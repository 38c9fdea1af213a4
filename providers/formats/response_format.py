"""The JSON that a caller wants an answer to be, and who sees to it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Format:
    """`schema` None: any JSON object."""

    schema: Any = None


class Enforcer(Enum):
    """Who holds an answer to its format."""

    ENGINE = "its grammar lets no other token pass"
    PROVIDER = "it says that it does, and is checked"
    PROMPT = "it is asked to, and checked"


def read_format(parameters: Mapping[str, Any]) -> Format | None:
    """None where any text will do. `parameters` are a request's, checked by its surface."""
    wanted = parameters.get("response_format") or {}
    match wanted.get("type"):
        case "json_object":
            return Format()
        case "json_schema":
            return Format(wanted["json_schema"]["schema"])
    return None
