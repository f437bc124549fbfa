"""The counters of all processes, gathered through Redis, and the queue as the database sees it."""

import json
import time
from threading import Event, Thread
from typing import Any

import structlog
from flask import Flask
from redis.exceptions import RedisError

from bank.db import reader
from bank.ledger import store
from bank.money import format_amount
from bank.processing.counters import PROCESS_NAME, Happening, add_up, counters
from bank.processing.queue import redis

log = structlog.get_logger(__name__)

_KEY = "bank:counters"

# A process that has not published for this long is gone; its numbers stay in Prometheus.
_FORGET_SECONDS = 600.0
_PUBLISH_SECONDS = 1.0
_HEARTBEAT_SECONDS = 60.0


class Publisher:
    """Publishes this process's numbers to Redis after they changed, at most once a second, from a thread of its own."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._changed = Event()
        self._thread: Thread | None = None

    def __call__(self, happened: Happening) -> None:
        self._changed.set()
        # At the first number and not at import: the thread must be born in the process that counts.
        if self._thread is None or not self._thread.is_alive():
            self._thread = Thread(target=self._run, name="counters", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        rest = Event()
        while True:
            self._changed.wait(_HEARTBEAT_SECONDS)
            self._changed.clear()
            with self._app.app_context():
                publish()
            rest.wait(_PUBLISH_SECONDS)


def init_app(app: Flask) -> None:
    """Publish what this process counts."""
    counters.listen("publisher", Publisher(app))


# With the standard library's JSON: volumes grow past 64 bits, where orjson ends.
def publish() -> None:
    """Put this process's numbers where `gather` finds them. A Redis that is away loses nothing but freshness."""
    try:
        redis().hset(_KEY, PROCESS_NAME, json.dumps(_mine()))
    except RedisError as error:
        log.warning("counters_not_published", error=str(error))


def gather() -> dict[str, Any]:
    """All processes' numbers added up, each process's own, and the queue.

    Volumes are decimal strings by currency; times are seconds.
    """
    publish()
    try:
        published = [json.loads(numbers) for numbers in redis().hvals(_KEY)]
    except RedisError:
        published = [_mine()]
    live = [numbers for numbers in published if _is_live(numbers)]
    totals = add_up(live)
    totals["volume"] = {currency: format_amount(minor, currency) for currency, minor in totals["volume"].items()}
    return {**totals, "queue": _queue(), "processes": sorted(numbers["process"] for numbers in live)}


def _is_live(numbers: dict[str, Any]) -> bool:
    return bool(time.time() - numbers["at"] < _FORGET_SECONDS)


def _mine() -> dict[str, Any]:
    return {"process": PROCESS_NAME, "at": time.time(), **counters.snapshot()}


def _queue() -> dict[str, Any]:
    """What waits now, by lane, and how old the oldest is."""
    with reader() as session:
        rows = store.queue(session.connection())
    lanes = [{"lane": lane, "pending": count, "oldest_seconds": round(age, 3)} for lane, count, age in rows]
    return {
        "pending": sum(lane["pending"] for lane in lanes),
        "oldest_seconds": max((lane["oldest_seconds"] for lane in lanes), default=0),
        "lanes": lanes,
    }
