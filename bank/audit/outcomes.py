"""The follower that puts into the audit log what the ledger decided against, what was taken back, which holds expired,
and what a rule marked or had held.

A person's act is written with its effect, in one transaction. These are nobody's act but follow from one, so they are
read from the log of events: posting does not wait for them. What was simply posted is not repeated here. They bear the time of
the event, so such a row comes a moment after its time, and longer after it where nobody followed the log.
"""

from sqlalchemy import text
from sqlalchemy.orm import Session

# How many positions are taken in at once.
_PART = 20_000

_RECORD = text(
    """
    INSERT INTO audit_logs (entity_type, entity_id, action, details, request_id, created_at)
    SELECT 'transaction', stream_id,
           CASE type WHEN 'TransactionFailed' THEN 'transaction.failed' WHEN 'HoldExpired' THEN 'transaction.hold_expired'
                     WHEN 'TransactionRolledBack' THEN 'transaction.rolled_back'
                     ELSE CASE data ->> 'review' WHEN 'true' THEN 'transaction.under_review' ELSE 'transaction.flagged' END END,
           data, request_id, recorded_at
      FROM events
     WHERE position > :after AND position <= :reached
       AND (type IN ('TransactionFailed', 'TransactionRolledBack', 'HoldExpired')
            -- Only what limits or rules were asked about is in this version.
            OR (type = 'TransactionHeld' AND schema = 2 AND (data ->> 'review')::boolean)
            OR (type IN ('TransactionCompleted', 'TransactionHeld') AND schema = 2 AND data ->> 'checks' LIKE '%"flagged"%'))
     ORDER BY position
    """
)


def take(session: Session, after: int, last: int) -> int:
    """Record the outcomes behind position `after`, up to `last` at most; the position that was reached."""
    reached = min(after + _PART, last)
    session.execute(_RECORD, {"after": after, "reached": reached})
    return reached
