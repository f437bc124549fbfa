"""When Redis is away nobody hears bells: the process that wanted to ring posts what waits itself, beside its other work."""

from threading import Event, Lock, Thread

import structlog
from flask import Flask
from redis.exceptions import RedisError

from bank.db import reader
from bank.errors import Unavailable
from bank.ledger import store
from bank.processing.counters import StoodBy, counters
from bank.processing.processor import Processor
from bank.processing.queue import redis
from bank.resilience import deadlines

log = structlog.get_logger(__name__)

# Lanes at once. The connections are those of the process, which answers requests with them.
_THREADS = 2

# How often it is looked for what others accepted, whose bell was lost with Redis.
_LOOK_SECONDS = 1.0


class Standby:
    """Posts for one process, from the first bell that could not be rung until Redis answers again."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._lock = Lock()
        self._lanes: set[int] = set()
        self._asked = Event()
        self._thread: Thread | None = None

    @property
    def works(self) -> bool:
        """Whether it stands by now."""
        return self._thread is not None

    def post(self, lane: int) -> None:
        """See to it that what waits in `lane` is posted. Returns at once."""
        with self._lock:
            self._lanes.add(lane)
            if self._thread is None:
                self._thread = Thread(target=self._run, name="standby", daemon=True)
                self._thread.start()
        self._asked.set()

    def _run(self) -> None:
        log.warning("standing_by")
        processor = Processor(self._app, _THREADS)
        with self._app.app_context():
            while True:
                self._asked.clear()
                with self._lock:
                    lanes, self._lanes = self._lanes, set()
                try:
                    with deadlines.bounded():
                        waiting = _waiting()
                    counters.seen(StoodBy(processor.drain_unheard(lanes | waiting)))
                except Unavailable as error:
                    log.warning("standby_waits", error=error.detail)
                except Exception as error:
                    # Whatever it is, the rows are pending, and it is looked at them again.
                    log.error("standby_failed", exc_info=error)
                if self._is_over():
                    break
                self._asked.wait(_LOOK_SECONDS)
        processor.close()

    def _is_over(self) -> bool:
        try:
            redis().ping()
        except RedisError:
            return False
        with self._lock:
            # Who is told to post from now on starts another thread.
            if self._lanes:
                return False
            self._thread = None
        log.warning("stood_by")
        return True


def _waiting() -> set[int]:
    """The lanes in which something waits for longer than it would if a bell had been heard."""
    with reader() as session:
        return {lane for lane, _, seconds in store.queue(session.connection()) if seconds >= _LOOK_SECONDS}
