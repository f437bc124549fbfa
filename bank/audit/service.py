"""Writing down who did what."""

from typing import Any

import orjson
from sqlalchemy import text
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
