"""The bodies, queries and answers of `/fx`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from bank.fx.service import BASE
from bank.web.fields import Currency, Day, MoneySchema, Rate, StrictSchema

_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}
_DAY = {"format": "date", "example": "2026-01-30"}
_RATE = {"example": "1.1172"}


class RatesQuery(StrictSchema):
    """On which day."""

    date = Day(metadata={"description": "Default: today, in UTC.", "example": "2026-01-31"})


class PublishRate(StrictSchema):
    """A rate of the bank's own."""

    currency = Currency(required=True, metadata={"example": "KES"})
    rate = Rate(required=True, metadata={"description": f"Units of it for one {BASE}.", "example": "144.35"})
    date = Day(metadata={"description": "The day that it is for. Default: today, in UTC. Not in the future."})

    @validates_schema(skip_on_field_errors=True)
    def _not_the_base(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["currency"] == BASE:
            raise ValidationError(f"Rates are for one {BASE}.", "currency")


class AskQuote(MoneySchema):
    """What is to be exchanged."""

    to_currency = Currency(required=True, metadata={"example": "EUR", "description": "What it is to become."})

    @validates_schema(skip_on_field_errors=True)
    def _other_money(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["to_currency"] == data["currency"]:
            raise ValidationError("Is the same currency.", "to_currency")


class RateAnswer(Schema):
    """A rate as it was published."""

    currency = fields.String(metadata={"example": "USD"})
    rate = fields.String(metadata={**_RATE, "description": "Units of `currency` for one of `base`."})
    date = fields.String(metadata={**_DAY, "description": "The day that it was published for: some days before, over a weekend."})
    source = fields.String(metadata={"example": "ecb", "description": "Who published it. An administrator's counts first on its day."})
    recorded_at = fields.String(metadata=_TIME)


class PublishedRate(RateAnswer):
    """A rate, and for one of what it is."""

    base = fields.String(metadata={"example": BASE})


class RatesAnswer(Schema):
    """The rates that count on a day."""

    base = fields.String(metadata={"example": BASE})
    data = fields.List(fields.Nested(RateAnswer))


class QuoteAnswer(Schema):
    """A firm rate for one transfer."""

    id = fields.UUID()
    amount = fields.String(metadata={"example": "100.00", "description": "What leaves."})
    currency = fields.String(metadata={"example": "USD"})
    to_amount = fields.String(metadata={"example": "89.06", "description": "What arrives."})
    to_currency = fields.String(metadata={"example": "EUR"})
    rate = fields.String(
        metadata={"example": "0.890619405657", "description": "Units of `to_currency` for one of `currency`: what is agreed."}
    )
    mid_rate = fields.String(metadata={"example": "0.895094880057", "description": "The published rate, without the spread."})
    spread = fields.String(metadata={"example": "0.50", "description": "What the bank keeps of it, in percent."})
    rate_date = fields.String(metadata={**_DAY, "description": "Of which day the published rate is."})
    created_at = fields.String(metadata=_TIME)
    expires_at = fields.String(metadata=_TIME)


class PositionAnswer(Schema):
    """What exchanges have left the bank with in a currency."""

    currency = fields.String(metadata={"example": "USD"})
    position = fields.String(metadata={"example": "-89.06", "description": "Above zero the bank holds it, below it owes it."})
    remainder = fields.String(
        metadata={"example": "0.0019405657", "description": "What roundings left with it, exactly: so much more customers were due."}
    )
    value = fields.String(allow_none=True, metadata={"example": "-89.06", "description": "Today, in `base`. Null: there is no rate."})


class PositionsAnswer(Schema):
    """What the bank is exposed to."""

    base = fields.String(metadata={"example": BASE})
    data = fields.List(fields.Nested(PositionAnswer))
    total = fields.String(metadata={"example": "0.45", "description": "All values: what the bank has won by exchanges, or lost."})
