"""Putting the shadow in the place of the tables that are in use, in one short transaction.

The tables change their schemas; nothing is copied, so writers wait for the catching up of a moment and for a few changes
of the catalogue. What takes long on large tables, looking whether the constraints hold, is done afterwards beside
the running bank.
"""

import time
from dataclasses import dataclass
from threading import Event

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from bank.db import reader, unit_of_work
from bank.errors import Unavailable
from bank.ledger import store
from bank.processing.queue import bells
from bank.rebuild import shadow
from bank.rebuild.projections import REPLACED, SHADOW, TABLES

# Where the old tables go until they are dropped.

# Users stay: a password hash is in no event. Their rows are put right in place.
_SWAPPED = [table for table in TABLES if table != "users"]

# What is looked at before anything is written, by transfers, ticks and requests about a transaction. The latter's keys to
# users are checked last.
_FIRST = ("accounts", "schedules", "transactions")

# Who holds up the swap is not held up by it for long: it gives way and tries again.
_LOCK_PATIENCE = "250ms"
_STATEMENT_PATIENCE = "2s"
_TRIES = 60
_PAUSE_SECONDS = 0.25

# lock_not_available, query_canceled, deadlock_detected
_TRY_AGAIN = ("55P03", "57014", "40P01")


def swap(position: int) -> float:
    """Swap, and return for how many seconds writers were held up at most. Needs an indexed shadow that is filled up to `position`.

    Raises Unavailable when the locks could not be had in many tries.
    """
    pause, longest, held_up_by = Event(), 0.0, None
    # Nearly all of them here, where nobody waits.
    with shadow.patient() as session:
        session.connection().exec_driver_sql(_RUNS_THAT_ARE_OVER)
    for _ in range(_TRIES):
        position = shadow.catch_up(position)
        started = time.monotonic()
        try:
            with unit_of_work() as session:
                connection = session.connection()
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{_STATEMENT_PATIENCE}'")
                _send_autovacuum_away(connection)
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
                started = time.monotonic()
                _swap(connection)
            return max(longest, time.monotonic() - started)
        except Unavailable as error:
            if error.sqlstate not in _TRY_AGAIN:
                raise
            held_up_by = error
        finally:
            _ring()
        longest = max(longest, time.monotonic() - started)
        pause.wait(_PAUSE_SECONDS)
    raise Unavailable("The tables could not be locked: something long is at work on them. Nothing was swapped.") from held_up_by


def _send_autovacuum_away(connection: Connection) -> None:
    """Take locks that disturb no reader and no writer, and for which autovacuum gives way after a second."""
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(f'{SHADOW}.{table}' for table in TABLES)} IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(TABLES)} IN SHARE UPDATE EXCLUSIVE MODE")


def _ring() -> None:
    # A drain that found its lane taken by us has left it to us, and we do not look at the rings.
    with reader() as session:
        lanes = store.lanes(session.connection())
    for lane in lanes:
        bells.ring(lane)


@dataclass(frozen=True, slots=True)
class _Definitions:
    """What the live tables have besides columns and indexes, as the catalogue tells it."""

    constraints: list[tuple[str, str, str]]
    foreign: list[tuple[str, str, str]]
    triggers: list[str]


def _definitions(connection: Connection) -> _Definitions:
    tables = [f"public.{table}" for table in _SWAPPED]
    columns = "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint"
    own = connection.exec_driver_sql(f"{columns} WHERE contype IN ('c', 'f') AND conrelid = ANY(%s::regclass[])", (tables,))
    foreign = connection.exec_driver_sql(
        f"{columns} WHERE contype = 'f' AND confrelid = ANY(%s::regclass[]) AND conrelid <> ALL(%s::regclass[])", (tables, tables)
    )
    triggers = connection.exec_driver_sql(
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = ANY(%s::regclass[])", (tables,)
    )
    return _Definitions([tuple(row) for row in own], [tuple(row) for row in foreign], list(triggers.scalars()))


def _swap(connection: Connection) -> None:
    # Drains first: while none runs, nobody else holds locks for long. They skip a lane that is taken.
    connection.exec_driver_sql("SELECT FROM lanes ORDER BY lane FOR UPDATE")
    had = _definitions(connection)
    # Then in the order in which a request comes by: idempotency keys, parties, and at the end the log, which everybody writes to who
    # changes a projection. Who is past the first of these finishes, and who comes waits there, holding nothing that is wanted here.
    referring = sorted({table for table, _, _ in had.foreign})
    tables = [*referring, *_FIRST, *(table for table in TABLES if table not in _FIRST)]
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
    shadow.apply(connection, connection.exec_driver_sql("SELECT COALESCE(max(position), 0) FROM events").scalar_one())
    shadow.close(connection)
    connection.exec_driver_sql(_RUNS_THAT_ARE_OVER)
    for statement in _USERS:
        connection.exec_driver_sql(statement)
    # What was added up for limits was of the entries that go.
    connection.exec_driver_sql("DELETE FROM usages")
    # Those of the old tables too, and here, where the tables they point at are locked: dropping the tables then disturbs nobody.
    for table, name, definition in (*had.foreign, *had.constraints):
        if definition.startswith("FOREIGN KEY"):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    connection.exec_driver_sql(f"CREATE SCHEMA {REPLACED}")
    for table in _SWAPPED:
        connection.exec_driver_sql(f"ALTER TABLE public.{table} SET SCHEMA {REPLACED}")
        connection.exec_driver_sql(f"ALTER TABLE {SHADOW}.{table} SET SCHEMA public")
    for table, name, definition in (*had.constraints, *had.foreign):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition.removesuffix(' NOT VALID')} NOT VALID")
    for definition in had.triggers:
        connection.exec_driver_sql(definition)
    shadow.drop(connection)


# No event tells that a run needs no further look. One that failed, and was given up since its schedule was paused, must not be tried
# again months later because the tables were made anew.
_RUNS_THAT_ARE_OVER = f"""
    UPDATE {SHADOW}.schedule_runs told SET look_at = NULL
      FROM schedule_runs live
     WHERE live.schedule_id = told.schedule_id AND live.due_at = told.due_at AND live.attempts = told.attempts
       AND live.look_at IS NULL AND told.look_at IS NOT NULL
"""

# A user that no event tells of is left alone: the comparison names it.
_USERS = (
    f"""INSERT INTO users (id, username, email, role, status, version, created_at, updated_at, erased_at)
        SELECT id, username, email, role, status, version, created_at, updated_at, erased_at FROM {SHADOW}.users
        ON CONFLICT (id) DO NOTHING""",
    f"""UPDATE users u
           SET username = s.username, email = s.email, role = s.role, status = s.status, version = s.version,
               created_at = s.created_at, updated_at = s.updated_at, erased_at = s.erased_at
          FROM {SHADOW}.users s
         WHERE s.id = u.id AND (u.username, u.email, u.role, u.status, u.version, u.created_at, u.updated_at, u.erased_at)
               IS DISTINCT FROM (s.username, s.email, s.role, s.status, s.version, s.created_at, s.updated_at, s.erased_at)""",
)


def finish() -> list[str]:
    """Look whether the constraints hold that were put on without a look, and drop the replaced tables; the names of
    the constraints that do not hold.

    Does nothing where there is nothing to do, so it may be called again after a kill.
    """
    broken = []
    with reader() as session:
        left = session.connection().exec_driver_sql(
            """SELECT conrelid::regclass::text, conname FROM pg_constraint
                WHERE NOT convalidated AND connamespace = 'public'::regnamespace
                  AND (conrelid = ANY(%(tables)s::regclass[]) OR confrelid = ANY(%(tables)s::regclass[]))""",
            {"tables": [f"public.{table}" for table in _SWAPPED]},
        )
        constraints = [tuple(row) for row in left]
    for table, name in constraints:
        try:
            with shadow.patient() as session:
                session.connection().exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
        except IntegrityError:
            broken.append(f"{table}.{name}")
    with shadow.patient() as session:
        session.connection().exec_driver_sql(f"DROP SCHEMA IF EXISTS {REPLACED} CASCADE")
    return broken
