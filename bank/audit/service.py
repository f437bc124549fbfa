"""Writing down who did what, and reading it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.db import reader
from bank.events.types import Origin
from bank.web import streaming
from bank.web.fields import timestamp

_RECORD = text(
    """
    INSERT INTO audit_logs (entity_type, entity_id, action, details, actor_id, address, request_id)
    VALUES (:entity_type, :entity_id, :action, CAST(:details AS json), :actor_id, :address, :request_id)
    """
)


def record(
    session: Session,
    entity_type: str,
    entity_id: str | None,
    action: str,
    origin: Origin,
    details: dict[str, Any] | None = None,
) -> None:
    """Append an audit row in the caller's unit of work. `details` is JSON, without secrets."""
    session.execute(
        _RECORD,
        {
            "entity_type": entity_type,
            "entity_id": entity_id,
            "action": action,
            "details": orjson.dumps(details or {}).decode(),
            "actor_id": origin.actor_id,
            "address": origin.address,
            "request_id": origin.request_id,
        },
    )


# Each has an index in the order of the answer.
_CONDITIONS = {
    "entity_type": "entity_type = :entity_type",
    "entity_id": "entity_id = CAST(:entity_id AS uuid)",
    "action": "action = :action",
    "actor_id": "actor_id = CAST(:actor_id AS uuid)",
    "since": "created_at >= :since",
    "until": "created_at < :until",
}


def read(session: Session, filters: Mapping[str, Any], before: int | None, limit: int) -> Sequence[Row[Any]]:
    """Audit rows newest first, from behind the row with the id `before`; one more than `limit` when more follow.

    `filters` may hold `entity_type`, `entity_id`, `action`, `actor_id`, `since` and `until`.
    """
    conditions = [condition for name, condition in _CONDITIONS.items() if name in filters]
    if before is not None:
        conditions.append("(created_at, id) < (SELECT created_at, id FROM audit_logs WHERE id = :before)")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return session.execute(
        text(
            f"""SELECT id, entity_type, entity_id::text, action, details, actor_id::text, address, request_id, created_at
                  FROM audit_logs {where} ORDER BY created_at DESC, id DESC LIMIT :limit"""
        ),
        {**filters, "before": before, "limit": limit + 1},
    ).all()


def read_all(filters: Mapping[str, Any], before: int | None) -> Iterator[Sequence[Row[Any]]]:
    """All that `read` finds from behind `before`, in pages, each read for itself. Rows that arrive meanwhile are newer."""
    while True:
        with reader() as session:
            rows = read(session, filters, before, streaming.PAGE)
        if rows:
            yield rows
        if len(rows) <= streaming.PAGE:
            return
        before = rows[-1].id


def present(row: Row[Any]) -> dict[str, Any]:
    """An audit row as it is shown."""
    return {**row._mapping, "created_at": timestamp(row.created_at)}


def present_event(row: Row[Any]) -> dict[str, Any]:
    """An event as it is shown."""
    return {**row._mapping, "recorded_at": timestamp(row.recorded_at)}
