"""How far the log can be read without missing an event that commits late."""

import time

from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.db import reader
from bank.errors import Unavailable

# The transaction id is taken while the statement runs and so after the snapshot that the position was seen by.
# It is taken only where there is something new: an idle bank uses up none.
_LAST = text(
    """
    SELECT last, CASE WHEN last > :settled THEN pg_current_xact_id()::text::bigint END AS bound
      FROM (SELECT COALESCE(max(position), 0) AS last FROM events) e
    """
)

_OLDEST_RUNNING = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")

# Most transactions are over in less than this.
_LOOK_SECONDS = 0.02

# Those of the bank are over in less than this, or ended by the database (`bank.db.SERVER_SETTINGS`).
_PATIENCE_SECONDS = 10.0


class Horizon:
    """The position up to which the log is settled: no event will ever be added there.

    Positions are drawn from a sequence, and transactions commit in another order: behind an event that is
    seen, a smaller position may still be uncommitted, and a reader that went on would never see it.

    Whoever holds such a position took a transaction id before it (a trigger on `events` sees to that) and drew
    it before the larger one was drawn, and so before the larger one was seen. A transaction id that is taken
    after the largest position was seen is therefore larger than that of everybody who may still add below it.
    Once no older transaction runs, all of these have ended, and what they wrote is visible to whoever looks.

    The snapshot's own upper end (`pg_snapshot_xmax`) is no such bound: it is one more than the last id that
    *ended*, and a transaction that holds a smaller position may have a larger id than that and still run.

    One reader's, in one thread. It must ask the primary: a replica has no transaction ids to give.
    """

    def __init__(self) -> None:
        self.settled = 0
        # The largest position seen, and the transaction id below which all must have ended.
        self._candidate: tuple[int, int] | None = None

    @property
    def waits(self) -> bool:
        """Whether events were seen that a transaction still keeps from being settled."""
        return self._candidate is not None

    def advance(self, session: Session) -> int:
        """Look once more, and return `settled`. What is settled is visible to the statements after this one."""
        if self._candidate is None:
            last, bound = session.execute(_LAST, {"settled": self.settled}).one()
            if bound is None:
                return self.settled
            self._candidate = (last, bound)
        last, bound = self._candidate
        if session.execute(_OLDEST_RUNNING).scalar_one() >= bound:
            self.settled, self._candidate = last, None
        return self.settled


def settled(patience_seconds: float = _PATIENCE_SECONDS) -> int:
    """The position up to which the log is settled now, everything that was committed before the call included.

    Waits for the transactions that may still add to it. Raises Unavailable when one of them takes longer than
    `patience_seconds`: none of the bank's does.
    """
    horizon = Horizon()
    give_up = time.monotonic() + patience_seconds
    while True:
        # One look a connection: none is kept from others while there is nothing to do but wait.
        with reader() as session:
            last = horizon.advance(session)
        if not horizon.waits:
            return last
        if time.monotonic() > give_up:
            raise Unavailable("A transaction that may still add events has been running for too long.", retry_after=10)
        time.sleep(_LOOK_SECONDS)
