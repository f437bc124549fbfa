"""Consumers of the log, each with its stored position: every event once, in order, none skipped.

They read only what is settled (`bank.events.horizon`), so that an event that commits late is not passed by.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event

import structlog
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.db import reader, unit_of_work
from bank.events.horizon import Horizon

log = structlog.get_logger(__name__)

# How often the log is looked at. Looking costs one statement.
_LOOK_SECONDS = 0.2

# A follower that failed is left alone for this long, twice as long each time it fails again.
_REST_SECONDS, _LONGEST_REST_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Inside:
    """A follower whose effects are in the same database: they commit with its position, and so happen exactly once.

    `take(session, after, last)` takes in events behind `after` and up to `last` at most, and returns the position
    that it has reached. `every` is how many seconds it may let events gather.
    """

    name: str
    take: Callable[[Session, int, int], int]
    every: float = 0.0


@dataclass(frozen=True, slots=True)
class Outside:
    """A follower whose effects are elsewhere: they come before its position, and so happen at least once.

    `take(after, last)` is as that of Inside; no transaction is open while it runs. A second time must do no harm.
    """

    name: str
    take: Callable[[int, int], int]
    every: float = 0.0


Follower = Inside | Outside


class Runner:
    """Runs followers, in one thread. A second runner in another process does no harm: of the followers Inside each is one
    runner's at a time, those Outside may see events twice."""

    def __init__(self, followers: Sequence[Follower]) -> None:
        self._followers = followers
        self._horizon = Horizon()
        # The position where each is, as far as this process knows; when it is due; and how long it rested the last time.
        self._known: dict[str, int] = {}
        self._due = {follower.name: 0.0 for follower in followers}
        self._rest: dict[str, float] = {}

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
        for follower in self._followers:
            while not stop.is_set() and time.monotonic() >= self._due[follower.name] and self._position(follower.name) < last:
                self._step(follower, last)

    def _position(self, name: str) -> int:
        if name not in self._known:
            self._known[name] = register(name)
        return self._known[name]

    def _step(self, follower: Follower, last: int) -> None:
        try:
            reached = step(follower, last)
        except Exception as error:
            rest = self._rest[follower.name] = min(2 * self._rest.get(follower.name, _REST_SECONDS / 2), _LONGEST_REST_SECONDS)
            self._due[follower.name] = time.monotonic() + rest
            # Another runner may have gone on; it is asked again where it is.
            self._known.pop(follower.name, None)
            log.error("follower_failed", follower=follower.name, rest_seconds=rest, exc_info=error)
            return
        self._rest.pop(follower.name, None)
        if reached is None:
            # Another runner has it, and the time of this one may come.
            self._due[follower.name] = time.monotonic() + _REST_SECONDS
            self._known.pop(follower.name, None)
            return
        self._known[follower.name] = reached
        if reached >= last:
            self._due[follower.name] = time.monotonic() + follower.every


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


_MOVE = text("UPDATE followers SET position = :reached, moved_at = now() WHERE name = :name AND position = :position RETURNING position")


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


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a follower is behind: events it has not taken in, and for how many seconds the first of them waits."""

    name: str
    position: int
    events: int
    seconds: float


def lags(session: Session) -> list[Lag]:
    """Of every follower that has ever run, by name."""
    rows = session.execute(
        text(
            """SELECT f.name, f.position,
                      (SELECT count(*) FROM events e WHERE e.position > f.position),
                      COALESCE((SELECT EXTRACT(epoch FROM clock_timestamp() - e.recorded_at)::float8
                                  FROM events e WHERE e.position > f.position ORDER BY e.position LIMIT 1), 0)
                 FROM followers f ORDER BY f.name"""
        )
    )
    return [Lag(*row) for row in rows]
