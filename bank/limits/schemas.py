"""The bodies, queries and answers of `/limits` and `/rules`."""

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema
from marshmallow.validate import Length, Range

from bank.limits import cel
from bank.limits.checks import OUTSIDE, Effect, LimitKind, Scope, Window
from bank.schedules.timing import time_zones
from bank.users.models import Role
from bank.web.fields import Amount, Choice, Currency, Flag, Identifier, StrictSchema, Text, WholeNumber, resolve_amount
from bank.web.paging import PageSchema

_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}
_AMOUNT = {"example": "1000.00"}
EXPRESSION = {
    "example": 'transaction.amount > 1000000 && transaction.type == "transfer"',
    "description": "CEL over `transaction`, `account` and `user`, those that pay; amounts are minor units. Without macros and regular "
    "expressions; docs/recipes/limits.md lists the fields.",
}
KINDS = {
    LimitKind.SINGLE: {"amount"},
    LimitKind.SUM: {"amount", "window"},
    LimitKind.COUNT: {"count", "window"},
    LimitKind.MINIMUM_BALANCE: {"amount"},
    LimitKind.COUNTERPARTIES: {"counterparties"},
    LimitKind.HOURS: {"hours"},
}
"""What a limit of each kind says."""

SAID = ("amount", "count", "window", "counterparties", "hours")

_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)


class _Clock(Text):
    """A time of the day, as minutes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(most=5, least=5, pattern=_CLOCK.pattern, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        text = super()._deserialize(value, attr, data, **kwargs)
        return int(text[:2]) * 60 + int(text[3:])


class _Counterparty(Text):
    """The id of a user, or the outside."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(most=36, metadata={"example": "019b2f6e-8a00-7000-8000-000000000001"}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        return OUTSIDE if value == OUTSIDE else str(Identifier()._deserialize(value, attr, data, **kwargs))


class Hours(StrictSchema):
    """From when to when, by the clocks of a zone; `closes` before `opens`: midnight lies between."""

    opens = _Clock(required=True, metadata={"example": "08:00"})
    closes = _Clock(required=True, metadata={"example": "18:00"})
    time_zone = Text(required=True, most=64, metadata={"description": "Of IANA.", "example": "Europe/Prague"})

    @validates_schema(skip_on_field_errors=True)
    def _some(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["opens"] == data["closes"]:
            raise ValidationError("Must not be when it opens.", "closes")
        if data["time_zone"] not in time_zones():
            raise ValidationError("Not a time zone of IANA.", "time_zone")


class ChangeLimit(StrictSchema):
    """What the limit is to be; a field that is left out stays as it is. Whom it is for, its currency and its kind stay."""

    amount = Amount(metadata={**_AMOUNT, "description": "The most that is paid, at once or in the window; the least that is left."})
    count = WholeNumber(validate=Range(0, 1_000_000), metadata={"description": "The most payments in the window.", "example": 20})
    window = Choice([each.value for each in Window], metadata={"description": "It ends now, and moves with it."})
    counterparties = fields.List(
        _Counterparty(),
        validate=Length(0, 100),
        metadata={"description": f"Users that may be paid, and `{OUTSIDE}`; one's own accounts always may.", "maxItems": 100},
    )
    hours = fields.Nested(Hours, metadata={"description": "When payments may be made."})

    @validates_schema
    def _something(self, data: dict[str, Any], **kwargs: Any) -> None:
        if not data:
            raise ValidationError("Nothing to change.")


class SetLimit(ChangeLimit):
    """A limit: for whom, of what kind, and what that kind says."""

    role = Choice([each.value for each in Role], metadata={"description": "For each user of the role."})
    user_id = Identifier(metadata={"description": "In the place of the role: for all accounts of a user together."})
    account_id = Identifier(metadata={"description": "In the place of the role: for one account."})
    currency = Currency(required=True, metadata={"example": "USD"})
    kind = Choice(
        [each.value for each in LimitKind],
        required=True,
        metadata={
            "description": "`single` and `minimum_balance` say an amount, `sum` an amount and a window, `count` a count and a window, "
            "`counterparties` and `hours` what they are called."
        },
    )

    @validates_schema(skip_on_field_errors=True)
    def _sound(self, data: dict[str, Any], **kwargs: Any) -> None:
        if sum(name in data for name in ("role", "user_id", "account_id")) != 1:
            raise ValidationError("Name exactly one of role, user_id, account_id.", "role")
        check_said(LimitKind(data["kind"]), data.keys() & set(SAID))
        resolve(data, data["currency"], LimitKind(data["kind"]))


def check_said(kind: LimitKind, said: set[str]) -> None:
    """Raise ValidationError where a limit of this kind says too much or too little."""
    for name in sorted(said - KINDS[kind]):
        raise ValidationError(f"A limit of the kind {kind.value} has none.", name)
    for name in sorted(KINDS[kind] - said):
        raise ValidationError(f"A limit of the kind {kind.value} needs it.", name)


def resolve(data: dict[str, Any], currency: str, kind: LimitKind) -> None:
    """Make minor units of a loaded amount, where there is one. Raises ValidationError."""
    if "amount" in data:
        data["amount"] = resolve_amount(data["amount"], currency, allow_zero=kind is LimitKind.MINIMUM_BALANCE)


class LimitQuery(PageSchema):
    """Which limits."""

    role = Choice([each.value for each in Role])
    user_id = Identifier()
    account_id = Identifier()
    currency = Currency()
    kind = Choice([each.value for each in LimitKind])


class HoursAnswer(Schema):
    """From when to when."""

    opens = fields.String(metadata={"example": "08:00"})
    closes = fields.String(metadata={"example": "18:00"})
    time_zone = fields.String(metadata={"example": "Europe/Prague"})


class LimitAnswer(Schema):
    """A limit. What its kind does not say is null."""

    id = fields.UUID()
    scope = fields.String(metadata={"enum": [each.value for each in Scope]})
    role = fields.String(allow_none=True, metadata={"example": "customer"})
    user_id = fields.UUID(allow_none=True)
    account_id = fields.UUID(allow_none=True)
    currency = fields.String(metadata={"example": "USD"})
    kind = fields.String(metadata={"enum": [each.value for each in LimitKind]})
    amount = fields.String(allow_none=True, metadata=_AMOUNT)
    count = fields.Integer(allow_none=True, metadata={"example": 20})
    window = fields.String(allow_none=True, metadata={"enum": [*(each.value for each in Window), None]})
    counterparties = fields.List(fields.String(), allow_none=True)
    hours = fields.Nested(HoursAnswer, allow_none=True)
    version = fields.Integer(metadata={"description": "How often it was set."})
    created_at = fields.String(metadata=_TIME)
    updated_at = fields.String(metadata=_TIME)


class LimitPage(Schema):
    """A page of limits."""

    data = fields.List(fields.Nested(LimitAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()


class _Expression(Text):
    """An expression that a rule may be."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(most=cel.MAX_LENGTH, lines=True, metadata=EXPRESSION, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        try:
            cel.parse(text)
        except cel.InvalidExpression as error:
            raise ValidationError(str(error)) from None
        return text


def _effect(**kwargs: Any) -> Choice:
    description = "`deny`: it fails as `rule_denied`. `review`: it is held until another admin approves it. `flag`: it is only marked."
    return Choice([each.value for each in Effect], metadata={"description": description}, **kwargs)


class ChangeRule(StrictSchema):
    """What to change; a field that is left out stays as it is."""

    name = Text(most=100, metadata={"description": "Shown to the customer.", "example": "Large transfers"})
    expression = _Expression()
    effect = _effect()
    enabled = Flag(metadata={"description": "Whether it is asked."})

    @validates_schema
    def _something(self, data: dict[str, Any], **kwargs: Any) -> None:
        if not data:
            raise ValidationError("Nothing to change.")


class SetRule(StrictSchema):
    """A rule: of which payments it is true, and what becomes of them."""

    name = Text(required=True, most=100, metadata={"description": "Shown to the customer.", "example": "Large transfers"})
    expression = _Expression(required=True)
    effect = _effect(required=True)
    enabled = Flag(load_default=True, metadata={"description": "Whether it is asked."})


class RuleAnswer(Schema):
    """A rule."""

    id = fields.UUID()
    name = fields.String(metadata={"example": "Large transfers"})
    expression = fields.String(metadata=EXPRESSION)
    effect = fields.String(metadata={"enum": [each.value for each in Effect]})
    enabled = fields.Boolean()
    version = fields.Integer(metadata={"description": "How often it was set."})
    created_at = fields.String(metadata=_TIME)
    updated_at = fields.String(metadata=_TIME)


class RulePage(Schema):
    """A page of rules."""

    data = fields.List(fields.Nested(RuleAnswer))
    next_cursor = fields.String(allow_none=True)
    has_more = fields.Boolean()
