"""Row by row and column by column: are the tables that are in use what the events say?"""

from dataclasses import dataclass

from sqlalchemy import Connection

from bank.db import unit_of_work
from bank.rebuild import shadow
from bank.rebuild.projections import SHADOW, TABLES

# How many differences are told of a table; all are counted.
_TOLD = 10

# Never was in an event. That a run needs no further look is found out from its transaction, and no event.
_NOT_COMPARED = {"users": ("password_hash",), "schedule_runs": ("look_at",)}


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that is not what the events say. `columns` are those that differ; none: the row is on one side only."""

    key: str
    live: bool
    told: bool
    columns: tuple[str, ...]

    def __str__(self) -> str:
        if self.live and self.told:
            return f"{self.key}: {', '.join(self.columns)}"
        return f"{self.key}: {'no event tells of it' if self.live else 'the table does not have it'}"


@dataclass(frozen=True, slots=True)
class Compared:
    """A table: how many rows the events make, how many differ, and the first of those."""

    table: str
    rows: int
    different: int
    first: tuple[Difference, ...]


def compare() -> list[Compared]:
    """Hold every projection against its shadow, on one snapshot of a bank that runs on. Needs a filled shadow.

    What was written since the shadow was filled is applied to it first, in the same transaction and for it only, so
    the two sides show the same moment. No writer waits; but whoever follows the log waits for this transaction to end.
    """
    with unit_of_work() as session:
        connection = session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        last = connection.exec_driver_sql("SELECT COALESCE(max(position), 0) FROM events").scalar_one()
        shadow.apply(connection, last)
        shadow.close(connection)
        compared = [_compare(connection, table, key) for table, key in TABLES.items()]
        session.rollback()
    return compared


def _compare(connection: Connection, table: str, key: tuple[str, ...]) -> Compared:
    skipped = _NOT_COMPARED.get(table, ())
    columns = connection.exec_driver_sql(
        """SELECT attname FROM pg_attribute
            WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped AND attname <> ALL(%s::name[]) ORDER BY attnum""",
        (f"public.{table}", list(skipped)),
    ).scalars()
    row = "md5(ROW(" + ", ".join(f"t.{column}" for column in columns) + ")::text)"
    keys = ", ".join(key)
    side = f"SELECT {keys}, {row} AS hash FROM {{schema}}.{table} t"
    different = f"""
        SELECT {keys}, live.hash IS NOT NULL AS live, told.hash IS NOT NULL AS told
          FROM ({side.format(schema="public")}) live FULL JOIN ({side.format(schema=SHADOW)}) told USING ({keys})
         WHERE live.hash IS DISTINCT FROM told.hash
    """
    rows = connection.exec_driver_sql(f"SELECT count(*) FROM {SHADOW}.{table}").scalar_one()
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE different_{table} ON COMMIT DROP AS {different}")
    count = connection.exec_driver_sql(f"SELECT count(*) FROM different_{table}").scalar_one()
    first = connection.exec_driver_sql(
        f"""SELECT concat_ws(' ', {keys}), d.live, d.told,
                   (SELECT array_agg(l.key ORDER BY l.key)
                      FROM public.{table} a JOIN {SHADOW}.{table} b USING ({keys})
                           CROSS JOIN LATERAL json_each(row_to_json(a)) l JOIN LATERAL json_each(row_to_json(b)) r USING (key)
                     WHERE {" AND ".join(f"a.{name} = d.{name}" for name in key)}
                       AND l.value::text IS DISTINCT FROM r.value::text AND l.key <> ALL(%s))
              FROM (SELECT * FROM different_{table} ORDER BY {keys} LIMIT {_TOLD}) d ORDER BY {keys}""",
        (list(skipped),),
    ).all()
    return Compared(table, rows, count, tuple(Difference(key, live, told, tuple(names or ())) for key, live, told, names in first))
