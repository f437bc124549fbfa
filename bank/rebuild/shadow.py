"""The shadow: tables like the projections in a schema of their own, filled from the events part by part.

How far they are stands in the same schema and commits with each part, so a rebuild that was killed goes on
where it stood. Indexes come when the bulk is in, the constraints and triggers with the swap: until then a
row may be ahead of another that it goes with.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from bank.db import db, reader, unit_of_work
from bank.errors import BankError, Conflict
from bank.events.horizon import settled
from bank.events.types import UnknownEventError
from bank.rebuild.projections import CLOSINGS, READ, REPLACED, SHADOW, STATEMENTS, TABLES

log = structlog.get_logger(__name__)

# Positions that are read in one transaction: large enough to be fast, small enough to lose little.
_PART = 20_000

PATIENCE_SECONDS = 30.0
"""How long older transactions are waited for: those of an operator too, who may be at work while a rebuild is."""

# So few positions are caught up with in no time.
_A_MOMENT = 2_000


@contextmanager
def patient() -> Iterator[Session]:
    """A unit of work whose statements may take as long as they take."""
    with unit_of_work() as session:
        session.connection().exec_driver_sql("SET LOCAL statement_timeout = 0")
        yield session


@contextmanager
def alone() -> Iterator[None]:
    """Only one rebuild at a time works on a database. Raises Conflict when another one does."""
    # A connection of its own, since the lock is the session's: it must outlive every transaction of the rebuild.
    with db.engine.connect() as connection:
        if not connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).scalar_one():
            raise Conflict("Another rebuild, or an erasure, is at work on this database.")
        # Rolled back: an open transaction would be ended for idling, and hold up whoever waits for older ones.
        connection.rollback()
        try:
            yield
        finally:
            connection.invalidate()


# Any number; it is this lock's name.
_LOCK = 0x72656275696C64


def _made_by(connection: Connection) -> str:
    """What a shadow is made by, the statements and the shape of the tables: one that other code has begun is begun anew."""
    shape = connection.exec_driver_sql(
        """SELECT attrelid::regclass::text, attname, atttypid::regtype::text, attnotnull, pg_get_expr(adbin, adrelid)
             FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE attrelid = ANY(%s::regclass[]) AND attnum > 0 AND NOT attisdropped ORDER BY attrelid::regclass::text, attnum""",
        ([f"public.{table}" for table in TABLES],),
    ).all()
    return sha256(repr((STATEMENTS, CLOSINGS, TABLES, [tuple(row) for row in shape])).encode()).hexdigest()


def prepare() -> int:
    """Make the empty shadow, or find the one that was begun; the position up to which it is filled."""
    with patient() as session:
        connection = session.connection()
        made_by = _made_by(connection)
        found = connection.exec_driver_sql("SELECT to_regclass(%s) IS NOT NULL", (f"{SHADOW}.progress",)).scalar_one()
        if found:
            code, position = connection.exec_driver_sql(f"SELECT code, position FROM {SHADOW}.progress").one()
            if code == made_by:
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
        connection.exec_driver_sql(f"CREATE TABLE {SHADOW}.touched (account_id uuid PRIMARY KEY, day date)")
        connection.exec_driver_sql(f"CREATE TABLE {SHADOW}.progress (code text, position bigint)")
        connection.exec_driver_sql(f"INSERT INTO {SHADOW}.progress VALUES (%s, 0)", (made_by,))
    return 0


def drop_if_idle() -> None:
    """Throw away what is left of rebuilds that ended, which may hold what has just been erased. Nothing fails with it.

    One that is at work takes in what happens meanwhile. What is another role's stays, or what somebody reads: docs/privacy.md.
    """
    try:
        with unit_of_work() as session:
            connection = session.connection()
            connection.exec_driver_sql("SET LOCAL lock_timeout = '500ms'")
            if connection.exec_driver_sql("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).scalar_one():
                for schema in (SHADOW, REPLACED):
                    connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
    except (BankError, SQLAlchemyError) as error:
        log.warning("shadow_not_dropped", error=str(error))


def drop_if_outdated() -> None:
    """Throw the shadow away where something was erased that it has not taken in, at the end of a rebuild that leaves it."""
    with patient() as session:
        connection = session.connection()
        erased = (
            f"SELECT EXISTS (SELECT FROM events, {SHADOW}.progress p WHERE type = 'PersonalDataErased' AND events.position > p.position)"
        )
        if connection.exec_driver_sql(erased).scalar_one():
            drop(connection)


def drop(connection: Connection) -> None:
    """Throw the shadow away."""
    connection.exec_driver_sql(f"DROP SCHEMA IF EXISTS {SHADOW} CASCADE")


def catch_up(position: int) -> int:
    """Apply what was written since, until only a moment's worth of it is left; the position up to which all is applied."""
    while (end := settled(PATIENCE_SECONDS)) - position > _A_MOMENT:
        fill(position, end, lambda _: None)
        position = end
    return position


def fill(position: int, end: int, watch: Callable[[int], None]) -> None:
    """Apply the events behind `position` up to `end`, a part a transaction; `watch` is told how far it is."""
    while position < end:
        position = min(position + _PART, end)
        with patient() as session:
            apply(session.connection(), position)
        watch(position)
    with patient() as session:
        close(session.connection())


_VERSIONS = [f"{name}.{version}" for name, newest in READ.items() for version in range(1, newest + 1)]

_UNKNOWN = """
    SELECT position, type, schema FROM events
     WHERE position > %(low)s AND position <= %(high)s AND type || '.' || schema <> ALL(%(read)s) LIMIT 1
"""


def apply(connection: Connection, end: int) -> None:
    """Apply the events from where the shadow stands up to position `end`. Raises UnknownEventError."""
    low = connection.exec_driver_sql(f"SELECT position FROM {SHADOW}.progress FOR UPDATE").scalar_one()
    unknown = connection.exec_driver_sql(_UNKNOWN, {"low": low, "high": end, "read": _VERSIONS}).first()
    if unknown is not None:
        raise UnknownEventError(f"Event {unknown[0]} is a {unknown[1]} of version {unknown[2]}, which this bank cannot read.")
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
    with reader() as session:
        missing = [
            statement
            for query in (_UNIQUE, _INDEXES)
            for statement in session.connection().exec_driver_sql(query, ([f"public.{table}" for table in TABLES],)).scalars()
        ]
    # A transaction each: followers of the log wait for the oldest one.
    for statement in (*missing, *(f"ANALYZE {SHADOW}.{table}" for table in TABLES)):
        with patient() as session:
            session.connection().exec_driver_sql(statement)
