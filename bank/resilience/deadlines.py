"""An end to waiting for a database that says nothing.

A statement is bounded by the server, and a line that was cut by the network's own time-outs. A server that was stopped does neither:
its machine still acknowledges what it is sent, and libpq would wait for ever. So whoever answers requests cuts the line himself.
"""

import os
import socket
import time
from threading import Event, Lock, Thread
from typing import Any

import structlog
from flask import Flask, has_request_context
from sqlalchemy import event

from bank.db import db

log = structlog.get_logger(__name__)

# Longer than a statement may take, and less than a client waits.
SECONDS = 15.0

_LOOK_SECONDS = 0.5


class Deadlines:
    """The connections that requests of this process hold, and until when they may."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._held: dict[Any, tuple[float, int]] = {}
        self._thread: Thread | None = None
        self._pause = Event()

    def take(self, connection: Any, record: Any, proxy: Any) -> None:
        """A connection leaves the pool."""
        if not has_request_context():
            return
        with self._lock:
            self._held[record] = (time.monotonic() + SECONDS, connection.fileno())
            # In the process that serves, and not in the one that forks it.
            if self._thread is None:
                self._thread = Thread(target=self._watch, name="deadlines", daemon=True)
                self._thread.start()

    def give_back(self, connection: Any, record: Any, *_: Any) -> None:
        """It comes back, or is closed: its number may be another one's now."""
        with self._lock:
            self._held.pop(record, None)

    def _watch(self) -> None:
        while not self._pause.wait(_LOOK_SECONDS):
            now = time.monotonic()
            # With the lock held: as long as it is, nobody closes them.
            with self._lock:
                for record in [record for record, (until, _) in self._held.items() if until < now]:
                    _, number = self._held.pop(record)
                    log.error("database_does_not_answer", seconds=SECONDS)
                    _cut(number)


def _cut(number: int) -> None:
    # On a copy of the number, which closing this socket may close.
    with socket.socket(fileno=os.dup(number)) as line:
        try:
            line.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


def init_app(app: Flask) -> None:
    """Watch over the connections that requests of the application will hold."""
    deadlines = Deadlines()
    with app.app_context():
        for engine in db.engines.values():
            event.listen(engine, "checkout", deadlines.take)
            for gone in ("checkin", "invalidate", "soft_invalidate", "close"):
                event.listen(engine, gone, deadlines.give_back)
