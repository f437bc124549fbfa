"""`bank check` on books that hold, on broken ones, and on none."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Connection

from bank.cli.check import command
from bank.ledger.invariants import CHECKS, Check, Window
from tests.books import Books, small_books


@pytest.fixture(scope="module")
def books(environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    with small_books(environ, as_superuser, tmp_path_factory.mktemp("books")) as made:
        yield made


def check(environ: Mapping[str, str]) -> Result:
    return CliRunner(env={**environ, "COLUMNS": "250"}).invoke(command)


def test_all_checks_are_shown_and_hold(books: Books) -> None:
    done = check(books.environ)
    assert done.exit_code == 0, done.output
    assert "All invariants hold." in done.stdout
    for number, each in enumerate(CHECKS, 1):
        assert f"{number}/{len(CHECKS)} {each.name}\n" in done.stderr
        assert f"{each.name} " in done.stdout


def test_a_violation_is_named_with_its_id_and_ends_in_1(books: Books) -> None:
    damage = "UPDATE daily_balances SET credits = credits + 1 WHERE account_id = :bob"
    with books.broken(damage, damage.replace("+", "-"), bob=books.bob):
        done = check(books.environ)
    assert done.exit_code == 1, done.output
    assert "VIOLATED: closings_are_sums_of_entries. What to do: docs/runbooks/invariant-violated.md" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("closings_are_sums_of_entries"))
    assert row.split()[2:] == ["1", books.bob]


def test_a_check_may_take_longer_than_a_request(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(connection: Connection, _: Window | None) -> list[str]:
        return [str(row[0]) for row in connection.exec_driver_sql("SELECT 'slept' FROM pg_sleep(0.6)")]

    monkeypatch.setattr("bank.db.SERVER_SETTINGS", "-c statement_timeout=300")
    monkeypatch.setattr("bank.cli.check.CHECKS", [Check("slow", False, slow)])
    assert "VIOLATED: slow" in check(books.environ).stdout


def test_a_database_out_of_reach_is_no_violation(books: Books) -> None:
    done = check({**books.environ, "DATABASE_URL": "postgresql://bank:none@127.0.0.1:1/bank"})
    assert done.exit_code == 2, done.output
    assert "cannot be reached" in done.stderr
