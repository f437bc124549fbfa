"""The queries and answers of `/balances`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from bank.web.examples import ALICES_ACCOUNT
from bank.web.fields import Choice, Currency, Identifier, Moment, StrictSchema
from bank.web.paging import PageSchema

_INTERVALS = ["hour", "day", "week", "month"]
_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}
_MONEY = {"example": "12.34"}


class CurrentQuery(PageSchema):
    """Whose balances."""

    account_id = Identifier()
    currency = Currency()
    user_id = Identifier(metadata={"description": "Staff only."})


class HistoricalQuery(StrictSchema):
    """Which steps of which account."""

    account_id = Identifier(required=True, metadata={"example": ALICES_ACCOUNT})
    since = Moment(data_key="from", metadata={"description": "Default: 30 days before `to`.", "example": "2026-01-01T00:00:00Z"})
    until = Moment(data_key="to", metadata={"description": "Default: now.", "example": "2026-02-01T00:00:00Z"})
    interval = Choice(_INTERVALS, load_default="day")

    @validates_schema(skip_on_field_errors=True)
    def _forward(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "since" in data and "until" in data and data["since"] >= data["until"]:
            raise ValidationError("Must lie before `to`.", "from")


class AtTimeQuery(StrictSchema):
    """Which moment on both axes."""

    account_id = Identifier(required=True, metadata={"example": ALICES_ACCOUNT})
    at = Moment(required=True, metadata={"description": "The balance that counted then.", "example": "2026-01-31T12:00:00Z"})
    known_at = Moment(metadata={"description": "As the bank knew it then. Default: now.", "example": "2026-02-01T00:00:00Z"})


class BalanceAnswer(Schema):
    """What an account holds now."""

    account_id = fields.UUID()
    user_id = fields.UUID()
    currency = fields.String()
    amount = fields.String(metadata=_MONEY)
    available = fields.String(metadata=_MONEY)
    held = fields.String(metadata={"example": "0.00"})
    last_updated_at = fields.String(metadata=_TIME)
    version = fields.Integer()


class BalancePage(Schema):
    """A page of balances."""

    data = fields.List(fields.Nested(BalanceAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()


class Step(Schema):
    """What happened in one step."""

    since = fields.String(data_key="from", metadata=_TIME)
    until = fields.String(data_key="to", metadata=_TIME)
    opening = fields.String(metadata=_MONEY)
    closing = fields.String(metadata=_MONEY)
    credits = fields.String(metadata=_MONEY)
    debits = fields.String(metadata=_MONEY)
    count = fields.Integer()


class HistoricalAnswer(Schema):
    """The steps, oldest first, without gaps."""

    account_id = fields.UUID()
    user_id = fields.UUID()
    currency = fields.String()
    interval = fields.String(metadata={"enum": _INTERVALS})
    data = fields.List(fields.Nested(Step))


class AtTimeAnswer(Schema):
    """The balance at a moment."""

    account_id = fields.UUID()
    user_id = fields.UUID()
    currency = fields.String()
    amount = fields.String(metadata=_MONEY)
    at = fields.String(metadata=_TIME)
    known_at = fields.String(metadata=_TIME)
