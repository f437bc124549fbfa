"""Putting the shadow in the place of the tables that are in use, in one short transaction.

The tables change their schemas; nothing is copied, so writers wait for the catching up of a moment and for a few changes
of the catalogue. What takes long on large tables, looking whether the constraints hold, is done afterwards beside
the running bank.
"""

import time
from dataclasses import dataclass
from threading import Event

from sqlalchemy import Connection

from bank.db import unit_of_work
from bank.errors import Unavailable
from bank.rebuild import shadow
from bank.rebuild.projections import SHADOW, TABLES

# Where the old tables go until they are dropped.
_REPLACED = "replaced"

# Users stay: a password hash is in no event. Their rows are put right in place.
_SWAPPED = [table for table in TABLES if table != "users"]

# Who holds up the swap is not held up by it for long: it gives way and tries again. Well below the second after which
# PostgreSQL looks for deadlocks, so that a writer who came the other way round is never the one that is ended.
_LOCK_PATIENCE = "300ms"
_TRIES = 60
_PAUSE_SECONDS = 0.25

_TRY_AGAIN = ("55P03", "40P01")


def swap() -> float:
    """Swap, and return for how many seconds writers were held up at most. Needs a filled and indexed shadow.

    Raises Unavailable when the locks could not be had in many tries.
    """
    pause = Event()
    for number in range(_TRIES):
        try:
            with shadow.patient() as session:
                connection = session.connection()
                started = time.monotonic()
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_PATIENCE}'")
                # Drains first: while none runs, nobody else holds locks for long. They skip a lane that is taken.
                connection.exec_driver_sql("SELECT FROM lanes ORDER BY lane FOR UPDATE")
                _swap(connection)
            return time.monotonic() - started
        except Unavailable as error:
            if error.sqlstate not in _TRY_AGAIN or number == _TRIES - 1:
                raise
            pause.wait(_PAUSE_SECONDS)
    raise AssertionError("The last try returns or raises.")


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
    had = _definitions(connection)
    referring = sorted({table for table, _, _ in had.foreign})
    connection.exec_driver_sql(f"LOCK TABLE {', '.join([*TABLES, *referring])} IN ACCESS EXCLUSIVE MODE")
    connection.exec_driver_sql("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE")
    shadow.apply(connection, connection.exec_driver_sql("SELECT COALESCE(max(position), 0) FROM events").scalar_one())
    shadow.close(connection)
    for statement in _USERS:
        connection.exec_driver_sql(statement)
    for table, name, _ in had.foreign:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    connection.exec_driver_sql(f"CREATE SCHEMA {_REPLACED}")
    for table in _SWAPPED:
        connection.exec_driver_sql(f"ALTER TABLE public.{table} SET SCHEMA {_REPLACED}")
        connection.exec_driver_sql(f"ALTER TABLE {SHADOW}.{table} SET SCHEMA public")
    for table, name, definition in (*had.constraints, *had.foreign):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition.removesuffix(' NOT VALID')} NOT VALID")
    for definition in had.triggers:
        connection.exec_driver_sql(definition)
    shadow.drop(connection)


# A user that no event tells of is left alone: the comparison names it.
_USERS = (
    f"""INSERT INTO users (id, username, email, role, status, version, created_at, updated_at)
        SELECT id, username, email, role, status, version, created_at, updated_at FROM {SHADOW}.users
        ON CONFLICT (id) DO NOTHING""",
    f"""UPDATE users u
           SET username = s.username, email = s.email, role = s.role, status = s.status, version = s.version,
               created_at = s.created_at, updated_at = s.updated_at
          FROM {SHADOW}.users s
         WHERE s.id = u.id AND (u.username, u.email, u.role, u.status, u.version, u.created_at, u.updated_at)
               IS DISTINCT FROM (s.username, s.email, s.role, s.status, s.version, s.created_at, s.updated_at)""",
)


def finish() -> None:
    """Look whether the constraints hold that were put on without a look, and drop the replaced tables.

    Does nothing where there is nothing to do, so it may be called again after a kill. Raises
    sqlalchemy.exc.IntegrityError naming a constraint that does not hold.
    """
    with unit_of_work() as session:
        left = session.connection().exec_driver_sql(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE NOT convalidated AND connamespace = 'public'::regnamespace"
        )
        constraints = [tuple(row) for row in left]
    for table, name in constraints:
        with shadow.patient() as session:
            session.connection().exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")
    with shadow.patient() as session:
        session.connection().exec_driver_sql(f"DROP SCHEMA IF EXISTS {_REPLACED} CASCADE")
