"""Appending to the log, always inside the unit of work that changes the state; and reading it."""

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.events.types import Happened, Origin

_APPEND = text(
    """
    INSERT INTO events (stream_id, version, type, schema, data, actor_id, request_id, trace_id)
    VALUES (:stream_id, :version, :type, :schema, CAST(:data AS json), :actor_id, :request_id, :trace_id)
    """
)


def append(session: Session, stream_id: str, version: int, event: Happened, origin: Origin) -> None:
    """Append `event` as number `version` (1, 2, 3, …) of its stream.

    Raises sqlalchemy.exc.IntegrityError when the stream has that version already: somebody else
    changed the thing at the same time without taking its lock.
    """
    session.execute(
        _APPEND,
        {
            "stream_id": stream_id,
            "version": version,
            "type": type(event).__name__,
            "schema": event.SCHEMA,
            "data": orjson.dumps(event).decode(),
            "actor_id": origin.actor_id,
            "request_id": origin.request_id,
            "trace_id": origin.trace_id,
        },
    )


def read(session: Session, stream_id: str | None, after: int, limit: int) -> Sequence[Row[Any]]:
    """Events in the global order from behind position `after`, of one stream or of all; one more than `limit`
    when more follow."""
    of_stream = "AND stream_id = CAST(:stream_id AS uuid)" if stream_id else ""
    return session.execute(
        text(
            f"""SELECT position, stream_id::text, version, type, schema, data, actor_id::text, request_id, trace_id,
                       recorded_at
                  FROM events WHERE position > :after {of_stream} ORDER BY position LIMIT :limit"""
        ),
        {"stream_id": stream_id, "after": after, "limit": limit + 1},
    ).all()
