"""What a line of the file says: the columns of a record become a movement of money, or a refusal with its reason."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Self

from marshmallow import ValidationError

from bank.imports.records import Record, Records, Unusable
from bank.money import InvalidMoney, exponent, parse_amount
from bank.web.fields import Text

FIELDS = ("account", "date", "type", "amount", "currency", "reference", "description")
_REQUIRED = ("account", "date", "type", "amount")

# Lines that are taken in by one commit: few enough that locks are held for a moment only, many
# enough that the statements cost little a line.
CHUNK = 1000

# What the API takes in these places.
_ACCOUNT, _REFERENCE, _DESCRIPTION = Text(most=100), Text(most=100), Text(most=500, lines=True)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How to read the file.

    `columns` says under which header a field stands where that is not its own name; `types` what a
    word in the type column means: `credit` or `debit`. `date_format` is strptime's, None for ISO
    8601; `century` (19: 19YY) makes years of two digits unmistakable. `currency` is that of lines
    that name none.
    """

    columns: Mapping[str, str]
    types: Mapping[str, str]
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    date_format: str | None = None
    century: int | None = None
    decimal_mark: str = "."
    thousands_mark: str = ""
    currency: str | None = None

    def digest(self, owner: str) -> bytes:
        """SHA-256 of all that decides what a file's lines mean, the owner of the accounts included."""
        return sha256(json.dumps({**asdict(self), "owner": owner}, sort_keys=True).encode()).digest()


@dataclass(frozen=True, slots=True)
class Line:
    """A line that can be understood: `amount` is minor units of `currency`, `type` is credit or debit."""

    record: Record
    account: str
    type: str
    amount: int
    currency: str
    effective_at: datetime
    reference: str | None
    description: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that does not count: `reason` is a code, `detail` a sentence."""

    record: Record
    reason: str
    detail: str


class _Objection(Exception):
    """What is wrong with a line: a code and a sentence."""


class Lines:
    """The lines of a file, in their order; a context manager and an iterator.

    `until`: money does not count from later than this. Raises Unusable for a file that has not the
    columns it should have.
    """

    def __init__(self, path: Path, format: Format, until: datetime) -> None:
        self._format = format
        self._until = until
        self._amount = _amount_pattern(format)
        self._moment = lru_cache(maxsize=4096)(self._parse_moment)
        self._file = Records(path, format.encoding, format.delimiter)
        try:
            self._records = iter(self._file)
            header = next(self._records, None)
            if header is None:
                raise Unusable("The file is empty: its first line must name the columns.")
            if header.error:
                raise Unusable(f"The first line, which must name the columns, cannot be read: {header.error}.")
            self.header = header.fields
            self._places = self._find_columns([name.strip() for name in header.fields])
        except BaseException:
            self._file.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__()

    @property
    def position(self) -> int:
        """How many bytes of the file were read."""
        return self._file.position

    def _find_columns(self, header: list[str]) -> dict[str, int]:
        if any(re.search("[\0\ud800-\udfff]", name) for name in header):
            raise Unusable(f"The first line is not text in {self._format.encoding}; name the file's encoding (--encoding).")
        places = {}
        for field in FIELDS:
            name = self._format.columns.get(field, field)
            if header.count(name) > 1:
                raise Unusable(f"The column {name!r} is there more than once.")
            if name in header:
                places[field] = header.index(name)
            elif field in _REQUIRED or field in self._format.columns:
                raise Unusable(f"There is no column {name!r} for the {field} (--column {field}=...). The file has: {', '.join(header)}.")
        if "currency" not in places and self._format.currency is None:
            raise Unusable("There is no column 'currency'; name the column (--column currency=...) or the currency (--currency).")
        return places

    def __iter__(self) -> Iterator[Line | Refused]:
        for record in self._records:
            try:
                yield self._line(record)
            except _Objection as objection:
                reason, detail = objection.args
                yield Refused(record, reason, detail)

    def _line(self, record: Record) -> Line:
        if record.error:
            raise _Objection("unreadable", f"It is no line of CSV: {record.error}.")
        if len(record.fields) != len(self.header):
            raise _Objection("wrong_columns", f"It has {len(record.fields)} fields, the header has {len(self.header)}.")
        value = {field: record.fields[place].strip() for field, place in self._places.items()}
        kind = self._format.types.get(value["type"].casefold())
        if kind is None:
            raise _Objection("unknown_type", f"The type {value['type'][:40]!r} means neither credit nor debit (--type).")
        currency = value.get("currency") or self._format.currency or ""
        try:
            exponent(currency)
        except InvalidMoney as error:
            raise _Objection("unknown_currency", str(error)) from None
        return Line(
            record=record,
            account=_checked(_ACCOUNT, "bad_account", value["account"]),
            type=kind,
            amount=self._minor(value["amount"], currency),
            currency=currency,
            effective_at=self._effective_at(value["date"]),
            reference=_optional(_REFERENCE, "bad_reference", value.get("reference")),
            description=_optional(_DESCRIPTION, "bad_description", value.get("description")),
        )

    def _minor(self, text: str, currency: str) -> int:
        try:
            if self._amount is not None:
                if not self._amount.fullmatch(text):
                    raise InvalidMoney("Not a positive decimal amount with the marks that were named.")
                text = text.replace(self._format.thousands_mark, "") if self._format.thousands_mark else text
                text = text.replace(self._format.decimal_mark, ".")
            return parse_amount(text, currency)
        except InvalidMoney as error:
            raise _Objection("bad_amount", str(error)) from None

    def _effective_at(self, text: str) -> datetime:
        try:
            moment = self._moment(text)
        except (ValueError, OverflowError):
            shape = self._format.date_format or "ISO 8601"
            raise _Objection("bad_date", f"{text[:40]!r} is no date of the form {shape} from 1900 on (--date-format).") from None
        if moment > self._until:
            raise _Objection("future_date", "Lies in the future.")
        return moment

    def _parse_moment(self, text: str) -> datetime:
        shape = self._format.date_format
        if shape is None:
            moment = datetime.fromisoformat(text)
        else:
            moment = datetime.strptime(text, shape)  # noqa: DTZ007 - what names no offset is UTC, below
            # strptime reads "9311" by %y%m%d as the 1st of January 1993: digits that run together must all be there.
            if re.fullmatch("(%[A-Za-z])+", shape) and moment.strftime(shape) != text:
                raise ValueError("not all digits are there")
            if self._format.century is not None and "%y" in shape:
                moment = moment.replace(year=self._format.century * 100 + moment.year % 100)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if not 1900 <= moment.year <= 9000:
            raise ValueError("out of the range of the ledger")
        return moment


def _amount_pattern(format: Format) -> re.Pattern[str] | None:
    """What an amount looks like in this format; None where it looks as the bank's own."""
    if format.decimal_mark == "." and not format.thousands_mark:
        return None
    grouped = f"[0-9]{{1,3}}(?:{re.escape(format.thousands_mark)}[0-9]{{3}})+|" if format.thousands_mark else ""
    return re.compile(f"(?:{grouped}[0-9]+)(?:{re.escape(format.decimal_mark)}[0-9]+)?", re.ASCII)


def _optional(shape: Text, reason: str, text: str | None) -> str | None:
    return _checked(shape, reason, text) if text else None


def _checked(shape: Text, reason: str, text: str) -> str:
    # Short printable ASCII is good in every shape, and nearly all there is: the full look takes ten times as long.
    if 0 < len(text) <= 100 and text.isascii() and text.isprintable():
        return text
    try:
        return str(shape.deserialize(text))
    except ValidationError as error:
        raise _Objection(reason, _sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    return " ".join(map(str, error.messages))


def chunks(lines: Iterable[Line | Refused]) -> Iterator[list[Line | Refused]]:
    """The lines in lists of CHUNK."""
    iterator = iter(lines)
    while part := list(islice(iterator, CHUNK)):
        yield part
