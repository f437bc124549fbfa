"""The SQL of schedules: taking them in, reading them, and running all that are due in sets."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, text
from sqlalchemy.orm import Session

from bank.accounts.access import customers_and
from bank.events.types import Happened, Origin, ScheduleCreated, ScheduleRan, ScheduleSkipped, TransactionSubmitted
from bank.schedules.timing import Timing
from bank.transactions.many import ROWS_OF_EVENTS
from bank.transactions.store import KeyToStore

COLUMNS = """
    s.id::text, s.status, s.created_by::text, s.name, s.from_user_id::text, s.to_user_id::text, s.from_account_id::text,
    s.to_account_id::text, s.amount, s.currency, s.to_currency, s.description, s.reference, s.metadata, s.run_at, s.rrule, s.time_zone,
    s.starts_at, s.month_end, s.ends_at, s.misfire, s.retry_attempts, s.retry_delay_seconds, s.next_run_at, s.version, s.created_at,
    s.updated_at
"""

ROWS_OF_EVENTS_OF_SCHEDULES = """
INSERT INTO {into} (id, status, created_by, name, from_user_id, to_user_id, from_account_id, to_account_id, amount, currency, to_currency,
                    description, reference, metadata, run_at, rrule, time_zone, starts_at, month_end, ends_at, misfire, retry_attempts,
                    retry_delay_seconds, next_run_at, version, created_at, updated_at)
SELECT e.stream_id, 'active', s.created_by, s.name, s.from_user_id, s.to_user_id, s.from_account_id, s.to_account_id, s.amount,
       s.currency, s.to_currency, s.description, s.reference, s.metadata, s.run_at, s.rrule, s.time_zone, s.starts_at, s.month_end,
       s.ends_at, s.misfire, s.retry_attempts, s.retry_delay_seconds, s.next_run_at, 1, e.recorded_at, e.recorded_at
  FROM {events} e
 CROSS JOIN LATERAL json_to_record(e.data)
    AS s (created_by uuid, name text, from_user_id uuid, to_user_id uuid, from_account_id uuid, to_account_id uuid, amount bigint,
          currency text, to_currency text, description text, reference text, metadata json, run_at timestamptz, rrule text, time_zone text,
          starts_at timestamptz, month_end text, ends_at timestamptz, misfire text, retry_attempts smallint,
          retry_delay_seconds int, next_run_at timestamptz)
"""
"""The schedules that the `ScheduleCreated` of `events` tell of, as rows of the table `into`."""

_CREATE = """
WITH wanted AS MATERIALIZED (
    SELECT w.id, w.data, w.n
      FROM ROWS FROM (unnest(%(ids)s::uuid[]), json_array_elements(%(events)s::json)) WITH ORDINALITY AS w (id, data, n)
), audited AS (
    INSERT INTO audit_logs (entity_type, entity_id, action, details, actor_id, address, request_id)
    SELECT 'schedule', id, 'schedule.created',
           json_build_object('amount', data->'amount', 'currency', data->'currency', 'rrule', data->'rrule'),
           %(actor_id)s::uuid, %(address)s, %(request_id)s
      FROM wanted ORDER BY n
), event AS (
    INSERT INTO events (stream_id, version, type, schema, data, actor_id, request_id, trace_id)
    SELECT id, 1, 'ScheduleCreated', %(schema)s, data, %(actor_id)s::uuid, %(request_id)s, %(trace_id)s FROM wanted ORDER BY n
    RETURNING stream_id, data, recorded_at
)
""" + ROWS_OF_EVENTS_OF_SCHEDULES.format(into="schedules", events="event")


def create(connection: Connection, schedules: Sequence[tuple[str, ScheduleCreated]], origin: Origin) -> None:
    """Insert schedules, each an id and its event, with their audit rows."""
    parameters = {
        "ids": [schedule_id for schedule_id, _ in schedules],
        "schema": ScheduleCreated.SCHEMA,
        "events": _json(event for _, event in schedules),
        "actor_id": origin.actor_id,
        "address": origin.address,
        "request_id": origin.request_id,
        "trace_id": origin.trace_id,
    }
    connection.exec_driver_sql(_CREATE, parameters)


_KEEP = text(
    """
    INSERT INTO idempotency_keys (user_id, route, key, fingerprint, schedule_id, response_status, response_body)
    VALUES (:user_id, :route, :key, :fingerprint, :schedule_id, :status, :body)
    """
)


def keep(session: Session, schedule_id: str, key: KeyToStore | None) -> None:
    """Keep the answer that made this schedule with its key, where there was one.

    Raises sqlalchemy.exc.IntegrityError when the key was committed by another request meanwhile.
    """
    if key is not None:
        session.execute(
            _KEEP,
            {
                "user_id": key.user_id,
                "route": key.route,
                "key": key.key,
                "fingerprint": key.fingerprint,
                "schedule_id": schedule_id,
                "status": key.status,
                "body": key.body,
            },
        )


def _json(events: Iterable[Happened]) -> str:
    return "[" + ",".join(orjson.dumps(event).decode() for event in events) + "]"


def get(session: Session, schedule_id: str, owner_id: str | None, *, lock: bool = False) -> Row[Any] | None:
    """A schedule, if it is there and `owner_id`'s (None: anybody's)."""
    statement = f"""
        SELECT {COLUMNS} FROM schedules s
         WHERE s.id = CAST(:id AS uuid) AND (CAST(:owner AS uuid) IS NULL OR s.from_user_id = CAST(:owner AS uuid))
         {"FOR NO KEY UPDATE" if lock else ""}
    """
    return session.execute(text(statement), {"id": schedule_id, "owner": owner_id}).one_or_none()


def lock_all_of(session: Session, user_id: str) -> Sequence[str]:
    """Lock every schedule by which a user pays; their ids.

    Before the user's row: a tick has the schedule locked when it submits what refers to the user.
    """
    query = text("SELECT id::text FROM schedules WHERE from_user_id = CAST(:user_id AS uuid) ORDER BY id FOR NO KEY UPDATE")
    return session.execute(query, {"user_id": user_id}).scalars().all()


def none_deleted(session: Session, user_ids: Collection[str]) -> bool:
    """Whether none of these users is deleted, which cannot change before the unit of work ends."""
    query = text("SELECT status FROM users WHERE id = ANY(CAST(:user_ids AS uuid[])) ORDER BY id FOR KEY SHARE")
    return "deleted" not in session.execute(query, {"user_ids": list(user_ids)}).scalars().all()


def search(
    session: Session, owner_id: str | None, status: str | None, before: str | None, limit: int, seen_by: str | None
) -> Sequence[Row[Any]]:
    """Schedules, newest first, from behind the id `before`; one more than `limit` when more follow. Without a `status` the deleted
    ones are left out; for a teller, `seen_by`, those of colleagues."""
    statement = f"""
        SELECT {COLUMNS} FROM schedules s
         WHERE {"s.status = :status" if status else "s.status <> 'deleted'"}
           {"AND s.from_user_id = CAST(:owner AS uuid)" if owner_id else ""}
           {"AND s.id < CAST(:before AS uuid)" if before else ""}
           {"AND " + customers_and(":seen_by", "s.from_user_id") if seen_by else ""}
         ORDER BY s.id DESC LIMIT :limit
    """
    parameters = {"owner": owner_id, "status": status, "before": before, "limit": limit + 1, "seen_by": seen_by}
    return session.execute(text(statement), parameters).all()


_RUNS = """
    SELECT r.due_at, r.attempts, r.transaction_id::text, COALESCE(r.failure_code, t.failure_code) AS failure_code, r.look_at, r.created_at,
           CASE WHEN r.attempts = 0 THEN 'skipped'
                WHEN t.status IN ('pending', 'held') THEN 'pending'
                WHEN COALESCE(r.failure_code, t.failure_code) IS NULL THEN 'completed'
                WHEN r.look_at IS NOT NULL THEN 'retrying'
                ELSE 'failed' END AS status
      FROM schedule_runs r LEFT JOIN transactions t ON t.id = r.transaction_id
     WHERE r.schedule_id = CAST(:id AS uuid) AND (CAST(:before AS timestamptz) IS NULL OR r.due_at < CAST(:before AS timestamptz))
     ORDER BY r.due_at DESC LIMIT :limit
"""


def runs(session: Session, schedule_id: str, before: str | None, limit: int) -> Sequence[Row[Any]]:
    """The runs of a schedule with what became of them, newest first, from behind the due time `before`; one more than `limit`
    when more follow."""
    return session.execute(text(_RUNS), {"id": schedule_id, "before": before, "limit": limit + 1}).all()


_LAST_DUE = "SELECT max(due_at) FROM schedule_runs WHERE schedule_id = CAST(:id AS uuid)"


def last_due(session: Session, schedule_id: str) -> datetime | None:
    """When the last of its runs was due, if there was any."""
    found: datetime | None = session.execute(text(_LAST_DUE), {"id": schedule_id}).scalar_one()
    return found


_CHANGE = """
    UPDATE schedules
       SET status = :status, name = :name, amount = :amount, description = :description, run_at = :run_at, rrule = :rrule,
           time_zone = :time_zone, starts_at = :starts_at, month_end = :month_end, ends_at = :ends_at, misfire = :misfire,
           retry_attempts = :retry_attempts, retry_delay_seconds = :retry_delay_seconds, next_run_at = :next_run_at,
           version = version + 1, updated_at = now()
     WHERE id = CAST(:id AS uuid)
"""


def change(session: Session, schedule_id: str, state: Mapping[str, Any]) -> None:
    """Set what can be changed of a locked schedule to `state`; the event is the caller's."""
    session.execute(text(_CHANGE), {**state, "id": schedule_id})


@dataclass(slots=True)
class Due:
    """A claimed schedule: what its runs are made of, and where it stands. `refused` says why it may not run now, if so."""

    id: str
    created_by: str
    from_user_id: str
    to_user_id: str
    from_account_id: str
    to_account_id: str
    amount: int
    currency: str
    to_currency: str | None
    description: str | None
    reference: str | None
    metadata: dict[str, Any] | None
    timing: Timing
    misfire: str
    retry_attempts: int
    retry_delay_seconds: int
    next_run_at: datetime | None
    version: int
    refused: str | None


# Who asked for it must still be allowed to: what `bank.transactions.parties.transfer` asks of a caller, asked anew.
_CLAIMED = """
    s.id::text, s.created_by::text, s.from_user_id::text, s.to_user_id::text, s.from_account_id::text, s.to_account_id::text,
    s.amount, s.currency, s.to_currency, s.description, s.reference, s.metadata, s.run_at, s.rrule, s.time_zone, s.starts_at,
    s.month_end, s.ends_at, s.misfire, s.retry_attempts, s.retry_delay_seconds, s.next_run_at, s.version,
    CASE WHEN 'deleted' IN (c.status, o.status) THEN 'user_deleted'
         WHEN 'frozen' IN (c.status, o.status) THEN 'user_frozen'
         WHEN c.role = 'auditor' OR (c.role <> 'admin' AND c.id <> o.id) THEN 'forbidden' END AS refused
"""

_CLAIM_DUE = f"""
    SELECT {_CLAIMED} FROM schedules s JOIN users c ON c.id = s.created_by JOIN users o ON o.id = s.from_user_id
     WHERE s.next_run_at <= %s ORDER BY s.next_run_at, s.id LIMIT %s FOR NO KEY UPDATE OF s SKIP LOCKED
"""


def claim_due(connection: Connection, now: datetime, limit: int) -> list[Due]:
    """Lock up to `limit` schedules that are due, the longest overdue first; what another has locked is left to it."""
    return [_due(row) for row in connection.exec_driver_sql(_CLAIM_DUE, (now, limit))]


def _due(row: Sequence[Any]) -> Due:
    return Due(*(*row[:12], Timing(*row[12:18]), *row[18:24]))


# Who finds a run that another tick has tried again since the statement began gets its new row, and no transaction beside it: the one
# that was joined is that of the try before. It is looked at again, and not taken for one that came to no transaction.
_CLAIM_RETRIES = f"""
    SELECT {_CLAIMED}, r.due_at, r.attempts,
           CASE WHEN s.status IN ('paused', 'deleted') THEN 'over'
                WHEN t.status IN ('pending', 'held') OR (t.status IS NULL AND r.transaction_id IS NOT NULL) THEN 'pending'
                WHEN t.status IS NULL OR t.status = 'failed' THEN 'failed'
                ELSE 'over' END
      FROM schedule_runs r JOIN schedules s ON s.id = r.schedule_id
      JOIN users c ON c.id = s.created_by JOIN users o ON o.id = s.from_user_id
      LEFT JOIN transactions t ON t.id = r.transaction_id
     WHERE r.look_at <= %s ORDER BY r.look_at, r.due_at, s.id LIMIT %s FOR NO KEY UPDATE OF r, s SKIP LOCKED
"""


@dataclass(frozen=True, slots=True)
class Tried:
    """A claimed run that may have to be tried again. `outcome` of the last try: `pending`, `failed`, or `over`: nothing more to do."""

    schedule: Due
    due_at: datetime
    attempts: int
    outcome: str


def claim_retries(connection: Connection, now: datetime, limit: int) -> list[Tried]:
    """Lock up to `limit` runs that are to be looked at, with their schedules; of those to be looked at in one moment, as all are that
    one tick ran, the longest due first. Runs of one schedule share one `Due`."""
    schedules: dict[str, Due] = {}
    return [Tried(schedules.setdefault(row[0], _due(row)), *row[24:]) for row in connection.exec_driver_sql(_CLAIM_RETRIES, (now, limit))]


_LOOK_LATER = """
    UPDATE schedule_runs r SET look_at = n.look_at
      FROM unnest(%s::uuid[], %s::timestamptz[], %s::timestamptz[]) AS n (schedule_id, due_at, look_at)
     WHERE r.schedule_id = n.schedule_id AND r.due_at = n.due_at
"""


def look_later(connection: Connection, looks: Sequence[tuple[Tried, datetime | None]]) -> None:
    """Set when these runs are looked at next; None: never."""
    schedules, due, at = [t.schedule.id for t, _ in looks], [t.due_at for t, _ in looks], [look_at for _, look_at in looks]
    connection.exec_driver_sql(_LOOK_LATER, (schedules, due, at))


@dataclass(frozen=True, slots=True)
class Run:
    """What is to be recorded of a schedule as event number `version`, with the transaction, an id and its event, that it makes."""

    schedule_id: str
    version: int
    event: ScheduleRan | ScheduleSkipped
    actor_id: str
    transaction: tuple[str, TransactionSubmitted] | None = None

    @property
    def key(self) -> str:
        """What the events carry in the place of a request's id: one try, one key. Clients' request ids have no slash."""
        attempt = self.event.attempt if isinstance(self.event, ScheduleRan) else 0
        return f"schedule/{self.schedule_id}/{self.event.due_at}/{attempt}"


# As for transactions that clients ask for, with the schedule's creator as who acts.
_SUBMIT = """
WITH wanted AS MATERIALIZED (
    SELECT * FROM ROWS FROM (unnest(%(ids)s::uuid[]), json_array_elements(%(events)s::json), unnest(%(schedules)s::uuid[]),
                             unnest(%(actors)s::uuid[]), unnest(%(keys)s::text[])) WITH ORDINALITY
                    AS w (id, data, schedule_id, actor_id, request_id, n)
), event AS (
    INSERT INTO events (stream_id, version, type, schema, data, actor_id, request_id, trace_id)
    SELECT id, 1, 'TransactionSubmitted', %(schema)s, data, actor_id, request_id, %(trace_id)s FROM wanted ORDER BY n
    RETURNING position, stream_id, data, actor_id, request_id, trace_id, recorded_at
), audited AS (
    INSERT INTO audit_logs (entity_type, entity_id, action, details, actor_id, request_id)
    SELECT 'transaction', id, 'transaction.transfer', json_build_object('amount', data->'amount', 'currency', data->'currency'),
           actor_id, request_id
      FROM wanted ORDER BY n
)
""" + ROWS_OF_EVENTS.format(
    into="transactions", events="(SELECT v.*, w.schedule_id FROM event v JOIN wanted w ON w.id = v.stream_id)", schedule_id="e.schedule_id"
)

# The first try of a run is a row that must not be there: the key is what two who run the same would break on.
_RECORD = """
WITH told AS MATERIALIZED (
    SELECT * FROM ROWS FROM (unnest(%(streams)s::uuid[]), unnest(%(versions)s::int[]), unnest(%(types)s::text[]),
                             json_array_elements(%(events)s::json), unnest(%(keys)s::text[])) WITH ORDINALITY
                    AS w (stream_id, version, type, data, request_id, n)
), event AS (
    INSERT INTO events (stream_id, version, type, data, request_id, trace_id)
    SELECT stream_id, version, type, data, request_id, %(trace_id)s FROM told ORDER BY n
    RETURNING stream_id, data, recorded_at
), run AS MATERIALIZED (
    SELECT e.stream_id, e.recorded_at, r.*
      FROM event e CROSS JOIN LATERAL json_to_record(e.data)
        AS r (due_at timestamptz, attempt smallint, transaction_id uuid, failure_code text, retry_at timestamptz)
), begun AS (
    INSERT INTO schedule_runs (schedule_id, due_at, attempts, transaction_id, failure_code, look_at, created_at)
    SELECT stream_id, due_at, COALESCE(attempt, 0), transaction_id, failure_code, retry_at, recorded_at
      FROM run WHERE COALESCE(attempt, 0) <= 1
), tried_again AS (
    UPDATE schedule_runs r SET attempts = run.attempt, transaction_id = run.transaction_id, failure_code = run.failure_code,
           look_at = run.retry_at
      FROM run WHERE run.attempt > 1 AND r.schedule_id = run.stream_id AND r.due_at = run.due_at
)
UPDATE schedules s
   SET version = n.version, next_run_at = n.next_run_at, updated_at = now(),
       status = CASE WHEN s.status = 'active' AND n.next_run_at IS NULL THEN 'finished' ELSE s.status END
  FROM unnest(%(schedules)s::uuid[], %(last_versions)s::int[], %(next_runs)s::timestamptz[]) AS n (id, version, next_run_at)
 WHERE s.id = n.id AND s.version < n.version
"""


def record(connection: Connection, schedules: Sequence[Due], runs: Sequence[Run], trace_id: str | None = None) -> None:
    """Write the runs with their events and pending transactions, under `trace_id`, and where the locked `schedules` stand afterwards.

    Raises sqlalchemy.exc.IntegrityError when a first try has been recorded before.
    """
    paid = [(run, *run.transaction) for run in runs if run.transaction is not None]
    if paid:
        connection.exec_driver_sql(
            _SUBMIT,
            {
                "ids": [transaction_id for _, transaction_id, _ in paid],
                "schema": TransactionSubmitted.SCHEMA,
                "events": _json(event for _, _, event in paid),
                "schedules": [run.schedule_id for run, _, _ in paid],
                "actors": [run.actor_id for run, _, _ in paid],
                "keys": [run.key for run, _, _ in paid],
                "trace_id": trace_id,
            },
        )
    connection.exec_driver_sql(
        _RECORD,
        {
            "streams": [run.schedule_id for run in runs],
            "versions": [run.version for run in runs],
            "types": [type(run.event).__name__ for run in runs],
            "events": _json(run.event for run in runs),
            "keys": [run.key for run in runs],
            "trace_id": trace_id,
            "schedules": [schedule.id for schedule in schedules],
            "last_versions": [schedule.version for schedule in schedules],
            "next_runs": [schedule.next_run_at for schedule in schedules],
        },
    )
