"""The bodies, queries and answers of `/users`."""

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from bank.auth.schemas import Email, Password, Username
from bank.users.models import Role, UserStatus
from bank.web.fields import Choice, StrictSchema, Text
from bank.web.paging import PageSchema

_ROLES = [role.value for role in Role]
_STATUS = [status.value for status in UserStatus]
_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}


class ChangeUser(StrictSchema):
    """What to change; a field that is left out stays as it is."""

    username = Username()
    email = Email()
    password = Password()
    current_password = Password()
    role = Choice(_ROLES, metadata={"description": "Admins only."})
    status = Choice([UserStatus.ACTIVE, UserStatus.FROZEN], metadata={"description": "Admins only."})

    @validates_schema
    def _something(self, data: dict[str, Any], **kwargs: Any) -> None:
        if not data.keys() - {"current_password"}:
            raise ValidationError("Nothing to change.")


class UserQuery(PageSchema):
    """Which users."""

    role = Choice(_ROLES)
    status = Choice(_STATUS)
    q = Text(most=254, metadata={"description": "How the username or the email begins, in any case.", "example": "ali"})


class UserAnswer(Schema):
    """A user."""

    id = fields.UUID(required=True, metadata={"example": "019b2f6e-8a00-7000-8000-000000000001"})
    username = fields.String(required=True, metadata={"example": "alice"})
    email = fields.String(required=True, metadata={"format": "email", "example": "alice@example.com"})
    role = fields.String(required=True, metadata={"enum": _ROLES, "example": "customer"})
    status = fields.String(required=True, metadata={"enum": _STATUS, "example": "active"})
    created_at = fields.String(required=True, metadata=_TIME)
    updated_at = fields.String(required=True, metadata=_TIME)


class UserPage(Schema):
    """A page of users."""

    data = fields.List(fields.Nested(UserAnswer), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
    has_more = fields.Boolean(required=True)
