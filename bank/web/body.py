"""Reading a JSON body strictly: what two parsers could understand differently is refused.

Flask's own reader takes duplicate keys (the last wins), dies on integers of 5,000 digits and on
deep nesting, and lets through characters that PostgreSQL cannot store.
"""

import json
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import orjson
from flask import Request, Response
from flask.json.provider import JSONProvider
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from bank.errors import MalformedRequest, Unprocessable

MAX_DEPTH = 32
_LONGEST_INTEGER = 40


class StrictJSON(JSONProvider):
    """Flask's JSON: `orjson` writes, the standard library reads with our hooks."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return orjson.dumps(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return parse(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        return json_response(self._prepare_response_obj(args, kwargs))


def json_response(body: Any, status: int = 200) -> Response:
    """A JSON response of plain data, written in one go."""
    return Response(orjson.dumps(body), status=status, mimetype="application/json")


class StrictRequest(Request):
    """A request whose body must be whole, and whose JSON must be JSON and say so."""

    def get_data(self, *args: Any, **kwargs: Any) -> Any:
        data = super().get_data(*args, **kwargs)
        # A chunked body names no length; werkzeug cuts it at the limit and says nothing.
        if self.content_length is None and self.max_content_length is not None and len(data) >= self.max_content_length:
            raise RequestEntityTooLarge
        # A line of CSV, or an amount, may end where the connection did.
        if self.content_length is not None and len(data) < self.content_length:
            raise MalformedRequest("The body ended before its Content-Length.")
        return data

    def on_json_loading_failed(self, e: ValueError | None) -> NoReturn:
        if e is None:
            raise UnsupportedMediaType("Send application/json.")
        raise MalformedRequest("The body is not JSON.") from e


def parse(raw: str | bytes) -> Any:
    """The value of a JSON text.

    Numbers with a fraction or an exponent, -0, and integers too long to be any field of ours,
    come as Decimal, which no field takes. Raises MalformedRequest for text that is not JSON, has a
    key twice or nests deeper than 32; Unprocessable for strings with NUL or half a surrogate pair.
    """
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        value = _DECODER.decode(text)
    except RecursionError:
        raise MalformedRequest(f"The body nests deeper than {MAX_DEPTH}.") from None
    except ValueError as error:
        raise MalformedRequest("The body is not JSON.") from error
    _check_depth(value)
    # Looking at each of a hundred thousand strings takes a while, and where nothing is escaped there is none to be found.
    if "\\u" in text or not storable(text):
        errors = [
            {"pointer": pointer, "message": "Holds a character that cannot be stored."}
            for pointer, string in _strings(value)
            if not storable(string)
        ]
        if errors:
            raise Unprocessable(errors=errors)
    return value


def storable(string: str) -> bool:
    """Whether PostgreSQL can hold the string: no NUL, and no lone surrogate (it has no UTF-8)."""
    return _UNSTORABLE.search(string) is None


_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedRequest("The body has a key twice in one object.")
    return result


def _integer(digits: str) -> int | Decimal:
    # To Python -0 is 0, which would hide a sign from fields that take none.
    return int(digits) if len(digits) <= _LONGEST_INTEGER and digits != "-0" else Decimal(digits)


def _fraction(number: str) -> Decimal:
    try:
        return Decimal(number)
    except InvalidOperation:
        # An exponent of twenty digits, more than even Decimal has.
        return Decimal("NaN")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_fraction, parse_constant=Decimal)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        members = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, (dict, list)))
        level = [member for each in members for member in each if not isinstance(member, str)]
    if level:
        raise MalformedRequest(f"The body nests deeper than {MAX_DEPTH}.")


def _strings(value: Any) -> Iterator[tuple[str, str]]:
    """Every string of the value with its JSON pointer, keys included."""
    todo = [("", value)]
    while todo:
        pointer, item = todo.pop()
        if isinstance(item, str):
            yield pointer, item
            continue
        if isinstance(item, dict):
            for key, member in item.items():
                escaped = key.replace("~", "~0").replace("/", "~1")
                # The key itself may be what cannot be stored, and then cannot be sent back either.
                yield pointer, key
                if storable(key):
                    todo.append((f"{pointer}/{escaped}", member))
        elif isinstance(item, list):
            todo.extend((f"{pointer}/{index}", member) for index, member in enumerate(item))
