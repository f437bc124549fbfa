"""Running the log up to a moment, from the newest snapshot that may be used."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from bank.db import fetch, reader, unit_of_work
from bank.errors import BankError, Unprocessable
from bank.events.horizon import settled
from bank.events.types import TransactionSubmitted
from bank.replay.state import READ, DamagedError, State, code

log = structlog.get_logger(__name__)

# How many positions are read by one statement: a fraction of a second's work, also for who watches.
_PART = 20_000

# After so many positions it is worth a snapshot: a few seconds that the next replay is spared.
_SNAPSHOT_EVERY = 250_000
_SNAPSHOTS_KEPT = 10

Until = int | datetime | None
"""Up to which moment: a position, its event included; a time, all that was recorded by then; None for now."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Up to which position the log is read, and up to which time what was recorded counts (None: all)."""

    position: int
    time: datetime | None


def goal(until: Until) -> Goal:
    """Where a replay up to this moment ends. Waits until nothing can be added before it any more.

    For a time too the log is read to its end: `recorded_at` is when a transaction began, and positions have another
    order. Raises Unprocessable for a position that is not there yet, and Unavailable when a transaction runs
    for too long.
    """
    end = settled()
    if not isinstance(until, int):
        return Goal(end, until)
    if until > end:
        message = f"The log ends at position {end}."
        raise Unprocessable(message, errors=[{"pointer": "/until_position", "message": message}])
    return Goal(until, None)


def replay(goal: Goal, watch: Callable[[int], None], *, from_start: bool = False) -> State:
    """The state of the bank there, from the newest snapshot of an earlier replay on; `from_start`: from the events alone.

    Reads in short statements and disturbs nobody; `watch` is told of every step at which position it is, and first at which it
    begins: a snapshot's, or 0. What was recorded by a time of the last ten seconds may still grow: a transaction that began
    before it may commit after it. Raises UnknownEventError, and BrokenLogError.
    """
    reading = None if from_start else _newest(goal)
    reading = reading or _Reading(State(), 0)
    watch(reading.position)
    snapshot_at = reading.position + _SNAPSHOT_EVERY
    while reading.position < goal.position:
        reading.read(min(reading.position + _PART, goal.position), goal.time)
        watch(reading.position)
        if reading.position >= snapshot_at and reading.is_whole(goal.time):
            _keep(reading)
            snapshot_at = reading.position + _SNAPSHOT_EVERY
    return reading.state


class _Reading:
    """A state, the position that it is at, and the latest time at which an event up to there was recorded."""

    def __init__(self, state: State, position: int, recorded_until: datetime | None = None) -> None:
        self.state = state
        self.position = position
        self.recorded_until = recorded_until

    def read(self, high: int, moment: datetime | None) -> None:
        part = {"low": self.position, "high": high, "until": moment, "submitted": TransactionSubmitted.SCHEMA}
        self.state.apply(fetch(READ, part))
        [(latest,)] = fetch("SELECT max(recorded_at) FROM events WHERE position > %(low)s AND position <= %(high)s", part)
        if latest is not None and (self.recorded_until is None or latest > self.recorded_until):
            self.recorded_until = latest
        self.position = high

    def is_whole(self, moment: datetime | None) -> bool:
        """Whether no event up to the position was left out for being recorded after the moment."""
        return self.recorded_until is not None and (moment is None or self.recorded_until <= moment)


_NEWEST = text(
    """
    SELECT position, recorded_until, state FROM snapshots
     WHERE code = :code AND position <= :end AND (CAST(:moment AS timestamptz) IS NULL OR recorded_until <= :moment)
     ORDER BY position DESC LIMIT 1
    """
)


def _newest(goal: Goal) -> _Reading | None:
    """The newest snapshot that may be used and is not damaged; one that is stays until a replay comes by and writes it anew."""
    end = goal.position
    while True:
        with reader() as session:
            found = session.execute(_NEWEST, {"code": code(), "end": end, "moment": goal.time}).one_or_none()
        if found is None:
            return None
        try:
            return _Reading(State.restore(found.state), found.position, found.recorded_until)
        except DamagedError as error:
            log.warning("snapshot_damaged", position=found.position, error=str(error))
            end = found.position - 1


# None that may hold what was erased since: an erasure locks the table against this, and empties it.
_KEEP = text(
    """
    INSERT INTO snapshots (position, code, recorded_until, state)
    SELECT :position, :code, :recorded_until, :state
     WHERE NOT EXISTS (SELECT FROM events WHERE type = 'PersonalDataErased' AND position > :position)
    ON CONFLICT (position, code) DO UPDATE
       SET recorded_until = excluded.recorded_until, state = excluded.state, created_at = excluded.created_at
    """
)

# Those of other code that are newer may be of a newer bank, which is just coming.
_FORGET = text(
    """
    WITH kept AS (SELECT position, created_at FROM snapshots WHERE code = :code ORDER BY position DESC LIMIT :kept)
    DELETE FROM snapshots s
     WHERE (s.code = :code AND s.position < (SELECT min(position) FROM kept))
        OR (s.code <> :code AND s.created_at < (SELECT min(created_at) FROM kept))
    """
)


def _keep(reading: _Reading) -> None:
    """Write a snapshot and drop those that are too many. Nothing needs it, so nothing fails with it."""
    snapshot: dict[str, Any] = {
        "position": reading.position,
        "code": code(),
        "recorded_until": reading.recorded_until,
        "state": reading.state.dump(),
    }
    try:
        with unit_of_work() as session:
            session.execute(_KEEP, snapshot)
            session.execute(_FORGET, {"code": snapshot["code"], "kept": _SNAPSHOTS_KEPT})
    except (BankError, SQLAlchemyError) as error:
        log.warning("snapshot_not_kept", position=reading.position, error=str(error))
