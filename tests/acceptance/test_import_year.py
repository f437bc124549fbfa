"""PKDD'99's year through `bank import`: every balance to the heller, whatever kills it on the way."""

import json
import subprocess
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from tests.acceptance.conftest import assert_api_agrees, assert_api_history_agrees, assert_books_equal, state
from tests.acceptance.reference import Year
from tests.processes import Bank, fresh_database, python, query, wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

# As docs/recipes/import.md shows it.
OPTIONS = [
    *("--delimiter", ";", "--currency", "CZK", "--overdraft-limit", "20000", "--date-format", "%y%m%d", "--century", "19"),
    *("--column", "account=account_id", "--column", "reference=trans_id", "--column", "description=k_symbol"),
    *("--type", "PRIJEM=credit", "--type", "VYDAJ=debit", "--type", "VYBER=debit"),
]


def _start(environ: Mapping[str, str], year: Year, directory: Path, log: str) -> subprocess.Popen[bytes]:
    arguments = ["-m", "bank", "import", year.path, *OPTIONS, "--refused", directory / "refused.csv"]
    return python(arguments, environ, directory / log)


def _run(environ: Mapping[str, str], year: Year, directory: Path, log: str) -> str:
    code = _start(environ, year, directory, log).wait(300)
    output = (directory / log).read_text()
    assert code == 0, output
    assert not (directory / "refused.csv").exists()
    return output


def _ids(environ: Mapping[str, str]) -> dict[str, str]:
    return dict(query(environ, "SELECT name, id::text FROM accounts WHERE kind = 'customer'"))


def _everything_told(bank: Bank, token: str, ids: Mapping[str, str]) -> dict[str, bytes]:
    """What the API tells of the year, to the byte: every balance, every page of history and so every transaction, every page of
    every account's entries, and each account's balance at two times."""
    client, told = bank.client(token), {}

    def tell(path: str) -> bytes:
        answer = client.get(path)
        assert answer.status == 200, answer.body
        told[path] = answer.body
        return answer.body

    def page_by_page(path: str) -> None:
        cursor: str | None = ""
        while cursor is not None:
            cursor = json.loads(tell(f"{path}&cursor={cursor}" if cursor else path))["next_cursor"]

    for path in ("/balances/current?limit=200", "/transactions/history?limit=200", "/accounts?limit=200"):
        page_by_page(path)
    for account_id in ids.values():
        page_by_page(f"/accounts/{account_id}/entries?limit=200")
        for at in ("1993-06-30T12:00:00Z", "1993-12-31T23:59:59.999999Z"):
            tell(f"/balances/at-time?account_id={account_id}&at={at}&known_at=2030-01-01T00:00:00Z")
    client.close()
    return told


def test_a_year_is_imported_to_the_cent_and_a_second_run_changes_nothing(environ, as_superuser, year, tmp_path):
    with fresh_database(environ, tmp_path) as own, Bank(own, tmp_path, workers=1) as bank:
        output = _run(own, year, tmp_path, "first.log")
        assert "28,205 lines: 28,205 posted, 0 there before, 0 refused" in output
        assert "120,442,237.40" in output and "83,866,291.30" in output
        assert "Proven: the totals of every account (1,139) are those of the file." in output
        ids = _ids(own)
        assert_books_equal(own, year, ids)
        token = bank.log_in()
        assert_api_history_agrees(bank, token, year, ids)
        assert_api_agrees(bank, token, year, ids, [date(1993, 1, 31), date(1993, 6, 30), date(1993, 12, 31)])

        before = state(own)
        output = _run(own, year, tmp_path, "second.log")
        assert "nothing was changed" in output
        assert "Proven" in output
        assert state(own) == before

        # Every projection is thrown away, and made again from the events alone: to the same bytes, and so are the API's answers.
        answers = _everything_told(bank, token, ids)
        assert len(answers) > 3 * len(ids)
        tables = ("accounts", "balances", "daily_balances", "transactions", "entries")
        superuser = {"DATABASE_URL": as_superuser(own["DATABASE_URL"])}
        query(superuser, "SET session_replication_role = replica; " + "; ".join(f"DELETE FROM {table}" for table in tables))
        assert state(own)["entries"][0] == 0
        assert python(["-m", "bank", "rebuild", "--swap"], own, tmp_path / "rebuild.log").wait(120) == 0
        assert state(own) == before
        assert _everything_told(bank, token, ids) == answers


def test_an_import_that_is_killed_again_and_again_goes_on_and_doubles_nothing(environ, year, tmp_path):
    done = "SELECT coalesce(max(lines_done), 0) FROM imports"
    with fresh_database(environ, tmp_path) as own:
        stops = []
        for lines in (1, 4000, 11_000, 17_000, 28_206):
            process = _start(own, year, tmp_path, "killed.log")
            # One who is past the last chunk has rows to post still.
            wait_until(lambda lines=lines: query(own, done)[0][0] >= lines, f"{lines} lines are recorded", 120)
            process.kill()
            process.wait()
            stops.append(query(own, done)[0][0])
            assert query(own, "SELECT count(*) FROM transactions")[0][0] >= stops[-1] - 1000
            assert query(own, "SELECT finished_at FROM imports") == [(None,)]
        assert stops == sorted(set(stops)), "each run must have gone on behind the one before"
        assert query(own, "SELECT count(*) FROM transactions WHERE status = 'pending'")[0][0] > 0, "killed too late"

        assert "Proven" in _run(own, year, tmp_path, "last.log")
        assert_books_equal(own, year, _ids(own))
        actions = query(own, "SELECT action, count(*) FROM audit_logs WHERE entity_type = 'import' GROUP BY 1 ORDER BY 1")
        assert actions == [("import.finished", 1), ("import.resumed", 5), ("import.started", 1)]
