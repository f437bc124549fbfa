"""The queries and answers of `/events` and `/audit-logs`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Range

from bank.events import types
from bank.web.fields import Choice, Identifier, Moment, Text, Whole
from bank.web.paging import PageSchema

_ENTITIES = ["user", "login", "account", "transaction", "batch", "schedule", "limit", "rule", "rate", "import", "replay"]
_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}


class EventQuery(PageSchema):
    """Which events."""

    stream_id = Identifier(metadata={"description": "Of one user, account or transaction."})
    type = Choice(types.NAMES)
    from_position = Whole(
        data_key="from", validate=Range(0, 2**63 - 1), metadata={"description": "From this position on, itself included.", "example": 4711}
    )
    follow = Choice(
        ["true", "false"],
        metadata={
            "description": "NDJSON only: go on with the events that come, for ten minutes at most; a blank line tells that none came."
        },
    )


class AuditQuery(PageSchema):
    """Which audit rows."""

    entity_type = Choice(_ENTITIES)
    entity_id = Identifier(metadata={"description": "Needs `entity_type`."})
    action = Text(most=64, pattern=r"[a-z_]+\.[a-z_]+", metadata={"example": "transaction.transfer"})
    actor_id = Identifier(metadata={"description": "Who acted."})
    since = Moment(data_key="from", metadata={"description": "Recorded at or after."})
    until = Moment(data_key="to", metadata={"description": "Recorded before."})

    @validates_schema(skip_on_field_errors=True)
    def _entity(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "entity_id" in data and "entity_type" not in data:
            raise ValidationError("Needs `entity_type`.", "entity_id")


class EventAnswer(Schema):
    """Something that happened."""

    position = fields.Integer(metadata={"description": "The global order."})
    stream_id = fields.UUID()
    version = fields.Integer(metadata={"description": "1, 2, 3, … in its stream."})
    type = fields.String(metadata={"example": "TransactionCompleted"})
    schema = fields.Integer()
    data = fields.Dict(keys=fields.String(), metadata={"description": "Amounts are minor units."})
    actor_id = fields.UUID(allow_none=True)
    request_id = fields.String(allow_none=True)
    trace_id = fields.String(allow_none=True)
    recorded_at = fields.String(metadata=_TIME)


class EventPage(Schema):
    """A page of events."""

    data = fields.List(fields.Nested(EventAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()


class AuditAnswer(Schema):
    """What somebody did."""

    id = fields.Integer()
    entity_type = fields.String(metadata={"enum": _ENTITIES})
    entity_id = fields.UUID(allow_none=True)
    action = fields.String(metadata={"example": "transaction.transfer"})
    details = fields.Dict(keys=fields.String())
    actor_id = fields.UUID(allow_none=True)
    address = fields.String(allow_none=True)
    request_id = fields.String(allow_none=True)
    created_at = fields.String(metadata=_TIME)


class AuditPage(Schema):
    """A page of audit rows."""

    data = fields.List(fields.Nested(AuditAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()
