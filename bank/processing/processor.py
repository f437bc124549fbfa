"""The drain: it empties lanes, one commit for up to `batch_size` transactions, several lanes at once in a thread pool."""

import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import structlog
from flask import Flask, current_app

from bank.config import Config
from bank.db import unit_of_work
from bank.ledger import store
from bank.ledger.decide import Outcome, Posting, decide
from bank.ledger.store import Pending
from bank.processing.counters import BatchDone, counters
from bank.processing.queue import bells

log = structlog.get_logger(__name__)

# After this long in one lane a drain lets its job end and rings for the rest: lanes take turns, so a busy
# one does not keep the others of this worker waiting, and a worker that is asked to stop does.
_TURN_SECONDS = 0.5


class Processor:
    """Drains lanes for one process. `threads` lanes at once, each thread with a connection of its own."""

    def __init__(self, app: Flask, threads: int) -> None:
        self._app = app
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane")
        self._stopping = Event()

    def drain(self, lane: int) -> int:
        """Post what waits in `lane`, and help wherever else somebody rang. Returns how many were decided.

        Raises what the database raises; what was committed stays, the rest stays pending.
        """
        config: Config = self._app.config["BANK"]
        with self._app.app_context():
            waiting = bells.waiting(config.lanes)
        lanes = dict.fromkeys([lane, *waiting])
        return sum(self._pool.map(self._drain_lane, lanes, [which == lane for which in lanes]))

    def stop(self) -> None:
        """Let drains end after the batch they are at; what is left is rung for again."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the threads to end."""
        self.stop()
        self._pool.shutdown()

    def _drain_lane(self, lane: int, marked: bool) -> int:
        # `marked`: this is the lane whose bell we answer, so its mark is ours to take away. The bells of the
        # lanes that are helped are in the queue still: unmarked, each would get a second one there.
        config: Config = self._app.config["BANK"]
        done, deadline = 0, time.monotonic() + _TURN_SECONDS
        with self._app.app_context():
            while True:
                rings = bells.rings(lane)
                size = drain_once(lane)
                done += size or 0
                if size is not None and (self._stopping.is_set() or time.monotonic() > deadline):
                    bells.ring(lane, again=True)
                    return done
                # None: another drain has the lane. It looks at the rings after it let go, and whoever
                # rang before this moment is counted by then, so that drain will look once more.
                if size is None or (size < config.batch_size and bells.rings(lane) == rings):
                    if not marked:
                        return done
                    # While the drain worked, whoever rang was only counted. From here on a ring puts a
                    # new bell into the queue; one that came just before is seen by this last look.
                    bells.heard(lane)
                    marked = False
                    if size is not None and bells.rings(lane) == rings:
                        return done


def drain_once(lane: int) -> int | None:
    """Decide and write one batch of `lane`. Returns its size, or None when another drain has the lane.

    All or nothing: it runs in one database transaction that holds the lane, so a process that is
    killed or paused commits nothing and its lane is free as soon as its connection dies.
    """
    config: Config = current_app.config["BANK"]
    started = time.monotonic()
    with unit_of_work() as session:
        connection = session.connection()
        claimed = store.claim(connection, lane, config.batch_size)
        if claimed is None:
            return None
        if not claimed.pending:
            return 0
        commands = [pending.command for pending in claimed.pending]
        states = store.load_states(connection, commands)
        outcomes = decide(commands, states.accounts, states.originals)
        store.write(connection, claimed, states, outcomes)
    oldest = (states.posted_at - claimed.pending[0].created_at).total_seconds()
    _count(lane, claimed.pending, outcomes, oldest, time.monotonic() - started)
    return len(outcomes)


def _count(lane: int, pending: Iterable[Pending], outcomes: list[Outcome], oldest: float, took: float) -> None:
    posted: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    volume: Counter[str] = Counter()
    for row, outcome in zip(pending, outcomes, strict=True):
        if isinstance(outcome, Posting):
            posted[row.type] += 1
            volume[outcome.command.currency] += outcome.command.amount
        else:
            failed[outcome.code.value] += 1
    counters.batch_done(
        BatchDone(
            lane=lane,
            posted=posted,
            failed=failed,
            volume=volume,
            size=len(outcomes),
            oldest_seconds=oldest,
            took_seconds=took,
        )
    )
    log.info("batch_posted", lane=lane, size=len(outcomes), failed=sum(failed.values()), seconds=round(took, 4))
