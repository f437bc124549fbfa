"""Consumers of the log, each with its stored position: every event once, in order, none skipped.

They read only what is settled (`bank.events.horizon`), so that an event that commits late is not passed by.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.db import reader, unit_of_work
from bank.events.horizon import Horizon
from bank.followers.lag import SECONDS, SECONDS_BEHIND

log = structlog.get_logger(__name__)

# How often the log is looked at. Looking costs one statement.
_LOOK_SECONDS = 0.2

# A follower that failed is left alone for this long, twice as long each time it fails again.
_REST_SECONDS, _LONGEST_REST_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Gather:
    """How long a follower lets events gather: for so many seconds, or until there are so many positions."""

    seconds: float = 0.0
    positions: int = 0


@dataclass(frozen=True, slots=True)
class Inside:
    """A follower whose effects are in the same database: they commit with its position, and so happen exactly once.

    `take(session, after, last)` takes in events behind `after` and up to `last` at most, and returns the position
    that it has reached.
    """

    name: str
    take: Callable[[Session, int, int], int]
    gather: Gather = Gather()


@dataclass(frozen=True, slots=True)
class Outside:
    """A follower whose effects are elsewhere: they come before its position, and so happen at least once.

    `take(after, last)` is as that of Inside; no transaction is open while it runs. A second time must do no harm.
    """

    name: str
    take: Callable[[int, int], int]
    gather: Gather = Gather()


Follower = Inside | Outside


@dataclass(slots=True)
class _Seat:
    """What a runner knows of a follower: where it stands, if it is known, and when it was last at the end; until when it is left
    alone, and how long that was the last time."""

    position: int | None = None
    at_end: float = -math.inf
    resting_until: float = 0.0
    rest: float = 0.0


class Runner:
    """Runs followers, in one thread. A second runner in another process does no harm: of the followers Inside each is one
    runner's at a time, those Outside may see events twice."""

    def __init__(self, followers: Sequence[Follower], after_each: Callable[[int], None] = lambda last: None) -> None:
        """`after_each` is called after each look with the settled position that the log had; what it raises is as if a follower had."""
        self._after_each = after_each
        self._seats = [(follower, _Seat()) for follower in followers]
        self._horizon = Horizon()

    def run(self, stop: Event) -> None:
        """Follow the log until `stop` is set."""
        while not stop.wait(_LOOK_SECONDS):
            try:
                self.follow(stop)
            except Exception as error:
                # The database is away, or worse. Whatever it is, it is looked at again.
                log.error("log_not_followed", exc_info=error)
                stop.wait(_REST_SECONDS)

    def follow(self, stop: Event) -> None:
        """Look once, and let each follower that is due take in all that is settled."""
        with reader() as session:
            last = self._horizon.advance(session)
        for follower, seat in self._seats:
            while not stop.is_set() and _is_due(follower, seat, last):
                _advance(follower, seat, last)
        self._after_each(last)


def _is_due(follower: Follower, seat: _Seat, last: int) -> bool:
    now = time.monotonic()
    if now < seat.resting_until:
        return False
    if seat.position is None:
        seat.position = register(follower.name)
    waiting = last - seat.position
    return waiting > 0 and (now - seat.at_end >= follower.gather.seconds or waiting >= follower.gather.positions)


def _advance(follower: Follower, seat: _Seat, last: int) -> None:
    try:
        seat.position = step(follower, last)
    except Exception as error:
        seat.rest = min(2 * seat.rest or _REST_SECONDS, _LONGEST_REST_SECONDS)
        log.error("follower_failed", follower=follower.name, rest_seconds=seat.rest, exc_info=error)
        # Another runner may have gone on; it is asked again where it is.
        seat.position, seat.resting_until = None, time.monotonic() + seat.rest
        return
    seat.rest = 0.0
    if seat.position is None:
        # Another runner has it, and the time of this one may come.
        seat.resting_until = time.monotonic() + _REST_SECONDS
    elif seat.position >= last:
        seat.at_end = time.monotonic()


def register(name: str) -> int:
    """Where a follower stands; one that was never there before stands at the beginning."""
    with unit_of_work() as session:
        session.execute(text("INSERT INTO followers (name) VALUES (:name) ON CONFLICT DO NOTHING"), {"name": name})
        position: int = session.execute(text("SELECT position FROM followers WHERE name = :name"), {"name": name}).scalar_one()
    return position


def step(follower: Follower, last: int) -> int | None:
    """Let a registered follower take in a part of what lies before the settled position `last`, and return where it stands then.

    None when another runner has it, or went on meanwhile. Raises what the follower raises; it stands where it stood then.
    """
    return _inside(follower, last) if isinstance(follower, Inside) else _outside(follower, last)


_MOVE = text("UPDATE followers SET position = :reached WHERE name = :name AND position = :position RETURNING position")


def _inside(follower: Inside, last: int) -> int | None:
    with unit_of_work() as session:
        locked = text("SELECT position FROM followers WHERE name = :name FOR UPDATE SKIP LOCKED")
        position: int | None = session.execute(locked, {"name": follower.name}).scalar_one_or_none()
        if position is None or position >= last:
            return position
        reached = follower.take(session, position, last)
        session.execute(_MOVE, {"name": follower.name, "position": position, "reached": reached})
    return reached


def _outside(follower: Outside, last: int) -> int | None:
    with reader() as session:
        position: int = session.execute(text("SELECT position FROM followers WHERE name = :name"), {"name": follower.name}).scalar_one()
    if position >= last:
        return position
    reached = follower.take(position, last)
    with unit_of_work() as session:
        moved = session.execute(_MOVE, {"name": follower.name, "position": position, "reached": reached}).one_or_none()
    return reached if moved else None


# More events than these are not counted: whoever wants to know how far a follower is behind must not wait for it.
COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a follower is behind: events it has not taken in (COUNTED + 1: more than COUNTED), and for how many seconds the first
    of them waits (infinite: it stands behind the end of the log)."""

    name: str
    position: int
    events: int
    seconds: float


def seconds_behind(session: Session) -> dict[str, float]:
    """By the name of each follower that has ever run: for how many seconds the first event that it has not taken in waits.

    Infinite for one that stands behind the end of the log.
    """
    return {row.name: row.seconds for row in session.execute(text(SECONDS_BEHIND))}


def lags(session: Session) -> list[Lag]:
    """Of every follower that has ever run, by name."""
    rows = session.execute(
        text(
            f"""SELECT f.name, f.position,
                       (SELECT count(*) FROM (SELECT FROM events e WHERE e.position > f.position LIMIT {COUNTED + 1}) e), {SECONDS}
                  FROM followers f ORDER BY f.name"""
        )
    )
    return [Lag(*row) for row in rows]
