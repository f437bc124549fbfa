"""Balances at a time for every mixture of entries that came in order, late, and very late, many of them on one day."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import NullPool, create_engine, event, text

from bank import create_app
from bank.balances import service
from bank.config import Config
from bank.db import db
from bank.web.context import new_id
from tests.filling import CLOSINGS
from tests.processes import fresh_database

BEGAN, FAR = datetime(2024, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)

# Seconds between two postings, and how long before its posting an entry counts: at once, while posting takes its time
# (ten seconds are where late begins), and days before.
_PAUSES = st.sampled_from([0, 0, 0.000001, 3, 40, 30_000, 90_000])
_DELAYS = st.sampled_from([0, 0, 0.000001, 0.2, 9.999999, 10, 10.000001, 60, 20_000, 100_000, 900_000])
entries = st.lists(st.tuples(_PAUSES, _DELAYS, st.integers(-50, 50).filter(bool)), max_size=14)


@pytest.fixture(scope="module")
def made(
    environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[list[tuple[datetime, datetime, int]]], str]]:
    """Make an account with such entries and their closing balances, past the ledger, which posts at its own times; its id."""
    with fresh_database(environ, tmp_path_factory.mktemp("mixtures")) as own:
        app = create_app(Config.from_env(own))
        engine = create_engine(as_superuser(own["DATABASE_URL"]), poolclass=NullPool)

        def make(rows: list[tuple[datetime, datetime, int]]) -> str:
            account = new_id()
            balances = list(accumulate(amount for *_, amount in rows))
            with engine.begin() as connection:
                connection.execute(text("SET session_replication_role = replica"))
                for table in ("entries", "daily_balances", "balances"):
                    connection.execute(text(f"TRUNCATE {table}"))
                effective, posted, amounts = map(list, zip(*rows, strict=True)) if rows else ([], [], [])
                connection.execute(
                    text(
                        """INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
                           SELECT :account, row_number() OVER (), :account, 'USD', amount, balance, effective_at, posted_at
                             FROM unnest(CAST(:amounts AS bigint[]), CAST(:balances AS bigint[]), CAST(:effective AS timestamptz[]),
                                         CAST(:posted AS timestamptz[])) AS e (amount, balance, effective_at, posted_at)"""
                    ),
                    {"account": account, "amounts": amounts, "balances": balances, "effective": effective, "posted": posted},
                )
                connection.execute(text(CLOSINGS))
                connection.execute(
                    text("INSERT INTO balances (account_id, currency, amount, version) VALUES (:account, 'USD', :amount, :version)"),
                    {"account": account, "amount": balances[-1] if balances else 0, "version": len(rows)},
                )
            return account

        with app.app_context():
            yield make
            for each in db.engines.values():
                each.dispose()


def _rows(script: list[tuple[float, float, int]]) -> list[tuple[datetime, datetime, int]]:
    posted = accumulate(script, lambda at, step: at + timedelta(seconds=step[0]), initial=BEGAN + timedelta(days=30))
    return [(at - timedelta(seconds=delay), at, amount) for at, (_, delay, amount) in zip(list(posted)[1:], script, strict=True)]


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(entries)
def test_at_time_is_the_sum_whatever_came_late(made: Callable[[Any], str], script: list[tuple[float, float, int]]) -> None:
    rows = _rows(script)
    account = made(rows)
    turns = {turn for effective_at, posted_at, _ in rows for turn in (effective_at, posted_at)}
    times = sorted({BEGAN, *turns, *(turn - timedelta(microseconds=1) for turn in turns)})
    for at in times:
        # None is answered by another statement than a time to come.
        for known_at in (None, FAR, *times[:: max(1, len(times) // 6)]):
            expected = sum(
                amount for effective_at, posted_at, amount in rows if effective_at <= at and (known_at is None or posted_at <= known_at)
            )
            assert service.at_time(account, at, known_at) == expected, (at, known_at)


@pytest.fixture
def read() -> Callable[[str, datetime, datetime | None], int]:
    """How many entries the server reads for a balance at a time."""
    statements: list[tuple[str, Any]] = []
    engine = db.engines["reader"]

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        statements.append((statement, parameters))

    def read(account: str, at: datetime, known_at: datetime | None) -> int:
        statements.clear()
        event.listen(engine, "before_cursor_execute", note)
        try:
            service.at_time(account, at, known_at)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        with engine.connect() as connection:
            plans = [
                connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters).scalar_one()
                for statement, parameters in statements
            ]
        return sum(rows(plan[0]["Plan"]) for plan in plans)

    def rows(node: dict[str, Any]) -> int:
        here = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) if node.get("Relation Name") == "entries" else 0
        return round(here * node["Actual Loops"]) + sum(rows(child) for child in node.get("Plans", ()))

    return read


def _vacuum() -> None:
    with db.engines["reader"].connect() as connection:
        connection.exec_driver_sql("VACUUM ANALYZE entries")


def test_neither_a_long_day_nor_all_that_came_late_is_summed(made: Callable[[Any], str], read: Callable[..., int]) -> None:
    day = BEGAN + timedelta(days=400)
    busy = [(day + timedelta(seconds=n), day + timedelta(seconds=n), 1) for n in range(10_000)]
    old = [(BEGAN + timedelta(hours=n), day - timedelta(seconds=1), 1) for n in range(8_000)]
    account = made(old + busy)
    _vacuum()
    for known_at in (None, FAR):
        assert read(account, day + timedelta(seconds=9_000), known_at) < 100
        assert read(account, BEGAN + timedelta(days=200), known_at) < 100


def test_what_is_added_up_is_on_the_side_of_the_time_known_at_where_less_came_late(
    made: Callable[[Any], str], read: Callable[..., int]
) -> None:
    """A few entries come late, then many at once, and some more."""
    first, second = BEGAN + timedelta(days=400), BEGAN + timedelta(days=500)
    late = [(BEGAN + timedelta(hours=n), BEGAN + timedelta(days=200, hours=n), 1) for n in range(20)]
    imported = [(BEGAN + timedelta(minutes=20 * n), first, 1) for n in range(20_000)]
    more = [(BEGAN + timedelta(hours=n), second, 1) for n in range(500)]
    came = late + imported + more
    account = made(came)
    _vacuum()
    at = BEGAN + timedelta(days=100)
    for known_at, most in ((first - timedelta(days=1), 300), (first, 4_000), (second, 300)):
        expected = sum(effective_at <= at and posted_at <= known_at for effective_at, posted_at, _ in came)
        assert service.at_time(account, at, known_at) == expected
        assert read(account, at, known_at) < most, known_at
