"""What must always be true of the books, as named checks: each finds what is not as it should be.

A check is one statement over whole sets, so it sees one snapshot and may run while the bank posts: what
a drain commits together is seen together. It looks at everything, or at a window: some accounts that
follow each other by id, with their entries, and some transactions that follow each other, with the events of both.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from bank.ledger import store

# A pending row that is older than this, in seconds, is not being posted: sweepers ring after three.
MAX_QUEUE_SECONDS = 60

# How much a window holds, at most; an account with more entries is one of its own. A worker that could be
# posting reads it: these take it three tenths of a second, and an account of half a million entries three seconds.
_WINDOW_ACCOUNTS = 500
_WINDOW_ENTRIES = 5_000
_WINDOW_TRANSACTIONS = 1_500
_WINDOW_EVENTS = 5_000


@dataclass(frozen=True, slots=True)
class Window:
    """Accounts by id and transactions by `seq`, from the first to the last, both included; None where there are none.

    The bounds need not be of any account or transaction that is there. `seq` is a position of the log.
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
    "accounts": "(SELECT * FROM accounts WHERE id BETWEEN %(first_account)s::uuid AND %(last_account)s::uuid)",
    "balances": _BALANCES,
    "entries": "(SELECT * FROM entries WHERE account_id BETWEEN %(first_account)s::uuid AND %(last_account)s::uuid)",
    "closings": "(SELECT * FROM daily_balances WHERE account_id BETWEEN %(first_account)s::uuid AND %(last_account)s::uuid)",
    "transactions": _TRANSACTIONS,
    "sides": f"(SELECT e.* FROM {_TRANSACTIONS} own JOIN entries e ON e.transaction_id = own.id)",
    "events": f"""(SELECT * FROM events WHERE stream_id IN (
                       SELECT account_id FROM {_BALANCES} own UNION ALL SELECT id FROM {_TRANSACTIONS} own))""",
    "events_of_accounts": f"(SELECT v.* FROM {_BALANCES} own JOIN events v ON v.stream_id = own.account_id)",
    "events_of_transactions": f"(SELECT v.* FROM {_TRANSACTIONS} own JOIN events v ON v.stream_id = own.id)",
    "batches": f"(SELECT * FROM batches WHERE id IN (SELECT batch_id FROM {_TRANSACTIONS} own))",
    "events_of_batches": f"(SELECT v.* FROM events v WHERE stream_id IN (SELECT batch_id FROM {_TRANSACTIONS} own))",
    # The position of a transaction's first event is its `seq`, so this finds those too whose transaction is gone: windows have no
    # gaps between them. Accounts are found gone by the position too: by id, the streams of all transactions would lie between.
    "submissions": "(SELECT * FROM events WHERE position BETWEEN %(first_seq)s AND %(last_seq)s AND type = 'TransactionSubmitted')",
    "openings": "(SELECT * FROM events WHERE position BETWEEN %(first_seq)s AND %(last_seq)s AND type = 'AccountOpened')",
    # Schedules have no window of their own: what is looked at are their transactions, and the runs recorded between these. Nor have
    # limits and rules, which move nothing.
    "schedules": "(SELECT * FROM schedules WHERE false)",
    "settings": "(SELECT id, version FROM limits WHERE false)",
    "runs": "(SELECT * FROM events WHERE position BETWEEN %(first_seq)s AND %(last_seq)s AND type = 'ScheduleRan')",
    "runs_of_transactions": f"""(SELECT * FROM events WHERE type = 'ScheduleRan' AND stream_id IN (
                                     SELECT schedule_id FROM {_TRANSACTIONS} own))""",
}
_OF_EVERYTHING = dict.fromkeys(("events_of_accounts", "events_of_transactions"), "events") | {
    "accounts": "accounts",
    "balances": "balances",
    "entries": "entries",
    "closings": "daily_balances",
    "transactions": "transactions",
    "batches": "batches",
    "events_of_batches": "events",
    "sides": "entries",
    "events": "events",
    "submissions": "(SELECT * FROM events WHERE type = 'TransactionSubmitted')",
    "openings": "(SELECT * FROM events WHERE type = 'AccountOpened')",
    "schedules": "schedules",
    "settings": "(SELECT id, version FROM limits UNION ALL SELECT id, version FROM rules)",
    "runs": "(SELECT * FROM events WHERE type = 'ScheduleRan')",
    "runs_of_transactions": "(SELECT * FROM events WHERE type = 'ScheduleRan')",
}


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


# As the events write times (`bank.web.fields.timestamp`).
_RFC3339 = """to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""


# What an id looks like, for a text that may be none.
_ID = "'^[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$'"


def _object(data: str) -> str:
    """The event's data; an empty object where it is none, or the event is not there."""
    return f"CASE json_typeof({data}) WHEN 'object' THEN {data} ELSE '{{{{}}}}' END"


# Events are compared as text, which their ids, numbers and times have in one form only: what somebody broke must not stop
# the check by being no number any more.
# What is added up is `numeric`: numbers that somebody broke must not stop the check by leaving bigint's range.
CHECKS: Sequence[Check] = (
    # The two sides of every transaction, in each of its currencies.
    _over_window(
        "transactions_sum_to_zero",
        """SELECT e.transaction_id FROM {transactions} t JOIN entries e ON e.transaction_id = t.id
            GROUP BY e.transaction_id, e.currency HAVING sum(e.amount) <> 0""",
    ),
    # Posted once and not twice, with the amounts that were asked for; and nothing moved unless it was posted. What a hold was for
    # is moved by its captures. In each currency what came in is what was named: where money is exchanged, with the bank's position.
    _over_window(
        "transactions_move_their_amount",
        """SELECT t.id FROM {transactions} t LEFT JOIN entries e ON e.transaction_id = t.id
            GROUP BY t.id, t.status, t.amount, t.currency, t.to_amount, t.to_currency, t.expires_at
           HAVING CASE WHEN t.status IN ('completed', 'rolled_back') AND t.expires_at IS NULL
                       THEN COALESCE(sum(e.amount) FILTER (WHERE e.amount > 0 AND e.currency = t.currency), 0) <> t.amount
                            OR COALESCE(sum(e.amount) FILTER (WHERE e.amount > 0 AND e.currency = t.to_currency), 0) <> t.to_amount
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
               SELECT account_id, amount, balance, lag(balance, 1, 0::bigint) OVER account AS before,
                      posted_at, lag(posted_at) OVER account AS posted_before
                 FROM {entries} e WINDOW account AS (PARTITION BY account_id ORDER BY version)) e
            WHERE balance <> before::numeric + amount OR posted_at < posted_before""",
    ),
    _over_window(
        "balance_is_sum_of_entries",
        """SELECT b.account_id FROM {balances} b LEFT JOIN {entries} e ON e.account_id = b.account_id
            GROUP BY b.account_id, b.amount HAVING b.amount <> COALESCE(sum(e.amount), 0)""",
    ),
    _over_window(
        "balance_is_that_of_last_entry",
        """SELECT b.account_id FROM {balances} b LEFT JOIN LATERAL (
               SELECT balance, posted_at FROM entries e WHERE e.account_id = b.account_id ORDER BY version DESC LIMIT 1) last ON true
            WHERE b.amount <> COALESCE(last.balance, 0) OR b.last_updated_at <> last.posted_at""",
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
    _over_window(
        "held_is_sum_of_open_holds",
        """SELECT b.account_id FROM {balances} b LEFT JOIN transactions t ON t.from_account_id = b.account_id AND t.held_amount > 0
            GROUP BY b.account_id, b.held HAVING b.held <> COALESCE(sum(t.held_amount), 0)""",
    ),
    # Never more in sum than was held, which the row's own constraint sees to.
    _over_window(
        "captured_is_sum_of_captures",
        """SELECT t.id FROM {transactions} t LEFT JOIN transactions c
               ON (c.captures_id IS NOT NULL OR c.voids_id IS NOT NULL) AND COALESCE(c.captures_id, c.voids_id) = t.id
              AND c.captures_id IS NOT NULL AND c.status IN ('completed', 'rolled_back')
            WHERE t.expires_at IS NOT NULL
            GROUP BY t.id, t.captured_amount HAVING t.captured_amount <> COALESCE(sum(c.amount), 0)""",
    ),
    # Told by each exchange of the position in the currency that was bought, which in a rollback is the one that goes back.
    _over_window(
        "remainder_is_sum_of_exchanges",
        """SELECT b.account_id FROM {balances} b
             LEFT JOIN accounts a ON a.id = b.account_id AND a.kind = 'position' LEFT JOIN {entries} e ON e.account_id = a.id
             LEFT JOIN transactions t ON t.id = e.transaction_id AND t.remainder ~ '^-?[0-9]+([.][0-9]+)?$'
                                     AND CASE t.type WHEN 'rollback' THEN t.currency ELSE t.to_currency END = b.currency
            GROUP BY b.account_id, b.remainder HAVING b.remainder <> COALESCE(sum(t.remainder::numeric), 0)""",
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
               UNION ALL SELECT a.id, a.version FROM {balances} b JOIN accounts a ON a.id = b.account_id
               UNION ALL SELECT id, version FROM {schedules} d
               UNION ALL SELECT id, version FROM {settings} g) s
             LEFT JOIN {events} v ON v.stream_id = s.id
            GROUP BY s.id, s.version HAVING s.version <> COALESCE(max(v.version), 0)""",
    ),
    # With those above, the five that follow say that the tables of the ledger hold what a replay of the events would make. Users,
    # who are no part of it, are compared by `bank rebuild --check`.
    # Left out are `request_id`, `trace_id` and `awaited`: they move no money and decide nothing, and a process of the version
    # before, in a rolling deployment, may not write all of them yet. Customers must not be frozen for that.
    _over_window(
        "transactions_are_as_events_say",
        f"""SELECT COALESCE(t.id, s.stream_id)
              FROM {{transactions}} t FULL JOIN {{submissions}} s ON s.stream_id = t.id
              LEFT JOIN (SELECT DISTINCT ON (stream_id) stream_id, type, data, recorded_at FROM {{events_of_transactions}} v
                          WHERE type IN ('TransactionCompleted', 'TransactionFailed', 'TransactionHeld', 'TransactionVoided')
                          ORDER BY stream_id, version DESC) f ON f.stream_id = t.id
              LEFT JOIN (SELECT DISTINCT ON (stream_id) stream_id, type, data FROM {{events_of_transactions}} v
                          WHERE type IN ('TransactionHeld', 'TransactionApproved', 'TransactionRejected')
                          ORDER BY stream_id, version DESC) w ON w.stream_id = t.id
              LEFT JOIN (SELECT DISTINCT ON (stream_id) stream_id, data FROM {{events_of_transactions}} v
                          WHERE type = 'TransactionRolledBack' ORDER BY stream_id, version DESC) r ON r.stream_id = t.id
              LEFT JOIN (SELECT DISTINCT ON (stream_id) stream_id, type, data, recorded_at FROM {{events_of_transactions}} v
                          WHERE type IN ('HoldCaptured', 'HoldVoided', 'HoldExpired')
                          ORDER BY stream_id, version DESC) h ON h.stream_id = t.id
             CROSS JOIN LATERAL json_to_record({_object("s.data")})
                AS told (lane text, type text, from_user_id text, to_user_id text, from_account_id text, to_account_id text,
                         amount text, currency text, to_amount text, to_currency text, rate text, description text, reference text,
                         metadata text, reverses_id text, expires_at text, captures_id text, voids_id text, effective_at text,
                         batch_id text, batch_index text, remainder text, quote_id text)
             CROSS JOIN LATERAL (SELECT {_object("f.data")} ->> 'failure_code' AS failure_code,
                                        COALESCE({_object("r.data")} ->> 'rolled_back_amount', '0') AS rolled_back_amount,
                                        COALESCE({_object("h.data")} ->> 'captured_amount', '0') AS captured_amount,
                                        CASE WHEN h.type = 'HoldCaptured' THEN {_object("h.data")} ->> 'held_amount'
                                             WHEN f.type = 'TransactionHeld' AND h.type IS NULL THEN {_object("f.data")} ->> 'amount'
                                             ELSE '0' END AS held_amount) became
             WHERE (t.seq, t.lane::text, t.type, t.from_user_id::text, t.to_user_id::text, t.from_account_id::text,
                    t.to_account_id::text, t.amount::text, t.currency, t.to_amount::text, t.to_currency, t.rate, t.remainder,
                    t.quote_id::text, t.description, t.reference, t.metadata::text, t.reverses_id::text, t.batch_id::text,
                    t.batch_index::text,
                    {_RFC3339.format("t.expires_at")}, t.captures_id::text, t.voids_id::text, {_RFC3339.format("t.effective_at")},
                    t.created_at, t.actor_id, t.failure_code, t.completed_at,
                    t.rolled_back_amount::text, t.captured_amount::text, t.held_amount::text, t.review, t.status)
                IS DISTINCT FROM
                   (s.position, told.lane, told.type, told.from_user_id, told.to_user_id, told.from_account_id,
                    told.to_account_id, told.amount, told.currency, told.to_amount, told.to_currency, told.rate, told.remainder,
                    told.quote_id, told.description, told.reference, told.metadata, told.reverses_id, told.batch_id, told.batch_index,
                    told.expires_at, told.captures_id, told.voids_id,
                    COALESCE(told.effective_at, {_RFC3339.format("s.recorded_at")}),
                    s.recorded_at, s.actor_id, became.failure_code,
                    CASE WHEN f.type <> 'TransactionHeld' THEN f.recorded_at WHEN became.held_amount = '0' THEN h.recorded_at END,
                    became.rolled_back_amount, became.captured_amount, became.held_amount,
                    CASE w.type WHEN 'TransactionApproved' THEN 'approved' WHEN 'TransactionRejected' THEN 'rejected'
                                ELSE CASE {_object("w.data")} ->> 'review' WHEN 'true' THEN 'open' END END,
                    CASE WHEN f.type IS NULL THEN 'pending' WHEN f.type = 'TransactionFailed' THEN 'failed'
                         WHEN became.held_amount <> '0' THEN 'held'
                         WHEN f.type = 'TransactionVoided' OR (f.type = 'TransactionHeld' AND became.captured_amount = '0') THEN 'voided'
                         WHEN became.rolled_back_amount = told.amount THEN 'rolled_back' ELSE 'completed' END)""",
    ),
    # Both as many, none on one side only: what is told counts against what is there, and nothing may remain.
    _over_window(
        "entries_are_as_events_say",
        f"""SELECT transaction_id FROM (
                SELECT transaction_id, account_id::text, version::text, amount::text, balance::text, currency,
                       {_RFC3339.format("effective_at")} AS effective_at, posted_at, 1 AS number FROM {{sides}} e
                UNION ALL
                SELECT c.stream_id, entry ->> 0, entry ->> 1, entry ->> 2, entry ->> 3,
                       {_object("s.data")} ->> CASE WHEN place * 2 <= json_array_length(c.data -> 'entries')
                                                    THEN 'currency' ELSE 'to_currency' END,
                       COALESCE({_object("s.data")} ->> 'effective_at', {_RFC3339.format("s.recorded_at")}), c.recorded_at, -1
                  FROM {{events_of_transactions}} c
                  LEFT JOIN {{submissions}} s ON s.stream_id = c.stream_id
                 CROSS JOIN LATERAL json_array_elements(
                           CASE json_typeof({_object("c.data")} -> 'entries') WHEN 'array' THEN c.data -> 'entries' END)
                            WITH ORDINALITY AS told (entry, place)
                 WHERE c.type = 'TransactionCompleted') side
             GROUP BY transaction_id, account_id, version, amount, balance, currency, effective_at, posted_at
            HAVING sum(number) <> 0""",
    ),
    _over_window(
        "accounts_are_as_events_say",
        f"""SELECT COALESCE(a.id, b.account_id, o.stream_id)
              FROM {{accounts}} a FULL JOIN {{balances}} b ON b.account_id = a.id
              FULL JOIN (SELECT * FROM {{events_of_accounts}} v WHERE type = 'AccountOpened') o
                ON o.stream_id = COALESCE(a.id, b.account_id)
              LEFT JOIN (SELECT DISTINCT ON (stream_id) stream_id, data FROM {{events_of_accounts}} v
                          WHERE type = 'AccountChanged' ORDER BY stream_id, version DESC) c ON c.stream_id = o.stream_id
             CROSS JOIN LATERAL json_to_record({_object("o.data")})
                AS opened (user_id text, currency text, kind text, name text, is_default text)
             CROSS JOIN LATERAL json_to_record({_object("c.data")}) AS changed (name text, status text, overdraft_limit text)
             WHERE (a.user_id::text, a.currency, a.kind, a.name, a.is_default, a.created_at,
                    b.user_id::text, b.currency, b.status, b.overdraft_limit::text)
                IS DISTINCT FROM
                   (opened.user_id, opened.currency, opened.kind, CASE WHEN c.data IS NULL THEN opened.name ELSE changed.name END,
                    opened.is_default = 'true' AND changed.status IS DISTINCT FROM 'closed', o.recorded_at,
                    opened.user_id, opened.currency, CASE WHEN c.data IS NULL THEN 'active' ELSE changed.status END,
                    CASE WHEN c.data IS NOT NULL THEN changed.overdraft_limit WHEN opened.kind = 'customer' THEN '0' END)
            UNION
            SELECT o.stream_id FROM {{openings}} o
              LEFT JOIN accounts a ON a.id = o.stream_id LEFT JOIN balances b ON b.account_id = o.stream_id
             WHERE a.id IS NULL OR b.account_id IS NULL""",
    ),
    # A batch is as large as it was asked for: atomic is nothing of which a part is missing.
    _over_window(
        "batches_are_as_events_say",
        f"""SELECT COALESCE(b.id, v.stream_id)
              FROM {{batches}} b FULL JOIN (SELECT * FROM {{events_of_batches}} v WHERE type = 'BatchSubmitted') v ON v.stream_id = b.id
             WHERE (b.user_id, b.mode, b.items::text, b.created_at,
                    (SELECT count(*) FROM transactions t WHERE t.batch_id = b.id)::text)
                IS DISTINCT FROM
                   (v.actor_id, {_object("v.data")} ->> 'mode', {_object("v.data")} ->> 'items', v.recorded_at,
                    {_object("v.data")} ->> 'items')""",
    ),
    # Each transaction of a schedule is named by one of its runs, and each that a run names is there and the schedule's. What a run names
    # may be no id: the schedule stands for it then.
    _over_window(
        "scheduled_are_as_events_say",
        f"""SELECT t.id::text FROM {{transactions}} t
              LEFT JOIN (SELECT stream_id, {_object("data")} ->> 'transaction_id' AS transaction_id FROM {{runs_of_transactions}} v) r
                ON r.stream_id = t.schedule_id AND r.transaction_id = t.id::text
             WHERE t.schedule_id IS NOT NULL GROUP BY t.id HAVING count(r.stream_id) <> 1
            UNION ALL
            SELECT COALESCE(t.id, r.stream_id)::text
              FROM (SELECT stream_id, {_object("data")} ->> 'transaction_id' AS transaction_id FROM {{runs}} v) r
              LEFT JOIN transactions t ON t.id = CASE WHEN r.transaction_id ~ {_ID} THEN r.transaction_id::uuid END
             WHERE r.transaction_id IS NOT NULL AND t.schedule_id IS DISTINCT FROM r.stream_id""",
    ),
    _over_window(
        "closings_are_sums_of_entries",
        """SELECT account_id
             FROM {closings} d
             FULL JOIN (SELECT account_id, (effective_at AT TIME ZONE 'UTC')::date AS day, count(*) AS count,
                               sum(sum(amount)) OVER (PARTITION BY account_id ORDER BY (effective_at AT TIME ZONE 'UTC')::date) AS closing,
                               COALESCE(sum(amount) FILTER (WHERE amount > 0), 0) AS credits,
                               COALESCE(-sum(amount) FILTER (WHERE amount < 0), 0) AS debits
                          FROM {entries} e GROUP BY 1, 2) s USING (account_id, day)
            WHERE (d.closing, d.credits, d.debits, d.count) IS DISTINCT FROM (s.closing, s.credits, s.debits, s.count)""",
    ),
    Check("queue_is_young", False, _late_lanes),
)


# The last of the ids that follow %(behind)s, by as many balances as a window holds, and the first of them whatever it has. With
# the last balance, all ids up to the last there is: what lost its balance there must be in a window too.
_LAST_ACCOUNT = """
    WITH following AS (
        SELECT account_id, row_number() OVER accounts AS number, sum(version) OVER accounts AS entries
          FROM (SELECT account_id, version FROM balances WHERE account_id > %(behind)s::uuid ORDER BY account_id LIMIT %(accounts)s) b
        WINDOW accounts AS (ORDER BY account_id)
    ), held AS (
        SELECT account_id FROM following WHERE number = 1 OR entries <= %(entries)s ORDER BY account_id DESC LIMIT 1
    ), last AS (
        SELECT CASE WHEN EXISTS (SELECT FROM balances WHERE account_id > (SELECT account_id FROM held)) THEN (SELECT account_id FROM held)
                    ELSE GREATEST((SELECT id FROM accounts ORDER BY id DESC LIMIT 1),
                                  (SELECT account_id FROM balances ORDER BY account_id DESC LIMIT 1),
                                  (SELECT account_id FROM entries ORDER BY account_id DESC LIMIT 1),
                                  (SELECT account_id FROM daily_balances ORDER BY account_id DESC LIMIT 1)) END AS account_id
    )
    SELECT account_id::text FROM last WHERE account_id > %(behind)s::uuid
"""

# The same of transactions. Events are counted too, since many of them may tell of no transaction. The newest event need not be
# settled (`bank.events.horizon`): a transaction and its event become visible together, and what does so late is seen in the next round.
_LAST_SEQ = """
    SELECT seq FROM (
        SELECT COALESCE(
            LEAST((SELECT seq FROM transactions WHERE seq > %(behind)s ORDER BY seq OFFSET %(transactions)s - 1 LIMIT 1),
                  (SELECT position FROM events WHERE position > %(behind)s ORDER BY position OFFSET %(events)s - 1 LIMIT 1)),
            GREATEST((SELECT max(seq) FROM transactions), (SELECT max(position) FROM events))) AS seq) last
     WHERE seq > %(behind)s
"""

_BEFORE_ALL_ACCOUNTS = "00000000-0000-0000-0000-000000000000"


def window_after(connection: Connection, before: Window | None) -> Window:
    """The window that follows without a gap; behind the last account or transaction it goes on with the first of them.

    Without a gap, so that what vanished between two windows, or behind the last row that is left, is in one of them.
    """

    def slice_of(query: str, after: Any, start: Any, **limits: int) -> tuple[Any, Any]:
        for behind in (after or start, start):
            last = connection.exec_driver_sql(query, {"behind": behind, **limits}).scalar()
            if last is not None:
                return behind, last
        return None, None

    last_account, last_seq = (before.last_account, before.last_seq) if before else (None, None)
    behind_account, last_account = slice_of(
        _LAST_ACCOUNT, last_account, _BEFORE_ALL_ACCOUNTS, accounts=_WINDOW_ACCOUNTS, entries=_WINDOW_ENTRIES
    )
    behind_seq, last_seq = slice_of(_LAST_SEQ, last_seq, 0, transactions=_WINDOW_TRANSACTIONS, events=_WINDOW_EVENTS)
    return Window(
        None if behind_account is None else str(UUID(int=UUID(behind_account).int + 1)),
        last_account,
        None if behind_seq is None else behind_seq + 1,
        last_seq,
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
