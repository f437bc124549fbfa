"""Replays that somebody asked for, as RQ runs them. PostgreSQL is the queue, RQ is the bell, as for transactions.

A row of `replays` is claimed by a conditional update, and each claim has a number: whoever was silent for so long that
another took the row finds the number changed, and writes nothing.
"""

import math
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from bank.db import reader, unit_of_work
from bank.errors import NotFound, Unprocessable
from bank.events.types import UnknownEventError
from bank.processing.queue import SLOW_QUEUE, queue
from bank.replay.run import Goal, Until, goal, replay
from bank.replay.state import Account, BrokenLogError, State

log = structlog.get_logger(__name__)

# A running replay tells twice a second where it is; one that is silent for so long has died, or its worker is stopped.
_TELL_SECONDS = 0.5
_SILENT_SECONDS = 30.0

# One that is queued for so long was not heard, or waits behind another.
_UNHEARD_SECONDS = 3.0

# What takes its worker down with it must not do so for ever.
_ATTEMPTS = 3

# RQ takes a job that is longer at work for one that hangs.
_LONGEST_SECONDS = 6 * 3600

# A result is kept for so long, unless there are so many newer ones: each may have a row an account.
_KEPT_DAYS = 7
_KEPT_RESULTS = 20

# Dropping goes on for so long at a time: it is done by a worker that others wait for.
_DROP_SECONDS = 1.0

# How many accounts are written or dropped in one transaction: what runs for long keeps the log from being settled.
_SET = 10_000

_stopping = Event()


class _Lost(Exception):
    """The replay was taken by another worker."""


class _Stopping(Exception):
    """This process is asked to stop."""


def stop() -> None:
    """Let the replay at hand be given back: this process is asked to stop."""
    _stopping.set()


def _stop_if_asked() -> None:
    if _stopping.is_set():
        raise _Stopping


RUN = "bank.replay.jobs.run"
"""What a bell for a replay names."""


def ring(replay_id: str) -> bool:
    """Tell the slow worker that a replay waits; call it after the commit.

    Returns whether a new bell was rung: not where one waits already, and not without Redis. The sweeper rings again.
    """
    try:
        slow = queue(SLOW_QUEUE)
        if any(job_id.startswith(replay_id) for job_id in slow.job_ids):
            return False
        slow.enqueue(
            RUN,
            replay_id,
            # A bell that died with its worker may still be on RQ's books: the next is another job.
            job_id=f"{replay_id}-{secrets.token_hex(4)}",
            description=f"replay {replay_id}",
            result_ttl=0,
            failure_ttl=86_400,
            job_timeout=_LONGEST_SECONDS,
        )
    except RedisError as error:
        log.warning("replay_not_rung", replay_id=replay_id, error=str(error))
        return False
    return True


_UNHEARD = text(
    """
    SELECT id::text FROM replays
     WHERE (status = 'queued' AND heard_at < now() - make_interval(secs => :unheard))
        OR (status = 'running' AND heard_at < now() - make_interval(secs => :silent))
    """
)


def sweep_replays() -> list[str]:
    """Ring again for every replay that waits or is silent for too long, and forget those that were kept for long enough.

    Returns those rung for; runs by rq-scheduler.
    """
    with reader() as session:
        unheard = session.execute(_UNHEARD, {"unheard": _UNHEARD_SECONDS, "silent": _SILENT_SECONDS}).scalars().all()
    rung = [replay_id for replay_id in unheard if ring(replay_id)]
    if rung:
        log.warning("replays_swept", replays=rung)
    _forget()
    return rung


_FORGET = text(
    """
    UPDATE replays SET status = 'forgotten'
     WHERE status <> 'forgotten'
       AND (created_at < now() - make_interval(days => :days)
            OR id IN (SELECT id FROM replays WHERE status = 'finished' ORDER BY finished_at DESC, id DESC OFFSET :kept))
    """
)

# One that failed may have written accounts at an earlier attempt.
_WITH_ACCOUNTS_TO_DROP = text(
    """
    SELECT id::text FROM replays r
     WHERE status IN ('forgotten', 'failed') AND EXISTS (SELECT FROM replayed_accounts WHERE replay_id = r.id) LIMIT 1
    """
)

_DROP_FORGOTTEN = text(
    """
    DELETE FROM replays r WHERE status = 'forgotten' AND NOT EXISTS (SELECT FROM replayed_accounts WHERE replay_id = r.id)
    """
)


def _drop_forgotten_set() -> bool:
    with unit_of_work() as session:
        replay_id = session.execute(_WITH_ACCOUNTS_TO_DROP).scalar_one_or_none()
        return replay_id is not None and _drop_set(session, replay_id)


def _forget() -> None:
    """Hide the replays that were kept for long enough, and drop as many of their accounts as there is time for.

    A result may be a million rows. The replay itself goes when none is left, which may be at a later call.
    """
    with unit_of_work() as session:
        session.execute(_FORGET, {"days": _KEPT_DAYS, "kept": _KEPT_RESULTS})
    give_up = time.monotonic() + _DROP_SECONDS
    while _drop_forgotten_set() and time.monotonic() < give_up:
        pass
    with unit_of_work() as session:
        session.execute(_DROP_FORGOTTEN)


def run(replay_id: str) -> bool:
    """The bell's job: bring a replay to its end. Returns whether this did; it may be another's, or over.

    Raises what the database raises and what nobody thought of; the row stays as it is, falls silent and is
    tried again.
    """
    claim = _claim(replay_id)
    if claim is None:
        return False
    try:
        return _work(claim)
    except _Lost:
        log.warning("replay_lost", replay_id=replay_id, attempt=claim.attempt)
        return False


def _work(claim: "_Claim") -> bool:
    try:
        end = goal(claim.until)
        _finish(claim, end, replay(end, lambda position: claim.tell(position, end.position), from_start=claim.from_start))
    except (UnknownEventError, BrokenLogError, Unprocessable, NotFound) as error:
        with unit_of_work() as session:
            claim.write(session, "status = 'failed', error = :error, finished_at = now()", error=str(error))
    except _Stopping:
        with unit_of_work() as session:
            claim.write(session, "status = 'queued', attempts = attempts - 1")
        ring(claim.replay_id)
        return False
    return True


@dataclass(slots=True)
class _Claim:
    """A replay that is this worker's as long as nobody else takes it."""

    replay_id: str
    attempt: int
    until: Until
    account_id: str | None
    from_start: bool
    _told_at: float = field(default=-math.inf, init=False)

    def tell(self, position: int, end: int) -> None:
        """Write down where the replay is, twice a second. Raises _Lost when it is another's, _Stopping when it is to end."""
        _stop_if_asked()
        # Before anything else it is told of where it begins.
        begins = self._told_at == -math.inf
        if time.monotonic() - self._told_at < _TELL_SECONDS:
            return
        with unit_of_work() as session:
            if begins:
                self.write(session, "started_from = :position", position=position)
            self.write_position(session, position, end)
        self._told_at = time.monotonic()

    def write_position(self, session: Session, position: int, end: int) -> None:
        """Write down where the replay is. Raises _Lost when it is another's."""
        self.write(session, "position = :position, end_position = :end", position=position, end=end)

    def write(self, session: Session, changes: str, **values: Any) -> None:
        """Change the row, which is heard of by that. Raises _Lost when it is not this claim's any more."""
        statement = text(
            f"UPDATE replays SET {changes}, heard_at = now() WHERE id = :id AND status = 'running' AND attempts = :attempt RETURNING id"
        )
        if session.execute(statement, {**values, "id": self.replay_id, "attempt": self.attempt}).one_or_none() is None:
            raise _Lost


_OPEN = "(status = 'queued' OR (status = 'running' AND heard_at < now() - make_interval(secs => :silent)))"

_CLAIM = text(
    f"""
    UPDATE replays SET status = 'running', attempts = attempts + 1, heard_at = now()
     WHERE id = :id AND attempts < :attempts AND {_OPEN}
    RETURNING attempts, until_position, until_time, account_id::text, from_start
    """
)

_GIVE_UP = text(
    f"""
    UPDATE replays SET status = 'failed', error = :error, finished_at = now()
     WHERE id = :id AND attempts >= :attempts AND {_OPEN}
    """
)


def _claim(replay_id: str) -> _Claim | None:
    values = {"id": replay_id, "attempts": _ATTEMPTS, "silent": _SILENT_SECONDS}
    with unit_of_work() as session:
        row = session.execute(_CLAIM, values).one_or_none()
        if row is None:
            error = f"It was begun {_ATTEMPTS} times and never came to its end; the log of the slow worker says why."
            session.execute(_GIVE_UP, {**values, "error": error})
            return None
    until = row.until_time if row.until_position is None else row.until_position
    return _Claim(replay_id, row.attempts, until, row.account_id, row.from_start)


_ACCOUNTS = """
    INSERT INTO replayed_accounts (replay_id, account_id, user_id, currency, kind, name, status, overdraft_limit, balance, version,
                                   held)
    SELECT %s, * FROM unnest(%s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[],
                             %s::bigint[], %s::bigint[], %s::bigint[], %s::bigint[])
"""


_DROP = text(
    """
    DELETE FROM replayed_accounts
     WHERE ctid = ANY (ARRAY(SELECT ctid FROM replayed_accounts WHERE replay_id = :id LIMIT :most))
    """
)


def _drop_set(session: Session, replay_id: str) -> bool:
    """Drop a set of a replay's accounts. Returns whether there were any."""
    return session.connection().execute(_DROP, {"id": replay_id, "most": _SET}).rowcount > 0


def _finish(claim: _Claim, end: Goal, state: State) -> None:
    """Write down what came out, a commit for each set; nobody is shown any of it before all is there.

    Raises NotFound when the account was not there then, _Lost when the replay is another's, _Stopping when it is to end.
    """
    accounts = state.accounts
    if claim.account_id is not None:
        if claim.account_id not in accounts:
            raise NotFound(f"There was no account {claim.account_id} then.")
        accounts = {claim.account_id: accounts[claim.account_id]}
    rows = sorted(accounts.items())
    left = True
    while left:
        with _set_of(claim, end) as session:
            # By an attempt that died in the middle of it.
            left = _drop_set(session, claim.replay_id)
    for start in range(0, len(rows), _SET):
        with _set_of(claim, end) as session:
            _write_accounts(session.connection(), claim.replay_id, rows[start : start + _SET])
    with unit_of_work() as session:
        claim.write(
            session,
            """status = 'finished', finished_at = now(), position = :position, end_position = :position,
               users = :users, submitted = :submitted, completed = :completed, failed = :failed,
               open_holds = :open_holds, voided = :voided""",
            position=end.position,
            users=state.users,
            submitted=state.submitted,
            completed=state.completed,
            failed=state.failed,
            open_holds=state.open_holds,
            voided=state.voided,
        )


@contextmanager
def _set_of(claim: _Claim, end: Goal) -> Iterator[Session]:
    """A unit of work that nobody takes the replay from while it is open, and by which the replay is heard of."""
    _stop_if_asked()
    with unit_of_work() as session:
        claim.write_position(session, end.position, end.position)
        yield session


def _write_accounts(connection: Connection, replay_id: str, rows: Sequence[tuple[str, Account]]) -> None:
    columns = zip(
        *(
            (account_id, a.user_id, a.currency, a.kind, a.name, a.status, a.overdraft_limit, a.balance, a.version, a.held)
            for account_id, a in rows
        ),
        strict=True,
    )
    connection.exec_driver_sql(_ACCOUNTS, (replay_id, *(list(column) for column in columns)))
