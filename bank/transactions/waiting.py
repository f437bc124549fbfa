"""Waking those who wait for an outcome: one LISTEN connection a process, no polling.

The drain's NOTIFY is part of its transaction, so it arrives when the outcome is committed and
never before. A lost connection costs nothing but time: all who wait look for themselves once.
"""

import select
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore, Event, Lock, Thread
from typing import Any

import psycopg2
import structlog
from flask import current_app
from sqlalchemy import Engine

from bank.config import Config
from bank.db import db
from bank.ledger.store import NOTIFY_CHANNEL

log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 1.0

# A server that vanishes without a word is noticed after 25 seconds.
_CONNECTION: dict[str, Any] = {
    "connect_timeout": 3,
    "application_name": "bank listener",
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class Waiters:
    """Who waits for which transaction in this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: dict[str, set[Event]] = defaultdict(set)
        self._places: BoundedSemaphore | None = None
        self._thread: Thread | None = None
        self._listening = Event()

    @contextmanager
    def expect(self, transaction_id: str) -> Iterator[Event | None]:
        """An event that is set when the transaction is final; enter before it is submitted.

        None when waiting is not to be had: every place is taken (half of the process's threads may
        wait, the others must go on answering), or nobody listens because the database is away.
        """
        places = self._start()
        if not self._listening.wait(_CONNECT_SECONDS) or not places.acquire(blocking=False):
            yield None
            return
        event = Event()
        with self._lock:
            self._waiting[transaction_id].add(event)
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[transaction_id].discard(event)
                if not self._waiting[transaction_id]:
                    del self._waiting[transaction_id]
            places.release()

    def _start(self) -> BoundedSemaphore:
        # At the first wait and not at import: the listener must be born in the process that waits.
        with self._lock:
            config: Config = current_app.config["BANK"]
            if self._places is None:
                self._places = BoundedSemaphore(max(1, config.web_threads // 2))
            if self._thread is None or not self._thread.is_alive():
                self._thread = Thread(target=self._listen_for_ever, args=(db.engine,), name="listener", daemon=True)
                self._thread.start()
            return self._places

    def _listen_for_ever(self, engine: Engine) -> None:
        pause = Event()
        while True:
            try:
                self._listen(engine)
            except (psycopg2.Error, OSError) as error:
                log.warning("listener_lost", error=str(error).strip())
            self._listening.clear()
            pause.wait(0.5)

    def _listen(self, engine: Engine) -> None:
        arguments, options = engine.dialect.create_connect_args(engine.url)
        connection = psycopg2.connect(*arguments, **{**options, **_CONNECTION})
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"LISTEN {NOTIFY_CHANNEL}")
            # What became final while nobody listened was not told: everybody looks once. Who comes from now on is told.
            self._wake(None)
            self._listening.set()
            while True:
                select.select([connection], [], [])
                connection.poll()
                while connection.notifies:
                    self._wake(connection.notifies.pop(0).payload.split(","))
        finally:
            connection.close()

    def _wake(self, transaction_ids: list[str] | None) -> None:
        with self._lock:
            for transaction_id in self._waiting if transaction_ids is None else transaction_ids:
                for event in self._waiting.get(transaction_id, ()):
                    event.set()


waiters = Waiters()
