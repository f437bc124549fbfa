"""`/users/{id}/export` and `/users/{id}/erasure`: what the bank holds of a person, and its end."""

from functools import partial
from typing import Any
from uuid import UUID

from flask import Response

from bank.auth.guard import login_required, origin, principal, still_stands
from bank.privacy import erasure, export, schemas
from bank.users import service as users
from bank.web import streaming
from bank.web.api import Blueprint
from bank.web.limits import by_user

blp = Blueprint("privacy", __name__, url_prefix="/api/v1/users", description="What the bank holds of a person, and its end.")

_LINE = (
    '{"kind":"user","data":{"id":"019b2f6e-8a00-7000-8000-000000000001","username":"alice","email":"alice@example.org",'
    '"role":"customer","status":"active","created_at":"2026-01-31T12:00:00.000000Z","updated_at":"2026-01-31T12:00:00.000000Z"}}\n'
)


@blp.route("/<uuid:user_id>/export", methods=["GET"])
@login_required()
@blp.response(200, {"type": "string"}, content_type=streaming.NDJSON, example=_LINE)
@blp.problem(404, "Not there, or not yours.")
@blp.problem(503, "As many streams are being read as may be, or a part that is needed is out of reach; try again.")
def export_user(user_id: UUID) -> Response:
    """Export all that the bank holds of a user

    Oneself, or anybody as an admin. A line of JSON each, with `kind` (user, login, account, entry, transaction, schedule, act,
    event) and
    `data`. An answer that breaks off without its last chunk is not complete.
    """
    caller = principal()
    user = users.to_change(caller, str(user_id))
    if caller.id != user.id:
        export.note(user, origin())
    response = streaming.stream(streaming.ndjson(export.pages(user)), streaming.NDJSON, partial(still_stands, caller))
    response.headers["Content-Disposition"] = f'attachment; filename="{user.id}.ndjson"'
    return response


@blp.route("/<uuid:user_id>/erasure", methods=["POST"])
@by_user
@login_required()
@blp.arguments(schemas.Erase(), example={"current_password": "a tall ship and a star to steer by"})
@blp.response(204)
@blp.problem(404, "Not there, or not yours.")
@blp.problem(
    409,
    "`balance_not_zero`: an account holds money, owes it or waits for some. `conflict`: oneself as staff, or with a frozen account; "
    "the last active admin.",
)
@blp.problem(429, "Too many wrong current passwords.")
def erase_user(body: dict[str, Any], user_id: UUID) -> Response:
    """Erase what is personal of a user

    Oneself, or anybody as an admin; `current_password` is the caller's. Deletes the user first, if they are not yet. Name, email,
    logins and the names of accounts and schedules are gone for good; transactions stay with their texts, and so do entries, events
    and the audit log. The name can be taken again.
    """
    erasure.erase(principal(), str(user_id), body["current_password"], origin())
    return Response(status=204)
