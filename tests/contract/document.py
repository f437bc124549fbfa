"""Holding an answer against the OpenAPI document: no more and no less than what a client generated from it would take."""

import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


class Document:
    """An OpenAPI 3.0 document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.root = document

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Method, path and operation of each."""
        for path, operations in self.root["paths"].items():
            for method, operation in operations.items():
                if method != "parameters":
                    yield method.upper(), path, operation

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        """The node, or what it refers to."""
        while "$ref" in node:
            found: Any = self.root
            for step in node["$ref"].removeprefix("#/").split("/"):
                found = found[step]
            node = found
        return node

    def answer(self, operation: dict[str, Any], status: int) -> dict[str, Any]:
        """What an operation documents for a status; KeyError when that is nothing."""
        return self.resolve(operation["responses"][str(status)])

    def objections(self, schema: dict[str, Any], value: Any, at: str = "") -> list[str]:
        """Where and how `value` is not what the schema says.

        Stricter than JSON Schema: an object has all documented properties, since our answers leave
        none out, except a problem's `errors` and `transaction`.
        """
        schema = self.resolve(schema)
        if not schema:
            # Anything, and said to be.
            return []
        if "anyOf" in schema:
            # What may be null and is otherwise something with a name of its own.
            return min((self.objections(part, value, at) for part in schema["anyOf"]), key=len)
        if value is None:
            return [] if schema.get("nullable") else [f"{at}: null"]
        if "allOf" in schema:
            return [found for part in schema["allOf"] for found in self.objections(part, value, at)]
        expected = schema.get("type")
        if expected is None:
            return [f"{at}: the document gives no type"]
        if not isinstance(value, _TYPES[expected]) or (expected != "boolean" and isinstance(value, bool)):
            return [f"{at}: {value!r} is no {expected}"]
        if "enum" in schema and value not in schema["enum"]:
            return [f"{at}: {value!r} is none of {schema['enum']}"]
        if isinstance(value, str):
            return [] if _has_format(value, schema.get("format")) else [f"{at}: {value!r} is no {schema['format']}"]
        if isinstance(value, list):
            return [found for i, item in enumerate(value) for found in self.objections(schema["items"], item, f"{at}/{i}")]
        if isinstance(value, dict):
            return self._object(schema, value, at)
        return []

    def _object(self, schema: dict[str, Any], value: dict[str, Any], at: str) -> list[str]:
        properties = schema.get("properties", {})
        more = schema.get("additionalProperties", False)
        found = [f"{at}/{name}: is missing" for name in properties if name not in value and name not in ("errors", "transaction")]
        for name, member in value.items():
            if name in properties:
                found += self.objections(properties[name], member, f"{at}/{name}")
            elif isinstance(more, dict):
                found += self.objections(more, member, f"{at}/{name}")
            else:
                found.append(f"{at}/{name}: is not in the document")
        return found


def _has_format(value: str, form: str | None) -> bool:
    if form == "uuid":
        return str(UUID(value)) == value
    if form == "date-time":
        return _TIME.fullmatch(value) is not None
    return True
