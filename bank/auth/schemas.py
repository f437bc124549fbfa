"""The bodies and answers of `/auth`, and the fields that a user is known by."""

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields

from bank.auth import totp
from bank.auth.passwords import MAX_LENGTH
from bank.web.body import storable
from bank.web.examples import CODE, LOGIN
from bank.web.fields import StrictSchema, Text
from bank.web.paging import PageSchema

_TIME = {"format": "date-time", "example": "2026-01-31T12:00:00.000000Z"}

# ASCII only: no two names look the same and are not. No @, so that no name is another's email.
_USERNAME = r"[A-Za-z0-9][A-Za-z0-9._-]{2,63}"

# What browsers take in <input type=email> (WHATWG HTML, 4.10.5.1.5), with a dot in the domain, and no dot at
# either end of what stands before the @ nor two in a row (RFC 5321, 4.1.2), which the format `email` of JSON
# Schema forbids. Only a mail that arrives proves an address; this keeps out what is none.
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})+"

# RFC 5321, 4.5.3.1.1.
_LONGEST_LOCAL_PART = 64


class Username(Text):
    """The name a user logs in by: 3 to 64 ASCII letters, digits and `._-`, a letter or digit first. Unique without case."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(least=3, most=64, pattern=_USERNAME, metadata={"example": "alice"}, **kwargs)


class Email(Text):
    """An email address in ASCII. Unique without case, kept as it was given."""

    def __init__(self, **kwargs: Any) -> None:
        # RFC 5321, 4.5.3.1.3, less the angle brackets.
        super().__init__(least=6, most=254, pattern=_EMAIL, metadata={"format": "email", "example": "alice@example.com"}, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if text.index("@") > _LONGEST_LOCAL_PART:
            raise ValidationError("Does not have the right form.")
        return text


class Password(fields.String):
    """A password as it was typed: nothing is trimmed, cut off or refused for its characters, spaces and tabs included."""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {"format": "password", "minLength": 1, "maxLength": MAX_LENGTH, "example": "correct horse battery staple"}
        super().__init__(load_only=True, metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        # NUL and half a surrogate pair are no text that could be sent again the same way.
        if not isinstance(value, str) or not storable(value):
            raise ValidationError("Not a string.")
        if not 1 <= len(value) <= MAX_LENGTH:
            raise ValidationError(f"Must be 1 to {MAX_LENGTH} characters long.")
        return value


class Code(Text):
    """A code of a second factor: six digits of the authenticator, or a recovery code."""

    def __init__(self, **kwargs: Any) -> None:
        metadata = {"description": "Six digits of the authenticator, or a recovery code.", "example": CODE}
        super().__init__(most=32, pattern=f"(?:{totp.CODE})", metadata=metadata, **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> str:
        return totp.normal(super()._deserialize(value, attr, data, **kwargs))


class Register(StrictSchema):
    """A new customer. The role is not theirs to choose."""

    username = Username(required=True)
    email = Email(required=True)
    password = Password(required=True)


class Credentials(StrictSchema):
    """Who logs in. Any text is a name that nobody may have: its form is not checked, so it tells nothing."""

    username = Text(required=True, most=254, metadata={"description": "The username or the email.", "example": "alice"})
    password = Password(required=True)
    code = Code()


class TokenAnswer(Schema):
    """The tokens of a login (RFC 6749, 5.1)."""

    access_token = fields.String(
        required=True, metadata={"description": "For every call, as Bearer.", "example": "eyJhbGciOiJIUzI1NiJ9.e30.…"}
    )
    refresh_token = fields.String(
        required=True, metadata={"description": "For one call of /auth/refresh, as Bearer.", "example": "eyJhbGciOiJIUzI1NiJ9.e30.…"}
    )
    token_type = fields.String(required=True, metadata={"enum": ["Bearer"], "example": "Bearer"})
    expires_in = fields.Integer(required=True, metadata={"description": "Seconds that the access token lives.", "example": 900})


class LoginQuery(PageSchema):
    """Which page of logins."""


class LoginAnswer(Schema):
    """A login that goes on: a device, mostly."""

    id = fields.UUID(required=True, metadata={"example": LOGIN})
    current = fields.Boolean(required=True, metadata={"description": "Whether it is the one that asks.", "example": True})
    address = fields.String(
        required=True, allow_none=True, metadata={"description": "Where it began, as an IP address.", "example": "192.0.2.1"}
    )
    user_agent = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "What its program called itself.", "example": "Mozilla/5.0 (X11; Linux x86_64)"},
    )
    created_at = fields.String(required=True, metadata=_TIME)
    refreshed_at = fields.String(required=True, metadata={**_TIME, "description": "When it was last heard of: its login or last refresh."})
    expires_at = fields.String(required=True, metadata={**_TIME, "description": "When it ends by itself, unless it is refreshed."})


class LoginPage(Schema):
    """A page of logins."""

    data = fields.List(fields.Nested(LoginAnswer), required=True)
    next_cursor = fields.String(required=True, allow_none=True)
    has_more = fields.Boolean(required=True)


class BeginTotp(StrictSchema):
    """Who begins must know the password."""

    password = Password(required=True)


class TotpCode(StrictSchema):
    """A code that the authenticator shows now."""

    code = Code(required=True)


class DisableTotp(StrictSchema):
    """Both of what a login needs."""

    password = Password(required=True)
    code = Code(required=True)


class TotpState(Schema):
    """Whether a second factor is on."""

    enabled = fields.Boolean(required=True, metadata={"description": "Whether logins need a code.", "example": True})
    confirmed_at = fields.String(required=True, allow_none=True, metadata=_TIME)
    recovery_codes_left = fields.Integer(required=True, metadata={"example": 10})


class TotpSecret(Schema):
    """What an authenticator needs. Shown this once."""

    secret = fields.String(required=True, metadata={"description": "In base32, to be typed.", "example": "JBSWY3DPEHPK3PXP"})
    otpauth_url = fields.String(
        required=True,
        metadata={
            "description": "The same, to be shown as a QR code.",
            "example": "otpauth://totp/bank:alice?secret=JBSWY3DPEHPK3PXP&issuer=bank",
        },
    )


class RecoveryCodes(Schema):
    """Codes that are good once each. Shown this once."""

    recovery_codes = fields.List(fields.String(metadata={"example": "k4zq-7hfa-2wmd-x5pe"}), required=True)
