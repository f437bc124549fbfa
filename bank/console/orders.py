"""What was ordered for later or at once: schedules with their next runs, batches with how far they are."""

from uuid import UUID

from flask import request
from werkzeug.wrappers import Response

from bank.accounts.access import check_seen, only_seen_by
from bank.auth.guard import principal, viewer
from bank.batches import service as batches
from bank.console.pages import GOES_ON, STOPS, blp, further, loaded, page
from bank.console.session import signed_in
from bank.schedules import service as schedules
from bank.users.models import Role
from bank.web import paging

_ITEMS = 50


@blp.get("/schedules")
@signed_in()
def list_schedules() -> Response:
    """Those that pay from the caller's accounts; for staff everybody's."""
    query = loaded(paging.PageSchema(), request.args)
    rows = schedules.search(viewer(), None, paging.after(query), query["limit"], only_seen_by(principal()))
    return page(
        "schedules",
        schedules=[schedules.present(row) for row in rows[: query["limit"]]],
        more=further(query, [row.id for row in rows]),
    )


@blp.get("/schedules/<uuid:schedule_id>")
@signed_in()
def show_schedule(schedule_id: UUID) -> Response:
    """Its next runs, and what became of the last ones."""
    schedule = schedules.get(str(schedule_id), viewer())
    check_seen(principal(), schedule.from_user_id)
    return page(
        "schedule", schedule=schedules.present_one(schedule), runs=schedules.runs(str(schedule_id), viewer(), None, _ITEMS)[:_ITEMS]
    )


@blp.get("/batches")
@signed_in(Role.TELLER, Role.AUDITOR, Role.ADMIN)
def list_batches() -> Response:
    """The latest. Customers reach theirs from its transactions."""
    return page("batches", batches=batches.latest(only_seen_by(principal()), _ITEMS))


@blp.get("/batches/<uuid:batch_id>")
@signed_in()
def show_batch(batch_id: UUID) -> Response:
    """How far it is, and its first transactions."""
    batch, items = batches.get(str(batch_id), principal(), None, None, _ITEMS)
    return page("batch", batch=batch, items=items[:_ITEMS])


@blp.get("/batches/<uuid:batch_id>/progress")
@signed_in()
def show_progress(batch_id: UUID) -> Response:
    """How far it is, until it is final."""
    batch = batches.get(str(batch_id), principal(), None, None, 1)[0]
    return page("progress", GOES_ON if batch["status"] == "pending" else STOPS, batch=batch)
