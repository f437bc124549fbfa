"""Writing down who did what, and reading it."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.events.types import Origin

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


def read(session: Session, filters: dict[str, Any], before: int | None, limit: int) -> Sequence[Row[Any]]:
    """Audit rows newest first, from before the id `before`; one more than `limit` when more follow.

    `filters` may hold `entity_type`, `entity_id` and `actor_id`.
    """
    conditions = [f"{column} = :{column}" for column in ("entity_type", "entity_id", "actor_id") if column in filters]
    conditions += ["id < :before"] if before is not None else []
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    return session.execute(
        text(
            f"""SELECT id, entity_type, entity_id::text, action, details, actor_id::text, address, request_id, created_at
                  FROM audit_logs {where} ORDER BY id DESC LIMIT :limit"""
        ),
        {**filters, "before": before, "limit": limit + 1},
    ).all()
