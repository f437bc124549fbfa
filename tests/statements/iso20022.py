"""A camt.053 document, held against what the types of pyiso20022 say of it and xsdata does not look at when it reads one: order, what is
required, how long a text may be, how many digits a number has."""

import re
import typing
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Any
from xml.etree import ElementTree as ET

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001.08"


def objections(element: ET.Element, kind: Any, path: str = "Document") -> list[str]:
    """What is wrong with the element as an instance of `kind`."""
    if not is_dataclass(kind):
        return _text_objections(element.text or "", kind, {}, path)
    hints = typing.get_type_hints(kind)
    found: list[str] = []
    children = [field for field in fields(kind) if field.metadata.get("type") == "Element"]
    places = {f"{{{field.metadata.get('namespace', NAMESPACE)}}}{field.metadata['name']}": at for at, field in enumerate(children)}
    seen: list[int] = []
    for child in element:
        if child.tag not in places:
            found.append(f"{path}: no {child.tag} here")
            continue
        field = children[places[child.tag]]
        below = f"{path}/{field.metadata['name']}"
        if seen and (places[child.tag] < seen[-1] or (places[child.tag] == seen[-1] and "list[" not in str(field.type))):
            found.append(f"{below}: out of order, or twice")
        seen.append(places[child.tag])
        inner = _inner(hints[field.name])
        found += (
            objections(child, inner, below) if is_dataclass(inner) else _text_objections(child.text or "", inner, field.metadata, below)
        )
    for at, field in enumerate(children):
        if (field.metadata.get("required") or field.metadata.get("min_occurs")) and at not in seen:
            found.append(f"{path}: no {field.metadata['name']}")
    for field in fields(kind):
        if field.metadata.get("type") == "Attribute":
            found += _text_objections(element.get(field.metadata["name"], ""), _inner(hints[field.name]), field.metadata, f"{path}@")
        elif "type" not in field.metadata and field.name == "value":
            found += _text_objections(element.text or "", _inner(hints[field.name]), field.metadata, path)
    return found


def _inner(hint: Any) -> Any:
    inside = [each for each in typing.get_args(hint) if each is not type(None)]
    return _inner(inside[0]) if inside else hint


def _text_objections(text: str, kind: Any, rules: Any, path: str) -> list[str]:
    found = []
    if isinstance(kind, type) and issubclass(kind, Enum) and text not in {member.value for member in kind}:
        found.append(f"{path}: {text} is none of the codes")
    if kind is Decimal:
        digits = text.replace(".", "").lstrip("-")
        if Decimal(text) < rules.get("min_inclusive", Decimal(0)) or len(digits) > rules.get("total_digits", 99):
            found.append(f"{path}: {text} is out of range")
        if len(text.partition(".")[2]) > rules.get("fraction_digits", 99):
            found.append(f"{path}: {text} has too many decimals")
    if not rules.get("min_length", 0) <= len(text) <= rules.get("max_length", 10_000):
        found.append(f"{path}: {text} is too long or too short")
    if "pattern" in rules and not re.fullmatch(rules["pattern"], text):
        found.append(f"{path}: {text} has not the form")
    return found
