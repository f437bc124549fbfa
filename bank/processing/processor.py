"""The drain: it empties lanes, one commit for up to `batch_size` transactions, several lanes at once in a thread pool."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from threading import Event

import structlog
from flask import Flask, current_app
from sqlalchemy.exc import DBAPIError

from bank.config import Config
from bank.db import unit_of_work
from bank.ledger import store
from bank.ledger.decide import FailureCode, Outcome, Policy, Posting, Refusal, decide, decide_together
from bank.ledger.store import Claim, Pending, States
from bank.ledger.system import BATCH_LANE
from bank.limits import store as limits
from bank.observability import traces
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


# An atomic batch cannot be taken in smaller parts when it takes long, as one of backdated entries on a busy machine may; if it were given
# up each time, nothing behind it in its lane would ever be posted. The decision is no statement: while ten thousand payments are asked
# about dozens of rules, the connection idles.
_ATOMIC_PATIENCE = "SET LOCAL statement_timeout = '60s'; SET LOCAL idle_in_transaction_session_timeout = '60s'"


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
        # Whoever works for batches does not help the others, or would not hear those that come meanwhile.
        lanes = [lane] if lane == BATCH_LANE else sorted({*range(config.lanes), lane})
        with self._app.app_context():
            # Read before the lanes are taken, so that whoever rings from then on is seen to have rung.
            heard = bells.rings(lanes)
            taken = bells.take(lanes)
            try:
                # Those that could not be taken have bells in the queue; they are helped, and their bells stay there.
                return self._drain_rung(set(lanes) - taken | {lane}, heard)
            finally:
                bells.put_back(taken | {lane}, heard)

    def drain_unheard(self, lanes: set[int]) -> int:
        """Post what waits in these lanes for half a second, without bells: nobody can ring. Returns how many were decided.

        Raises what the database raises, when all lanes are done.
        """
        end_of_turn = time.monotonic() + _TURN_SECONDS
        drained = [self._pool.submit(self._drain_lane, end_of_turn, lane) for lane in sorted(lanes)]
        wait(drained)
        return sum(future.result()[0] for future in drained)

    def stop(self) -> None:
        """Let drains end after the batch they are at; what is left is rung for again."""
        self._stopping.set()

    def close(self) -> None:
        """Wait for the threads to end."""
        self.stop()
        self._pool.shutdown()

    def _drain_rung(self, rung: set[int], heard: dict[int, int]) -> int:
        """Drain the lanes `rung`, and whatever is rung for until it is quiet. `heard` are the rings of each lane that were
        answered; it is kept up."""
        running: dict[int, Future[tuple[int, bool]]] = {}
        errors: list[BaseException] = []
        done, now = 0, time.monotonic()
        end_of_turn, quiet_from = now + _TURN_SECONDS, now
        while True:
            running |= {lane: self._pool.submit(self._drain_lane, end_of_turn, lane) for lane in rung}
            stopping = self._stopping.wait(_GATHER_SECONDS)
            now = time.monotonic()
            over = stopping or now > end_of_turn
            if over:
                wait(running.values())
            for lane in [lane for lane, future in running.items() if future.done()]:
                size, error = self._finish(lane, running.pop(lane), heard)
                done += size
                quiet_from = now + _QUIET_SECONDS if size else quiet_from
                # What cannot be drained now is not rung for, or the same error would come round and round: the sweeper will.
                errors += [error] if error else []
            rings = bells.rings(list(heard))
            rung = {lane for lane, count in rings.items() if count != heard[lane] and lane not in running}
            if over or not (rung or running or now < quiet_from):
                break
            heard.update({lane: rings[lane] for lane in rung})
        if errors:
            raise errors[0]
        return done

    def _finish(self, lane: int, drained: "Future[tuple[int, bool]]", heard: dict[int, int]) -> tuple[int, BaseException | None]:
        error = drained.exception()
        if error is not None:
            return 0, error
        size, emptied = drained.result()
        if not emptied:
            heard[lane] = UNANSWERED
        return size, None

    def _drain_lane(self, end_of_turn: float, lane: int) -> tuple[int, bool]:
        """Post what waits in the lane: how many were decided, and whether all that was there to be seen."""
        config: Config = self._app.config["BANK"]
        done = 0
        with self._app.app_context():
            while True:
                size = drain_once(lane)
                # None: another drain has the lane. It looks at the rings after it let go (an import rings), and
                # whoever rang before this moment is counted by then, so that drain will look once more.
                done += size or 0
                # Of batches, a claim that is not full may be one that is atomic: only an empty one tells that nothing is left.
                if not size or (size < config.batch_size and lane != BATCH_LANE):
                    return done, True
                if self._stopping.is_set() or time.monotonic() > end_of_turn:
                    return done, False


def drain_once(lane: int) -> int | None:
    """Decide and write one batch of `lane`, for the lane of what came in batches one atomic of these or some of the others.
    Returns its size, or None when another drain has the lane.

    All or nothing: it runs in one database transaction that holds the lane, so a process that is
    killed or paused commits nothing and its lane is free as soon as its connection dies. Where the
    database refuses what a row holds, the rows are taken one by one, so that it stops nobody behind it; every other
    error is raised, speaks against no row, and leaves all of them pending.
    """
    config: Config = current_app.config["BANK"]
    try:
        written = _write(lane, config.batch_size, _decide)
    except DBAPIError as error:
        if not is_the_rows(error):
            raise
        log.error("batch_refused", lane=lane, exc_info=error)
        return _one_by_one(lane, config.batch_size)
    return _counted(lane, written)


def is_the_rows(error: DBAPIError) -> bool:
    """Whether the database refused what was to be written, and not to write: SQLSTATE classes 22 (data) and 23
    (constraints), but not a missing account or lane (23503), which is a fault of the set-up."""
    sqlstate = getattr(error.orig, "pgcode", None) or ""
    return sqlstate[:2] in ("22", "23") and sqlstate != "23503"


def _one_by_one(lane: int, limit: int) -> int | None:
    done = 0
    while done < limit:
        try:
            written = _write(lane, 1, _decide)
        except DBAPIError as error:
            if not is_the_rows(error):
                raise
            # The client has our 202 and must hear how it ended: nothing moved, and it was our fault.
            log.error("transaction_refused", lane=lane, exc_info=error)
            written = _write(lane, 1, _give_up)
        size = _counted(lane, written)
        if not size:
            return done if size == 0 else None
        done += size
    return done


def _decide(claimed: Claim, states: States, policy: Policy | None) -> list[Outcome]:
    decision = decide_together if claimed.atomic else decide
    return decision([pending.command for pending in claimed.pending], states.accounts, states.originals, policy)


def _give_up(claimed: Claim, *_: object) -> list[Outcome]:
    return [Refusal(pending.command, FailureCode.INTERNAL_ERROR) for pending in claimed.pending]


@dataclass(frozen=True, slots=True)
class _Written:
    """A batch that was committed, and what is counted of it."""

    pending: list[Pending]
    outcomes: list[Outcome]
    oldest_seconds: float
    took_seconds: float


_Decision = Callable[[Claim, States, Policy | None], list[Outcome]]


def _write(lane: int, limit: int, decision: _Decision) -> _Written | None:
    while True:
        try:
            return _write_once(lane, limit, decision)
        except limits.AccountsOpened:
            # Its locks are gone, so that all can be taken in their order. Who comes again must have opened one more account.
            log.info("accounts_opened_meanwhile", lane=lane)


def _write_once(lane: int, limit: int, decision: _Decision) -> _Written | None:
    started = time.monotonic()
    with traces.drain(lane) as traced, unit_of_work() as session:
        connection = session.connection()
        claimed = store.claim(connection, lane, limit)
        if claimed is None:
            return None
        traced.claimed(claimed.pending)
        if not claimed.pending:
            return _Written([], [], 0.0, 0.0)
        if claimed.atomic:
            connection.exec_driver_sql(_ATOMIC_PATIENCE)
        commands = [pending.command for pending in claimed.pending]
        applicable = limits.applicable(connection, claimed.pending)
        states = store.load_states(connection, commands, also=applicable.accounts if applicable else ())
        policy = None
        if applicable:
            limits.check_locked(connection, applicable)
            policy = limits.policy(connection, applicable, states)
        outcomes = decision(claimed, states, policy)
        store.write(connection, claimed, states, outcomes)
        traced.written(outcomes)
    oldest = (states.posted_at - claimed.pending[0].created_at).total_seconds()
    return _Written(claimed.pending, outcomes, oldest, time.monotonic() - started)


def _counted(lane: int, written: _Written | None) -> int | None:
    """Count a batch and return its size. Whatever goes wrong here, the money has moved: it must not look as if it had not."""
    if written is None or not written.pending:
        return None if written is None else 0
    try:
        _count(lane, written)
    except Exception as error:
        log.error("batch_not_counted", lane=lane, exc_info=error)
    return len(written.outcomes)


def _count(lane: int, written: _Written) -> None:
    posted: Counter[str] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    volume: Counter[str] = Counter()
    for row, outcome in zip(written.pending, written.outcomes, strict=True):
        if isinstance(outcome, Posting):
            posted[row.type] += 1
            volume[outcome.command.currency] += outcome.command.amount
        elif isinstance(outcome, Refusal):
            failed[row.type, outcome.code.value] += 1
    counters.batch_done(
        BatchDone(
            lane=lane,
            posted=posted,
            failed=failed,
            volume=volume,
            size=len(written.outcomes),
            oldest_seconds=written.oldest_seconds,
            took_seconds=written.took_seconds,
        )
    )
    log.info("batch_posted", lane=lane, size=len(written.outcomes), failed=sum(failed.values()), seconds=round(written.took_seconds, 4))
    _tell(lane, written)


def _tell(lane: int, written: _Written) -> None:
    """A line for each transaction that came alone, and one for what was posted of a batch, as the request that brought them is known by."""
    batches: dict[str, list[tuple[Pending, Outcome]]] = defaultdict(list)
    for row, outcome in zip(written.pending, written.outcomes, strict=True):
        if row.batch_id is not None:
            batches[row.batch_id].append((row, outcome))
            continue
        log.info(
            "transaction_posted" if isinstance(outcome, Posting) else "transaction_decided",
            lane=lane,
            transaction_id=row.command.transaction_id,
            type=row.type,
            **_ids(row),
            **({"failure_code": outcome.code.value} if isinstance(outcome, Refusal) else {}),
        )
    for batch_id, rows in batches.items():
        failed = sum(isinstance(outcome, Refusal) for _, outcome in rows)
        log.info("part_of_batch_posted", lane=lane, batch_id=batch_id, size=len(rows), failed=failed, **_ids(rows[0][0]))


def _ids(row: Pending) -> dict[str, str]:
    return {name: value for name, value in (("request_id", row.request_id), ("trace_id", row.trace_id)) if value}
