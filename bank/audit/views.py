"""`/events` and `/audit-logs`: what happened, and who wanted it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Response

from bank.audit import following, schemas, service
from bank.auth.guard import login_required, principal, still_stands
from bank.db import reader
from bank.errors import NotFound, Unprocessable
from bank.events import store as events
from bank.proof import blocks
from bank.proof.schemas import BlockAnswer
from bank.users.models import Role
from bank.web import paging, streaming
from bank.web.api import Blueprint
from bank.web.body import json_response

blp = Blueprint("audit", __name__, url_prefix="/api/v1", description="What happened, and who wanted it.")

# The columns of the CSV, in their order.
_COLUMNS = ("id", "created_at", "entity_type", "entity_id", "action", "actor_id", "address", "request_id", "details")

_EVENT_LINE = (
    '{"position":4711,"stream_id":"019b2f6e-8a00-7000-8000-000000000001","version":2,"type":"TransactionFailed","schema":1,'
    '"data":{"failure_code":"insufficient_funds"},"actor_id":null,"request_id":"order-4711","trace_id":null,'
    '"recorded_at":"2026-01-31T12:00:00.000000Z"}\n'
)
_AUDIT_LINE = (
    '{"id":17,"entity_type":"account","entity_id":"019b2f6e-8a00-7000-8000-000000000001","action":"account.changed",'
    '"details":{"name":"Rent"},"actor_id":"019b2f6e-8a00-7000-8000-000000000002","address":"192.0.2.1","request_id":"renaming",'
    '"created_at":"2026-01-31T12:00:00.000000Z"}\n'
)
_AUDIT_CSV = (
    ",".join(_COLUMNS) + "\r\n17,2026-01-31T12:00:00.000000Z,account,019b2f6e-8a00-7000-8000-000000000001,account.changed,"
    '019b2f6e-8a00-7000-8000-000000000002,192.0.2.1,renaming,"{""name"":""Rent""}"\r\n'
)


def _still_asking() -> Callable[[], bool]:
    """Whether the caller's login goes on and their role is what it was: a stream takes as long as its reader."""
    return partial(still_stands, principal())


def _filters(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if name not in ("limit", "cursor")}


@blp.route("/events", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.arguments(schemas.EventQuery(), location="query")
@blp.response(200, schemas.EventPage, headers=paging.LINK)
@blp.streamed(streaming.NDJSON, _EVENT_LINE)
@blp.problem(406, "There is JSON and NDJSON.")
@blp.problem(503, "As many streams are being read as may be, or a part that is needed is out of reach; try again.")
def list_events(query: dict[str, Any]) -> Response:
    """List events in their global order

    With `Accept: application/x-ndjson` all that match, whatever the `limit`, an event a line; with `follow=true` also those that
    come. A stream shows an event only when nothing can be added before it any more, so that who continues from the last
    position and one misses nothing. A page does not wait: what commits late may appear before what it showed. An answer that breaks
    off without its last chunk is not complete.
    """
    goes_on = query.pop("follow", "false") == "true"
    after = paging.after(query)
    filters = _filters(query)
    # The cursor of a list that begins at a position lies behind it.
    first = filters.pop("from_position", 0)
    after = first - 1 if after is None else after
    if streaming.negotiate(streaming.NDJSON) == streaming.NDJSON:
        pages = following.follow(filters, after) if goes_on else following.until_now(filters, after)
        return streaming.stream(
            streaming.ndjson([service.present_event(row) for row in rows] for rows in pages), streaming.NDJSON, _still_asking()
        )
    if goes_on:
        raise Unprocessable.at("/follow", f"Needs `Accept: {streaming.NDJSON}`.")
    with reader() as session:
        rows = events.read(session, filters, after, query["limit"])
    return streaming.varied(paging.page(query, [service.present_event(row) for row in rows], [row.position for row in rows]))


@blp.route("/events/head", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.response(200, BlockAnswer)
@blp.problem(404, "Nothing is sealed yet.")
def get_head() -> Response:
    """Read the signed head of the sealed log

    To be published, or kept where nobody can change it: `bank verify --head` tells by it when the end of the log was cut off or the
    whole made anew.
    """
    with reader() as session:
        block = blocks.last_block(session)
    if block is None:
        raise NotFound("Nothing is sealed yet.")
    return json_response(blocks.present(block))


@blp.route("/audit-logs", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.arguments(schemas.AuditQuery(), location="query")
@blp.response(200, schemas.AuditPage, headers=paging.LINK)
@blp.streamed(streaming.NDJSON, _AUDIT_LINE)
@blp.streamed(streaming.CSV, _AUDIT_CSV)
@blp.problem(406, "There is JSON, NDJSON and CSV.")
@blp.problem(503, "As many streams are being read as may be, or a part that is needed is out of reach; try again.")
def list_audit_logs(query: dict[str, Any]) -> Response:
    """List what people did, newest first

    Refusals and rollbacks (`transaction.failed`, `transaction.rolled_back`) are added a moment after their time. With `Accept: text/csv` or
    `application/x-ndjson` all that match, whatever the `limit`. A cell that a spreadsheet would take for
    a formula begins with an apostrophe. An answer that breaks off without its last chunk is not complete.
    """
    filters, before = _filters(query), paging.after(query)
    wanted = streaming.negotiate(streaming.NDJSON, streaming.CSV)
    if wanted == streaming.JSON:
        with reader() as session:
            rows = service.read(session, filters, before, query["limit"])
        return streaming.varied(paging.page(query, [service.present(row) for row in rows], [row.id for row in rows]))
    pages = ([service.present(row) for row in rows] for rows in service.read_all(filters, before))
    pieces = streaming.csv_lines(_COLUMNS, pages) if wanted == streaming.CSV else streaming.ndjson(pages)
    return streaming.stream(pieces, wanted, _still_asking())
