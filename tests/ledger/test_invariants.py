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
        # However long the tests before took, what is pending came just now.
        pending = {"id": books.pending}
        connection.execute(text("UPDATE events SET recorded_at = now() WHERE stream_id = :id"), pending)
        connection.execute(text("UPDATE transactions SET created_at = now(), effective_at = now() WHERE id = :id"), pending)
        yield connection
        connection.rollback()


def violations(connection: Connection, window: Window | None = None) -> dict[str, list[str]]:
    """What the checks find, without those that find nothing."""
    found = {check.name: check.find(connection, window) for check in CHECKS}
    return {name: ids for name, ids in found.items() if ids}


def test_books_that_saw_business_violate_nothing(books: Books, superuser: Connection) -> None:
    statuses = superuser.execute(text("SELECT DISTINCT status FROM transactions")).scalars().all()
    assert set(statuses) == {"completed", "failed", "pending", "rolled_back", "held", "voided"}
    assert violations(superuser) == {}
    window = window_after(superuser, None)
    assert window.first_account <= books.alice < books.bob <= window.last_account
    assert violations(superuser, window) == {}


LAST = "version = (SELECT max(version) FROM entries WHERE account_id = :alice)"

# What somebody does to the books, and what the checks say to it: by name, about whom.
DAMAGE: dict[str, tuple[str, dict[str, set[str]]]] = {
    "an entry of another amount": (
        "UPDATE entries SET amount = amount + 1 WHERE account_id = :alice AND transaction_id = :transfer",
        {
            "transactions_sum_to_zero": {"transfer"},
            "entries_follow_each_other": {"alice"},
            "balance_is_sum_of_entries": {"alice"},
            "entries_are_as_events_say": {"transfer"},
            "closings_are_sums_of_entries": {"alice"},
        },
    ),
    "both sides of another amount, and all that follows from them": (
        """WITH side AS (UPDATE entries SET amount = amount + sign(amount), balance = balance + sign(amount)
                          WHERE transaction_id = :transfer RETURNING account_id, version, sign(amount) AS more),
                later AS (UPDATE entries e SET balance = e.balance + side.more FROM side
                           WHERE e.account_id = side.account_id AND e.version > side.version),
                closed AS (UPDATE daily_balances d SET closing = closing + side.more FROM side
                            WHERE d.account_id = side.account_id AND day > '2024-03-01')
           UPDATE balances b SET amount = b.amount + side.more FROM side WHERE b.account_id = side.account_id""",
        {
            "transactions_move_their_amount": {"transfer"},
            "entries_are_as_events_say": {"from the transfer on"},
            "closings_are_sums_of_entries": {"alice", "bob"},
        },
    ),
    "a failed transaction that is called completed": (
        "UPDATE transactions SET status = 'completed', failure_code = NULL WHERE id = :failed",
        {"transactions_move_their_amount": {"failed"}, "transactions_are_as_events_say": {"failed"}},
    ),
    "a posted transaction that is called pending": (
        "UPDATE transactions SET status = 'pending' WHERE id = :transfer",
        {"transactions_move_their_amount": {"transfer"}, "transactions_are_as_events_say": {"transfer"}},
    ),
    "a posted transaction that is called failed": (
        "UPDATE transactions SET status = 'failed', failure_code = 'account_frozen' WHERE id = :rolled_back",
        {"transactions_move_their_amount": {"rolled_back"}, "transactions_are_as_events_say": {"rolled_back"}},
    ),
    "entries without their transaction": (
        "DELETE FROM transactions WHERE id = :transfer",
        {"entries_belong_somewhere": {"alice", "bob"}, "transactions_are_as_events_say": {"transfer"}},
    ),
    "an entry in another currency than its account's": (
        "UPDATE entries SET currency = 'EUR' WHERE transaction_id = :transfer AND account_id = :alice",
        {
            "entries_belong_somewhere": {"alice"},
            "transactions_sum_to_zero": {"transfer"},
            "entries_are_as_events_say": {"transfer"},
        },
    ),
    "an entry moved up to leave a gap": (
        f"UPDATE entries SET version = version + 1 WHERE account_id = :alice AND {LAST}",
        {"entries_have_no_gaps": {"alice"}, "entries_are_as_events_say": {"last"}},
    ),
    "entries that begin at zero": (
        "UPDATE entries SET version = version - 1 WHERE account_id = :alice",
        {"entries_have_no_gaps": {"alice"}, "entries_are_as_events_say": {"all of alice's"}},
    ),
    "a balance of another version": (
        "UPDATE balances SET version = version + 1 WHERE account_id = :alice",
        {"entries_have_no_gaps": {"alice"}},
    ),
    "a balance in the middle that does not follow": (
        "UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND version = 2",
        {"entries_follow_each_other": {"alice"}, "entries_are_as_events_say": {"transfer"}},
    ),
    "a first balance from nowhere": (
        "UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND version = 1",
        {"entries_follow_each_other": {"alice"}, "entries_are_as_events_say": {"first"}},
    ),
    "a balance at the end of bigint": (
        "UPDATE entries SET balance = 9223372036854775807 WHERE account_id = :bob AND version = 1",
        {"entries_follow_each_other": {"bob"}, "entries_are_as_events_say": {"bob's first"}},
    ),
    "all entries raised with their balances": (
        """UPDATE entries SET balance = balance + 100, amount = CASE version WHEN 1 THEN amount + 100 ELSE amount END
            WHERE account_id = :alice""",
        {
            "balance_is_sum_of_entries": {"alice"},
            "balance_is_that_of_last_entry": {"alice"},
            "transactions_sum_to_zero": {"first"},
            "transactions_move_their_amount": {"first"},
            "entries_are_as_events_say": {"all of alice's"},
            "closings_are_sums_of_entries": {"alice"},
        },
    ),
    "a last entry of another balance": (
        f"UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND {LAST}",
        {
            "balance_is_that_of_last_entry": {"alice"},
            "entries_follow_each_other": {"alice"},
            "entries_are_as_events_say": {"last"},
        },
    ),
    "a balance of another time": (
        "UPDATE balances SET last_updated_at = last_updated_at + interval '1 second' WHERE account_id = :alice",
        {"balance_is_that_of_last_entry": {"alice"}},
    ),
    "an entry posted before the one before it": (
        "UPDATE entries SET posted_at = posted_at + interval '1 hour' WHERE account_id = :alice AND version = 1",
        {"entries_follow_each_other": {"alice"}, "entries_are_as_events_say": {"first"}},
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
        {"balance_is_last_closing": {"bob"}, "closings_are_sums_of_entries": {"bob"}},
    ),
    "no closing balances": (
        "DELETE FROM daily_balances WHERE account_id = :bob",
        {"balance_is_last_closing": {"bob"}, "closings_are_sums_of_entries": {"bob"}},
    ),
    "a closing balance in between": (
        "UPDATE daily_balances SET closing = closing + 1 WHERE account_id = :alice AND day = '2024-03-01'",
        {"closings_are_sums_of_entries": {"alice"}},
    ),
    "a day's credits": (
        "UPDATE daily_balances SET credits = credits + 1, debits = debits + 1 WHERE account_id = :bob",
        {"closings_are_sums_of_entries": {"bob"}},
    ),
    "a day's count": ("UPDATE daily_balances SET count = count + 1 WHERE account_id = :bob", {"closings_are_sums_of_entries": {"bob"}}),
    "a day without entries": (
        "INSERT INTO daily_balances SELECT account_id, '2024-03-02', closing, 0, 0, 0 FROM daily_balances WHERE day = '2024-03-01' "
        "AND account_id = :alice",
        {"closings_are_sums_of_entries": {"alice"}},
    ),
    "a day that is gone": (
        "DELETE FROM daily_balances WHERE account_id = :alice AND day = '2024-03-01'",
        {"closings_are_sums_of_entries": {"alice"}},
    ),
    "a balance under its limit": (
        "ALTER TABLE balances DROP CONSTRAINT ck_balances_not_under_limit; UPDATE balances SET held = amount + 1 WHERE account_id = :bob",
        {"balance_is_within_limit": {"bob"}, "held_is_sum_of_open_holds": {"bob"}},
    ),
    "more held than holds reserve": (
        "UPDATE balances SET held = held + 1 WHERE account_id = :alice",
        {"held_is_sum_of_open_holds": {"alice"}},
    ),
    "a hold that reserves less": (
        "UPDATE transactions SET held_amount = held_amount - 1 WHERE id = :held",
        {"held_is_sum_of_open_holds": {"alice"}, "transactions_are_as_events_say": {"held"}},
    ),
    "a hold that is called over": (
        "UPDATE transactions SET held_amount = 0, status = 'completed', completed_at = now() WHERE id = :held",
        {"held_is_sum_of_open_holds": {"alice"}, "transactions_are_as_events_say": {"held"}},
    ),
    "a hold that came back to life": (
        "UPDATE transactions SET held_amount = 3, status = 'held', completed_at = NULL WHERE id = :captured",
        {"held_is_sum_of_open_holds": {"alice"}, "transactions_are_as_events_say": {"captured"}},
    ),
    "a hold of which more is called captured": (
        "UPDATE transactions SET captured_amount = captured_amount + 1 WHERE id = :captured",
        {"captured_is_sum_of_captures": {"captured"}, "transactions_are_as_events_say": {"captured"}},
    ),
    "a capture of another hold": (
        "UPDATE transactions SET captures_id = :voided WHERE id = :capture",
        {"captured_is_sum_of_captures": {"held", "voided"}, "transactions_are_as_events_say": {"capture"}},
    ),
    "a posted transfer that is called a hold": (
        "UPDATE transactions SET expires_at = now(), captured_amount = 1 WHERE id = :transfer",
        {
            "transactions_move_their_amount": {"transfer"},
            "captured_is_sum_of_captures": {"transfer"},
            "transactions_are_as_events_say": {"transfer"},
        },
    ),
    "another amount that arrives": (
        "UPDATE transactions SET to_amount = to_amount + 1 WHERE id = :transfer",
        {"transactions_move_their_amount": {"transfer"}, "transactions_are_as_events_say": {"transfer"}},
    ),
    "another amount that an exchange makes arrive": (
        "UPDATE transactions SET to_amount = to_amount + 1 WHERE id = :exchanged",
        {"transactions_move_their_amount": {"exchanged"}, "transactions_are_as_events_say": {"exchanged"}},
    ),
    "other money that arrives": (
        "UPDATE transactions SET to_currency = 'EUR', rate = '1', remainder = '0' WHERE id = :transfer",
        {"transactions_move_their_amount": {"transfer"}, "transactions_are_as_events_say": {"transfer"}},
    ),
    "another remainder of an exchange": (
        "UPDATE transactions SET remainder = '0.25' WHERE id = :exchanged",
        {"remainder_is_sum_of_exchanges": {"euros"}, "transactions_are_as_events_say": {"exchanged"}},
    ),
    "a remainder that is no number": (
        "UPDATE transactions SET remainder = 'much' WHERE id = :exchanged",
        {"remainder_is_sum_of_exchanges": {"euros"}, "transactions_are_as_events_say": {"exchanged"}},
    ),
    "a remainder that no exchange left": (
        "UPDATE balances SET remainder = remainder + 0.25 WHERE account_id = :alice",
        {"remainder_is_sum_of_exchanges": {"alice"}},
    ),
    "an exchange's money in the other currency": (
        "UPDATE entries SET currency = 'EUR' WHERE transaction_id = :exchanged AND account_id = :alice",
        {
            "transactions_sum_to_zero": {"exchanged"},
            "entries_belong_somewhere": {"alice"},
            "entries_are_as_events_say": {"exchanged"},
        },
    ),
    "a void that is called a transfer": (
        "UPDATE transactions SET status = 'completed', voids_id = NULL WHERE id = :void",
        {"transactions_move_their_amount": {"void"}, "transactions_are_as_events_say": {"void"}},
    ),
    "what became of a hold taken from its stream": (
        "DELETE FROM events WHERE stream_id = :voided AND version = 3",
        {"streams_end_where_state_is": {"voided"}, "transactions_are_as_events_say": {"voided"}},
    ),
    "an event taken out of a transaction's stream": (
        "DELETE FROM events WHERE stream_id = :transfer AND version = 1",
        {
            "streams_have_no_gaps": {"transfer"},
            "transactions_are_as_events_say": {"transfer"},
            "entries_are_as_events_say": {"transfer"},
        },
    ),
    "an event moved up in an account's stream": (
        "UPDATE events SET version = 2 WHERE stream_id = :alice",
        {"streams_have_no_gaps": {"alice"}, "streams_end_where_state_is": {"alice"}},
    ),
    "the end of a stream cut off": (
        "DELETE FROM events WHERE stream_id = :rolled_back AND version = 3",
        {"streams_end_where_state_is": {"rolled_back"}, "transactions_are_as_events_say": {"rolled_back"}},
    ),
    "a stream that is gone": (
        "DELETE FROM events WHERE stream_id = :failed",
        {"streams_end_where_state_is": {"failed"}, "transactions_are_as_events_say": {"failed"}},
    ),
    "a transaction's event without its transaction": (
        "DELETE FROM transactions WHERE id = :failed",
        {"transactions_are_as_events_say": {"failed"}},
    ),
    "an account's first event taken away": (
        "DELETE FROM events WHERE stream_id = :alice",
        {"streams_end_where_state_is": {"alice"}, "accounts_are_as_events_say": {"alice"}},
    ),
    "an account without its balance": (
        "DELETE FROM balances WHERE account_id = :carol",
        {"accounts_are_as_events_say": {"carol"}},
    ),
    "a balance without its account": (
        "DELETE FROM accounts WHERE id = :carol",
        {"accounts_are_as_events_say": {"carol"}},
    ),
    "an entry that counts from another time of its day": (
        "UPDATE entries SET effective_at = '2024-03-01 13:00Z' WHERE account_id = :alice AND version = 1",
        {"entries_are_as_events_say": {"first"}},
    ),
    "an entry with another transaction": (
        "UPDATE entries SET transaction_id = :rolled_back WHERE account_id = :alice AND transaction_id = :transfer",
        {
            "transactions_sum_to_zero": {"transfer", "rolled_back"},
            "entries_are_as_events_say": {"transfer", "rolled_back"},
        },
    ),
    "an entry that no event tells of": (
        "INSERT INTO entries SELECT account_id, version + 1, transaction_id, currency, 1, balance + 1, effective_at, posted_at "
        f"FROM entries WHERE account_id = :alice AND {LAST}",
        {
            "transactions_sum_to_zero": {"last"},
            "transactions_move_their_amount": {"last"},
            "entries_have_no_gaps": {"alice"},
            "balance_is_sum_of_entries": {"alice"},
            "balance_is_that_of_last_entry": {"alice"},
            "closings_are_sums_of_entries": {"alice"},
            "entries_are_as_events_say": {"last"},
        },
    ),
    "an event that tells of an entry too many": (
        """UPDATE events SET data = json_build_object('entries', (data->'entries')::jsonb || (data->'entries'->0)::jsonb)
            WHERE stream_id = :transfer AND version = 2""",
        {"entries_are_as_events_say": {"transfer"}},
    ),
    "events that nobody can read": (
        "UPDATE events SET data = '[\"what\"]' WHERE stream_id IN (:alice, :transfer); "
        "UPDATE events SET data = '{\"entries\": 5}' WHERE stream_id = :rolled_back",
        {
            "transactions_are_as_events_say": {"transfer", "rolled_back"},
            "entries_are_as_events_say": {"transfer", "rolled_back"},
            "accounts_are_as_events_say": {"alice"},
        },
    ),
    "a run that is no schedule's any more": (
        "UPDATE transactions SET schedule_id = NULL WHERE id = :scheduled",
        {"scheduled_are_as_events_say": {"scheduled"}},
    ),
    "a transaction that no schedule made": (
        "UPDATE transactions SET schedule_id = (SELECT id FROM schedules) WHERE id = :transfer",
        {"scheduled_are_as_events_say": {"transfer"}},
    ),
    "a run of another schedule": (
        "UPDATE transactions SET schedule_id = gen_random_uuid() WHERE id = :scheduled",
        {"scheduled_are_as_events_say": {"scheduled"}},
    ),
    **{
        f"a run that names {name!r}": (
            "UPDATE events SET data = jsonb_set(data::jsonb, '{transaction_id}', '\"" + name + "\"')::json WHERE type = 'ScheduleRan'",
            {"scheduled_are_as_events_say": {"schedule", "scheduled"}},
        )
        for name in ("nothing", "-" * 36)
    },
    "a transaction that has waited for long": (
        "UPDATE transactions SET created_at = now() - interval '2 minutes' WHERE id = :pending",
        {"queue_is_young": {"lane"}, "transactions_are_as_events_say": {"pending"}},
    ),
    "a transaction taken out of its batch": (
        "UPDATE transactions SET batch_id = NULL, batch_index = NULL WHERE batch_id = :batch AND batch_index = 1",
        {"transactions_are_as_events_say": {"second"}, "batches_are_as_events_say": {"batch"}},
    ),
}

# A column of a transaction or an account that is not what the events say, and nothing else.
CHANGED = {
    "transactions_are_as_events_say": {
        "transfer": (
            "lane = lane + 1",
            "type = 'debit'",
            "from_user_id = NULL",
            "to_user_id = NULL",
            "from_account_id = NULL",
            "to_account_id = NULL",
            "quote_id = gen_random_uuid()",
            "description = 'another'",
            "reference = 'another'",
            """metadata = '{"a": 1}'""",
            "actor_id = NULL",
            "effective_at = effective_at - interval '1 microsecond'",
            "created_at = created_at - interval '1 microsecond'",
            "completed_at = completed_at + interval '1 microsecond'",
            "rolled_back_amount = rolled_back_amount + 1",
            "batch_id = gen_random_uuid(), batch_index = 0",
            "status = 'rolled_back'",
        ),
        "exchanged": ("rate = '0.8'", "quote_id = gen_random_uuid()"),
        "failed": ("failure_code = 'account_frozen'", "captures_id = id", "voids_id = id"),
        "held": ("expires_at = expires_at + interval '1 microsecond'",),
        "voided": ("status = 'rolled_back'", "completed_at = completed_at + interval '1 microsecond'"),
        "void": ("status = 'pending', created_at = now()", "completed_at = NULL"),
    },
    "accounts_are_as_events_say": {
        "carol": (
            "user_id = gen_random_uuid()",
            "currency = 'EUR'",
            "kind = 'outside', user_id = NULL",
            "name = 'another'",
            "created_at = created_at - interval '1 microsecond'",
        ),
        "alice": ("is_default = false",),
    },
    "batches_are_as_events_say": {
        "batch": (
            "user_id = gen_random_uuid()",
            "mode = 'atomic'",
            "items = items + 1",
            "created_at = created_at - interval '1 microsecond'",
        ),
    },
}
for _check, _of in CHANGED.items():
    _table = _check.split("_", 1)[0]
    DAMAGE |= {
        f"{_name}: {_column}": (f"UPDATE {_table} SET {_column} WHERE id = :{_name}", {_check: {_name}})
        for _name, _columns in _of.items()
        for _column in _columns
    }
DAMAGE |= {
    f"a balance's {column}": (f"UPDATE balances SET {column} WHERE account_id = :carol", {"accounts_are_as_events_say": {"carol"}})
    for column in ("user_id = NULL", "currency = 'EUR'", "status = 'frozen'", "overdraft_limit = 5")
}


@pytest.mark.parametrize("scope", ["everything", "window"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_each_damage_is_named_by_what_it_violates(books: Books, superuser: Connection, damage: str, scope: str) -> None:
    statement, expected = DAMAGE[damage]
    ids = {name: getattr(books, name) for name in ("alice", "bob", "carol", "transfer", "rolled_back", "failed", "batch", "scheduled",
                                                   "pending", "held", "capture", "captured", "voided", "void", "exchanged")}  # fmt: skip

    def entries(condition: str) -> list[str]:
        query = f"SELECT DISTINCT transaction_id::text FROM entries e WHERE {condition}"
        return list(superuser.execute(text(query), ids).scalars())

    names = {name: [one] for name, one in ids.items()} | {
        "USD": ["USD"],
        "euros": list(
            superuser.execute(
                text(
                    """SELECT a.id::text FROM entries e JOIN accounts a ON a.id = e.account_id
                        WHERE e.transaction_id = :exchanged AND a.kind = 'position' AND a.currency = 'EUR'"""
                ),
                ids,
            ).scalars()
        ),
        "first": entries("account_id = :alice AND version = 1"),
        "last": entries(f"account_id = :alice AND {LAST}"),
        "bob's first": entries("account_id = :bob AND version = 1"),
        "all of alice's": entries("account_id = :alice"),
        "from the transfer on": entries(
            "version >= (SELECT version FROM entries t WHERE t.account_id = e.account_id AND transaction_id = :transfer)"
        ),
        "second": list(
            superuser.execute(text("SELECT id::text FROM transactions WHERE batch_id = :batch AND batch_index = 1"), ids).scalars()
        ),
        "schedule": list(superuser.execute(text("SELECT id::text FROM schedules")).scalars()),
        "lane": [f"lane {superuser.execute(text('SELECT lane FROM transactions WHERE id = :pending'), ids).scalar_one()}"],
    }
    window = window_after(superuser, None) if scope == "window" else None
    for part in statement.split("; "):
        assert superuser.execute(text(part), ids).rowcount
    found = violations(superuser, window)
    assert found == {check: sorted({one for name in about for one in names[name]}) for check, about in expected.items()}
    # Whatever is named, it can be asked whom it concerns.
    for check in CHECKS:
        if check.by_window:
            customers_accounts(superuser, found.get(check.name, []))


@pytest.mark.parametrize("column", ["trace_id = NULL", "trace_id = 'another'", "request_id = 'another'", "awaited = NOT awaited"])
def test_what_moves_no_money_and_decides_nothing_is_no_violation(books: Books, superuser: Connection, column: str) -> None:
    # As a process of the version before would have left the row: its event has a trace.
    superuser.execute(text("UPDATE events SET trace_id = 'of the request' WHERE stream_id = :transfer"), {"transfer": books.transfer})
    superuser.execute(text(f"UPDATE transactions SET {column} WHERE id = :transfer"), {"transfer": books.transfer})
    found = violations(superuser)
    assert "transactions_are_as_events_say" not in found, found


def test_every_check_has_its_damage() -> None:
    assert {check for _, expected in DAMAGE.values() for check in expected} == {check.name for check in CHECKS}


def test_over_everything_events_are_found_of_which_nothing_is_left(books: Books, superuser: Connection) -> None:
    for statement in (
        "DELETE FROM entries WHERE transaction_id = :transfer",
        "DELETE FROM transactions WHERE id = :transfer",
        "DELETE FROM balances WHERE account_id = :carol",
        "DELETE FROM accounts WHERE id = :carol",
    ):
        assert superuser.execute(text(statement), {"transfer": books.transfer, "carol": books.carol}).rowcount
    found = violations(superuser)
    assert found["transactions_are_as_events_say"] == found["entries_are_as_events_say"] == [books.transfer]
    assert found["accounts_are_as_events_say"] == [books.carol]


def test_changes_of_an_account_are_what_its_last_event_says(books: Books, superuser: Connection) -> None:
    # Opened with a limit, frozen and renamed by the API: the first event alone would not do.
    query = text("SELECT count(*) FROM events WHERE stream_id = :dave AND type = 'AccountChanged'")
    assert superuser.execute(query, {"dave": books.dave}).scalar_one() == 2
    superuser.execute(text("DELETE FROM events WHERE stream_id = :dave AND version = 3"), {"dave": books.dave})
    assert violations(superuser)["accounts_are_as_events_say"] == [books.dave]


def once_round(connection: Connection) -> list[Window]:
    """The windows from the first until all accounts and all transactions were in one."""
    windows: list[Window] = []
    accounts, numbers = set(), set()
    while (window := window_after(connection, windows[-1] if windows else None)) and (
        window.first_account not in accounts or window.first_seq not in numbers
    ):
        windows.append(window)
        accounts.add(window.first_account)
        numbers.add(window.first_seq)
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


SIZES = ("_WINDOW_ACCOUNTS", "_WINDOW_TRANSACTIONS", "_WINDOW_EVENTS")


def test_windows_have_no_gaps_between_them_and_reach_the_newest_event(superuser: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = superuser.execute(text("SELECT max(position) FROM events")).scalar_one()
    for size in SIZES[1:]:
        monkeypatch.setattr(invariants, size, 2)
        bounds = [(window.first_seq, window.last_seq) for window in once_round(superuser)]
        assert len(bounds) > 3
        assert bounds[0][0] == 1 and bounds[-1][1] == newest
        assert [first for first, _ in bounds[1:]] == [last + 1 for _, last in bounds[:-1]]


@pytest.mark.parametrize("size", [2, 1_000])
def test_what_vanished_is_in_some_window_wherever_it_was(superuser: Connection, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for name in SIZES:
        monkeypatch.setattr(invariants, name, size)
    rows = {
        "transactions_are_as_events_say": (("transactions", "id"),),
        "accounts_are_as_events_say": (("accounts", "id"), ("balances", "account_id")),
    }
    # Of an account either row, or both.
    takings = [(check, taken) for check, all_of in rows.items() for taken in {*((one,) for one in all_of), all_of}]
    for check, taken in takings:
        ids = superuser.execute(text(f"SELECT {taken[0][1]}::text FROM {taken[0][0]}")).scalars().all()
        assert len(ids) > 4
        for gone in ids:
            vanishing = superuser.begin_nested()
            for table, column in taken:
                assert superuser.execute(text(f"DELETE FROM {table} WHERE {column} = :id"), {"id": gone}).rowcount
            find = next(each.find for each in CHECKS if each.name == check)
            assert {one for window in once_round(superuser) for one in find(superuser, window)} == {gone}, taken
            vanishing.rollback()


def test_a_window_of_events_that_tell_of_no_transaction_keeps_to_its_size(superuser: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    superuser.execute(
        text(
            """INSERT INTO events (stream_id, version, type, data)
               SELECT gen_random_uuid(), 1, 'UserRegistered', '{}' FROM generate_series(1, 50)"""
        )
    )
    monkeypatch.setattr(invariants, "_WINDOW_EVENTS", 10)
    positions = superuser.execute(text("SELECT position FROM events")).scalars().all()
    for window in once_round(superuser):
        assert len([position for position in positions if window.first_seq <= position <= window.last_seq]) <= 10


def test_a_bank_without_transactions_has_a_window_all_the_same(superuser: Connection) -> None:
    for table in ("transactions", "entries", "daily_balances", "schedules"):
        superuser.execute(text(f"DELETE FROM {table}"))
    superuser.execute(text("DELETE FROM events WHERE type LIKE 'Transaction%' OR type LIKE 'Hold%' OR type LIKE 'Schedule%'"))
    superuser.execute(text("UPDATE balances SET amount = 0, held = 0, remainder = 0, version = 0"))
    assert violations(superuser, window_after(superuser, None)) == {}
    for table in ("events", "accounts", "balances"):
        superuser.execute(text(f"DELETE FROM {table}"))
    window = window_after(superuser, None)
    assert window == Window(None, None, None, None)
    assert violations(superuser, window) == {}


def test_a_window_sees_no_damage_elsewhere(books: Books, superuser: Connection) -> None:
    superuser.execute(text("UPDATE entries SET balance = balance + 1 WHERE account_id = :alice AND version = 1"), {"alice": books.alice})
    superuser.execute(text("UPDATE transactions SET amount = amount + 1 WHERE id = :transfer"), {"transfer": books.transfer})
    seq = superuser.execute(text("SELECT seq FROM transactions WHERE id = :transfer"), {"transfer": books.transfer}).scalar_one()
    assert violations(superuser, Window(books.bob, books.bob, seq + 1, seq + 100)) == {}
    assert violations(superuser, Window(books.alice, books.alice, seq, seq)) == {
        "entries_follow_each_other": [books.alice],
        "transactions_move_their_amount": [books.transfer],
        "transactions_are_as_events_say": [books.transfer],
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
