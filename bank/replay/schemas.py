"""The bodies and answers of `/admin/replays`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Range

from bank.web.fields import Flag, Identifier, Moment, StrictSchema, WholeNumber

_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}
_MONEY = {"example": "12.34"}


class StartReplay(StrictSchema):
    """Up to which moment, by one or the other; neither means now."""

    until_position = WholeNumber(
        validate=Range(0, 2**63 - 1), metadata={"description": "Up to this position of the log, itself included.", "example": 4711}
    )
    until_time = Moment(metadata={"description": "All that was recorded by then.", "example": "2026-01-31T12:00:00Z"})
    account_id = Identifier(metadata={"description": "Of this account only."})
    from_start = Flag(
        load_default=False, metadata={"description": "Read the whole log: use no snapshot of an earlier replay.", "example": True}
    )

    @validates_schema(skip_on_field_errors=True)
    def _one_moment(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "until_position" in data and "until_time" in data:
            raise ValidationError("Give `until_position` or `until_time`.", "until_time")


class ReplayAnswer(Schema):
    """A replay, how far it is, and what came out."""

    id = fields.UUID()
    status = fields.String(metadata={"enum": ["queued", "running", "finished", "failed"]})
    until_position = fields.Integer(allow_none=True)
    until_time = fields.String(allow_none=True, metadata=_TIME)
    account_id = fields.UUID(allow_none=True)
    from_start = fields.Boolean(metadata={"description": "Whether no snapshot may be used.", "example": False})
    started_from = fields.Integer(
        allow_none=True, metadata={"description": "The position of the snapshot it began at; 0: the start of the log."}
    )
    position = fields.Integer(allow_none=True, metadata={"description": "Up to where the log is read."})
    end_position = fields.Integer(allow_none=True)
    progress = fields.Integer(metadata={"description": "Percent.", "example": 42})
    users = fields.Integer(allow_none=True, metadata={"description": "How many were registered by then."})
    submitted = fields.Integer(allow_none=True, metadata={"description": "How many transactions; those that wait are submitted only."})
    completed = fields.Integer(allow_none=True)
    failed = fields.Integer(allow_none=True, metadata={"description": "How many the ledger had refused."})
    open_holds = fields.Integer(allow_none=True, metadata={"description": "How many transactions were holds that had something left."})
    voided = fields.Integer(allow_none=True, metadata={"description": "How many holds were let go, and what did so."})
    error = fields.String(allow_none=True, metadata={"description": "Why the replay failed."})
    created_at = fields.String(metadata=_TIME)
    finished_at = fields.String(allow_none=True, metadata=_TIME)


class ReplayedAccountAnswer(Schema):
    """An account as it was then."""

    id = fields.UUID()
    user_id = fields.UUID(allow_none=True, metadata={"description": "None: one of the bank's own."})
    currency = fields.String(metadata={"example": "USD"})
    kind = fields.String(metadata={"example": "customer"})
    name = fields.String(allow_none=True)
    status = fields.String(metadata={"enum": ["active", "frozen", "closed"]})
    balance = fields.String(metadata=_MONEY)
    held = fields.String(metadata={"example": "0.00", "description": "What of the balance was reserved by holds."})
    overdraft_limit = fields.String(allow_none=True, metadata={"example": "0.00", "description": "None: without a limit."})
    version = fields.Integer(metadata={"description": "How many entries the account had."})


class ReplayedAccountPage(Schema):
    """A page of accounts."""

    data = fields.List(fields.Nested(ReplayedAccountAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()
