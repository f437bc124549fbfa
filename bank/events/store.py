"""Appending to the log, always inside the unit of work that changes the state."""

import orjson
from sqlalchemy import text
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
