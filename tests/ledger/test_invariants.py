"""The invariants: a superuser's hands break the books in one place, and the checks name just that."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from threading import Event, Thread

import pytest
from sqlalchemy import Connection, NullPool, create_engine, text

from bank.db import reader
from bank.ledger import invariants
from bank.ledger.invariants import CHECKS, Window, customers_accounts, window_after
from tests.books import Books, small_books


@pytest.fixture(scope="module")
def books(environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    """Books of their own, with every kind of transaction in them."""
    with small_books(environ, as_superuser, tmp_path_factory.mktemp("books")) as made:
        yield made


@pytest.fixture
def superuser(books: Books) -> Iterator[Connection]:
    """A transaction past all triggers and foreign keys; nothing of it stays."""
    with create_engine(books.superuser_url, poolclass=NullPool).connect() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        yield connection
        connection.rollback()


def violations(connection: Connection, window: Window | None = None) -> dict[str, list[str]]:
    """What the checks find, without those that find nothing."""
    found = {check.name: check.find(connection, window) for check in CHECKS}
    return {name: ids for name, ids in found.items() if ids}


def test_books_that_saw_business_violate_nothing(books: Books, superuser: Connection) -> None:
    statuses = superuser.execute(text("SELECT DISTINCT status FROM transactions")).scalars().all()
    assert set(statuses) == {"completed", "failed", "pending", "rolled_back"}
    assert violations(superuser) == {}
    window = window_after(superuser, None)
    assert window.first_account <= books.alice < books.bob <= window.last_account
    assert violations(superuser, window) == {}


LAST = "version = (SELECT max(version) FROM entries WHERE account_id = :alice)"

# What somebody does to the books, and what the checks say to it: by name, about whom.
DAMAGE: dict[str, tuple[str, dict[str, set[str]]]] = {
    "an entry of another amount": (
        "UPDATE entries SET amount = amount + 1 WHERE account_id = :alice AND transaction_id = :transfer",
        {"transactions_sum_to_zero": {"transfer"}, "entries_follow_each_other": {"alice"}, "balance_is_sum_of_entries": {"alice"}},
    ),
    "both sides of another amount, and all that follows from them": (
        """WITH side AS (UPDATE entries SET amount = amount + sign(amount), balance = balance + sign(amount)
                          WHERE transaction_id = :transfer RETURNING account_id, version, sign(amount) AS more),
                later AS (UPDATE entries e SET balance = e.balance + side.more FROM side
                           WHERE e.account_id = side.account_id AND e.version > side.version),
                closed AS (UPDATE daily_balances d SET closing = closing + side.more FROM side
                            WHERE d.account_id = side.account_id AND day > '2024-03-01')
           UPDATE balances b SET amount = b.amount + side.more FROM side WHERE b.account_id = side.account_id""",
        {"transactions_move_their_amount": {"transfer"}},
    ),
    "a failed transaction that is called completed": (
        "UPDATE transactions SET status = 'completed', failure_code = NULL WHERE id = :failed",
        {"transactions_move_their_amount": {"failed"}},
    ),
    "a posted transaction that is called pending": (
        "UPDATE transactions SET status = 'pending' WHERE id = :transfer",
        {"transactions_move_their_amount": {"transfer"}},
    ),
    "a posted transaction that is called failed": (
        "UPDATE transactions SET status = 'failed', failure_code = 'account_frozen' WHERE id = :rolled_back",
        {"transactions_move_their_amount": {"rolled_back"}},
    ),
    "entries without their transaction": (
        "DELETE FROM transactions WHERE id = :transfer",
        {"entries_belong_somewhere": {"alice", "bob"}},
    ),
    "an entry in another currency than its account's": (
        "UPDATE entries SET currency = 'EUR' WHERE transaction_id = :transfer AND account_id = :alice",
        {"entries_belong_somewhere": {"alice"}, "transactions_sum_to_zero": {"transfer"}},
    ),
    "an entry moved up to leave a gap": (
        f"UPDATE entries SET version = version + 1 WHERE account_id = :alice AND {LAST}",
        {"entries_have_no_gaps": {"alice"}},
    ),
    "entries that begin at zero": (
        "UPDATE entries SET version = version - 1 WHERE account_id = :alice",
        {"entries_have_no_gaps": {"alice"}},
    ),
    "a balance of another version": (
        "UPDATE balances SET version = version + 1 WHERE account_id = :alice",
        {"entries_have_no_gaps": {"alice"}},
    ),
    "a balance in the middle that does not follow": (
        "UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND version = 2",
        {"entries_follow_each_other": {"alice"}},
    ),
    "a first balance from nowhere": (
        "UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND version = 1",
        {"entries_follow_each_other": {"alice"}},
    ),
    "a balance at the end of bigint": (
        "UPDATE entries SET balance = 9223372036854775807 WHERE account_id = :bob AND version = 1",
        {"entries_follow_each_other": {"bob"}},
    ),
    "all entries raised with their balances": (
        """UPDATE entries SET balance = balance + 100, amount = CASE version WHEN 1 THEN amount + 100 ELSE amount END
            WHERE account_id = :alice""",
        {
            "balance_is_sum_of_entries": {"alice"},
            "balance_is_that_of_last_entry": {"alice"},
            "transactions_sum_to_zero": {"first"},
            "transactions_move_their_amount": {"first"},
        },
    ),
    "a last entry of another balance": (
        f"UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND {LAST}",
        {"balance_is_that_of_last_entry": {"alice"}, "entries_follow_each_other": {"alice"}},
    ),
    "money made from nothing": (
        "UPDATE balances SET amount = amount + 1000000 WHERE account_id = :alice",
        {
            "balance_is_sum_of_entries": {"alice"},
            "balance_is_that_of_last_entry": {"alice"},
            "balance_is_last_closing": {"alice"},
            "currencies_sum_to_zero": {"USD"},
        },
    ),
    "another closing balance": (
        """UPDATE daily_balances SET closing = closing - 1
            WHERE account_id = :bob AND day = (SELECT max(day) FROM daily_balances WHERE account_id = :bob)""",
        {"balance_is_last_closing": {"bob"}},
    ),
    "no closing balances": ("DELETE FROM daily_balances WHERE account_id = :bob", {"balance_is_last_closing": {"bob"}}),
    "a balance under its limit": (
        "ALTER TABLE balances DROP CONSTRAINT ck_balances_not_under_limit; UPDATE balances SET held = amount + 1 WHERE account_id = :bob",
        {"balance_is_within_limit": {"bob"}},
    ),
    "an event taken out of a transaction's stream": (
        "DELETE FROM events WHERE stream_id = :transfer AND version = 1",
        {"streams_have_no_gaps": {"transfer"}},
    ),
    "an event moved up in an account's stream": (
        "UPDATE events SET version = 2 WHERE stream_id = :alice",
        {"streams_have_no_gaps": {"alice"}, "streams_end_where_state_is": {"alice"}},
    ),
    "the end of a stream cut off": (
        "DELETE FROM events WHERE stream_id = :rolled_back AND version = 3",
        {"streams_end_where_state_is": {"rolled_back"}},
    ),
    "a stream that is gone": ("DELETE FROM events WHERE stream_id = :failed", {"streams_end_where_state_is": {"failed"}}),
    "a transaction that has waited for long": (
        "UPDATE transactions SET created_at = now() - interval '2 minutes' WHERE id = :pending",
        {"queue_is_young": {"lane"}},
    ),
}


@pytest.mark.parametrize("scope", ["everything", "window"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_named_by_what_it_violates(books: Books, superuser: Connection, damage: str, scope: str) -> None:
    statement, expected = DAMAGE[damage]
    ids = {name: getattr(books, name) for name in ("alice", "bob", "transfer", "rolled_back", "failed", "pending")}
    query = "SELECT transaction_id::text FROM entries WHERE account_id = :alice AND version = 1"
    names = ids | {
        "USD": "USD",
        "first": superuser.execute(text(query), ids).scalar_one(),
        "lane": f"lane {superuser.execute(text('SELECT lane FROM transactions WHERE id = :pending'), ids).scalar_one()}",
    }
    window = window_after(superuser, None) if scope == "window" else None
    for part in statement.split("; "):
        assert superuser.execute(text(part), ids).rowcount
    assert violations(superuser, window) == {check: sorted(names[name] for name in about) for check, about in expected.items()}


def test_every_check_has_its_damage() -> None:
    assert {check for _, expected in DAMAGE.values() for check in expected} == {check.name for check in CHECKS}


def once_round(connection: Connection) -> list[Window]:
    """The windows from the first until all accounts and all transactions were in one."""
    windows = [window_after(connection, None)]
    seen = {(windows[0].first_account, windows[0].first_seq)}
    while (window := window_after(connection, windows[-1])) and (window.first_account, window.first_seq) not in seen:
        windows.append(window)
        seen.add((window.first_account, window.first_seq))
    return windows


def test_windows_go_over_all_accounts_and_keep_to_their_size(superuser: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = dict(superuser.execute(text("SELECT account_id::text, version FROM balances ORDER BY account_id")).all())
    assert max(entries.values()) > 3, "no account is too large for a window"

    def slices() -> list[list[str]]:
        found = [[account for account in entries if w.first_account <= account <= w.last_account] for w in once_round(superuser)]
        assert list(chain.from_iterable(found)) == list(entries)
        return found

    assert len(slices()) == 1
    monkeypatch.setattr(invariants, "_WINDOW_ACCOUNTS", 2)
    assert {len(accounts) for accounts in slices()} <= {1, 2}
    monkeypatch.setattr(invariants, "_WINDOW_ACCOUNTS", 100)
    monkeypatch.setattr(invariants, "_WINDOW_ENTRIES", 3)
    assert len(slices()) > 1
    assert all(len(accounts) == 1 or sum(entries[account] for account in accounts) <= 3 for accounts in slices())


def test_windows_go_over_all_transactions_and_keep_to_their_size(superuser: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(invariants, "_WINDOW_TRANSACTIONS", 2)
    numbers = superuser.execute(text("SELECT seq FROM transactions ORDER BY seq")).scalars().all()
    found = [[seq for seq in numbers if w.first_seq <= seq <= w.last_seq] for w in once_round(superuser)]
    assert list(chain.from_iterable(found)) == numbers
    assert {len(some) for some in found} <= {1, 2}


def test_a_bank_without_transactions_has_a_window_all_the_same(superuser: Connection) -> None:
    for table in ("transactions", "entries", "daily_balances"):
        superuser.execute(text(f"DELETE FROM {table}"))
    superuser.execute(text("DELETE FROM events WHERE type LIKE 'Transaction%'"))
    superuser.execute(text("UPDATE balances SET amount = 0, version = 0"))
    window = window_after(superuser, None)
    assert (window.first_seq, window.last_seq) == (None, None)
    assert violations(superuser, window) == {}


def test_a_window_sees_no_damage_elsewhere(books: Books, superuser: Connection) -> None:
    superuser.execute(text("UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND version = 1"), {"alice": books.alice})
    superuser.execute(text("UPDATE transactions SET amount = amount + 1 WHERE id = :transfer"), {"transfer": books.transfer})
    seq = superuser.execute(text("SELECT seq FROM transactions WHERE id = :transfer"), {"transfer": books.transfer}).scalar_one()
    assert violations(superuser, Window(books.bob, books.bob, seq + 1, seq + 100)) == {}
    assert violations(superuser, Window(books.alice, books.alice, seq, seq)) == {
        "entries_follow_each_other": [books.alice],
        "transactions_move_their_amount": [books.transfer],
    }


def test_a_violation_concerns_its_customers_and_never_the_outside(books: Books, superuser: Connection) -> None:
    outside = superuser.execute(text("SELECT account_id::text FROM balances WHERE user_id IS NULL")).scalars().all()
    credit = superuser.execute(text("SELECT id::text FROM transactions WHERE type = 'credit' AND to_account_id = :bob"), {"bob": books.bob})
    assert customers_accounts(superuser, [books.alice, *outside]) == [books.alice]
    assert customers_accounts(superuser, [books.failed]) == [books.alice, books.bob]
    assert customers_accounts(superuser, [credit.scalar_one()]) == [books.bob]
    assert customers_accounts(superuser, outside) == []


def test_no_check_is_misled_while_the_bank_posts(books: Books) -> None:
    teller, stop = books.teller, Event()
    posted: list[str] = []

    def post() -> None:
        while not stop.is_set():
            for source, target in ((books.alice, books.bob), (books.bob, books.alice)):
                transfer = teller.post(
                    "/transactions/transfer", from_account_id=source, to_account_id=target, amount="1.00", currency="USD"
                )
                books.drain()
                posted.append(teller.post(f"/transactions/{transfer}/rollback", reason="back", amount="0.40"))

    posting = Thread(target=post)
    posting.start()
    try:
        with books.app.app_context(), reader() as session:
            connection = session.connection()
            rounds = 0
            while len(posted) < 40 and posting.is_alive():
                window = window_after(connection, None)
                assert violations(connection) == {}
                assert violations(connection, window) == {}
                rounds += 1
    finally:
        stop.set()
        posting.join()
    assert len(posted) >= 40 and rounds >= 3, (len(posted), rounds)
