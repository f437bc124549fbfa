"""`/auth`: registration, login, refresh, logout, and who am I."""

from typing import Any

from flask import Response, g, request

from bank.auth import schemas, service
from bank.auth.guard import login_required, origin, principal
from bank.users import service as users
from bank.users.models import Role
from bank.users.schemas import UserAnswer
from bank.web import context
from bank.web.api import Blueprint
from bank.web.body import json_response
from bank.web.conditional import ETAG, resource
from bank.web.limits import by_address

blp = Blueprint("auth", __name__, url_prefix="/api/v1/auth", description="Who is asking: registration, logins, tokens.")


def _tokens(answer: dict[str, Any]) -> Response:
    response = json_response(answer)
    # RFC 6749, 5.1: nothing on the way may keep a token.
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
@blp.problem(401, "`invalid_credentials`, whatever of the two is wrong.")
@blp.problem(429, "Too many wrong passwords for this user or from this address, or too many calls from this address.")
def login(body: dict[str, Any]) -> Response:
    """Log in by username or email, and password

    Each login is a family of tokens of its own; log in on as many devices as you like.
    """
    user_agent = request.headers.get("User-Agent", "")[:300] or None
    return _tokens(service.login(body["username"], body["password"], user_agent, context.origin(None)))


@blp.route("/refresh", methods=["POST"])
@blp.doc(security=[{"bearerAuth": []}])
@blp.response(200, schemas.TokenAnswer)
@blp.problem(401, "No good refresh token. One that was spent before ends its whole login.")
def refresh() -> Response:
    """Exchange the refresh token, sent as Bearer, for new tokens

    The old refresh token is spent by it. Sending it again, or two at once, ends the login.
    """
    return _tokens(service.refresh(context.origin(None)))


@blp.route("/logout", methods=["POST"])
@login_required()
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
