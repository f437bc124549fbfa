"""Appending to the log, always inside the unit of work that changes the state; and reading it."""

from collections.abc import Mapping, Sequence
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


# `type` and `stream_id` have an index each that ends in, or is soon sorted by, the position.
_CONDITIONS = {
    "stream_id": "AND stream_id = CAST(:stream_id AS uuid)",
    "type": "AND type = :type",
    "last": "AND position <= :last",
}


def read(session: Session, filters: Mapping[str, Any], after: int, limit: int) -> Sequence[Row[Any]]:
    """Events in the global order from behind position `after`; one more than `limit` when more follow.

    `filters` may hold `stream_id`, `type` and `last`, the position of the last to read. An event that is seen
    may have a smaller position before it that is not committed yet: whoever must miss none reads only up
    to a `bank.events.horizon`.
    """
    where = " ".join(condition for name, condition in _CONDITIONS.items() if name in filters)
    return session.execute(
        text(
            f"""SELECT position, stream_id::text, version, type, schema, data, actor_id::text, request_id, trace_id,
                       recorded_at
                  FROM events WHERE position > :after {where} ORDER BY position LIMIT :limit"""
        ),
        {**filters, "after": after, "limit": limit + 1},
    ).all()
