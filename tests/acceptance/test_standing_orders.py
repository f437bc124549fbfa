"""PKDD'99's standing orders as schedules, and a year of them: twelve runs each, to the heller."""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from sqlalchemy import text

from bank import create_app
from bank.accounts.many import open_many
from bank.cli.rebuild import command
from bank.config import Config
from bank.db import db, unit_of_work
from bank.events.types import Origin
from bank.processing.processor import drain_once
from bank.schedules import jobs
from bank.schedules.service import Policy, Wanted, create_many
from bank.schedules.timing import Timing
from bank.transactions.parties import Found, Party
from tests.acceptance.reference import Year
from tests.faults.conftest import broken_books
from tests.processes import fresh_database, query

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

PRAGUE = ZoneInfo("Europe/Prague")
YEAR = 2031
LAST_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


@dataclass(frozen=True)
class Order:
    """A standing order of the file. Its day is not told there: each has one of the 31 by its number."""

    number: int
    account: str
    partner: str
    amount: Decimal
    purpose: str

    @property
    def day(self) -> int:
        return self.number % 31 + 1

    @property
    def days(self) -> list[date]:
        """When it is to be paid in the year: on its day, or the month's last."""
        return [date(YEAR, month, min(self.day, last)) for month, last in enumerate(LAST_DAYS, 1)]


@pytest.fixture(scope="module")
def orders(year: Year) -> list[Order]:
    """All of them, by plain reading of the file."""
    with (year.path.parent / "order.csv").open(encoding="ascii", newline="") as file:
        return [
            Order(int(row["order_id"]), row["account_id"], f"{row['bank_to']}/{row['account_to']}", Decimal(row["amount"]), row["k_symbol"])
            for row in csv.DictReader(file, delimiter=";")
        ]


def load(orders: list[Order]) -> dict[str, str]:
    """Schedule every order, from its account to one that stands for the partner's; the accounts' ids by name."""
    names = sorted({order.account for order in orders} | {order.partner for order in orders})
    with unit_of_work() as session:
        user = session.execute(text("SELECT id::text FROM users")).scalar_one()
        origin = Origin(actor_id=user)
        ids = open_many(session, user, "CZK", names, origin, overdraft_limit=10**9)

    def party(name: str) -> Party:
        return Party(ids[name], user, "CZK")

    timings = {
        day: Timing.recurring(f"FREQ=MONTHLY;BYMONTHDAY={day}", "Europe/Prague", datetime(YEAR, 1, 1, 6, tzinfo=PRAGUE), "last_day")
        for day in range(1, 32)
    }
    wanted = [
        Wanted(
            Found(party(order.account), party(order.partner), int(order.amount.scaleb(2)), "CZK"),
            timings[order.day],
            Policy("catch_up"),
            name=order.purpose.strip() or None,
            reference=str(order.number),
        )
        for order in orders
    ]
    for start in range(0, len(wanted), 1000):
        with unit_of_work() as session:
            create_many(session, wanted[start : start + 1000], datetime(YEAR, 1, 1, tzinfo=UTC), origin)
    return ids


def days() -> Iterator[date]:
    day = date(YEAR, 1, 1)
    while day.year == YEAR:
        yield day
        day += timedelta(days=1)


def test_a_year_of_standing_orders_is_paid_to_the_heller(environ: Mapping[str, str], orders: list[Order], tmp_path) -> None:
    assert len(orders) == 6_471
    with fresh_database(environ, tmp_path) as own:
        app = create_app(Config.from_env(own))
        with app.app_context():
            ids = load(orders)
            due, paid = Counter(day for order in orders for day in order.days), 0
            for day in days():
                at_six = datetime(day.year, day.month, day.day, 6, tzinfo=PRAGUE)
                weekly = day.day % 7 == 1
                # Before six in Prague nothing is due, whatever the season, and at six all of the day.
                assert not weekly or jobs.run_due(at_six - timedelta(seconds=1)) == 0
                while jobs.run_due(at_six):
                    pass
                paid += due[day]
                if weekly or day == date(YEAR, 12, 31):
                    for lane in range(app.config["BANK"].lanes):
                        while drain_once(lane):
                            pass
                    assert query(own, "SELECT count(*) FROM transactions WHERE status = 'completed'") == [(paid,)]
            for engine in db.engines.values():
                engine.dispose()
        assert paid == 12 * len(orders) == 77_652

        runs = query(
            own,
            """SELECT s.reference, array_agg((r.due_at AT TIME ZONE 'Europe/Prague')::date ORDER BY r.due_at),
                      array_agg(DISTINCT (r.due_at AT TIME ZONE 'Europe/Prague')::time::text), array_agg(DISTINCT t.status),
                      sum(t.amount)::bigint
                 FROM schedules s JOIN schedule_runs r ON r.schedule_id = s.id JOIN transactions t ON t.id = r.transaction_id
                WHERE t.schedule_id = s.id GROUP BY 1""",
        )
        assert {row[0]: tuple(row[1:]) for row in runs} == {
            str(order.number): (order.days, ["06:00:00"], ["completed"], int(order.amount.scaleb(2)) * 12) for order in orders
        }

        expected: dict[str, Decimal] = defaultdict(Decimal)
        for order in orders:
            expected[order.account] -= 12 * order.amount
            expected[order.partner] += 12 * order.amount
        balances = query(own, "SELECT a.name, b.amount FROM balances b JOIN accounts a ON a.id = b.account_id WHERE a.kind = 'customer'")
        assert len(balances) == len(ids) == len(expected)
        assert {name: Decimal(amount).scaleb(-2) for name, amount in balances} == expected
        assert broken_books(own) == []

        checked = CliRunner(env={**own, "COLUMNS": "200"}).invoke(command, ["--check"])
        assert checked.exit_code == 0, checked.output
