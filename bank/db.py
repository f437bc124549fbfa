"""The one way into the database: `unit_of_work()` writes and commits, `reader()` only reads.

Nothing else in the bank commits, and a test looks for it. Work that must follow a commit (ringing
a bell, waking a client) stands after the `with` block, where it runs only if the commit went well.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import psycopg2
from flask import Flask, current_app, g
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import BigInteger, DateTime, MetaData, Uuid
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Session

from bank.errors import Unavailable
from bank.resilience.breaker import Breaker


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
REPLICA = "replica"
_NO_WORKERS = "-c max_parallel_workers_per_gather=0"

# So many failures in a row, and for so long nobody asks: what a stopped server costs is then a moment, and not the time-out of each
# request's connection.
_MOST_FAILURES = 5
_REST_SECONDS = 2.0


def settings(url: str, replica_url: str, pool_size: int) -> dict[str, Any]:
    """The database's part of Flask's configuration, for a process with `pool_size` threads that use it.

    `replica_url` is empty where there is no replica.
    """
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
            # Who waits for an answer has nothing under way that the time-out before would notice: a line that was cut is, after 25 s.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "options": SERVER_SETTINGS,
            "application_name": "bank",
        },
    }
    reading = {**options["connect_args"], "options": f"{SERVER_SETTINGS} {_NO_WORKERS}"}
    readers = {READER: url} | ({REPLICA: replica_url} if replica_url else {})
    return {
        "SQLALCHEMY_DATABASE_URI": url,
        "SQLALCHEMY_ENGINE_OPTIONS": options,
        "SQLALCHEMY_BINDS": {
            name: {**options, "url": at, "isolation_level": "AUTOCOMMIT", "connect_args": reading} for name, at in readers.items()
        },
    }


@dataclass(frozen=True, slots=True)
class Databases:
    """The breakers of an application's databases, and which of them the request at hand reads from."""

    primary: Breaker
    replica: Breaker

    def breaker(self, bind: str) -> Breaker:
        """That of one of our engines."""
        return self.replica if bind == REPLICA else self.primary


def init_app(app: Flask) -> None:
    """Connect to nothing, and know of no failure yet."""
    db.init_app(app)
    app.extensions["databases"] = Databases(*(Breaker(name, _MOST_FAILURES, _REST_SECONDS, _is_away) for name in ("database", "replica")))


def databases() -> Databases:
    """Those of the current application."""
    found: Databases = current_app.extensions["databases"]
    return found


def _is_away(error: BaseException) -> bool:
    return isinstance(error, Unavailable) and error.part is not None


@dataclass(frozen=True, slots=True)
class Route:
    """From which engine a request reads, and by which it is found out who asks: whoever was frozen or demoted a moment ago is that
    for a primary, and not yet for its replica."""

    reads: str = READER
    logins: str = READER


_TO_PRIMARY = Route()


def take(route: Route) -> None:
    """Let the request at hand read by this route; without, and outside of a request, everything is read from the primary."""
    g.route = route


def route() -> Route:
    """The route of the request at hand."""
    found: Route = g.get("route", _TO_PRIMARY)
    return found


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
        with _using(READER), Session(db.engine, expire_on_commit=False) as session:
            yield session
            session.commit()
            g.wrote = True
    finally:
        _open.reset(token)


@contextmanager
def reader(bind: str | None = None) -> Iterator[Session]:
    """A session for reading from the engine `bind` (None: where the request's route leads). Its connections are in autocommit: no
    BEGIN and no COMMIT cross the wire.

    Each statement sees its own snapshot, so what must agree is read by one statement. Raises Unavailable as `unit_of_work()` does.
    """
    bind = bind or route().reads
    with _using(bind), Session(db.engines[bind]) as session:
        yield session


def fetch(statement: str, parameters: Mapping[str, Any], bind: str | None = None) -> list[tuple[Any, ...]]:
    """The rows of a reading statement in psycopg2's own style (`%(name)s`), from the engine `bind` (None: where the route leads).

    For what every request asks: with the reader's pool but past the layers above it, it costs a
    third of `reader()`. Raises Unavailable as `reader()` does.
    """
    bind = bind or route().reads
    with _using(bind):
        connection = db.engines[bind].raw_connection()
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
                for name, engine in db.engines.items():
                    if (name == REPLICA) is (bind == REPLICA):
                        engine.dispose()
            else:
                connection.close()


# SQLSTATEs (PostgreSQL, appendix A) by which the server says «not now» rather than «not so»; the first ones to everybody.
_DOWN = {
    "53300",  # too_many_connections
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "25006",  # read_only_sql_transaction: a primary that was demoted
}
_NOT_NOW = _DOWN | {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "53100",  # disk_full
    "53200",  # out_of_memory
    "55P03",  # lock_not_available
    "57014",  # query_canceled, by statement_timeout
    "25P03",  # idle_in_transaction_session_timeout
}


@contextmanager
def _using(bind: str) -> Iterator[None]:
    """Use the database of an engine, unless its breaker is open."""
    breaker = databases().breaker(bind)
    with breaker(), _told_apart(breaker.name):
        yield


@contextmanager
def _told_apart(part: str) -> Iterator[None]:
    """A database that is away, full or too slow is a 503; everything else stays the bug it is."""
    try:
        yield
    except PoolTimeout as error:
        # There is one for every thread, so somebody does not get his answers.
        raise Unavailable("All database connections are busy.", part=part) from error
    except DBAPIError as error:
        sqlstate = getattr(error.orig, "pgcode", None)
        away = error.connection_invalidated or (isinstance(error, OperationalError) and sqlstate is None) or sqlstate in _DOWN
        if away or sqlstate in _NOT_NOW:
            raise _unavailable(_away(part, away), sqlstate) from error
        raise
    except psycopg2.Error as error:
        # From `fetch`, where nothing wraps it.
        away = (isinstance(error, psycopg2.OperationalError) and error.pgcode is None) or error.pgcode in _DOWN
        if away or error.pgcode in _NOT_NOW:
            raise _unavailable(_away(part, away), error.pgcode) from error
        raise


def _away(part: str, away: bool) -> str | None:
    # A replica cancels what gets in the way of what it replays. Whatever it does not answer, the primary does.
    return part if away or part == databases().replica.name else None


def _unavailable(part: str | None, sqlstate: str | None) -> Unavailable:
    return Unavailable("The database cannot be reached or is too slow.", sqlstate=sqlstate, part=part)
