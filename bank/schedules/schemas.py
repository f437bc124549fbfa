"""The bodies, queries and answers of `/schedules`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Range

from bank.schedules.models import Misfire, ScheduleStatus
from bank.schedules.rule import MONTH_ENDS, InvalidRule
from bank.schedules.timing import Timing, time_zones
from bank.transactions.schemas import Transfer
from bank.web.fields import Amount, Choice, Identifier, Moment, StrictSchema, Text, WholeNumber
from bank.web.paging import PageSchema

_TIME = {"format": "date-time", "example": "2027-01-31T08:00:00.000000Z"}
_RRULE = {"example": "FREQ=MONTHLY;BYMONTHDAY=31"}
_ZONE = {"example": "Europe/Prague"}


class ScheduledTransfer(Transfer):
    """What of a transfer can be repeated."""

    class Meta(Transfer.Meta):
        fields = (
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
        )


class Recurrence(StrictSchema):
    """A rule of iCalendar in the wall time of a zone; loads `timing` from it."""

    rrule = Text(
        required=True,
        most=500,
        metadata={
            "description": "RFC 5545: HOURLY to YEARLY with INTERVAL, COUNT or UNTIL, BYMONTH, BYMONTHDAY, BYDAY, BYHOUR, BYMINUTE, "
            "BYSETPOS and WKST; once an hour at most, at least every ten years, and with COUNT for a hundred years at most.",
            **_RRULE,
        },
    )
    time_zone = Text(required=True, most=64, metadata={"description": "Of IANA.", **_ZONE})
    start = Moment(
        required=True,
        metadata={
            "description": "From here on, and at this time of the day unless the rule says another.",
            "example": "2027-01-31T08:00:00Z",
        },
    )
    month_end = Choice(
        list(MONTH_ENDS),
        load_default="last_day",
        metadata={"description": "A day that a month does not have is its last (RFC 7529, SKIP=BACKWARD), or is left out."},
    )

    @validates_schema(skip_on_field_errors=True)
    def _can_run(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["time_zone"] not in time_zones():
            raise ValidationError("Not a time zone of IANA.", "time_zone")
        if data["start"].microsecond:
            raise ValidationError("Has a fraction of a second, which a rule cannot repeat.", "start")
        try:
            data["timing"] = Timing.recurring(data["rrule"], data["time_zone"], data["start"], data["month_end"])
        except InvalidRule as error:
            raise ValidationError(str(error), "rrule") from None


class Retry(StrictSchema):
    """How often a run that failed is tried."""

    attempts = WholeNumber(required=True, validate=Range(1, 5), metadata={"description": "In all.", "example": 3})
    delay_seconds = WholeNumber(
        required=True, validate=Range(1, 604_800), metadata={"description": "From a try to the next.", "example": 3600}
    )


def _run_at() -> Moment:
    return Moment(metadata={"description": "Once, then; in the future.", "example": "2027-01-31T08:00:00Z"})


def _misfire(**kwargs: Any) -> Choice:
    description = "Runs that were missed while the bank was down are made up for, each of them, or recorded as skipped."
    return Choice([each.value for each in Misfire], metadata={"description": description}, **kwargs)


def _name(**kwargs: Any) -> Text:
    return Text(most=100, metadata={"example": "Rent"}, **kwargs)


class CreateSchedule(StrictSchema):
    """A transfer, and when to make it."""

    transfer = fields.Nested(ScheduledTransfer, required=True, metadata={"description": "As for `/transactions/transfer`."})
    run_at = _run_at()
    recurrence = fields.Nested(Recurrence, metadata={"description": "In the place of `run_at`."})
    misfire = _misfire(load_default=Misfire.CATCH_UP.value)
    retry = fields.Nested(Retry, metadata={"description": "Default: a run is tried once."})
    name = _name()

    @validates_schema
    def _one_timing(self, data: dict[str, Any], **kwargs: Any) -> None:
        if ("run_at" in data) == ("recurrence" in data):
            raise ValidationError("Give `run_at` or `recurrence`.", "run_at")


class ChangeSchedule(StrictSchema):
    """What to change; a field that is left out stays as it is."""

    status = Choice([ScheduleStatus.ACTIVE.value, ScheduleStatus.PAUSED.value])
    amount = Amount(metadata={"example": "12.34"})
    description = Text(most=500, lines=True, allow_none=True, metadata={"example": "Rent"})
    run_at = _run_at()
    recurrence = fields.Nested(Recurrence, metadata={"description": "In the place of `run_at`."})
    misfire = _misfire()
    retry = fields.Nested(Retry, metadata={"description": "For runs that are tried from now on."})
    name = _name(allow_none=True)

    @validates_schema
    def _something(self, data: dict[str, Any], **kwargs: Any) -> None:
        if not data:
            raise ValidationError("Nothing to change.")
        if "run_at" in data and "recurrence" in data:
            raise ValidationError("Give `run_at` or `recurrence`.", "run_at")


class ScheduleQuery(PageSchema):
    """Which schedules."""

    user_id = Identifier(metadata={"description": "Whose account pays; staff only."})
    status = Choice([each.value for each in ScheduleStatus], metadata={"description": "Default: all but the deleted ones."})


class ScheduledTransferAnswer(Schema):
    """What is paid."""

    from_user_id = fields.UUID()
    to_user_id = fields.UUID()
    from_account_id = fields.UUID()
    to_account_id = fields.UUID()
    amount = fields.String(metadata={"example": "12.34"})
    currency = fields.String(metadata={"example": "USD"})
    to_currency = fields.String(metadata={"example": "USD", "description": "What arrives, at the rate of the day of each run."})
    description = fields.String(allow_none=True)
    reference = fields.String(allow_none=True)
    metadata = fields.Dict(keys=fields.String(), values=fields.String())


class RecurrenceAnswer(Schema):
    """The rule that a schedule runs by."""

    rrule = fields.String(metadata=_RRULE)
    time_zone = fields.String(metadata=_ZONE)
    start = fields.String(metadata=_TIME)
    month_end = fields.String(metadata={"enum": list(MONTH_ENDS)})


class RetryAnswer(Schema):
    """How often a run that failed is tried."""

    attempts = fields.Integer(metadata={"example": 3})
    delay_seconds = fields.Integer(metadata={"example": 3600})


class ScheduleAnswer(Schema):
    """A schedule."""

    id = fields.UUID(allow_none=True, metadata={"description": "Null: of a dry run there is none."})
    status = fields.String(metadata={"enum": [each.value for each in ScheduleStatus]})
    user_id = fields.UUID(metadata={"description": "Whose account pays."})
    created_by = fields.UUID(metadata={"description": "Who asked for it, and must still be allowed to when it runs."})
    name = fields.String(allow_none=True)
    transfer = fields.Nested(ScheduledTransferAnswer)
    run_at = fields.String(allow_none=True, metadata=_TIME)
    recurrence = fields.Nested(RecurrenceAnswer, allow_none=True)
    misfire = fields.String(metadata={"enum": [each.value for each in Misfire]})
    retry = fields.Nested(RetryAnswer)
    next_run_at = fields.String(allow_none=True, metadata=_TIME)
    version = fields.Integer(metadata={"description": "How often it was changed or ran."})
    created_at = fields.String(metadata=_TIME)
    updated_at = fields.String(metadata=_TIME)


class RunTimeAnswer(Schema):
    """When a run is to come."""

    at = fields.String(metadata=_TIME)
    local = fields.String(metadata={"description": "As the clocks of the zone show it.", "example": "2027-01-31T09:00:00+01:00"})


class ScheduleWithNextRuns(ScheduleAnswer):
    """A schedule and its next five runs."""

    next_runs = fields.List(fields.Nested(RunTimeAnswer))


class SchedulePage(Schema):
    """A page of schedules."""

    data = fields.List(fields.Nested(ScheduleAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()


class RunAnswer(Schema):
    """A run, and what became of it."""

    due_at = fields.String(metadata=_TIME)
    status = fields.String(
        metadata={
            "enum": ["pending", "completed", "failed", "retrying", "skipped"],
            "description": "`retrying`: it failed, and is tried again at `next_attempt_at`.",
        }
    )
    attempts = fields.Integer(metadata={"description": "0: it was skipped."})
    transaction_id = fields.UUID(allow_none=True, metadata={"description": "Of the last try; null where it did not come to one."})
    failure_code = fields.String(allow_none=True, metadata={"example": "insufficient_funds"})
    next_attempt_at = fields.String(allow_none=True, metadata=_TIME)
    created_at = fields.String(metadata=_TIME)


class RunPage(Schema):
    """A page of runs."""

    data = fields.List(fields.Nested(RunAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()
