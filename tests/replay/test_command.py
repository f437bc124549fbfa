"""`bank replay`, as one types it."""

import csv
import io

import orjson
import pytest

from bank.web.fields import timestamp
from tests.conftest import Person
from tests.replay.conftest import Books


@pytest.fixture(scope="module")
def alice(books: Books) -> Person:
    return books.person("alice")


@pytest.fixture(scope="module")
def account(books: Books, alice: Person) -> str:
    account_id = str(alice.open_account("USD", name="=cmd|' /C calc'!A0 [bold]")["id"])
    books.admin.patch(f"/accounts/{account_id}", {"overdraft_limit": "100.00"})
    for path, amount in (("credit", "5.00"), ("debit", "17.34")):
        books.admin.post(f"/transactions/{path}", {"account_id": account_id, "amount": amount, "currency": "USD"})
        books.post_all()
    books.admin.post("/transactions/debit", {"account_id": account_id, "amount": "999.00", "currency": "USD"})
    books.post_all()
    books.admin.post("/transactions/debit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
    return account_id


def test_json_is_one_object_and_nothing_else_is_on_standard_output(books: Books, alice: Person, account: str) -> None:
    result = books.run("replay", "--format", "json")
    told = orjson.loads(result.stdout)
    assert {name: told[name] for name in told if name != "accounts"} == {
        "position": books.end(),
        "started_from": 0,
        "users": 2,
        "submitted": 4,
        "completed": 2,
        "failed": 1,
        "open_holds": 0,
        "voided": 0,
        "pending": 1,
    }
    assert [each["id"] for each in told["accounts"]] == sorted(each["id"] for each in told["accounts"])
    [found] = [each for each in told["accounts"] if each["id"] == account]
    assert found == {
        "id": account,
        "user_id": alice.id,
        "currency": "USD",
        "kind": "customer",
        "name": "=cmd|' /C calc'!A0 [bold]",
        "status": "active",
        "balance": "-12.34",
        "held": "0.00",
        "overdraft_limit": "100.00",
        "version": 2,
    }


def test_csv_holds_the_accounts_with_numbers_as_numbers_and_no_formula(books: Books, account: str) -> None:
    text = books.run("replay", "--format", "csv").stdout_bytes.decode()
    assert text.startswith("id,user_id,currency,kind,name,status,balance,held,overdraft_limit,version\r\n")
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(text))}
    assert rows[account]["name"] == "'=cmd|' /C calc'!A0 [bold]"
    assert (rows[account]["balance"], rows[account]["overdraft_limit"]) == ("-12.34", "100.00")
    own = [row for row in rows.values() if row["kind"] == "outside"]
    assert {(row["user_id"], row["overdraft_limit"]) for row in own} == {("", "")}
    assert "0.00" in {row["balance"] for row in rows.values()}


def test_the_table_shows_the_counts_and_the_accounts(books: Books, account: str) -> None:
    result = books.run("replay", "--account", account)
    lines = result.stdout.splitlines()
    assert f"position     {books.end():,}" in lines and "started_from 0" in lines and "pending      1" in lines
    [row] = [line for line in lines if line.startswith(account)]
    assert "[bold]" in row and "-12.34" in row and row.count(" USD ") == 1
    assert len([line for line in lines if "customer" in line]) == 1


def test_until_takes_positions_and_times(books: Books, account: str) -> None:
    [(position, at)] = books.query("SELECT position, recorded_at FROM events WHERE type = 'TransactionCompleted' ORDER BY 1 LIMIT 1")
    for until in (str(position), timestamp(at), at.isoformat()):
        told = orjson.loads(books.run("replay", "--until", until, "--account", account.upper(), "--format", "json").stdout)
        assert [(each["balance"], each["version"]) for each in told["accounts"]] == [("5.00", 1)]
        assert told["completed"] == 1


@pytest.mark.parametrize(
    "wrong",
    [
        ("--until", ""),
        ("--until", "yesterday"),
        ("--until", "-1"),
        ("--until", "+1"),
        ("--until", "1.5"),
        ("--until", "٣"),
        ("--until", "9" * 20),
        ("--until", "2026-01-31"),
        ("--until", "2026-01-31T12:00:00"),
        ("--until", "2026-02-30T12:00:00Z"),
        ("--account", "x"),
        ("--account", "019b2f6e8a0070008000000000000001"),
        ("--format", "xml"),
    ],
)
def test_a_bad_value_is_a_usage_error(books: Books, wrong: tuple[str, str]) -> None:
    result = books.run("replay", *wrong)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr and result.stdout == ""


def test_an_account_that_was_not_there_then_is_told(books: Books, account: str) -> None:
    for until, unknown in (("0", account), (str(books.end()), "019b2f6e-8a00-7000-8000-000000000001")):
        result = books.run("replay", "--until", until, "--account", unknown)
        assert result.exit_code == 1
        assert f"no account {unknown} then" in result.stderr and result.stdout == ""


def test_a_position_past_the_end_says_where_the_log_ends(books: Books, account: str) -> None:
    result = books.run("replay", "--until", str(books.end() + 1))
    assert result.exit_code == 2
    assert f"The log ends at position {books.end()}." in result.stderr and result.stdout == ""


def test_a_database_that_is_away_is_told(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "environ", {**books.environ, "DATABASE_URL": "postgresql+psycopg2://bank@127.0.0.1:1/bank"})
    result = books.run("replay")
    assert result.exit_code == 2 and "database" in result.stderr


def test_an_event_that_this_version_cannot_read_is_told(books: Books) -> None:
    books.harm("""INSERT INTO events (stream_id, version, type, schema, data)
                  VALUES ('00000000-0000-7000-8000-00000000000f', 1, 'AccountOpened', 2, '{}')""")
    try:
        result = books.run("replay")
        assert result.exit_code == 2 and "a AccountOpened of version 2" in result.stderr
    finally:
        books.harm("DELETE FROM events WHERE type = 'AccountOpened' AND schema = 2")
