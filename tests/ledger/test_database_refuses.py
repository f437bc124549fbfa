"""The last line of defence: what the database refuses, whoever asks and whatever the code above it does."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bank.db import reader, unit_of_work
from bank.web.context import new_id

APPEND_ONLY = ["entries", "events", "audit_logs"]


@pytest.fixture
def refused(app):
    """Run a statement that must be refused with this SQLSTATE, and see that nothing came of it."""

    def run(sqlstate, statement, **parameters):
        with app.app_context():
            with pytest.raises(DBAPIError) as error, unit_of_work() as session:
                session.execute(text(statement), parameters)
            assert error.value.orig.pgcode == sqlstate, error.value.orig
            return str(error.value.orig)

    return run


@pytest.fixture
def row(app):
    """The first row of a query."""

    def read(query, **parameters):
        with app.app_context(), reader() as session:
            return session.execute(text(query), parameters).first()

    return read


@pytest.fixture
def moved(alice, bob, funded, post_all):
    """Alice paid Bob; returns the transaction with its entries."""
    funded(alice)
    response = alice.post("/transactions/transfer", {"to_user_id": bob.id, "amount": "40.00", "currency": "USD"})
    post_all()
    return alice.get(f"/transactions/{response.json['id']}").json


RESTRICTED, UNIQUE, CHECK, FOREIGN, NULL = "23001", "23505", "23514", "23503", "23502"


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_what_was_written_once_cannot_be_changed_deleted_or_cut_off(refused, row, moved, table):
    column = {"entries": "amount", "events": "version", "audit_logs": "id"}[table]
    before = row(f"SELECT count(*), sum({column}) FROM {table}")
    told = refused(RESTRICTED, f"UPDATE {table} SET {column} = {column}" if table != "audit_logs" else "UPDATE audit_logs SET action = 'x'")
    assert f"{table} is append-only: UPDATE is refused" in told
    refused(RESTRICTED, f"DELETE FROM {table}")
    refused(RESTRICTED, f"TRUNCATE {table} CASCADE")
    # Not even where nothing would be hit: the statement itself is the offence.
    refused(RESTRICTED, f"DELETE FROM {table} WHERE false")
    assert row(f"SELECT count(*), sum({column}) FROM {table}") == before


ENTRY = """INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
           SELECT account_id, version + :ahead, transaction_id, :currency, amount + :more, balance, effective_at, posted_at
             FROM entries WHERE transaction_id = :id"""


def test_entries_that_do_not_sum_to_zero_are_refused(refused, moved):
    told = refused(CHECK, f"{ENTRY} AND amount > 0", id=moved["id"], ahead=1000, currency="USD", more=0)
    assert "do not sum to zero" in told
    refused(CHECK, ENTRY, id=moved["id"], ahead=1000, currency="USD", more=1)


def test_entries_that_sum_to_zero_only_over_two_currencies_are_refused(refused, moved):
    mixed = ENTRY.replace(":currency", "CASE WHEN amount > 0 THEN 'USD' ELSE 'EUR' END")
    refused(CHECK, mixed, id=moved["id"], ahead=1000, more=0)


def test_an_entry_needs_its_account_and_its_transaction(refused, moved):
    no_account = ENTRY.replace("SELECT account_id,", "SELECT CAST(:strange AS uuid),").replace(
        "version + :ahead", ":ahead + row_number() OVER ()"
    )
    no_transaction = ENTRY.replace("transaction_id, :currency", "CAST(:strange AS uuid), :currency")
    for strange in (no_account, no_transaction):
        refused(FOREIGN, strange, id=moved["id"], ahead=1000, currency="USD", more=0, strange=new_id())


def test_an_accounts_versions_are_unique(refused, moved):
    refused(UNIQUE, ENTRY, id=moved["id"], ahead=0, currency="USD", more=0)


def test_an_entry_of_nothing_is_refused(refused, moved):
    refused(CHECK, ENTRY.replace("amount + :more", "0 * :more"), id=moved["id"], ahead=1000, currency="USD", more=0)


def test_an_entry_that_counts_from_later_than_it_was_posted_is_refused(refused, moved):
    late = ENTRY.replace("effective_at, posted_at\n", "posted_at + interval '1 microsecond', posted_at\n")
    refused(CHECK, late, id=moved["id"], ahead=1000, currency="USD", more=0)


def test_an_event_stream_has_each_version_once(refused, moved):
    refused(
        UNIQUE,
        "INSERT INTO events (stream_id, version, type, data) SELECT stream_id, version, type, data FROM events WHERE stream_id = :id",
        id=moved["id"],
    )


@pytest.mark.parametrize(
    "change",
    [
        "amount = -1",
        "held = amount + 1",
        "held = -1",
        "overdraft_limit = -1",
        "status = 'closed'",
        "status = 'gone'",
        "status = 'closed', amount = 0, held = 1, overdraft_limit = 5",
    ],
)
def test_a_balance_that_breaks_its_rules_is_refused(refused, moved, change):
    refused(CHECK, f"UPDATE balances SET {change} WHERE account_id = :id", id=moved["from_account_id"])


def test_a_balance_may_stand_at_its_limit_and_not_under_it(app, refused, row, moved):
    account = moved["from_account_id"]
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE balances SET overdraft_limit = 500 WHERE account_id = :id"), {"id": account})
        session.execute(text("UPDATE balances SET amount = -500 WHERE account_id = :id"), {"id": account})
        session.rollback()
    refused(CHECK, "UPDATE balances SET overdraft_limit = 500, amount = -501 WHERE account_id = :id", id=account)
    assert row("SELECT amount FROM balances WHERE account_id = :id", id=account).amount == 6000


@pytest.mark.parametrize(
    ("change", "sqlstate"),
    [
        ("amount = 0", CHECK),
        ("amount = -1", CHECK),
        ("to_amount = 0", CHECK),
        ("type = 'gift'", CHECK),
        ("status = 'gone'", CHECK),
        ("status = 'failed'", CHECK),
        ("failure_code = 'insufficient_funds'", CHECK),
        ("type = 'rollback'", CHECK),
        ("rolled_back_amount = amount + 1", CHECK),
        ("rolled_back_amount = -1", CHECK),
        ("reverses_id = id", CHECK),
        ("to_account_id = '019b2f6e-8a00-7000-8000-000000000001'", FOREIGN),
        ("from_user_id = '019b2f6e-8a00-7000-8000-000000000001'", FOREIGN),
        ("seq = (SELECT min(seq) FROM transactions)", UNIQUE),
        ("currency = NULL", NULL),
    ],
)
def test_a_transaction_that_makes_no_sense_is_refused(refused, moved, change, sqlstate):
    refused(sqlstate, f"UPDATE transactions SET {change} WHERE id = :id", id=moved["id"])


@pytest.mark.parametrize(
    ("values", "sqlstate"),
    [
        ("CAST(:user AS uuid), 'USD', 'customer', true", UNIQUE),
        ("CAST(:user AS uuid), 'usd', 'customer', false", CHECK),
        ("CAST(:user AS uuid), 'USDX', 'customer', false", CHECK),
        ("CAST(:user AS uuid), 'USD', 'outside', false", CHECK),
        ("NULL, 'USD', 'customer', false", CHECK),
        ("CAST(:user AS uuid), 'USD', 'secret', false", CHECK),
        ("CAST(:stranger AS uuid), 'USD', 'customer', false", FOREIGN),
    ],
)
def test_an_account_that_makes_no_sense_is_refused(refused, moved, values, sqlstate):
    statement = f"""INSERT INTO accounts (id, user_id, currency, kind, is_default, version)
                    SELECT CAST(:id AS uuid), {values}, 1 WHERE :user <> :stranger"""
    refused(sqlstate, statement, id=new_id(), user=moved["from_user_id"], stranger=new_id())


@pytest.mark.parametrize("change", ["role = 'king'", "status = 'gone'"])
def test_a_user_that_makes_no_sense_is_refused(refused, alice, change):
    refused(CHECK, f"UPDATE users SET {change} WHERE id = :id", id=alice.id)


@pytest.mark.parametrize("column", ["username", "email"])
def test_two_users_of_one_name_are_refused_in_any_case(refused, alice, bob, column):
    refused(
        UNIQUE,
        f"UPDATE users SET {column} = upper((SELECT {column} FROM users WHERE id = :alice)) WHERE id = :bob",
        alice=alice.id,
        bob=bob.id,
    )


def test_a_key_is_stored_once_for_a_user_and_route(app, refused, alice, bob, funded):
    funded(alice)
    headers = {"Idempotency-Key": "order-1"}
    first = alice.post("/transactions/transfer", {"to_user_id": bob.id, "amount": "1.00", "currency": "USD"}, headers=headers)
    refused(UNIQUE, "INSERT INTO idempotency_keys SELECT * FROM idempotency_keys WHERE transaction_id = :id", id=first.json["id"])
