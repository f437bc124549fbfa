"""Making, reading and changing schedules. That they run is `bank.schedules.jobs`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.db import reader, unit_of_work
from bank.errors import Conflict, NotFound, ScheduleOver, Unprocessable
from bank.events import store as events
from bank.events.types import Origin, ScheduleChanged, ScheduleCreated
from bank.money import InvalidMoney, format_amount, parse_amount
from bank.schedules import store
from bank.schedules.models import ScheduleStatus
from bank.schedules.timing import Timing
from bank.transactions.parties import Found, Intent, OneByOne
from bank.transactions.service import Answer, Asked, fingerprint_of, key_to_store, once, replay
from bank.transactions.store import find_key
from bank.web.conditional import check_if_match
from bank.web.context import new_id
from bank.web.fields import timestamp

# The name under which keys of this operation are kept.
_ROUTE = "schedule"

_NEXT_RUNS = 5

_TIMES = ("run_at", "starts_at", "ends_at", "next_run_at")


@dataclass(frozen=True, slots=True)
class Policy:
    """How a schedule is run: what becomes of missed runs, how often one is tried, and how many seconds lie between two tries."""

    misfire: str
    attempts: int = 1
    delay_seconds: int = 60


@dataclass(frozen=True, slots=True)
class Wanted:
    """A schedule that is to be: between whom, what is said of each transfer, when, and how."""

    parties: Found
    timing: Timing
    policy: Policy
    name: str | None = None
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] | None = None


def create(
    intent: Intent,
    timing: Timing,
    policy: Policy,
    name: str | None,
    body: Mapping[str, Any],
    origin: Origin,
    asked: Asked,
) -> Answer:
    """Make a schedule of a transfer. `body` is what the idempotency key stands for. Answers 201.

    Raises what the intent raises, Unprocessable where no run is to come, IdempotencyKeyReused and IdempotencyInProgress.
    """
    fingerprint, schedule_id = fingerprint_of(body), new_id()

    def attempt() -> Answer:
        with unit_of_work() as session:
            now, stored = find_key(session, origin.actor_id, _ROUTE, asked.key)
            if stored is not None:
                return replay(stored, fingerprint, _ROUTE, origin, asked.key or "", session)
            _insert(session, [(schedule_id, _wanted(session, intent, timing, policy, name, origin))], now, origin)
            answer = orjson.dumps(present_one(_found(store.get(session, schedule_id, None))))
            store.keep(session, schedule_id, key_to_store(_ROUTE, fingerprint, answer, origin, asked, status=201))
        return Answer(201, answer, schedule_id)

    return once(asked, attempt)


def preview(intent: Intent, timing: Timing, policy: Policy, name: str | None, origin: Origin) -> dict[str, Any]:
    """The schedule as it would be, with `id` null; nothing is written. Raises what `create` raises of a new one."""
    with unit_of_work() as session:
        now, _ = find_key(session, None, _ROUTE, None)
        schedule_id, wanted = new_id(), _wanted(session, intent, timing, policy, name, origin)
        _insert(session, [(schedule_id, wanted)], now, origin)
        shown = present_one(_found(store.get(session, schedule_id, None)))
        session.rollback()
    return {**shown, "id": None}


def _wanted(session: Session, intent: Intent, timing: Timing, policy: Policy, name: str | None, origin: Origin) -> Wanted:
    parties = intent.find(OneByOne(session, origin))
    if parties.source is not None and parties.source == parties.target:
        raise Unprocessable.at("/transfer/to_account_id", "Is the account that pays.")
    return Wanted(parties, timing, policy, name, intent.description, intent.reference, intent.metadata)


def create_many(session: Session, wanted: Sequence[Wanted], now: datetime, origin: Origin) -> list[str]:
    """Make schedules in the caller's unit of work, for who is known to be allowed to; their ids. The first runs come after `now`.

    Raises Unprocessable where no run is to come.
    """
    made = [(new_id(), each) for each in wanted]
    _insert(session, made, now, origin)
    return [schedule_id for schedule_id, _ in made]


def _insert(session: Session, made: Sequence[tuple[str, Wanted]], now: datetime, origin: Origin) -> None:
    created = [(schedule_id, _created(each, now, origin)) for schedule_id, each in made]
    # Who came past the guard before their user was deleted, and here after it, would leave behind what runs for nobody.
    if not store.none_deleted(session, {event.from_user_id for _, event in created}):
        raise Conflict("The user whose account pays was deleted.")
    store.create(session.connection(), created, origin)


def _created(wanted: Wanted, now: datetime, origin: Origin) -> ScheduleCreated:
    source, target = wanted.parties.source, wanted.parties.target
    if source is None or target is None or origin.actor_id is None:
        raise AssertionError("A transfer has two accounts, and a schedule somebody who asked for it.")
    return ScheduleCreated(
        created_by=origin.actor_id,
        name=wanted.name,
        from_user_id=source.user_id,
        to_user_id=target.user_id,
        from_account_id=source.account_id,
        to_account_id=target.account_id,
        amount=wanted.parties.amount,
        currency=wanted.parties.currency,
        to_currency=wanted.parties.to_currency if wanted.parties.agreed else None,
        description=wanted.description,
        reference=wanted.reference,
        metadata=wanted.metadata,
        **_told(asdict(wanted.timing)),
        misfire=wanted.policy.misfire,
        retry_attempts=wanted.policy.attempts,
        retry_delay_seconds=wanted.policy.delay_seconds,
        next_run_at=timestamp(_first_after(wanted.timing, now)) or "",
    )


def _told(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state with its times as events tell them."""
    return {name: timestamp(value) if name in _TIMES else value for name, value in state.items()}


def _first_after(timing: Timing, now: datetime) -> datetime:
    """The first run after `now`. Raises Unprocessable when none is to come."""
    first = next(timing.runs(now), None)
    if first is None:
        raise Unprocessable.at("/run_at" if timing.run_at else "/recurrence/rrule", "No run is to come.")
    return first


def get(schedule_id: str, owner_id: str | None) -> Row[Any]:
    """A schedule. Raises NotFound when it is not there or not `owner_id`'s (None: anybody's)."""
    with reader() as session:
        return _found(store.get(session, schedule_id, owner_id))


def _found(row: Row[Any] | None) -> Row[Any]:
    if row is None:
        raise NotFound
    return row


def search(owner_id: str | None, status: str | None, before: str | None, limit: int, seen_by: str | None = None) -> Sequence[Row[Any]]:
    """Schedules, newest first, from behind the id `before`; one more than `limit` when more follow. For a teller, `seen_by`, those of
    customers and their own."""
    with reader() as session:
        return store.search(session, owner_id, status, before, limit, seen_by)


def runs(schedule_id: str, owner_id: str | None, before: str | None, limit: int) -> list[dict[str, Any]]:
    """The runs as the API shows them, newest first, from behind the due time `before`; one more than `limit` when more follow.

    Raises NotFound.
    """
    with reader() as session:
        _found(store.get(session, schedule_id, owner_id))
        rows = store.runs(session, schedule_id, before, limit)
    return [
        {
            "due_at": timestamp(row.due_at),
            "status": row.status,
            "attempts": row.attempts,
            "transaction_id": row.transaction_id,
            "failure_code": row.failure_code,
            "next_attempt_at": timestamp(row.look_at) if row.status == "retrying" else None,
            "created_at": timestamp(row.created_at),
        }
        for row in rows
    ]


def change(schedule_id: str, owner_id: str | None, changes: Mapping[str, Any], origin: Origin) -> Row[Any]:
    """Change what `changes` (a loaded ChangeSchedule) names, if the request's If-Match allows it.

    A run that is due and was not taken yet still counts, unless the timing changes or the schedule is paused. What lies in
    a pause is never run. Raises NotFound, PreconditionFailed, Unprocessable (an amount that the currency does not have, no run to come)
    and ScheduleOver for one that is deleted, or finished and not given a new timing.
    """
    with unit_of_work() as session:
        row = _locked(session, schedule_id, owner_id)
        if row.status == ScheduleStatus.DELETED:
            raise ScheduleOver("It is deleted.")
        was = _state(row)
        now = dict(was)
        for name in ("name", "description", "misfire"):
            now[name] = changes.get(name, was[name])
        if "amount" in changes:
            try:
                now["amount"] = parse_amount(changes["amount"], row.currency)
            except InvalidMoney as error:
                raise Unprocessable.at("/amount", str(error)) from None
        if "retry" in changes:
            now |= {f"retry_{name}": value for name, value in changes["retry"].items()}
        timing = timing_of(changes) if changes.keys() & {"run_at", "recurrence"} else None
        if timing is not None:
            now |= asdict(timing)
        elif row.status == ScheduleStatus.FINISHED and "status" in changes:
            raise ScheduleOver("It had its last run: give it a new timing.")
        if "status" in changes or (timing is not None and row.status == ScheduleStatus.FINISHED):
            now["status"] = changes.get("status", ScheduleStatus.ACTIVE.value)
        if now["status"] != ScheduleStatus.ACTIVE:
            now["next_run_at"] = None
        elif timing is not None or was["status"] != ScheduleStatus.ACTIVE:
            now["next_run_at"] = _next_of(session, schedule_id, timing or _timing_in(row))
        return _write(session, row, was, now, "schedule.changed", origin) if now != was else row


def delete(schedule_id: str, owner_id: str | None, origin: Origin) -> None:
    """Let it never run again; its history stays. Deleting a deleted schedule changes nothing. Raises NotFound and PreconditionFailed."""
    with unit_of_work() as session:
        row = _locked(session, schedule_id, owner_id)
        if row.status != ScheduleStatus.DELETED:
            _delete(session, row, origin)


def delete_all_of(session: Session, user_id: str, origin: Origin) -> None:
    """Let nothing of a user's ever run again, in the caller's unit of work, which holds the user's row locked."""
    for schedule_id in store.lock_all_of(session, user_id):
        row = _found(store.get(session, schedule_id, user_id))
        if row.status != ScheduleStatus.DELETED:
            _delete(session, row, origin)


def _delete(session: Session, row: Row[Any], origin: Origin) -> None:
    was = _state(row)
    _write(session, row, was, {**was, "status": ScheduleStatus.DELETED.value, "next_run_at": None}, "schedule.deleted", origin)


def _locked(session: Session, schedule_id: str, owner_id: str | None) -> Row[Any]:
    row = _found(store.get(session, schedule_id, owner_id, lock=True))
    check_if_match(etag(row))
    return row


def _next_of(session: Session, schedule_id: str, timing: Timing) -> datetime:
    """The first run to come. What was run already is not run again, also if the clock was set back since."""
    [now] = session.execute(text("SELECT now()")).one()
    last = store.last_due(session, schedule_id)
    return _first_after(timing, max(now, last) if last else now)


def _write(session: Session, row: Row[Any], was: Mapping[str, Any], now: Mapping[str, Any], action: str, origin: Origin) -> Row[Any]:
    store.change(session, row.id, now)
    events.append(session, row.id, row.version + 1, ScheduleChanged(**_told(now)), origin)
    changed = _told({name: value for name, value in now.items() if value != was[name]})
    audit.record(session, "schedule", row.id, action, origin, changed)
    return _found(store.get(session, row.id, None))


def _state(row: Row[Any]) -> dict[str, Any]:
    """What of a schedule can be changed."""
    return {name: getattr(row, name) for name in ScheduleChanged.__slots__}


def _timing_in(row: Row[Any]) -> Timing:
    return Timing(row.run_at, row.rrule, row.time_zone, row.starts_at, row.month_end, row.ends_at)


def timing_of(body: Mapping[str, Any]) -> Timing:
    """The timing that a loaded body names."""
    return body["recurrence"]["timing"] if "recurrence" in body else Timing(run_at=body["run_at"])


def etag(schedule: Row[Any]) -> str:
    """What changes with every change and every run of the schedule."""
    return str(schedule.version)


def present(row: Row[Any]) -> dict[str, Any]:
    """The schedule as the API shows it: amounts as decimal strings of its currency."""
    recurrence = None
    if row.rrule is not None:
        recurrence = {"rrule": row.rrule, "time_zone": row.time_zone, "start": timestamp(row.starts_at), "month_end": row.month_end}
    return {
        "id": row.id,
        "status": row.status,
        "user_id": row.from_user_id,
        "created_by": row.created_by,
        "name": row.name,
        "transfer": {
            "from_user_id": row.from_user_id,
            "to_user_id": row.to_user_id,
            "from_account_id": row.from_account_id,
            "to_account_id": row.to_account_id,
            "amount": format_amount(row.amount, row.currency),
            "currency": row.currency,
            "to_currency": row.to_currency or row.currency,
            "description": row.description,
            "reference": row.reference,
            "metadata": row.metadata or {},
        },
        "run_at": timestamp(row.run_at),
        "recurrence": recurrence,
        "misfire": row.misfire,
        "retry": {"attempts": row.retry_attempts, "delay_seconds": row.retry_delay_seconds},
        "next_run_at": timestamp(row.next_run_at),
        "version": row.version,
        "created_at": timestamp(row.created_at),
        "updated_at": timestamp(row.updated_at),
    }


def present_one(row: Row[Any]) -> dict[str, Any]:
    """The schedule with its next five runs."""
    timing = _timing_in(row)
    coming = islice(timing.runs(row.next_run_at, inclusive=True), _NEXT_RUNS) if row.next_run_at else ()
    return {**present(row), "next_runs": [{"at": timestamp(at), "local": timing.local(at).isoformat()} for at in coming]}
