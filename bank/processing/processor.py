"""The drain: it empties lanes, one commit for up to `batch_size` transactions, several lanes at once in a thread pool."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import structlog
from flask import Flask, current_app

from bank.config import Config
from bank.db import unit_of_work
from bank.errors import Unavailable
from bank.ledger import store
from bank.ledger.decide import Command, FailureCode, Outcome, Posting, Refusal, decide
from bank.ledger.store import LaneLost, Pending
from bank.processing.counters import BatchDone, counters
from bank.processing.queue import UNANSWERED, bells

log = structlog.get_logger(__name__)

# How long a drain goes on while it is rung for. Then its job ends and rings for the rest, so that a worker
# that is asked to stop does, and others get their turn.
_TURN_SECONDS = 0.5

# A drain that has nothing left waits this long for the next ring before its job ends: a job in RQ costs as
# much as posting a dozen transactions.
_QUIET_SECONDS = 0.1

# And it looks for rings this often, so that under load a few transactions gather for one commit.
_GATHER_SECONDS = 0.02


class Processor:
    """Drains lanes for one process. `threads` lanes at once, each thread with a connection of its own."""

    def __init__(self, app: Flask, threads: int) -> None:
        self._app = app
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="lane")
        self._stopping = Event()

    def drain(self, lane: int) -> int:
        """Answer the bell of `lane`: post what waits there and in every lane that is rung for, until nobody rings.

        Returns how many were decided. Raises what the database raises; what was committed stays, the rest
        stays pending.
        """
        config: Config = self._app.config["BANK"]
        lanes = sorted({*range(config.lanes), lane})
        with self._app.app_context():
            # Read before the lanes are taken, so that whoever rings from then on is seen to have rung.
            heard = bells.rings(lanes)
            taken = bells.take(lanes)
            try:
                # Those that could not be taken have bells in the queue; they are helped, and their bells stay there.
                return self._drain_rung(set(lanes) - taken | {lane}, heard)
            finally:
                bells.put_back(taken | {lane}, heard)

    def stop(self) -> None:
        """Let drains end after the batch they are at; what is left is rung for again."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the threads to end."""
        self.stop()
        self._pool.shutdown()

    def _drain_rung(self, lanes: set[int], heard: dict[int, int]) -> int:
        """Drain `lanes`, and then as long as somebody rings. `heard` are the rings of each lane that were answered."""
        done, now = 0, time.monotonic()
        end_of_turn, quiet_from = now + _TURN_SECONDS, now + _QUIET_SECONDS
        while now < quiet_from:
            for lane, (size, emptied) in zip(lanes, self._pool.map(partial(self._drain_lane, end_of_turn), lanes), strict=True):
                done += size
                if not emptied:
                    heard[lane] = UNANSWERED
            now = time.monotonic()
            if lanes:
                quiet_from = now + _QUIET_SECONDS
            if now > end_of_turn or self._stopping.wait(_GATHER_SECONDS):
                break
            rings = bells.rings(list(heard))
            lanes = {lane for lane, count in rings.items() if count != heard[lane]}
            heard.update(rings)
        return done

    def _drain_lane(self, end_of_turn: float, lane: int) -> tuple[int, bool]:
        """Post what waits in the lane: how many were decided, and whether all that was there to be seen."""
        config: Config = self._app.config["BANK"]
        done = 0
        with self._app.app_context():
            while True:
                size = drain_once(lane)
                # None: another drain has the lane. It looks at the rings after it let go, and whoever rang
                # before this moment is counted by then, so that drain will look once more.
                done += size or 0
                if size is None or size < config.batch_size:
                    return done, True
                if self._stopping.is_set() or time.monotonic() > end_of_turn:
                    return done, False


def drain_once(lane: int) -> int | None:
    """Decide and write one batch of `lane`. Returns its size, or None when another drain has the lane.

    All or nothing: it runs in one database transaction that holds the lane, so a process that is
    killed or paused commits nothing and its lane is free as soon as its connection dies. A batch
    that cannot be written is taken one by one, so that a row the database refuses stops nobody
    behind it. Raises Unavailable and LaneLost, which say nothing against any row.
    """
    config: Config = current_app.config["BANK"]
    try:
        return _post(lane, config.batch_size, decide)
    except (Unavailable, LaneLost):
        raise
    except Exception as error:
        log.error("batch_not_written", lane=lane, exc_info=error)
    return _one_by_one(lane, config.batch_size)


def _one_by_one(lane: int, limit: int) -> int | None:
    done = 0
    while done < limit:
        try:
            size = _post(lane, 1, decide)
        except (Unavailable, LaneLost):
            raise
        except Exception as error:
            # The client has our 202 and must hear how it ended: nothing moved, and it was our fault.
            log.error("transaction_not_written", lane=lane, exc_info=error)
            size = _post(lane, 1, _give_up)
        if not size:
            return done if size == 0 else None
        done += size
    return done


def _give_up(commands: list[Command], *_: object) -> list[Outcome]:
    return [Refusal(command, FailureCode.INTERNAL_ERROR) for command in commands]


def _post(lane: int, limit: int, decision: Callable[..., list[Outcome]]) -> int | None:
    started = time.monotonic()
    with unit_of_work() as session:
        connection = session.connection()
        claimed = store.claim(connection, lane, limit)
        if claimed is None:
            return None
        if not claimed.pending:
            return 0
        commands = [pending.command for pending in claimed.pending]
        states = store.load_states(connection, commands)
        outcomes = decision(commands, states.accounts, states.originals)
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
