"""An end to waiting for a database that says nothing.

A statement is bounded by the server, and a line that was cut by the network's own time-outs. A server that was stopped does neither:
its machine still acknowledges what it is sent, and libpq would wait for ever. So whoever answers requests cuts the line himself.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from threading import Event, RLock, Thread
from typing import Any

import structlog
from flask import Flask, has_request_context
from sqlalchemy import event

from bank.db import REPLICA, db

log = structlog.get_logger(__name__)

# Longer than a statement may take, and less than a client waits. What a replica does not say soon, the primary is asked.
SECONDS, REPLICA_SECONDS = 15.0, 2.0

_LOOK_SECONDS = 0.5


_bounded: ContextVar[bool] = ContextVar("bounded", default=False)


@contextmanager
def bounded() -> Iterator[None]:
    """Let the block be given up as a request is, though it is none."""
    token = _bounded.set(True)
    try:
        yield
    finally:
        _bounded.reset(token)


class Deadlines:
    """The connections that requests of this process hold, and until when they may."""

    def __init__(self) -> None:
        # Reentrant: a connection that is collected comes back to its pool wherever that happens.
        self._lock = RLock()
        self._held: dict[Any, tuple[float, int]] = {}
        self._thread: Thread | None = None
        self._pause = Event()

    def take(self, connection: Any, record: Any, *, of_replica: bool) -> None:
        """A connection leaves the pool."""
        if not has_request_context() and not _bounded.get():
            return
        with self._lock:
            self._held[record] = (time.monotonic() + (REPLICA_SECONDS if of_replica else SECONDS), connection.fileno())
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
                    log.error("database_does_not_answer")
                    _cut(number)


def _cut(number: int) -> None:
    # On a copy of the number, which closing this socket may close. It may have gone a moment ago.
    with suppress(OSError), socket.socket(fileno=os.dup(number)) as line:
        line.shutdown(socket.SHUT_RDWR)


def _take(deadlines: Deadlines, of_replica: bool, connection: Any, record: Any, proxy: Any) -> None:
    deadlines.take(connection, record, of_replica=of_replica)


def init_app(app: Flask) -> None:
    """Watch over the connections that requests of the application will hold."""
    deadlines = Deadlines()
    with app.app_context():
        for name, engine in db.engines.items():
            event.listen(engine, "checkout", partial(_take, deadlines, name == REPLICA))
            for gone in ("checkin", "invalidate", "soft_invalidate", "close"):
                event.listen(engine, gone, deadlines.give_back)
