"""What must always be true of the books, as named checks: each finds what is not as it should be.

A check is one statement over whole sets, so it sees one snapshot and may run while the bank posts: what
a drain commits together is seen together. It looks at everything, or at a window: some accounts that
follow each other by id, with their entries, their transactions and the events of both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from bank.ledger import store

# A pending row that is older than this, in seconds, is not being posted: sweepers ring after three.
MAX_QUEUE_SECONDS = 60

# How much a window holds, at most; an account with more entries than that is a window of its own. It is
# read by a worker that could be posting meanwhile: such a window takes it about a quarter of a second.
_WINDOW_ACCOUNTS = 500
_WINDOW_ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Window:
    """Accounts by id, from the first to the last, both included."""

    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Check:
    """An invariant by its name, which alerts and the runbook use too.

    `find` returns the ids of the accounts, transactions or event streams that violate it (for
    `currencies_sum_to_zero` the currency, for `queue_is_young` the lane), each once. `by_window` tells
    whether it can look at a window; otherwise it looks at everything whatever it is given.
    """

    name: str
    by_window: bool
    find: Callable[[Connection, Window | None], list[str]]


# The checks name tables in braces. For a window these are the parts of the tables that belong to it.
_BETWEEN = "BETWEEN %(first)s::uuid AND %(last)s::uuid"
_BALANCES = f"(SELECT * FROM balances WHERE account_id {_BETWEEN})"
# Every transaction has a customer's account on one side at least, and names it; the outside's are not named.
_TRANSACTIONS = f"(SELECT * FROM transactions WHERE from_account_id {_BETWEEN} OR to_account_id {_BETWEEN})"
_OF_A_WINDOW = {
    "balances": _BALANCES,
    "entries": f"(SELECT * FROM entries WHERE account_id {_BETWEEN})",
    "transactions": _TRANSACTIONS,
    "events": f"""(SELECT * FROM events WHERE stream_id IN (
                       SELECT account_id FROM {_BALANCES} own UNION ALL SELECT id FROM {_TRANSACTIONS} own))""",
}
_OF_EVERYTHING = {name: name for name in _OF_A_WINDOW}


def _over_window(name: str, statement: str) -> Check:
    def find(connection: Connection, window: Window | None) -> list[str]:
        if window is None:
            rows = connection.exec_driver_sql(statement.format(**_OF_EVERYTHING))
        else:
            bounds = {"first": window.first, "last": window.last}
            rows = connection.exec_driver_sql(statement.format(**_OF_A_WINDOW), bounds)
        return sorted({str(row[0]) for row in rows})

    return Check(name, True, find)


def _unbalanced_currencies(connection: Connection, _: Window | None) -> list[str]:
    rows = connection.exec_driver_sql("SELECT currency FROM balances GROUP BY 1 HAVING sum(amount) <> 0 ORDER BY 1")
    return [row[0] for row in rows]


def _late_lanes(connection: Connection, _: Window | None) -> list[str]:
    return [f"lane {lane}" for lane, _, seconds in store.queue(connection) if seconds > MAX_QUEUE_SECONDS]


# What is added up is `numeric`: numbers that somebody broke must not stop the check by leaving bigint's range.
CHECKS: Sequence[Check] = (
    # The two sides of every transaction, in each of its currencies.
    _over_window(
        "transactions_sum_to_zero",
        """SELECT e.transaction_id FROM {transactions} t JOIN entries e ON e.transaction_id = t.id
            GROUP BY e.transaction_id, e.currency HAVING sum(e.amount) <> 0""",
    ),
    # Posted once and not twice, with the amount that was asked for; and nothing moved unless it was posted.
    _over_window(
        "transactions_move_their_amount",
        """SELECT t.id FROM {transactions} t LEFT JOIN entries e ON e.transaction_id = t.id
            GROUP BY t.id, t.status, t.amount
           HAVING CASE WHEN t.status IN ('completed', 'rolled_back')
                       THEN COALESCE(sum(e.amount) FILTER (WHERE e.amount > 0 AND e.currency = t.currency), 0) <> t.amount
                       ELSE count(e.version) > 0 END""",
    ),
    # The schema has no foreign keys for this (see docs/decisions/0003).
    _over_window(
        "entries_belong_somewhere",
        """SELECT e.account_id FROM {entries} e
             LEFT JOIN transactions t ON t.id = e.transaction_id LEFT JOIN balances b ON b.account_id = e.account_id
            WHERE t.id IS NULL OR b.account_id IS NULL OR b.currency <> e.currency""",
    ),
    # Versions are unique, so 1, 2, 3, … is what these three numbers say.
    _over_window(
        "entries_have_no_gaps",
        """SELECT b.account_id FROM {balances} b LEFT JOIN {entries} e ON e.account_id = b.account_id
            GROUP BY b.account_id, b.version
           HAVING count(e.version) <> b.version OR COALESCE(max(e.version), 0) <> b.version OR min(e.version) <> 1""",
    ),
    _over_window(
        "entries_follow_each_other",
        """SELECT account_id FROM (
               SELECT account_id, amount, balance, lag(balance, 1, 0::bigint) OVER (PARTITION BY account_id ORDER BY version) AS before
                 FROM {entries} e) e
            WHERE balance <> before::numeric + amount""",
    ),
    _over_window(
        "balance_is_sum_of_entries",
        """SELECT b.account_id FROM {balances} b LEFT JOIN {entries} e ON e.account_id = b.account_id
            GROUP BY b.account_id, b.amount HAVING b.amount <> COALESCE(sum(e.amount), 0)""",
    ),
    _over_window(
        "balance_is_that_of_last_entry",
        """SELECT b.account_id FROM {balances} b LEFT JOIN LATERAL (
               SELECT balance FROM entries e WHERE e.account_id = b.account_id ORDER BY version DESC LIMIT 1) last ON true
            WHERE b.amount <> COALESCE(last.balance, 0)""",
    ),
    _over_window(
        "balance_is_last_closing",
        """SELECT b.account_id FROM {balances} b LEFT JOIN LATERAL (
               SELECT closing FROM daily_balances d WHERE d.account_id = b.account_id ORDER BY day DESC LIMIT 1) last ON true
            WHERE b.amount <> COALESCE(last.closing, 0)""",
    ),
    _over_window(
        "balance_is_within_limit",
        "SELECT b.account_id FROM {balances} b WHERE b.amount::numeric - b.held < -b.overdraft_limit",
    ),
    Check("currencies_sum_to_zero", False, _unbalanced_currencies),
    _over_window(
        "streams_have_no_gaps",
        """SELECT stream_id FROM {events} v GROUP BY stream_id
           HAVING count(*) <> max(version) OR min(version) <> 1""",
    ),
    # A stream whose end was cut off has no gap, but it is shorter than what it made.
    _over_window(
        "streams_end_where_state_is",
        """SELECT s.id FROM (
               SELECT t.id, t.version FROM {transactions} t
               UNION ALL SELECT a.id, a.version FROM {balances} b JOIN accounts a ON a.id = b.account_id) s
             LEFT JOIN {events} v ON v.stream_id = s.id
            GROUP BY s.id, s.version HAVING s.version <> COALESCE(max(v.version), 0)""",
    ),
    Check("queue_is_young", False, _late_lanes),
)


def window_after(connection: Connection, account_id: str | None) -> Window | None:
    """The window that begins behind that account (None: at the first); None when no account follows."""
    row = connection.exec_driver_sql(
        """SELECT first::text, account_id::text FROM (
               SELECT account_id, row_number() OVER accounts AS number, sum(version) OVER accounts AS entries,
                      first_value(account_id) OVER accounts AS first
                 FROM (SELECT account_id, version FROM balances WHERE %(after)s::uuid IS NULL OR account_id > %(after)s::uuid
                        ORDER BY account_id LIMIT %(accounts)s) b
               WINDOW accounts AS (ORDER BY account_id)) b
            WHERE number = 1 OR entries <= %(entries)s
            ORDER BY account_id DESC LIMIT 1""",
        {"after": account_id, "accounts": _WINDOW_ACCOUNTS, "entries": _WINDOW_ENTRIES},
    ).fetchone()
    return None if row is None else Window(row[0], row[1])


def customers_accounts(connection: Connection, ids: Sequence[str]) -> list[str]:
    """The customers' accounts that violations are about, in the order of their ids: those that `ids` names, and both sides of
    the transactions that it names. The bank's own accounts are left out."""
    rows = connection.exec_driver_sql(
        """WITH named AS (SELECT unnest(%(ids)s::uuid[]) AS id)
           SELECT b.account_id::text FROM balances b
            WHERE b.user_id IS NOT NULL AND b.account_id IN (
                      SELECT id FROM named
                      UNION SELECT e.account_id FROM entries e JOIN named ON named.id = e.transaction_id
                      UNION SELECT unnest(ARRAY[t.from_account_id, t.to_account_id]) FROM transactions t JOIN named USING (id))
            ORDER BY b.account_id""",
        {"ids": list(ids)},
    )
    return [row[0] for row in rows]
