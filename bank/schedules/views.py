"""`/schedules`: transfers that are made again and again, or at a time to come."""

from typing import Any
from uuid import UUID

from flask import Response
from sqlalchemy import Row

from bank.accounts.access import check_seen, only_seen_by
from bank.auth.guard import MOVERS, login_required, origin, principal, viewer, whose
from bank.schedules import schemas, service
from bank.transactions import parties
from bank.transactions.schemas import DryRun
from bank.transactions.service import Asked
from bank.transactions.views import IDEMPOTENCY_KEY, REPLAYED, idempotency_key
from bank.users.models import Role
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.body import json_response
from bank.web.conditional import ETAG, IF_MATCH, resource

blp = Blueprint("schedules", __name__, url_prefix="/api/v1/schedules", description="Transfers that are made again and again.")


_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "The schedule."}}


_RULE = {"rrule": "FREQ=MONTHLY;BYMONTHDAY=31", "time_zone": "Europe/Prague", "start": "2027-01-31T08:00:00.000000Z"}
_MADE = {"name": "Rent", "recurrence": {**_RULE, "month_end": "last_day"}, "next_run_at": "2027-01-31T08:00:00.000000Z"}


def _whose_to_change() -> str | None:
    """As for transfers: an admin anybody's, everybody else their own."""
    return None if principal().role == Role.ADMIN else principal().id


def _seen(schedule_id: UUID) -> Row[Any]:
    """The schedule. Raises NotFound when it is not there, or not for the caller to read."""
    schedule = service.get(str(schedule_id), viewer())
    check_seen(principal(), schedule.from_user_id)
    return schedule


@blp.route("", methods=["POST"])
@login_required(*MOVERS)
@blp.arguments(
    schemas.CreateSchedule(),
    example={
        "name": "Rent",
        "transfer": {"to_username": "bob", "amount": "12.34", "currency": "USD", "description": "Rent"},
        "recurrence": _RULE,
        "retry": {"attempts": 3, "delay_seconds": 3600},
    },
)
@blp.arguments(DryRun(), location="query")
@blp.doc(parameters=[IDEMPOTENCY_KEY])
@blp.response(201, schemas.ScheduleWithNextRuns, headers={**_LOCATION, **ETAG, **REPLAYED}, example=_MADE)
@blp.alt_response(
    200, schema=schemas.ScheduleWithNextRuns, description="With `dry_run`: what would be made.", example={**_MADE, "id": None}
)
@blp.problem(404, "What the transfer names is not there, or not yours.")
def create_schedule(body: dict[str, Any], query: dict[str, Any]) -> Response:
    """Schedule a transfer, once or by a rule

    From an account of the caller's; admins from any. Who receives it is looked up now. Each run is a transaction of its own, with
    this schedule's id.
    """
    asked = Asked(idempotency_key(), 0)
    intent = parties.transfer(principal(), body["transfer"])
    timing, policy, name = service.timing_of(body), service.Policy(body["misfire"], **body.get("retry", {})), body.get("name")
    if query.get("dry_run") == "true":
        return json_response(service.preview(intent, timing, policy, name, origin()))
    answer = service.create(intent, timing, policy, name, body, origin(), asked)
    headers = {"Location": f"/api/v1/schedules/{answer.made_id}"} | ({"Idempotent-Replayed": "true"} if answer.replayed else {})
    response = Response(answer.body, status=answer.status, mimetype="application/json", headers=headers)
    response.set_etag("1")
    return response


@blp.route("", methods=["GET"])
@login_required()
@blp.arguments(schemas.ScheduleQuery(), location="query")
@blp.response(200, schemas.SchedulePage, headers=paging.LINK)
def list_schedules(query: dict[str, Any]) -> Response:
    """List schedules

    Newest first: those that pay from the caller's accounts, or anybody's for staff (for tellers: customers'). Deleted ones only when
    their `status` is asked for.
    """
    rows = service.search(whose(query), query.get("status"), paging.after(query), query["limit"], only_seen_by(principal()))
    return paging.page(query, [service.present(row) for row in rows], [row.id for row in rows])


@blp.route("/<uuid:schedule_id>", methods=["GET"])
@login_required()
@blp.response(200, schemas.ScheduleWithNextRuns, headers=ETAG)
@blp.problem(404, "Not there, or not yours.")
def get_schedule(schedule_id: UUID) -> Response:
    """Read one schedule

    With its next five runs, in UTC and as the clocks of its zone show them. By whose account pays, and staff.
    """
    schedule = _seen(schedule_id)
    return resource(service.present_one(schedule), service.etag(schedule))


@blp.route("/<uuid:schedule_id>/runs", methods=["GET"])
@login_required()
@blp.arguments(paging.PageSchema(), location="query")
@blp.response(200, schemas.RunPage, headers=paging.LINK)
@blp.problem(404, "Not there, or not yours.")
def list_runs(query: dict[str, Any], schedule_id: UUID) -> Response:
    """List the runs of a schedule

    Newest first, with what became of each: its transaction, or why there is none. By whose account pays, and staff.
    """
    _seen(schedule_id)
    rows = service.runs(str(schedule_id), viewer(), paging.after(query), query["limit"])
    return paging.page(query, rows, [row["due_at"] for row in rows])


@blp.route("/<uuid:schedule_id>", methods=["PATCH"])
@login_required(*MOVERS)
@blp.arguments(schemas.ChangeSchedule(), example={"status": "paused"})
@blp.doc(parameters=[IF_MATCH])
@blp.response(200, schemas.ScheduleWithNextRuns, headers=ETAG, example={"status": "paused", "next_run_at": None, "next_runs": []})
@blp.problem(404, "Not there, or not yours.")
@blp.problem(409, "`schedule_over`: it is deleted, or had its last run and was given no new timing.")
def change_schedule(body: dict[str, Any], schedule_id: UUID) -> Response:
    """Pause a schedule, let it go on, or change it

    What lies in a pause is never run.
    """
    changed = service.change(str(schedule_id), _whose_to_change(), body, origin())
    return resource(service.present_one(changed), service.etag(changed))


@blp.route("/<uuid:schedule_id>", methods=["DELETE"])
@login_required(*MOVERS)
@blp.doc(parameters=[IF_MATCH])
@blp.response(204)
@blp.problem(404, "Not there, or not yours.")
def delete_schedule(schedule_id: UUID) -> Response:
    """End a schedule for good

    By whose account pays, and admins. Its runs and their transactions stay; what is pending is still posted.
    """
    service.delete(str(schedule_id), _whose_to_change(), origin())
    return Response(status=204)
