"""What cannot be posted soon is not accepted: a 202 is a promise, and a queue that grows for ever breaks it for everybody."""

import math
import random
import time
from threading import Lock

from flask import current_app
from sqlalchemy import Connection

from bank.config import Config
from bank.errors import Unavailable
from bank.ledger import store
from bank.processing.counters import Shed, counters

# How old what is known of the lanes may be: looking costs two short statements.
_LOOK_SECONDS = 1.0

# When a caller who was refused may come again, and by how much others are told otherwise.
_RETRY_SECONDS, _SPREAD_SECONDS = 5, 5


class Gate:
    """What one application knows of how long transactions wait, by lane."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._looked_at = -math.inf
        self._seconds: dict[int, float] = {}

    def waits(self, connection: Connection, lane: int) -> float:
        """For how many seconds the oldest of a lane waits."""
        if time.monotonic() - self._looked_at > _LOOK_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._seconds = store.oldest(connection)
                self._looked_at = time.monotonic()
            finally:
                self._lock.release()
        return self._seconds.get(lane, 0.0)


def admit(connection: Connection, lane: int) -> None:
    """Let one more transaction into `lane`. Raises Unavailable while what is there waits for too long."""
    config: Config = current_app.config["BANK"]
    gate: Gate = current_app.extensions["gate"]
    if gate.waits(connection, lane) > config.shed_after_seconds:
        counters.seen(Shed(lane))
        raise Unavailable(
            "Too much waits to be posted.",
            retry_after=_RETRY_SECONDS + random.randrange(_SPREAD_SECONDS + 1),  # noqa: S311 - no secret
        )
