"""What RQ runs. Each is named in Redis as text, so their names are promises."""

import structlog
from flask import current_app

from bank.config import Config
from bank.db import reader
from bank.followers.runner import standing
from bank.ledger import store
from bank.ledger.system import every_lane
from bank.processing.counters import FollowersSeen, QueueSeen, counters
from bank.processing.processor import Processor
from bank.processing.queue import bells

log = structlog.get_logger(__name__)

# A row that is still pending after this long was not heard: its bell was lost with Redis or a worker. The mark of
# a lost bell ends by itself, and the next sweep after that puts a new one into the queue.
_UNHEARD_SECONDS = 3.0


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
        counters.seen(FollowersSeen(standing(session)))
    return lanes
