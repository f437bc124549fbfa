"""`/users`."""

from typing import Any
from uuid import UUID

from flask import Response

from bank.auth import enrolment
from bank.auth.guard import login_required, origin, principal
from bank.errors import NotFound
from bank.resilience.cache import cache
from bank.users import schemas, service
from bank.users.models import Role
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.conditional import ETAG, IF_MATCH, resource
from bank.web.limits import by_user

blp = Blueprint("users", __name__, url_prefix="/api/v1/users", description="Customers and staff.")


@blp.route("", methods=["GET"])
@login_required(Role.TELLER, Role.AUDITOR, Role.ADMIN)
@blp.arguments(schemas.UserQuery, location="query")
@blp.response(200, schemas.UserPage, headers=paging.LINK)
def list_users(query: dict[str, Any]) -> Response:
    """List users, newest first

    Staff only; a teller sees customers only.
    """
    rows = service.search(principal(), query, paging.after(query))
    return paging.page(query, [service.present_user(row) for row in rows], [row.id for row in rows])


@blp.route("/<uuid:user_id>", methods=["GET"])
@login_required()
@blp.response(200, schemas.UserAnswer, headers=ETAG)
@blp.problem(404, "Not there, or not yours.")
def get_user(user_id: UUID) -> Response:
    """Read one user

    Oneself; tellers read customers, auditors and admins anybody. Whom one may not read is 404, as is who is not there.
    """
    user = cache().read("user", str(user_id))
    if user is None or not service.may_read(principal(), user["body"]["id"], user["body"]["role"]):
        raise NotFound
    return resource(user["body"], user["etag"])


@blp.route("/<uuid:user_id>", methods=["PUT"])
@by_user
@login_required()
@blp.arguments(schemas.ChangeUser, example={"email": "alice@example.org"})
@blp.doc(parameters=[IF_MATCH])
@blp.response(200, schemas.UserAnswer, headers=ETAG, example={"email": "alice@example.org"})
@blp.problem(404, "Not there, or not yours.")
@blp.problem(409, "`already_taken`, or `conflict`: a deleted user, or the last active admin.")
@blp.problem(429, "Too many wrong current passwords.")
def change_user(body: dict[str, Any], user_id: UUID) -> Response:
    """Change a user; what is left out stays

    Oneself: username, email, and the password with the current one. Admins: anything of anybody.
    A new password and a freeze end every login of the user at once, this one included.
    """
    user = service.change(principal(), str(user_id), body, origin())
    return resource(service.present_user(user), service.etag(user))


@blp.route("/<uuid:user_id>", methods=["DELETE"])
@login_required()
@blp.doc(parameters=[IF_MATCH])
@blp.response(204)
@blp.problem(404, "Not there, or not yours.")
@blp.problem(409, "`balance_not_zero`: an account holds money, owes it or waits for some. `conflict`: the last active admin.")
def delete_user(user_id: UUID) -> Response:
    """Delete oneself, or anybody as an admin

    Closes the user's accounts, deletes their schedules, ends every login, and keeps the history. The name is not given out again.
    """
    service.delete(principal(), str(user_id), origin())
    return Response(status=204)


@blp.route("/<uuid:user_id>/totp", methods=["DELETE"])
@login_required(Role.ADMIN)
@blp.response(204)
@blp.problem(404, "No such user, or without a second factor.")
@blp.problem(409, "`conflict`: one's own is disabled by its code.")
def reset_totp(user_id: UUID) -> Response:
    """Take away the second factor of a user who lost it

    Admins only, and never their own. Ends every login of the user, who then logs in by the password alone: make sure first who asks.
    """
    enrolment.reset(principal(), str(user_id), origin())
    return Response(status=204)
