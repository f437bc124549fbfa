"""A batch as a CSV upload (RFC 4180): a record for each transaction, under a header of the names that the JSON has.

Read as strictly as JSON is: what two readers could understand differently is refused, with the line where it stands.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from bank.errors import MalformedRequest, Unprocessable
from bank.web.body import parse

COLUMNS = (
    "type",
    "account_id",
    "user_id",
    "from_account_id",
    "to_account_id",
    "to_user_id",
    "to_username",
    "amount",
    "currency",
    "to_currency",
    "description",
    "metadata",
    "reference",
    "effective_at",
)

MOST_ERRORS = 100
"""How many bad items of a batch are named: a client that has more has made one mistake many times."""

# A field, quoted or not, and what ends it. Python's own reader takes quotes in the middle of a field, and has no
# number for the line where a record of several begins.
_FIELD = re.compile(r'(?:"((?:[^"]++|"")*+)"|([^",\r\n]*+))(,|\r\n|\n|\Z)')


class Record(dict[str, Any]):
    """A transaction as JSON would have it, and the line where it begins."""

    __slots__ = ("line",)

    def __init__(self, line: int, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.line = line


def read(data: bytes, most: int) -> list[Record]:
    """The records of a CSV text, no more than `most` and one. An empty field is one that is left out; `metadata` is JSON.

    Raises MalformedRequest for what is no CSV, and Unprocessable for a column that no transaction has; both name the line.
    """
    try:
        # Spreadsheets put a mark in front that is no part of the first name.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MalformedRequest(f"Line {line}: not UTF-8.") from None
    # Eight megabytes of line ends would be gigabytes of records.
    (_, header), *records = list(islice(_split(text), most + 2)) or [(1, [""])]
    if len(set(header)) < len(header):
        raise MalformedRequest("Line 1: the header has a name twice.")
    unknown = [name for name in header if name not in COLUMNS]
    if unknown:
        errors = [{"pointer": "/transactions", "message": f"Line 1: there is no field {name!r}."} for name in unknown]
        raise Unprocessable(errors=errors[:MOST_ERRORS])
    found = []
    for line, values in records:
        if len(values) != len(header):
            raise MalformedRequest(f"Line {line}: {len(values)} fields under a header of {len(header)}.")
        found.append(Record(line, {name: _value(line, name, value) for name, value in zip(header, values, strict=True) if value}))
    return found


def _value(line: int, name: str, value: str) -> Any:
    if name != "metadata":
        return value
    try:
        return parse(value)
    except MalformedRequest:
        raise MalformedRequest(f"Line {line}: the metadata is not JSON.") from None
    except Unprocessable:
        raise MalformedRequest(f"Line {line}: the metadata holds a character that cannot be stored.") from None


def _split(text: str) -> Iterator[tuple[int, list[str]]]:
    """The records, each with the line where it begins."""
    position, line, begins = 0, 1, 1
    values: list[str] = []
    while position < len(text) or values:
        match = _FIELD.match(text, position)
        if match is None:
            raise MalformedRequest(f"Line {line}: a quote where none belongs, or one that is never closed.")
        quoted, plain, end = match.groups()
        values.append(plain if quoted is None else quoted.replace('""', '"'))
        line += match[0].count("\n")
        position = match.end()
        if end != ",":
            yield begins, values
            values, begins = [], line
            if not end:
                return
