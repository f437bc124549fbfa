"""The tick: what is due is run, in sets. The database says what is due, and rq-scheduler only rings.

Claim, runs, pending transactions, events and when each schedule is due next are one unit of work: it happens as a whole or not at
all. So a second tick beside this one, a worker killed in the middle and a Redis that forgot everything neither pay twice nor lose a run.
"""

import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import chain

import structlog
from flask import current_app
from sqlalchemy.orm import Session

from bank.accounts import service as accounts
from bank.config import Config
from bank.db import unit_of_work
from bank.errors import RatesTooOld, RateUnavailable, Unprocessable
from bank.events.types import Origin, ScheduleRan, ScheduleSkipped, TransactionSubmitted
from bank.fx import service as fx
from bank.fx.service import Agreed
from bank.ledger.decide import FailureCode
from bank.ledger.system import lane_of
from bank.observability import traces
from bank.processing.counters import counters
from bank.processing.queue import bells
from bank.schedules import store
from bank.schedules.models import Misfire
from bank.schedules.store import Due, Run
from bank.transactions.models import TransactionType
from bank.web.context import new_id
from bank.web.fields import timestamp

log = structlog.get_logger(__name__)

# How many schedules, and of one how many runs that were missed, are taken at once: a unit of work lasts a second at most.
_MOST_SCHEDULES = 500
_MOST_RUNS = 10

# A worker that could be posting goes back to it; what is left is the next tick's. Nor is a unit of work kept open for longer over
# rules that take long to look through: the database ends it when it idles, and the next tick would begin with the same ones.
_LONGEST_SECONDS = 1.0

# A run that is found due later than this was missed: nobody looked for longer than a restart takes.
_MISSED_AFTER = timedelta(minutes=5)


def run_due(now: datetime | None = None) -> int:
    """Submit all that is due by `now` (None: by the database's clock), as far as it can be done in a second.

    Returns how much was taken in hand; 0 when nothing was due. Runs by rq-scheduler; its name is in Redis and a promise.
    """
    started, done = time.monotonic(), 0
    while True:
        count = _take(_run, now) + _take(_retry, now)
        done += count
        if not count or time.monotonic() - started > _LONGEST_SECONDS:
            break
    if done:
        log.info("schedules_ran", schedules=done)
    return done


_Work = Callable[[Session, datetime], tuple[list[Due], list[Run]]]


def _take(work: _Work, now: datetime | None) -> int:
    with traces.tick("run schedules") as traced:
        with unit_of_work() as session:
            connection = session.connection()
            at: datetime = now or connection.exec_driver_sql("SELECT now()").scalar_one()
            schedules, runs = work(session, at)
            if runs:
                store.record(connection, schedules, runs, traced.trace_id)
        submitted = [run.transaction for run in runs if run.transaction is not None]
        if submitted:
            counters.accepted(TransactionType.TRANSFER.value, len(submitted))
            with traced.submitted([transaction_id for transaction_id, _ in submitted]):
                for lane in sorted({event.lane for _, event in submitted}):
                    bells.ring(lane)
    return len(schedules)


def _run(session: Session, now: datetime) -> tuple[list[Due], list[Run]]:
    """Schedules that are due, moved on, and their runs."""
    schedules: list[Due] = []
    runs: list[Run] = []
    started = time.monotonic()
    for schedule in store.claim_due(session.connection(), now, _MOST_SCHEDULES):
        if time.monotonic() - started > _LONGEST_SECONDS:
            break
        try:
            due, following = due_runs(schedule, now)
        except (LookupError, ValueError) as error:
            # A rule or a zone that this version does not know: it stays due, and everybody else's run.
            log.error("schedule_not_understood", schedule_id=schedule.id, exc_info=error)
            continue
        schedules.append(schedule)
        for due_at, next_run_at in zip(due, [*due[1:], following], strict=True):
            schedule.next_run_at = next_run_at
            if schedule.misfire == Misfire.SKIP and now - due_at > _MISSED_AFTER:
                schedule.version += 1
                skipped = ScheduleSkipped(due_at=_told(due_at), next_run_at=timestamp(next_run_at))
                runs.append(Run(schedule.id, schedule.version, skipped, schedule.created_by))
            else:
                runs.append(_try(session, schedule, due_at, 1, now))
    return schedules, runs


def due_runs(schedule: Due, now: datetime) -> tuple[list[datetime], datetime | None]:
    """When the runs of a claimed schedule are due that come by `now`, in order and ten at most; and when the one after these is."""
    if schedule.next_run_at is None:
        return [], None
    due: list[datetime] = []
    for run_at in chain([schedule.next_run_at], schedule.timing.runs(schedule.next_run_at)):
        if run_at > now or len(due) == _MOST_RUNS:
            return due, run_at
        due.append(run_at)
    return due, None


def _retry(session: Session, now: datetime) -> tuple[list[Due], list[Run]]:
    """The schedules with runs that failed and are tried again, and these tries. What is decided meanwhile, or stopped, is done with."""
    claimed, runs, looks = store.claim_retries(session.connection(), now, _MOST_SCHEDULES), [], []
    for tried in claimed:
        if tried.outcome == "failed":
            runs.append(_try(session, tried.schedule, tried.due_at, tried.attempts + 1, now))
        else:
            looks.append((tried, now + timedelta(seconds=tried.schedule.retry_delay_seconds) if tried.outcome == "pending" else None))
    if looks:
        store.look_later(session.connection(), looks)
    return list({tried.schedule.id: tried.schedule for tried in claimed}.values()), runs


def _try(session: Session, schedule: Due, due_at: datetime, attempt: int, now: datetime) -> Run:
    """The next event of a schedule: a try of one run, with the transaction that it submits unless it may not."""
    schedule.version += 1
    refused, agreed = schedule.refused, None
    if schedule.to_currency is not None and not refused:
        try:
            agreed = fx.agree(schedule.amount, schedule.currency, fx.price(session, schedule.currency, schedule.to_currency))
        except (RateUnavailable, RatesTooOld):
            refused = RateUnavailable.code
        except Unprocessable:
            # Less than a minor unit at the rate of today, or more than the ledger takes.
            refused = FailureCode.AMOUNT_OUT_OF_RANGE.value
    transaction = None if refused else (traces.marked(new_id()), _submission(session, schedule, agreed))
    again = attempt < schedule.retry_attempts
    event = ScheduleRan(
        due_at=_told(due_at),
        attempt=attempt,
        transaction_id=transaction[0] if transaction else None,
        failure_code=refused,
        retry_at=timestamp(now + timedelta(seconds=schedule.retry_delay_seconds)) if again else None,
        next_run_at=timestamp(schedule.next_run_at),
    )
    return Run(schedule.id, schedule.version, event, schedule.created_by, transaction)


def _told(moment: datetime) -> str:
    return timestamp(moment) or ""


def _submission(session: Session, schedule: Due, agreed: Agreed | None) -> TransactionSubmitted:
    config: Config = current_app.config["BANK"]
    lane = lane_of(schedule.from_account_id, config.lanes)
    if agreed is not None:
        accounts.ensure_positions(session, (schedule.currency, agreed.to_currency), lane, Origin(actor_id=schedule.created_by))
    return TransactionSubmitted(
        lane=lane,
        type=TransactionType.TRANSFER.value,
        from_user_id=schedule.from_user_id,
        to_user_id=schedule.to_user_id,
        from_account_id=schedule.from_account_id,
        to_account_id=schedule.to_account_id,
        amount=schedule.amount,
        currency=schedule.currency,
        to_amount=agreed.to_amount if agreed else schedule.amount,
        to_currency=agreed.to_currency if agreed else schedule.currency,
        rate=agreed.rate if agreed else None,
        description=schedule.description,
        reference=schedule.reference,
        metadata=schedule.metadata,
        reverses_id=None,
        awaited=False,
        effective_at=None,
        remainder=agreed.remainder if agreed else None,
    )
