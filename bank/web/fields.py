"""The marshmallow fields that bodies and queries are made of, each as strict as the contract.

marshmallow's own are too kind for a bank: Integer takes 1.9, Decimal takes `1_000` and Arabic
digits, DateTime takes a time without an offset.
"""

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, validates_schema

from bank.money import InvalidMoney, exponent, parse_amount
from bank.web.body import storable

_RFC3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII)


_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)

_RATE = re.compile(r"(0|[1-9][0-9]{0,9})(\.[0-9]{1,10})?", re.ASCII)


# Characters that make a text look like another (Unicode TR 36, 3.2).
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class StrictSchema(Schema):
    """The parent of every request schema: unknown fields are refused, never ignored."""

    class Meta:
        unknown = RAISE


class Text(fields.String):
    """A string in NFC of `least` to `most` characters, without control characters.

    `pattern` narrows it further; it must match the whole.
    """

    def __init__(self, *, least: int = 1, most: int, pattern: str | None = None, lines: bool = False, **kwargs: Any) -> None:
        kwargs.setdefault("metadata", {})
        kwargs["metadata"] = {"minLength": least, "maxLength": most, **kwargs["metadata"]}
        if pattern:
            kwargs["metadata"]["pattern"] = f"^{pattern}$"
        super().__init__(**kwargs)
        self.least, self.most, self.lines = least, most, lines
        self.pattern = re.compile(pattern, re.ASCII) if pattern else None

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("Not a string.")
        if len(value) > self.most:
            raise ValidationError(f"Longer than {self.most} characters.")
        # Most are plain, which is seen at once; a batch has tens of thousands of them.
        plain = value.isascii() and value.isprintable()
        text = value if plain else unicodedata.normalize("NFC", value)
        if not plain and (
            not storable(text) or any(unicodedata.category(char) == "Cc" and not (self.lines and char == "\n") for char in text)
        ):
            raise ValidationError("Holds a control character.")
        if (not plain and _TURNS.search(text)) or (self.least and not text.strip()):
            raise ValidationError("Is blank, or holds a character that turns the direction of text.")
        if not self.least <= len(text) <= self.most:
            raise ValidationError(f"Must be {self.least} to {self.most} characters long.")
        if self.pattern and not self.pattern.fullmatch(text):
            raise ValidationError("Does not have the right form.")
        return text


class Choice(fields.String):
    """One of the given words, as a string."""

    def __init__(self, choices: list[str], **kwargs: Any) -> None:
        kwargs["metadata"] = {"enum": choices, **kwargs.get("metadata", {})}
        super().__init__(**kwargs)
        self.choices = choices

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str) or value not in self.choices:
            raise ValidationError(f"Must be one of: {', '.join(self.choices)}.")
        return value


class Whole(fields.Integer):
    """A whole number in a query, in ASCII digits: Integer alone takes "1_0", " 7 " and Arabic digits."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if not isinstance(value, str) or not (value.isascii() and value.isdigit() and len(value) <= 19):
            raise ValidationError("Not a whole number.")
        return int(value)


class WholeNumber(fields.Integer):
    """A whole number in a body, as a JSON integer: Integer alone takes "1", 1.0 and true."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        # bool is an int to Python, and no number.
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValidationError("Not a whole number.")
        return value


class Flag(fields.Boolean):
    """true or false in a body: Boolean alone takes "yes", 1 and "off"."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError("Must be true or false.")
        return value


class Identifier(fields.String):
    """A UUID, as a lower-case string with hyphens."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {"format": "uuid", **kwargs.get("metadata", {})}
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise ValidationError("Not a UUID.")
        return value.lower()


class Currency(fields.String):
    """A currency of ISO 4217 that money can be held in, in upper case."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {"pattern": "^[A-Z]{3}$", **kwargs.get("metadata", {})}
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        try:
            if not isinstance(value, str) or len(value) != 3:
                raise InvalidMoney("Not a currency of ISO 4217 in upper case.")
            exponent(value)
        except InvalidMoney as error:
            raise ValidationError(str(error)) from None
        return value


class Amount(fields.Field[str]):
    """A decimal string or a whole number; `resolve_amount` makes minor units of it once the currency is known."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {
            "oneOf": [
                {"type": "string", "pattern": r"^(0|[1-9][0-9]{0,18})(\.[0-9]{1,6})?$"},
                {"type": "integer", "minimum": 0},
            ],
            **kwargs.get("metadata", {}),
        }
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        # bool is an int to Python, and no amount.
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise ValidationError("Must be a decimal string or a whole number, never a float.")
        text = str(value)
        if len(text) > 30:
            raise ValidationError("The amount is past the ledger's range.")
        return text


def resolve_amount(text: str, currency: str, *, field: str = "amount", allow_zero: bool = False) -> int:
    """Minor units of a loaded Amount. Raises ValidationError that points at `field`."""
    try:
        return parse_amount(text, currency, allow_zero=allow_zero)
    except InvalidMoney as error:
        raise ValidationError(str(error), field_name=field) from None


class Moment(fields.Field[datetime]):
    """An RFC 3339 time with an offset, as an aware datetime in UTC."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {"type": "string", "format": "date-time", **kwargs.get("metadata", {})}
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        if not isinstance(value, str) or not _RFC3339.fullmatch(value):
            raise ValidationError("Not an RFC 3339 time with an offset, such as 2026-01-31T12:00:00Z.")
        try:
            moment = datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError):
            raise ValidationError("There is no such time.") from None
        # What both Python and PostgreSQL hold, with room for the arithmetic of days and months.
        if not 1900 <= moment.year <= 9000:
            raise ValidationError("The year must be from 1900 to 9000.")
        return moment


class Day(fields.Field[date]):
    """A day of the calendar, as RFC 3339 writes one."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {"type": "string", "format": "date", **kwargs.get("metadata", {})}
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> date:
        if not isinstance(value, str) or not _DAY.fullmatch(value):
            raise ValidationError("Not a date, such as 2026-01-31.")
        try:
            day = date.fromisoformat(value)
        except ValueError:
            raise ValidationError("There is no such day.") from None
        # As for moments.
        if not 1900 <= day.year <= 9000:
            raise ValidationError("The year must be from 1900 to 9000.")
        return day


class Rate(fields.Field[Decimal]):
    """A decimal string above zero, with up to ten digits on either side of the point."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {"type": "string", "pattern": f"^{_RATE.pattern}$", **kwargs.get("metadata", {})}
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Decimal:
        if not isinstance(value, str) or not _RATE.fullmatch(value) or not (rate := Decimal(value)):
            raise ValidationError('Not a decimal string above zero, such as "1.25", with up to ten digits on either side.')
        return rate


class Metadata(fields.Field[dict[str, str]]):
    """Up to 50 keys of up to 40 characters, each with a string of up to 500."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs["metadata"] = {
            "type": "object",
            "maxProperties": 50,
            "additionalProperties": {"type": "string", "maxLength": 500},
            **kwargs.get("metadata", {}),
        }
        super().__init__(**kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("Not an object.")
        if len(value) > 50:
            raise ValidationError("More than 50 keys.")
        for key, member in value.items():
            if not 1 <= len(key) <= 40:
                raise ValidationError("A key must be 1 to 40 characters long.")
            if not isinstance(member, str) or len(member) > 500:
                raise ValidationError("A value must be a string of at most 500 characters.")
        return value


def timestamp(moment: datetime | None) -> str | None:
    """RFC 3339 in UTC with microseconds and Z, as every response prints times."""
    if moment is None:
        return None
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class MoneySchema(StrictSchema):
    """`amount` and `currency` side by side; loads `minor` from them."""

    amount = Amount(required=True, metadata={"example": "12.34"})
    currency = Currency(required=True, metadata={"example": "USD"})

    @validates_schema(skip_on_field_errors=True)
    def _in_range(self, data: dict[str, Any], **kwargs: Any) -> None:
        data["minor"] = resolve_amount(data["amount"], data["currency"])
