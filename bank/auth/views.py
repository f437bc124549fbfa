"""`/auth`: registration, login, refresh, logout, who am I, on which devices, and the second factor."""

from typing import Any
from uuid import UUID

from flask import Response, g

from bank.auth import enrolment, logins, schemas, service
from bank.auth.guard import login_required, origin, principal
from bank.users import service as users
from bank.users.models import Role
from bank.users.schemas import UserAnswer
from bank.web import context, paging
from bank.web.api import Blueprint
from bank.web.body import json_response
from bank.web.conditional import ETAG, resource
from bank.web.examples import CODE
from bank.web.limits import by_address, by_user

blp = Blueprint("auth", __name__, url_prefix="/api/v1/auth", description="Who is asking: registration, logins, tokens.")


def _secret(answer: dict[str, Any], status: int = 200) -> Response:
    response = json_response(answer, status)
    # RFC 6749, 5.1: nothing on the way may keep a token, nor what else is shown once.
    response.headers["Cache-Control"] = "no-store"
    return response


@blp.route("/register", methods=["POST"])
@by_address
@blp.arguments(
    schemas.Register, example={"username": "alice", "email": "alice@example.com", "password": "a tall ship and a star to steer by"}
)
@blp.response(201, UserAnswer, headers=ETAG)
@blp.problem(409, "`already_taken`: the username or the email is another's.")
@blp.problem(429, "Too many calls from this address.")
def register(body: dict[str, Any]) -> Response:
    """Register a customer

    Makes the user and nothing else: no account, no login. The password needs a length and no
    composition; common ones are refused.
    """
    user = users.register(body["username"], body["email"], body["password"], Role.CUSTOMER, context.origin(None))
    g.writer = user.id
    return resource(users.present_user(user), users.etag(user), 201, f"/api/v1/users/{user.id}")


@blp.route("/login", methods=["POST"])
@by_address
@blp.arguments(schemas.Credentials, example={"username": "alice", "password": "a tall ship and a star to steer by"})
@blp.response(200, schemas.TokenAnswer)
@blp.problem(401, "`invalid_credentials`, whatever of them is wrong, or `second_factor_required`: all that is missing is a `code`.")
@blp.problem(429, "Too many wrong passwords for this user or from this address, or too many calls from this address.")
def login(body: dict[str, Any]) -> Response:
    """Log in by username or email, and password

    Where the user has a second factor, `code` is needed as well: of the authenticator, or a recovery code. Each login is a family
    of tokens of its own; log in on as many devices as you like.
    """
    return _secret(service.login(body["username"], body["password"], body.get("code"), context.user_agent(), context.origin(None)))


@blp.route("/refresh", methods=["POST"])
@blp.doc(security=[{"bearerAuth": []}])
@blp.response(200, schemas.TokenAnswer)
@blp.problem(401, "No good refresh token. One that was spent before ends its whole login.")
def refresh() -> Response:
    """Exchange the refresh token, sent as Bearer, for new tokens

    The old refresh token is spent by it. Sending it again, or two at once, ends the login.
    """
    return _secret(service.refresh(context.origin(None)))


@blp.route("/logout", methods=["POST"])
@login_required(enrolling=True)
@blp.response(204)
def logout() -> Response:
    """Log out

    The access and the refresh token of this login are dead at once; other logins of the user go on.
    """
    service.logout(principal(), origin())
    return Response(status=204)


@blp.route("/me", methods=["GET"])
@login_required()
@blp.response(200, UserAnswer, headers=ETAG)
def me() -> Response:
    """Read the user who is logged in

    Anybody with a good access token. The role is the one that counts now, whenever the token was made.
    """
    who = principal()
    user = users.get(who, who.id)
    return resource(users.present_user(user), users.etag(user))


@blp.route("/logins", methods=["GET"])
@login_required()
@blp.arguments(schemas.LoginQuery, location="query")
@blp.response(200, schemas.LoginPage, headers=paging.LINK)
def list_logins(query: dict[str, Any]) -> Response:
    """List where one is logged in, newest first

    The caller's own logins that go on, one a device mostly; `current` marks the one that asks. Who finds one that is not theirs
    ends it and changes the password.
    """
    rows = logins.search(principal(), query["limit"], paging.after(query))
    return paging.page(query, [logins.present(row, principal()) for row in rows], [row.id for row in rows])


@blp.route("/logins/<uuid:login_id>", methods=["DELETE"])
@login_required()
@blp.response(204)
@blp.problem(404, "Not there, over already, or not yours.")
def revoke_login(login_id: UUID) -> Response:
    """End one of one's logins

    Its tokens are dead at once, wherever they are. Ending the current one is logging out.
    """
    logins.revoke(principal(), str(login_id), origin())
    return Response(status=204)


@blp.route("/totp", methods=["GET"])
@login_required(enrolling=True)
@blp.response(200, schemas.TotpState)
def get_totp() -> Response:
    """Read whether a second factor is on

    The caller's own, and how many recovery codes are left; never the secret, which is shown once when it is made.
    """
    return json_response(enrolment.state(principal()))


@blp.route("/totp", methods=["POST"])
@by_user
@login_required(enrolling=True)
@blp.arguments(schemas.BeginTotp, example={"password": "a tall ship and a star to steer by"})
@blp.response(201, schemas.TotpSecret)
@blp.problem(409, "`conflict`: a second factor is on already; disable it first.")
@blp.problem(429, "Too many wrong passwords.")
def begin_totp(body: dict[str, Any]) -> Response:
    """Begin to enrol an authenticator

    Gives a secret for an authenticator (RFC 6238: six digits, 30 seconds, SHA-1), this once. Nothing changes until it is confirmed;
    beginning again makes another secret in its place.
    """
    return _secret(enrolment.start(principal(), body["password"]), 201)


@blp.route("/totp/confirm", methods=["POST"])
@login_required(enrolling=True)
@blp.arguments(schemas.TotpCode, example={"code": CODE})
@blp.response(200, schemas.RecoveryCodes)
@blp.problem(409, "`conflict`: nothing is to be confirmed.")
@blp.problem(429, "Too many wrong codes.")
def confirm_totp(body: dict[str, Any]) -> Response:
    """Turn the second factor on by a first code

    From then on each login needs a code, and the caller's other logins end. The answer's recovery codes are shown this once, and
    each is good once in the place of a code.
    """
    return _secret({"recovery_codes": enrolment.confirm(principal(), body["code"], origin())})


@blp.route("/totp/disable", methods=["POST"])
@by_user
@login_required()
@blp.arguments(schemas.DisableTotp, example={"password": "a tall ship and a star to steer by", "code": CODE})
@blp.response(204)
@blp.problem(409, "`conflict`: no second factor is on.")
@blp.problem(429, "Too many wrong passwords or codes.")
def disable_totp(body: dict[str, Any]) -> Response:
    """Turn the second factor off

    Takes the password and a code, or a recovery code; the recovery codes that are left are gone with it.
    """
    enrolment.disable(principal(), body["password"], body["code"], origin())
    return Response(status=204)
