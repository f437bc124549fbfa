"""The bodies, queries and answers of `/accounts`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from bank.web.fields import Amount, Choice, Currency, Identifier, StrictSchema, Text
from bank.web.paging import PageSchema

_STATUS = ["active", "frozen", "closed"]
_MONEY = {"example": "12.34"}
_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}


class OpenAccount(StrictSchema):
    """What to open."""

    currency = Currency(required=True, metadata={"example": "USD"})
    name = Text(most=100, metadata={"example": "Household"})
    user_id = Identifier(metadata={"description": "Whose account; staff only. Default: the caller's."})


class ChangeAccount(StrictSchema):
    """What to change; a field that is left out stays as it is."""

    name = Text(most=100, allow_none=True, metadata={"example": "Household"})
    status = Choice(_STATUS, metadata={"description": "Staff only."})
    overdraft_limit = Amount(metadata={"description": "Staff only.", "example": "100.00"})

    @validates_schema
    def _something(self, data: dict[str, Any], **kwargs: Any) -> None:
        if not data:
            raise ValidationError("Nothing to change.")


class AccountQuery(PageSchema):
    """Which accounts."""

    user_id = Identifier(metadata={"description": "Staff only."})
    currency = Currency()
    status = Choice(_STATUS)


class AccountAnswer(Schema):
    """An account."""

    id = fields.UUID()
    user_id = fields.UUID()
    currency = fields.String(metadata={"example": "USD"})
    name = fields.String(allow_none=True)
    status = fields.String(metadata={"enum": _STATUS})
    balance = fields.String(metadata=_MONEY)
    available = fields.String(metadata={**_MONEY, "description": "What can be spent: less holds, with the overdraft."})
    held = fields.String(metadata={"example": "0.00"})
    overdraft_limit = fields.String(metadata={"example": "0.00"})
    version = fields.Integer(metadata={"description": "How many entries the account has."})
    created_at = fields.String(metadata=_TIME)


class AccountPage(Schema):
    """A page of accounts."""

    data = fields.List(fields.Nested(AccountAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()


class EntryAnswer(Schema):
    """One side of a transaction on one account."""

    transaction_id = fields.UUID()
    version = fields.Integer()
    amount = fields.String(metadata={"example": "-12.34", "description": "Negative: out of the account."})
    currency = fields.String()
    balance = fields.String(metadata={**_MONEY, "description": "The account's balance right after this entry."})
    effective_at = fields.String(metadata=_TIME)
    created_at = fields.String(metadata=_TIME)


class EntryPage(Schema):
    """A page of entries."""

    data = fields.List(fields.Nested(EntryAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()
