"""The SQL of batches: taking one in, and how far one is."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.accounts.access import customers_and
from bank.audit import service as audit
from bank.batches.models import BatchMode
from bank.events import store as events
from bank.events.types import BatchSubmitted, Origin
from bank.transactions.store import COLUMNS, KeyToStore

# The key goes in first and not last: a second request with it waits here, before it does all the work again.
_INSERT = text(
    """
    WITH batch AS (
        INSERT INTO batches (id, user_id, mode, items) VALUES (:id, :user_id, :mode, :items) RETURNING id
    )
    INSERT INTO idempotency_keys (user_id, route, key, fingerprint, batch_id, response_status, response_body)
    SELECT :user_id, :route, :key, :fingerprint, id, :status, :body FROM batch WHERE CAST(:key AS text) IS NOT NULL
    """
)


def insert(session: Session, batch_id: str, mode: BatchMode, items: int, key: KeyToStore | None, origin: Origin) -> None:
    """Insert a batch without its transactions: its row, its event, the one audit row for all, and its idempotency key.

    Raises sqlalchemy.exc.IntegrityError when the key was committed by another request meanwhile.
    """
    session.execute(
        _INSERT,
        {
            "id": batch_id,
            "user_id": origin.actor_id,
            "mode": mode.value,
            "items": items,
            "route": key.route if key else None,
            "key": key.key if key else None,
            "fingerprint": key.fingerprint if key else None,
            "status": key.status if key else None,
            "body": key.body if key else None,
        },
    )
    events.append(session, batch_id, 1, BatchSubmitted(mode.value, items), origin)
    audit.record(session, "batch", batch_id, "batch.submitted", origin, {"mode": mode.value, "items": items})


# All that is told of its transactions together comes from one statement and so from one moment.
_GET = text(
    """
    SELECT b.id::text, b.user_id::text, b.mode, b.created_at, s.counts, s.completed_at,
           f.batch_index AS failed_index, f.failure_code, f.id::text AS failed_id
      FROM batches b
     CROSS JOIN LATERAL (
               SELECT json_object_agg(status, count) AS counts, max(completed_at) AS completed_at
                 FROM (SELECT status, count(*) AS count, max(completed_at) AS completed_at
                         FROM transactions t WHERE t.batch_id = b.id GROUP BY status) each) s
      LEFT JOIN LATERAL (
               SELECT batch_index, failure_code, id FROM transactions t
                WHERE t.batch_id = b.id AND b.mode = 'atomic' AND status = 'failed' AND failure_code <> 'batch_refused'
                ORDER BY batch_index LIMIT 1) f ON true
     WHERE b.id = CAST(:id AS uuid)
    """
)


def get(session: Session, batch_id: str) -> Row[Any] | None:
    """A batch, with how many of its transactions have each status and, where it is atomic, the first that was refused."""
    return session.execute(_GET, {"id": batch_id}).one_or_none()


def latest(session: Session, seen_by: str | None, limit: int) -> Sequence[Row[Any]]:
    """Batches, the newest first; for a teller, `seen_by`, without those of colleagues."""
    return session.execute(
        text(
            f"""SELECT id::text, mode, items, created_at FROM batches
                 {"WHERE " + customers_and(":seen_by", "user_id") if seen_by else ""}
                 ORDER BY id DESC LIMIT :limit"""
        ),
        {"seen_by": seen_by, "limit": limit},
    ).all()


def items(session: Session, batch_id: str, status: str | None, after: int | None, limit: int) -> Sequence[Row[Any]]:
    """The transactions of a batch in their order from behind place `after`; one more than `limit` when more follow."""
    return session.execute(
        text(
            f"""SELECT {COLUMNS} FROM transactions t
                 WHERE t.batch_id = CAST(:id AS uuid) AND t.batch_index > :after
                       {"AND t.status = :status" if status else ""}
                 ORDER BY t.batch_index LIMIT :limit"""
        ),
        {"id": batch_id, "after": -1 if after is None else after, "status": status, "limit": limit + 1},
    ).all()
