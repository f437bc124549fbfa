"""What must always be true of the books, as named checks: each finds what is not as it should be.

A check is one statement over whole sets, so it sees one snapshot and may run while the bank posts: what
a drain commits together is seen together. It looks at everything, or at a window: some accounts that
follow each other by id, with their entries, and some transactions that follow each other, with the events of both.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from bank.ledger import store

# A pending row that is older than this, in seconds, is not being posted: sweepers ring after three.
MAX_QUEUE_SECONDS = 60

# How much a window holds, at most; an account with more entries is one of its own. A worker that could be
# posting reads it: these take it a fifth of a second, and an account of half a million entries two.
_WINDOW_ACCOUNTS = 500
_WINDOW_ENTRIES = 5_000
_WINDOW_TRANSACTIONS = 1_500


@dataclass(frozen=True, slots=True)
class Window:
    """Accounts by id and transactions by `seq`, from the first to the last, both included; None where there are none.

    Two slices, since either may be large by itself: an account with a million transactions would not fit a window.
    """

    first_account: str | None
    last_account: str | None
    first_seq: int | None
    last_seq: int | None


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
_BALANCES = "(SELECT * FROM balances WHERE account_id BETWEEN %(first_account)s::uuid AND %(last_account)s::uuid)"
_TRANSACTIONS = "(SELECT * FROM transactions WHERE seq BETWEEN %(first_seq)s AND %(last_seq)s)"
_OF_A_WINDOW = {
    "balances": _BALANCES,
    "entries": "(SELECT * FROM entries WHERE account_id BETWEEN %(first_account)s::uuid AND %(last_account)s::uuid)",
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
            rows = connection.exec_driver_sql(statement.format(**_OF_A_WINDOW), asdict(window))
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


# By id from behind that account: as many as a window holds, and the first of them whatever it has.
_NEXT_ACCOUNTS = """
    SELECT first::text, account_id::text FROM (
        SELECT account_id, row_number() OVER accounts AS number, sum(version) OVER accounts AS entries,
               first_value(account_id) OVER accounts AS first
          FROM (SELECT account_id, version FROM balances WHERE account_id > %s::uuid ORDER BY account_id LIMIT %s) b
        WINDOW accounts AS (ORDER BY account_id)) b
     WHERE number = 1 OR entries <= %s
     ORDER BY account_id DESC LIMIT 1
"""

_NEXT_TRANSACTIONS = """
    SELECT min(seq), max(seq) FROM (SELECT seq FROM transactions WHERE seq > %s ORDER BY seq LIMIT %s) t HAVING count(*) > 0
"""

_BEFORE_ALL_ACCOUNTS = "00000000-0000-0000-0000-000000000000"


def window_after(connection: Connection, before: Window | None) -> Window:
    """The window that follows; behind the last account or transaction it goes on with the first of them."""

    def slice_of(query: str, after: object, start: object, *limits: int) -> Sequence[Any]:
        for behind in (after or start, start):
            row = connection.exec_driver_sql(query, (behind, *limits)).fetchone()
            if row is not None:
                return row
        return None, None

    last_account, last_seq = (before.last_account, before.last_seq) if before else (None, None)
    return Window(
        *slice_of(_NEXT_ACCOUNTS, last_account, _BEFORE_ALL_ACCOUNTS, _WINDOW_ACCOUNTS, _WINDOW_ENTRIES),
        *slice_of(_NEXT_TRANSACTIONS, last_seq, 0, _WINDOW_TRANSACTIONS),
    )


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
