"""The shadow: tables like the projections in a schema of their own, filled from the events part by part.

How far they are stands in the same schema and commits with each part, so a rebuild that was killed goes on
where it stood. Indexes come when the bulk is in, the constraints and triggers with the swap: until then a
row may be ahead of another that it goes with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from threading import Event

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from bank.db import reader, unit_of_work
from bank.events.horizon import Horizon
from bank.rebuild.projections import CLOSINGS, SHADOW, STATEMENTS, TABLES

# Positions that are read in one transaction: large enough to be fast, small enough to lose little.
_PART = 20_000

_CODE = sha256(repr((STATEMENTS, CLOSINGS, TABLES)).encode()).hexdigest()
"""What made a shadow: one that other code has begun is begun anew."""


@contextmanager
def patient() -> Iterator[Session]:
    """A unit of work whose statements may take as long as they take."""
    with unit_of_work() as session:
        session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield session


def prepare() -> int:
    """Make the empty shadow, or find the one that was begun; the position up to which it is filled."""
    with patient() as session:
        connection = session.connection()
        found = connection.exec_driver_sql("SELECT to_regclass(%s) IS NOT NULL", (f"{SHADOW}.progress",)).scalar_one()
        if found:
            code, position = connection.exec_driver_sql(f"SELECT code, position FROM {SHADOW}.progress").one()
            if code == _CODE:
                return int(position)
        drop(connection)
        connection.exec_driver_sql(f"CREATE SCHEMA {SHADOW}")
        for table, key in TABLES.items():
            connection.exec_driver_sql(f"CREATE TABLE {SHADOW}.{table} (LIKE public.{table} INCLUDING DEFAULTS)")
            options = connection.exec_driver_sql(
                "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = %s::regclass", (f"public.{table}",)
            ).scalar_one()
            if options:
                connection.exec_driver_sql(f"ALTER TABLE {SHADOW}.{table} SET ({options})")
            # What the filling itself looks rows up by.
            connection.exec_driver_sql(f"ALTER TABLE {SHADOW}.{table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({', '.join(key)})")
        connection.exec_driver_sql(f"CREATE TABLE {SHADOW}.touched (account_id uuid PRIMARY KEY)")
        connection.exec_driver_sql(f"CREATE TABLE {SHADOW}.progress (code text, position bigint)")
        connection.exec_driver_sql(f"INSERT INTO {SHADOW}.progress VALUES (%s, 0)", (_CODE,))
    return 0


def drop(connection: Connection) -> None:
    """Throw the shadow away."""
    connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {SHADOW} CASCADE")


def settled() -> int:
    """A position behind which no event can come late any more; waits for the transactions that could still add one."""
    horizon, pause = Horizon(), Event()
    with reader() as session:
        last = horizon.advance(session)
        while horizon.waits:
            pause.wait(0.02)
            last = horizon.advance(session)
    return last


def fill(position: int, end: int, watch: Callable[[int], None]) -> None:
    """Apply the events behind `position` up to `end`, a part a transaction; `watch` is told how far it is."""
    while position < end:
        position = min(position + _PART, end)
        with patient() as session:
            apply(session.connection(), position)
        watch(position)
    with patient() as session:
        close(session.connection())


def apply(connection: Connection, end: int) -> None:
    """Apply the events from where the shadow stands up to position `end`."""
    low = connection.exec_driver_sql(f"SELECT position FROM {SHADOW}.progress FOR UPDATE").scalar_one()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement, {"low": low, "high": end})
    connection.exec_driver_sql(f"UPDATE {SHADOW}.progress SET position = greatest(position, %s)", (end,))


def close(connection: Connection) -> None:
    """Make the closing balances of the accounts that were touched since the last time."""
    for statement in CLOSINGS:
        connection.exec_driver_sql(statement)


# Every index of the live tables that is no constraint's, as a statement on the shadow.
_INDEXES = f"""
    SELECT replace(pg_get_indexdef(i.indexrelid), ' ON public.', ' ON {SHADOW}.')
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
     WHERE i.indrelid = ANY(%s::regclass[])
       AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid)
       AND to_regclass('{SHADOW}.' || c.relname) IS NULL
"""

_UNIQUE = f"""
    SELECT format('ALTER TABLE {SHADOW}.%%s ADD CONSTRAINT %%I %%s', conrelid::regclass, conname, pg_get_constraintdef(oid))
      FROM pg_constraint
     WHERE contype = 'u' AND conrelid = ANY(%s::regclass[]) AND to_regclass('{SHADOW}.' || conname) IS NULL
"""


def index() -> None:
    """Give the shadow the indexes of the live tables, under the same names; those that it has stay."""
    with patient() as session:
        connection = session.connection()
        for query in (_UNIQUE, _INDEXES):
            for statement in connection.exec_driver_sql(query, ([f"public.{table}" for table in TABLES],)).scalars().all():
                connection.exec_driver_sql(statement)
    with patient() as session:
        for table in TABLES:
            session.connection().exec_driver_sql(f"ANALYZE {SHADOW}.{table}")
