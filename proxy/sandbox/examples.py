"""A value that fits a JSON schema: what the sandbox calls tools with and answers when asked for JSON."""

from collections.abc import Mapping
from typing import Any

MOST_LEVELS = 8


def example(schema: Any, text: str, root: Any = None, depth: int = 0) -> Any:
    """The simplest value that `schema` allows; strings are `text`. `$ref` is followed within `root`."""
    root = schema if root is None else root
    if not isinstance(schema, Mapping) or depth > MOST_LEVELS:
        return text
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    if schema.get("enum"):
        return schema["enum"][0]
    if isinstance(schema.get("$ref"), str):
        return example(resolve(schema["$ref"], root), text, root, depth + 1)
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return example(schema[name][0], text, root, depth + 1)
    return of_type(schema, text, root, depth)


def of_type(schema: Mapping[str, Any], text: str, root: Any, depth: int) -> Any:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = kind[0] if kind else None
    properties = schema.get("properties")
    if kind == "object" or isinstance(properties, Mapping):
        properties = properties if isinstance(properties, Mapping) else {}
        names = schema.get("required") or list(properties)
        return {name: example(properties.get(name, {}), text, root, depth + 1) for name in names}
    if kind == "array":
        return [example(schema.get("items", {}), text, root, depth + 1)] * max(int(schema.get("minItems") or 1), 1)
    if kind in ("integer", "number"):
        return schema.get("minimum", 1)
    return {"boolean": True, "null": None}.get(str(kind), text)


def resolve(reference: str, root: Any) -> Any:
    """`#/$defs/Name` within `root`; anything else is taken for a schema without rules."""
    node = root
    for part in reference.removeprefix("#/").split("/"):
        node = node.get(part, {}) if isinstance(node, Mapping) else {}
    return node
