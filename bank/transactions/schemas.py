"""The bodies, queries and answers of `/transactions`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from bank.limits.checks import Effect, LimitKind, Scope, Window
from bank.transactions.models import ReviewStatus, TransactionStatus, TransactionType
from bank.web.api import ProblemSchema
from bank.web.examples import ALICE, ALICES_ACCOUNT, BOB, BOBS_ACCOUNT, TRANSACTION
from bank.web.fields import (
    Amount,
    Choice,
    Currency,
    Flag,
    Identifier,
    Metadata,
    Moment,
    MoneySchema,
    StrictSchema,
    Text,
    resolve_amount,
)
from bank.web.paging import PageSchema

TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}


def _description() -> Text:
    return Text(most=500, lines=True, metadata={"example": "Rent for May"})


def _reference() -> Text:
    return Text(most=100, metadata={"example": "INV-2026-0042"})


def _exactly_one(data: dict[str, Any], *names: str) -> None:
    if sum(name in data for name in names) != 1:
        raise ValidationError(f"Name exactly one of {', '.join(names)}.", names[0])


class CreditOrDebit(MoneySchema):
    """Money from or to the outside."""

    account_id = Identifier()
    user_id = Identifier(metadata={"description": "In place of the account: the user's default in the currency."})
    description = _description()
    metadata = Metadata()
    reference = _reference()
    effective_at = Moment(metadata={"description": "Counts from; default: when it is recorded. Not in the future."})

    @validates_schema
    def _one_account(self, data: dict[str, Any], **kwargs: Any) -> None:
        _exactly_one(data, "account_id", "user_id")


class Transfer(MoneySchema):
    """Money from an account to another."""

    from_account_id = Identifier(metadata={"description": "Default: the caller's default account in the currency."})
    to_account_id = Identifier()
    to_user_id = Identifier()
    to_username = Text(most=64, metadata={"example": "bob"})
    description = _description()
    metadata = Metadata()
    reference = _reference()
    to_currency = Currency(metadata={"description": "What arrives, where it is other money. Default: that of the quote, or the same."})
    quote_id = Identifier(metadata={"description": "Of the caller's own quote for this amount. Default: at the rate of today."})
    hold = Flag(metadata={"description": "Reserve the money, to be captured or voided later, and do not move it."})
    expires_at = Moment(metadata={"description": "Of a hold: kept until then, at most 31 days. Default: 7 days."})

    @validates_schema(skip_on_field_errors=True)
    def _only_of_holds(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "expires_at" in data and not data.get("hold"):
            raise ValidationError("Needs `hold`.", "expires_at")
        for name in ("to_currency", "quote_id"):
            if name in data and data.get("hold"):
                raise ValidationError("A hold is in one currency.", name)

    @validates_schema
    def _one_target(self, data: dict[str, Any], **kwargs: Any) -> None:
        _exactly_one(data, "to_account_id", "to_user_id", "to_username")


class Rollback(StrictSchema):
    """How much to move back, and why."""

    amount = Amount(metadata={"description": "In the original's `currency`. Default: what is left of the original.", "example": "12.34"})
    reason = Text(required=True, most=500, metadata={"example": "Returned goods"})


class Capture(StrictSchema):
    """How much of a hold to take, and what to tell of it."""

    amount = Amount(metadata={"description": "Default: all that is left of the hold.", "example": "12.34"})
    description = _description()
    metadata = Metadata()
    reference = _reference()


class Void(StrictSchema):
    """Why a hold is let go."""

    reason = Text(most=500, metadata={"example": "Out of stock"})


class DryRun(StrictSchema):
    """Whether to pretend only."""

    dry_run = Choice(["true", "false"], metadata={"description": "Run every check and change nothing."})


class History(PageSchema):
    """Which transactions."""

    account_id = Identifier()
    user_id = Identifier(metadata={"description": "Staff only."})
    type = Choice([kind.value for kind in TransactionType])
    status = Choice([status.value for status in TransactionStatus])
    currency = Currency()
    min_amount = Amount(metadata={"description": "Needs `currency`."})
    max_amount = Amount(metadata={"description": "Needs `currency`."})
    since = Moment(data_key="from", metadata={"description": "Recorded at or after."})
    until = Moment(data_key="to", metadata={"description": "Recorded before."})
    reference = _reference()
    batch_id = Identifier(metadata={"description": "Those that came in this batch."})
    hold_id = Identifier(metadata={"description": "What captured and voided this hold."})
    schedule_id = Identifier(metadata={"description": "The runs of this schedule."})
    review = Choice([each.value for each in ReviewStatus], metadata={"description": "What a rule had held until an admin decides."})
    request_id = Text(most=128, metadata={"description": "The `X-Request-ID` of the request that asked for it.", "example": "order-4711"})

    @validates_schema(skip_on_field_errors=True)
    def _amounts(self, data: dict[str, Any], **kwargs: Any) -> None:
        for name in ("min_amount", "max_amount"):
            if name in data:
                if "currency" not in data:
                    raise ValidationError("Needs `currency`.", name)
                data[name] = resolve_amount(data[name], data["currency"], field=name, allow_zero=True)


class TransactionAnswer(Schema):
    """A transaction."""

    id = fields.UUID(metadata={"example": TRANSACTION})
    type = fields.String(metadata={"enum": [kind.value for kind in TransactionType], "example": "transfer"})
    status = fields.String(metadata={"enum": [status.value for status in TransactionStatus], "example": "pending"})
    from_user_id = fields.UUID(allow_none=True, metadata={"example": ALICE})
    to_user_id = fields.UUID(allow_none=True, metadata={"example": BOB})
    from_account_id = fields.UUID(allow_none=True, metadata={"description": "Null: the outside.", "example": ALICES_ACCOUNT})
    to_account_id = fields.UUID(allow_none=True, metadata={"description": "Null: the outside.", "example": BOBS_ACCOUNT})
    amount = fields.String(metadata={"example": "12.34"})
    currency = fields.String(metadata={"example": "USD"})
    to_amount = fields.String(metadata={"example": "12.34"})
    to_currency = fields.String(metadata={"example": "USD"})
    rate = fields.String(
        allow_none=True,
        metadata={
            "description": "Units of `to_currency` for one of `currency`; of a rollback that of what it moves back. Null: no exchange.",
            "example": None,
        },
    )
    quote_id = fields.UUID(allow_none=True, metadata={"description": "The quote that it was agreed by."})
    description = fields.String(allow_none=True)
    reference = fields.String(allow_none=True)
    metadata = fields.Dict(keys=fields.String(), values=fields.String())
    failure_code = fields.String(allow_none=True, metadata={"example": None})
    reverses_id = fields.UUID(allow_none=True)
    rolled_back_amount = fields.String(metadata={"example": "0.00"})
    expires_at = fields.String(
        allow_none=True, metadata={**TIME, "description": "Of a hold: until when it is kept. Null: it is none.", "example": None}
    )
    held_amount = fields.String(metadata={"example": "0.00", "description": "Of a hold: what is still reserved."})
    captured_amount = fields.String(metadata={"example": "0.00", "description": "Of a hold: what its captures took."})
    captures_id = fields.UUID(allow_none=True, metadata={"description": "The hold that this takes from."})
    voids_id = fields.UUID(allow_none=True, metadata={"description": "The hold that this lets go; it moves nothing."})
    review = fields.String(
        allow_none=True,
        metadata={
            "enum": [*(each.value for each in ReviewStatus), None],
            "example": None,
            "description": "A rule had it held until an admin decides. Null: none had.",
        },
    )
    batch_id = fields.UUID(allow_none=True)
    schedule_id = fields.UUID(allow_none=True)
    effective_at = fields.String(metadata=TIME)
    created_at = fields.String(metadata=TIME)
    completed_at = fields.String(allow_none=True, metadata={**TIME, "example": None})


class TransactionEntryAnswer(Schema):
    """One side of a transaction."""

    account_id = fields.UUID()
    version = fields.Integer()
    amount = fields.String(metadata={"example": "-12.34"})
    currency = fields.String()
    balance = fields.String(allow_none=True, metadata={"example": "87.66", "description": "Shown to staff and the account's owner."})
    effective_at = fields.String(metadata=TIME)
    created_at = fields.String(metadata=TIME)


class TransactionWithEntries(TransactionAnswer):
    """A transaction and its two sides; of an exchange, with the bank's positions between them."""

    entries = fields.List(fields.Nested(TransactionEntryAnswer))


class CheckAnswer(Schema):
    """One check before the decision. What it is not about is null; amounts are of the transaction's currency."""

    check = fields.String(metadata={"enum": ["request", "status", "original", "funds", "range", "limit", "rule"]})
    outcome = fields.String(metadata={"enum": ["passed", "denied", "review", "flagged"]})
    balance = fields.String(
        allow_none=True, metadata={"example": "100.00", "description": "On the paying account before; of a limit, beside its holds."}
    )
    available = fields.String(
        allow_none=True, metadata={"example": "5.00", "description": "What there was to spend, where it was not enough."}
    )
    account_version = fields.Integer(allow_none=True, metadata={"description": "How many entries the account had before."})
    id = fields.UUID(allow_none=True, metadata={"description": "Of the limit or the rule."})
    version = fields.Integer(allow_none=True, metadata={"description": "Of the limit or the rule."})
    scope = fields.String(allow_none=True, metadata={"enum": [*(each.value for each in Scope), None]})
    kind = fields.String(allow_none=True, metadata={"enum": [*(each.value for each in LimitKind), None]})
    window = fields.String(allow_none=True, metadata={"enum": [*(each.value for each in Window), None]})
    limit = fields.String(allow_none=True, metadata={"example": "1000.00", "description": "An amount; of a `count`, how many payments."})
    used = fields.String(
        allow_none=True,
        metadata={"example": "250.00", "description": "As much was paid in the window before, or is held; or so many were."},
    )
    name = fields.String(allow_none=True, metadata={"description": "Of the rule.", "example": "Large transfers"})
    effect = fields.String(allow_none=True, metadata={"enum": [*(each.value for each in Effect), None]})
    error = fields.String(
        allow_none=True, metadata={"description": "Why the rule came to no answer, so that it was taken to be true; for staff."}
    )


class ReviewAnswer(Schema):
    """What became of a review."""

    status = fields.String(metadata={"enum": [each.value for each in ReviewStatus]})
    decided_at = fields.String(allow_none=True, metadata=TIME)
    decided_by = fields.UUID(allow_none=True, metadata={"description": "Shown to staff."})


class ExplanationAnswer(Schema):
    """Why a transaction was refused or passed."""

    transaction_id = fields.UUID()
    status = fields.String(metadata={"enum": [status.value for status in TransactionStatus]})
    failure_code = fields.String(allow_none=True, metadata={"example": "limit_exceeded"})
    decided_at = fields.String(allow_none=True, metadata=TIME)
    checks = fields.List(
        fields.Nested(CheckAnswer),
        metadata={"description": "In the order in which they were made; none while it is pending."},
    )
    review = fields.Nested(ReviewAnswer, allow_none=True)


class EndReview(StrictSchema):
    """Why it is approved or rejected."""

    reason = Text(most=500, metadata={"example": "Called back by the customer"})


class PreviewAnswer(TransactionWithEntries):
    """A transaction as it would be."""

    id = fields.UUID(allow_none=True, metadata={"description": "Null: there is none."})
    dry_run = fields.Boolean(metadata={"example": True})
    checks = fields.List(fields.Nested(CheckAnswer), metadata={"description": "As in the explanation of a transaction."})


class RefusedSchema(ProblemSchema):
    """A problem; with the transaction that failed, where there is one."""

    transaction = fields.Nested(TransactionAnswer)


class TransactionPage(Schema):
    """A page of history."""

    data = fields.List(fields.Nested(TransactionAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()
