"""PKDD'99's year 1993, and how the books are held against it."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.reference import Year
from tests.processes import ROOT, Bank, Client, query

# More than gunicorn has processes by far: with fewer, clients and bank wait for each other.
THREADS = 8


@pytest.fixture(scope="session")
def year() -> Year:
    """The data of PKDD'99, which a public clone does not have."""
    directory = Path(os.environ.get("BANK_PKDD99") or ROOT.parent / "shared" / "data" / "pkdd99")
    path = directory / "trans-1993.csv"
    if not path.exists():
        pytest.skip(f"PKDD'99's data is not there: no {path} (BANK_PKDD99 names its directory)")
    return Year(path)


def in_threads(clients: Iterable[Client], work: Callable[[Client, int], Any]) -> list[Any]:
    """Call `work` with each client and its number, each in a thread; raises what one of them raises."""
    clients = list(clients)
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(work, clients, range(len(clients))))


def state(environ: Mapping[str, str]) -> dict[str, tuple[Any, ...]]:
    """How many rows each table has, and a hash over all of them."""
    tables = ["users", "accounts", "balances", "daily_balances", "transactions", "entries", "events", "idempotency_keys"]
    tables += ["imports", "import_accounts", "import_lines"]
    return {
        table: query(environ, f"SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY t::text)) FROM {table} t")[0] for table in tables
    }


def assert_books_equal(environ: Mapping[str, str], year: Year, ids: Mapping[str, str]) -> None:
    """Every balance, every account's every day and every entry are what the file says. `ids` are the accounts'."""
    names = {account_id: account for account, account_id in ids.items()}
    assert len(ids) == len(names) == 1139

    balances = query(environ, "SELECT account_id::text, amount FROM balances WHERE user_id IS NOT NULL")
    assert {names[row[0]]: _crowns(row[1]) for row in balances} == year.balances

    days = query(
        environ,
        "SELECT account_id::text, day, closing, credits, debits, count FROM daily_balances WHERE account_id = ANY(%s::uuid[])",
        list(names),
    )
    found = {(names[row[0]], row[1]): (_crowns(row[2]), _crowns(row[3]), _crowns(row[4]), row[5]) for row in days}
    assert found == {key: (day.closing, day.credits, day.debits, day.count) for key, day in year.days.items()}

    # The bank's order within each account, and every transaction once.
    order = query(
        environ,
        """SELECT e.account_id::text, t.reference, e.amount, e.effective_at::date, e.version
             FROM entries e JOIN transactions t ON t.id = e.transaction_id
            WHERE e.account_id = ANY(%s::uuid[]) ORDER BY t.seq""",
        list(names),
    )
    posted: dict[str, list[tuple[str, Decimal, date, int]]] = {account: [] for account in ids}
    for account_id, reference, amount, day, version in order:
        posted[names[account_id]].append((reference, _crowns(amount), day, version))
    expected = {
        account: [(row.reference, row.signed, row.day, version) for version, row in enumerate(rows, 1)]
        for account, rows in year.by_account.items()
    }
    assert posted == expected

    assert query(environ, "SELECT currency, sum(amount) FROM balances GROUP BY 1") == [("CZK", 0)]
    assert query(environ, "SELECT currency, sum(amount), count(*) FROM entries GROUP BY 1") == [("CZK", 0, 2 * len(year.rows))]
    assert query(environ, "SELECT status, count(*) FROM transactions GROUP BY 1") == [("completed", len(year.rows))]


def assert_api_agrees(bank: Bank, token: str, year: Year, ids: Mapping[str, str], days: Iterable[date]) -> None:
    """The API's balances at the end of `days` are those of the file, for all accounts."""

    def ask(client: Client, number: int) -> list[str]:
        wrong = []
        for account in sorted(ids)[number::THREADS]:
            closings = year.closings(account)
            for day in days:
                answer = client.get(f"/balances/at-time?account_id={ids[account]}&at={day.isoformat()}T23:59:59.999999Z")
                expected = closings[day.timetuple().tm_yday - 1]
                if answer.status != 200 or Decimal(answer.json["amount"]) != expected:
                    wrong.append(f"account {account} on {day}: {answer.body!r}, not {expected}")
        return wrong

    wrong = in_threads([bank.client(token) for _ in range(THREADS)], ask)
    assert not any(wrong), wrong


def assert_api_history_agrees(bank: Bank, token: str, year: Year, ids: Mapping[str, str]) -> None:
    """The API's daily history of every account closes each of the year's 365 days as the file says."""

    def ask(client: Client, number: int) -> list[str]:
        wrong = []
        for account in sorted(ids)[number::THREADS]:
            answer = client.get(
                f"/balances/historical?account_id={ids[account]}&from=1993-01-01T00:00:00Z&to=1994-01-01T00:00:00Z&interval=day"
            )
            if answer.status != 200 or [Decimal(step["closing"]) for step in answer.json["data"]] != year.closings(account):
                wrong.append(f"account {account}: {answer.status}")
        return wrong

    wrong = in_threads([bank.client(token) for _ in range(THREADS)], ask)
    assert not any(wrong), wrong


def _crowns(minor: int) -> Decimal:
    return Decimal(minor).scaleb(-2)
