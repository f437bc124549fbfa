"""`/events` and `/audit-logs`: what happened, and who wanted it."""

from typing import Any

from flask import Response

from bank.audit import schemas, service
from bank.auth.guard import login_required
from bank.db import reader
from bank.events import store as events
from bank.users.models import Role
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.fields import timestamp

blp = Blueprint("audit", __name__, url_prefix="/api/v1", description="What happened, and who wanted it.")


@blp.route("/events", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.arguments(schemas.EventQuery(), location="query")
@blp.response(200, schemas.EventPage, headers=paging.LINK)
def list_events(query: dict[str, Any]) -> Response:
    """List events in their global order"""
    with reader() as session:
        rows = events.read(session, query.get("stream_id"), paging.after(query) or 0, query["limit"])
    shown = [{**row._mapping, "recorded_at": timestamp(row.recorded_at)} for row in rows]
    return paging.page(query, shown, [row.position for row in rows])


@blp.route("/audit-logs", methods=["GET"])
@login_required(Role.AUDITOR, Role.ADMIN)
@blp.arguments(schemas.AuditQuery(), location="query")
@blp.response(200, schemas.AuditPage, headers=paging.LINK)
def list_audit_logs(query: dict[str, Any]) -> Response:
    """List what people did, newest first"""
    filters = {name: value for name, value in query.items() if name not in ("limit", "cursor")}
    with reader() as session:
        rows = service.read(session, filters, paging.after(query), query["limit"])
    shown = [{**row._mapping, "created_at": timestamp(row.created_at)} for row in rows]
    return paging.page(query, shown, [row.id for row in rows])
