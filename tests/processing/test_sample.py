"""The sample of the books that the scheduler rings for: it gets round, it stays on what is broken, it freezes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Connection, text
from structlog.testing import LogCapture

from bank.config import Config
from bank.db import reader
from bank.ledger import invariants
from bank.ledger.invariants import CHECKS, Check, Window, window_after
from bank.processing import sample
from bank.processing.queue import redis
from bank.processing.sample import check_sample
from tests.books import Books, small_books
from tests.processes import Bank, query, wait_until

CLOSING = "UPDATE daily_balances SET credits = credits + 1 WHERE account_id = :account"
REPAIR = CLOSING.replace("+", "-")
NOTHING = {check.name: 0 for check in CHECKS}


@pytest.fixture(scope="module")
def books(environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    with small_books(environ, as_superuser, tmp_path_factory.mktemp("books")) as made:
        yield made


@pytest.fixture(autouse=True)
def _in_the_bank(books: Books) -> Iterator[None]:
    """The application's context, and a sample that begins at the first account."""
    with books.app.app_context():
        redis().delete(sample._KEY)
        yield


def new_account(books: Books) -> str:
    """A new account with money in it."""
    account_id = books.teller.post("/accounts", currency="USD")
    books.teller.post("/transactions/credit", account_id=account_id, amount="10.00", currency="USD")
    books.drain()
    return account_id


@pytest.fixture
def account(books: Books) -> str:
    """An account that only this test has broken."""
    return new_account(books)


@pytest.fixture
def freezing(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Config = books.app.config["BANK"]
    monkeypatch.setitem(books.app.config, "BANK", replace(config, freeze_on_violation=True))


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> LogCapture:
    capture = LogCapture()
    monkeypatch.setattr(sample, "log", structlog.wrap_logger(None, processors=[capture]))
    return capture


def small_windows(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """Let each window hold one account; all of them, once round."""
    monkeypatch.setattr(invariants, "_WINDOW_ACCOUNTS", 1)
    with reader() as session:
        windows = [window_after(session.connection(), None)]
        while (window := window_after(session.connection(), windows[-1])) != windows[0]:
            windows.append(window)
    return windows


def test_whole_books_show_no_violations_and_when_they_were_looked_at(books: Books) -> None:
    with reader() as session:
        now = float(session.execute(text("SELECT EXTRACT(epoch FROM now())")).scalar_one())
    assert check_sample() == NOTHING
    lines = dict(line.rsplit(" ", 1) for line in books.teller.metrics() if not line.startswith("#"))
    assert {lines[f'bank_invariant_violations{{check="{check.name}"}}'] for check in CHECKS} == {"0.0"}
    assert float(lines["bank_invariants_checked_timestamp_seconds"]) >= now - 1


def test_a_violation_becomes_a_metric_and_an_error_line(books: Books, account: str, logged: LogCapture) -> None:
    with books.broken(CLOSING, REPAIR, account=account):
        assert check_sample() == NOTHING | {"closings_are_sums_of_entries": 1}
    assert 'bank_invariant_violations{check="closings_are_sums_of_entries"} 1.0' in books.teller.metrics()
    line = {"event": "invariant_violated", "log_level": "error", "check": "closings_are_sums_of_entries", "violations": 1, "ids": [account]}
    assert logged.entries == [line]
    assert check_sample() == NOTHING
    assert 'bank_invariant_violations{check="closings_are_sums_of_entries"} 0.0' in books.teller.metrics()


def test_samples_get_round_to_every_account_and_begin_anew(books: Books, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = small_windows(monkeypatch)
    assert len(windows) > 3
    seen: list[Window] = []
    look = Check("look", True, lambda connection, window: seen.append(window))  # type: ignore[arg-type, func-returns-value]
    monkeypatch.setattr(sample, "_find", lambda checks, window: {"look": look.find(None, window) or []} if window else {})  # type: ignore[arg-type]
    monkeypatch.setattr(sample, "_OF_A_WINDOW", [look])
    for _ in [*windows, 1]:
        check_sample()
    assert seen == [*windows, windows[0]]


def test_a_broken_window_stays_in_sight_until_it_is_whole(books: Books, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = small_windows(monkeypatch)
    with books.broken(CLOSING, REPAIR, account=books.alice):
        found = [check_sample()["closings_are_sums_of_entries"] for _ in range(2 * len(windows))]
        first = found.index(1)
        assert first < len(windows)
        assert set(found[first:]) == {1}
    assert check_sample() == NOTHING


def test_a_check_that_takes_too_long_does_not_stop_the_round(books: Books, logged: LogCapture, monkeypatch: pytest.MonkeyPatch) -> None:
    def cancelled(connection: Connection, _: Window | None) -> list[str]:
        connection.exec_driver_sql("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)")
        return []

    monkeypatch.setattr(sample, "_OF_A_WINDOW", [Check("endless", True, cancelled)])
    first = small_windows(monkeypatch)[0]
    assert check_sample()["endless"] == 0
    assert logged.entries == [{"event": "invariant_not_checked", "log_level": "error", "check": "endless", "window": first}]
    assert sample._remembered() == (first, [])


def frozen(books: Books, account: str) -> tuple[str, list[str], list[dict[str, str]]]:
    """The account's status, its events' types, and the details of the audit rows that say why it was frozen."""
    types = [row[0] for row in query(books.environ, "SELECT type FROM events WHERE stream_id = %s ORDER BY version", account)]
    details = query(books.environ, "SELECT details FROM audit_logs WHERE entity_id = %s AND action = 'account.changed'", account)
    return books.teller.get(f"/accounts/{account}")["status"], types, [row[0] for row in details]


def test_without_the_setting_nothing_is_frozen(books: Books, account: str) -> None:
    with books.broken(CLOSING, REPAIR, account=account):
        check_sample()
    assert frozen(books, account) == ("active", ["AccountOpened"], [])


@pytest.mark.usefixtures("freezing")
def test_accounts_concerned_are_frozen_once_with_an_event_and_the_reason(books: Books, account: str) -> None:
    with books.broken(CLOSING, REPAIR, account=account):
        for _ in range(3):
            assert check_sample() == NOTHING | {"closings_are_sums_of_entries": 1}
    details = {"status": "frozen", "reason": "invariant violated: closings_are_sums_of_entries"}
    assert frozen(books, account) == ("frozen", ["AccountOpened", "AccountChanged"], [details])
    assert check_sample() == NOTHING


@pytest.mark.usefixtures("freezing")
def test_the_banks_own_accounts_are_never_frozen(books: Books, account: str) -> None:
    # The credit's row is changed: its sides are the customer's account and the outside's.
    damage = "UPDATE transactions SET amount = amount + 1 WHERE to_account_id = :account"
    outside = "SELECT account_id FROM entries WHERE transaction_id = (SELECT id FROM transactions WHERE to_account_id = %s) AND amount < 0"
    closing = "UPDATE daily_balances SET credits = credits + 1 WHERE account_id = :account"
    with books.broken(damage, damage.replace("+", "-"), account=account):
        own = query(books.environ, outside, account)[0][0]
        with books.broken(closing, closing.replace("+", "-"), account=own):
            assert check_sample() == NOTHING | {
                "transactions_move_their_amount": 1,
                "transactions_are_as_events_say": 1,
                "closings_are_sums_of_entries": 1,
            }
    assert frozen(books, account)[0] == "frozen"
    assert query(books.environ, "SELECT DISTINCT status FROM balances WHERE user_id IS NULL") == [("active",)]


@pytest.mark.usefixtures("freezing")
def test_a_row_that_the_database_refuses_to_write_keeps_no_other_account_from_being_frozen(
    books: Books, account: str, logged: LogCapture
) -> None:
    second, third = new_account(books), new_account(books)
    damage = """ALTER TABLE balances DROP CONSTRAINT ck_balances_not_under_limit;
                UPDATE balances SET held = amount + 1 WHERE account_id IN (:account, :third);
                ALTER TABLE balances ADD CONSTRAINT ck_balances_not_under_limit CHECK (amount - held >= -overdraft_limit) NOT VALID;
                UPDATE daily_balances SET credits = credits + 1 WHERE account_id = :second"""
    repair = """UPDATE balances SET held = 0 WHERE account_id IN (:account, :third);
                ALTER TABLE balances VALIDATE CONSTRAINT ck_balances_not_under_limit;
                UPDATE daily_balances SET credits = credits - 1 WHERE account_id = :second"""
    with books.broken(damage, repair, account=account, second=second, third=third):
        assert check_sample() == NOTHING | {
            "balance_is_within_limit": 2,
            "held_is_sum_of_open_holds": 2,
            "closings_are_sums_of_entries": 1,
        }
        status = dict(query(books.environ, "SELECT account_id::text, status FROM balances WHERE user_id IS NOT NULL"))
    assert (status[account], status[second], status[third]) == ("active", "frozen", "active")
    refused = {entry["account_id"] for entry in logged.entries if entry["event"] == "account_not_frozen"}
    assert refused == {account, third}


LIMIT = "UPDATE balances SET overdraft_limit = 500000 WHERE account_id = :account"
NO_LIMIT = LIMIT.replace("500000", "0")


@pytest.mark.usefixtures("freezing")
def test_what_somebody_wrote_to_a_row_is_not_told_by_its_freezing_nor_by_another_change(books: Books, account: str) -> None:
    last = "SELECT data FROM events WHERE stream_id = %s ORDER BY version DESC LIMIT 1"
    with books.broken(LIMIT, NO_LIMIT, account=account):
        for _ in range(3):
            assert check_sample() == NOTHING | {"accounts_are_as_events_say": 1}
        assert query(books.environ, last, account) == [({"name": None, "status": "frozen", "overdraft_limit": 0},)]
        books.teller.patch(f"/accounts/{account}", name="mine")
        assert check_sample() == NOTHING | {"accounts_are_as_events_say": 1}
        assert query(books.environ, last, account) == [({"name": "mine", "status": "frozen", "overdraft_limit": 0},)]
        assert query(books.environ, "SELECT overdraft_limit FROM balances WHERE account_id = %s", account) == [(500000,)]
        # Whoever sets it, though, is told, be it to what the events say or to what is there.
        books.teller.patch(f"/accounts/{account}", overdraft_limit="0.00")
        assert check_sample() == NOTHING
    with books.broken(LIMIT, "SELECT 1", account=account):
        books.teller.patch(f"/accounts/{account}", overdraft_limit="5000.00")
        assert check_sample() == NOTHING
    books.teller.patch(f"/accounts/{account}", overdraft_limit="0.00")


@pytest.mark.usefixtures("freezing")
def test_an_account_is_frozen_though_its_tampered_limit_is_in_use(books: Books, account: str) -> None:
    with books.broken(LIMIT, "SELECT 1", account=account):
        debit = books.teller.post("/transactions/debit", account_id=account, amount="15.00", currency="USD")
        books.drain()
        assert books.teller.get(f"/transactions/{debit}")["status"] == "completed"
        assert check_sample() == NOTHING | {"accounts_are_as_events_say": 1}
    assert frozen(books, account)[0] == "frozen"
    books.teller.patch(f"/accounts/{account}", status="active")
    books.teller.post(f"/transactions/{debit}/rollback", reason="the limit was not the bank's")
    books.drain()
    with books.broken(NO_LIMIT, "SELECT 1", account=account):
        assert check_sample() == NOTHING


@pytest.mark.usefixtures("freezing")
def test_an_account_that_its_events_call_closed_is_not_opened_by_its_freezing(books: Books, logged: LogCapture) -> None:
    damage, repair = (f"UPDATE balances SET status = '{status}' WHERE account_id = :dave" for status in ("active", "closed"))
    with books.broken(damage, repair, dave=books.dave):
        for _ in range(2):
            assert check_sample() == NOTHING | {"accounts_are_as_events_say": 1}
    assert {entry["account_id"] for entry in logged.entries if entry["event"] == "account_not_frozen"} == {books.dave}


@pytest.mark.usefixtures("freezing")
def test_an_account_whose_events_nobody_can_read_keeps_no_other_from_being_frozen(books: Books, account: str, logged: LogCapture) -> None:
    second = new_account(books)
    damage = """CREATE TABLE kept AS SELECT stream_id, data FROM events WHERE stream_id = :account;
                UPDATE events SET data = '["what"]' WHERE stream_id = :account;
                UPDATE daily_balances SET credits = credits + 1 WHERE account_id = :second"""
    repair = """UPDATE events e SET data = kept.data FROM kept WHERE e.stream_id = kept.stream_id;
                UPDATE daily_balances SET credits = credits - 1 WHERE account_id = :second; DROP TABLE kept"""
    with books.broken(damage, repair, account=account, second=second):
        assert check_sample() == NOTHING | {"accounts_are_as_events_say": 1, "closings_are_sums_of_entries": 1}
    assert frozen(books, second)[0] == "frozen"
    assert {entry["account_id"] for entry in logged.entries if entry["event"] == "account_not_frozen"} == {account}


def test_the_scheduler_has_samples_taken(books: Books, account: str, tmp_path: Path) -> None:
    environ = {**books.environ, "BANK_FREEZE_ON_VIOLATION": "true"}
    with books.broken(CLOSING, REPAIR, account=account), Bank(environ, tmp_path, web_workers=1) as bank:
        client = bank.client()

        def shown() -> bool:
            return 'bank_invariant_violations{check="closings_are_sums_of_entries"} 1.0' in client.request("GET", "/metrics").body.decode()

        wait_until(shown, "the violation is in the metrics")
        client.close()
        assert frozen(books, account)[0] == "frozen"
