"""`/admin/replays`: what the bank looked like at any moment, as the events tell it."""

from typing import Any
from uuid import UUID

from flask import Response

from bank.auth.guard import login_required, origin
from bank.replay import schemas, service
from bank.users.models import Role
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.body import json_response

blp = Blueprint("replays", __name__, url_prefix="/api/v1/admin/replays", description="What the bank looked like at any moment.")

_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where to see how far it is."}}


@blp.route("", methods=["POST"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.arguments(schemas.StartReplay(), required=False, example={"until_time": "2026-01-31T12:00:00Z"})
@blp.response(202, schemas.ReplayAnswer, headers=_LOCATION)
@blp.problem(409, "`too_many_replays`: three wait or are at work.")
def start_replay(body: dict[str, Any]) -> Response:
    """Replay the events up to a moment

    Changes nothing of the bank. It begins at a snapshot of an earlier replay, if there is one: quicker, and believing what stands there.
    With `from_start` it reads the log and nothing else. The result is kept for a week, unless there are twenty newer ones. What was
    recorded by a time of the last ten seconds may still grow.
    """
    until = body.get("until_position", body.get("until_time"))
    replay = service.ask(until, body.get("account_id"), body["from_start"], origin())
    response = json_response(replay, 202)
    response.headers["Location"] = f"/api/v1/admin/replays/{replay['id']}"
    return response


@blp.route("/<uuid:replay_id>", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.response(200, schemas.ReplayAnswer)
@blp.problem(404, "There is no such replay, or it is forgotten.")
def get_replay(replay_id: UUID) -> Response:
    """See how far a replay is

    And what came out, once it is `finished`. Auditors and admins.
    """
    return json_response(service.get(str(replay_id)))


@blp.route("/<uuid:replay_id>/accounts", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.arguments(paging.PageSchema(), location="query")
@blp.response(200, schemas.ReplayedAccountPage, headers=paging.LINK)
@blp.problem(404, "There is no such replay, or it is forgotten.")
@blp.problem(409, "`replay_not_finished`: it waits, is at work, or failed.")
def list_accounts(query: dict[str, Any], replay_id: UUID) -> Response:
    """List the accounts as they were then

    In the order of their ids, the bank's own among them; once the replay is `finished`. Auditors and admins.
    """
    rows = service.accounts(str(replay_id), paging.after(query), query["limit"])
    return paging.page(query, rows, [row["id"] for row in rows])
