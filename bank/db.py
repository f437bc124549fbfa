"""The one way into the database: `unit_of_work()` writes and commits, `reader()` only reads.

Nothing else in the bank commits, and a test looks for it. Work that must follow a commit (ringing
a bell, waking a client) stands after the `with` block, where it runs only if the commit went well.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import psycopg2
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, DateTime, MetaData, Uuid
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session

from bank.errors import Unavailable


class Base(DeclarativeBase):
    """The parent of all tables. Constraint names are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base, disable_autonaming=True)

Id = Uuid(as_uuid=False)
"""Ids travel as strings: they come as text from JSON and go back as text."""

Minor = BigInteger()
"""Minor units of the currency beside it."""

Instant = DateTime(timezone=True)

# What the server is told at connect. A statement or a lock that takes longer than a client's
# patience is worth less than a quick 503; a process that was stopped (SIGSTOP) in the middle of a
# transaction loses it, and its locks, after ten seconds.
SERVER_SETTINGS = "-c statement_timeout=10000 -c lock_timeout=5000 -c idle_in_transaction_session_timeout=10000 -c timezone=UTC"


# Readers have an engine of their own, whose connections stay in autocommit. What they read is found in less time than it takes
# to start parallel workers, whatever the planner thinks of it.
READER = "reader"
_NO_WORKERS = "-c max_parallel_workers_per_gather=0"


def settings(url: str, pool_size: int) -> dict[str, Any]:
    """The database's part of Flask's configuration, for a process with `pool_size` threads that use it."""
    options: dict[str, Any] = {
        "pool_size": pool_size,
        "max_overflow": 2,
        "pool_timeout": 5,
        "pool_recycle": 1800,
        "pool_use_lifo": True,
        # An error's text goes to the log, and what was bound to the statement may be a password's hash.
        "hide_parameters": True,
        "connect_args": {
            "connect_timeout": 3,
            "tcp_user_timeout": 10_000,
            "keepalives_idle": 10,
            "options": SERVER_SETTINGS,
            "application_name": "bank",
        },
    }
    reading = {**options["connect_args"], "options": f"{SERVER_SETTINGS} {_NO_WORKERS}"}
    return {
        "SQLALCHEMY_DATABASE_URI": url,
        "SQLALCHEMY_ENGINE_OPTIONS": options,
        "SQLALCHEMY_BINDS": {READER: {**options, "url": url, "isolation_level": "AUTOCOMMIT", "connect_args": reading}},
    }


_open: ContextVar[bool] = ContextVar("unit_of_work_open", default=False)


@contextmanager
def unit_of_work() -> Iterator[Session]:
    """One operation, one transaction: yields a session and commits it when the block ends well.

    Everything is rolled back when the block raises. Units of work do not nest: a service that
    is called inside one takes the session as an argument. Raises Unavailable when the database
    cannot be reached or is too slow; whether the commit happened is then unknown, and the
    idempotency key tells at the next try.
    """
    if _open.get():
        raise RuntimeError("A unit of work is open already; pass its session on.")
    token = _open.set(True)
    try:
        with _told_apart(), Session(db.engine, expire_on_commit=False) as session:
            yield session
            session.commit()
    finally:
        _open.reset(token)


@contextmanager
def reader() -> Iterator[Session]:
    """A session for reading. Its connections are in autocommit: no BEGIN and no COMMIT cross the wire.

    Each statement sees its own snapshot, so what must agree is read by one statement.
    """
    with _told_apart(), Session(db.engines[READER]) as session:
        yield session


def fetch(statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """The rows of a reading statement in psycopg2's own style (`%(name)s`).

    For what every request asks: with the reader's pool but past the layers above it, it costs a
    third of `reader()`. Raises Unavailable as `reader()` does.
    """
    with _told_apart():
        connection = db.engines[READER].raw_connection()
        driver: Any = connection.driver_connection
        try:
            with driver.cursor() as cursor:
                cursor.execute(statement, parameters)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                return rows
        finally:
            if driver.closed:
                # The server ended it, and most likely all the others as well.
                connection.invalidate()
                for each in db.engines.values():
                    each.dispose()
            else:
                connection.close()


# SQLSTATEs (PostgreSQL, appendix A) by which the server says «not now» rather than «not so».
_NOT_NOW = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "53100",  # disk_full
    "53200",  # out_of_memory
    "53300",  # too_many_connections
    "55P03",  # lock_not_available
    "57014",  # query_canceled, by statement_timeout
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "25P03",  # idle_in_transaction_session_timeout
    "25006",  # read_only_sql_transaction: a primary that was demoted
}


@contextmanager
def _told_apart() -> Iterator[None]:
    """A database that is away, full or too slow is a 503; everything else stays the bug it is."""
    try:
        yield
    except PoolTimeout as error:
        raise Unavailable("All database connections are busy.") from error
    except DBAPIError as error:
        sqlstate = getattr(error.orig, "pgcode", None)
        away = error.connection_invalidated or (isinstance(error, OperationalError) and sqlstate is None)
        if away or sqlstate in _NOT_NOW:
            raise Unavailable("The database cannot be reached or is too slow.", sqlstate=sqlstate) from error
        raise
    except psycopg2.Error as error:
        # From `fetch`, where nothing wraps it.
        if (isinstance(error, psycopg2.OperationalError) and error.pgcode is None) or error.pgcode in _NOT_NOW:
            raise Unavailable("The database cannot be reached or is too slow.") from error
        raise
