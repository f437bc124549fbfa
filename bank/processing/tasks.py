"""What RQ runs. Each is named in Redis as text, so their names are promises."""

import structlog
from flask import current_app
from sqlalchemy import text

from bank.config import Config
from bank.db import reader
from bank.followers.runner import seconds_behind
from bank.ledger import store
from bank.ledger.system import every_lane
from bank.processing.counters import BankSeen, FollowersSeen, QueueSeen, counters
from bank.processing.processor import Processor
from bank.processing.queue import bells

log = structlog.get_logger(__name__)

# A row that is still pending after this long was not heard: its bell was lost with Redis or a worker. The mark of
# a lost bell ends by itself, and the next sweep after that puts a new one into the queue.
_UNHEARD_SECONDS = 3.0

# Each part is one look into an index.
_BANK = text("""
    SELECT COALESCE(b.last, 0) AS sealed_position,
           (SELECT EXTRACT(epoch FROM e.recorded_at)::float8 FROM events e WHERE e.position = b.last) AS sealed_at,
           r.open_reviews, r.oldest_review_seconds,
           (SELECT EXTRACT(epoch FROM max(day))::float8 FROM fx_rates WHERE revision = 0) AS rates_of
      FROM (SELECT max(last) AS last FROM blocks) b,
           (SELECT count(*) AS open_reviews,
                   COALESCE(EXTRACT(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_review_seconds
              FROM transactions WHERE review = 'open') r
""")


def drain(lane: int) -> int:
    """The bell's job: post what waits in `lane`. Returns how many transactions were decided."""
    processor: Processor = current_app.extensions["processor"]
    return processor.drain(lane)


def sweep() -> list[int]:
    """Ring again for every lane where a row waits too long. Returns the lanes; runs by rq-scheduler."""
    config: Config = current_app.config["BANK"]
    with reader() as session:
        waiting = {lane: (count, seconds) for lane, count, seconds in store.queue(session.connection())}
    counters.seen(QueueSeen(dict.fromkeys(every_lane(config.lanes), (0, 0.0)) | waiting))
    lanes = [lane for lane, (_, seconds) in waiting.items() if seconds >= _UNHEARD_SECONDS]
    for lane in lanes:
        bells.ring(lane)
    if lanes:
        log.warning("lanes_swept", lanes=lanes)
    # Last: whatever is wrong with it must not keep lanes from being rung for.
    with reader() as session:
        counters.seen(FollowersSeen(seconds_behind(session)))
        counters.seen(BankSeen(**session.execute(_BANK).one()._mapping))
    return lanes
