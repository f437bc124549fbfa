"""A clock that can be put forward: holds end, schedules come due and days go by while a test runs for a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import psycopg2

# Names are looked for in `public` first, so these stand before those of the server. What SQL knows by a keyword, as CURRENT_DATE, gets
# past them: the day that rates are of stays the same.
_INSTALL = """
CREATE TABLE clock (ahead interval NOT NULL);
INSERT INTO clock VALUES ('0');
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE plpgsql STABLE
    AS $$ BEGIN RETURN pg_catalog.now() + (SELECT ahead FROM public.clock); END $$;
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql VOLATILE
    AS $$ BEGIN RETURN pg_catalog.clock_timestamp() + (SELECT ahead FROM public.clock); END $$;
DO $$ DECLARE d record; BEGIN
    FOR d IN SELECT table_name, column_name FROM information_schema.columns
              WHERE table_schema = 'public' AND column_default = 'now()' LOOP
        EXECUTE format('ALTER TABLE public.%I ALTER COLUMN %I SET DEFAULT public.now()', d.table_name, d.column_name);
    END LOOP;
    EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
END $$;
"""


class Clock:
    """The time of one database."""

    def __init__(self, connection: "psycopg2.extensions.connection") -> None:
        self._connection = connection
        self._ahead = timedelta()

    def now(self) -> datetime:
        """What the database says."""
        return datetime.now(UTC) + self._ahead

    def put_forward(self, by: timedelta) -> None:
        """Let time go by; it never goes back."""
        self._ahead += by
        with self._connection.cursor() as cursor:
            cursor.execute("UPDATE clock SET ahead = %s", (self._ahead,))


@contextmanager
def movable(database_url: str) -> Iterator[Clock]:
    """Give a migrated database, to which nobody is connected yet, a clock of its own."""
    connection = psycopg2.connect(database_url.replace("postgresql+psycopg2://", "postgresql://", 1))
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(_INSTALL)
        yield Clock(connection)
    finally:
        connection.close()
