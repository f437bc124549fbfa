"""The SQL of transactions: taking one in, reading one, reading history."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Row, text
from sqlalchemy.orm import Session

from bank.accounts.access import customers_and
from bank.events.types import Origin, TransactionSubmitted
from bank.money import format_amount
from bank.transactions.models import TransactionStatus
from bank.web.fields import timestamp

COLUMNS = """
    t.id::text, t.seq, t.type, t.status, t.from_user_id::text, t.to_user_id::text, t.from_account_id::text,
    t.to_account_id::text, t.amount, t.currency, t.to_amount, t.to_currency, t.rate, t.remainder, t.quote_id::text,
    t.description, t.reference, t.metadata, t.failure_code, t.reverses_id::text, t.rolled_back_amount, t.expires_at, t.held_amount,
    t.captured_amount, t.review, t.captures_id::text, t.voids_id::text, t.version, t.request_id,
    t.batch_id::text, t.batch_index, t.schedule_id::text,
    t.effective_at, t.created_at, t.completed_at
"""


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What is kept with an idempotency key: the first answer, or none while the first request waits."""

    fingerprint: bytes
    # The transaction, the batch or the schedule.
    made_id: str
    status: int | None
    body: bytes | None
    overdue: bool


@dataclass(frozen=True, slots=True)
class KeyToStore:
    """An idempotency key and the answer to store with it; `status` None for a request that will wait
    up to `wait_seconds` for the outcome."""

    user_id: str
    route: str
    key: str
    fingerprint: bytes
    status: int | None
    body: bytes | None
    wait_seconds: int


_FIND_KEY = """
    SELECT now(), k.fingerprint, COALESCE(k.transaction_id, k.batch_id, k.schedule_id)::text, k.response_status, k.response_body,
           k.answer_by < now()
      FROM (SELECT 1) one
      LEFT JOIN idempotency_keys k ON k.user_id = %s::uuid AND k.route = %s AND k.key = %s
"""


def find_key(session: Session, user_id: str | None, route: str, key: str | None) -> tuple[datetime, StoredAnswer | None]:
    """The database's time, and what is stored with the key, if it was used before."""
    row = session.connection().exec_driver_sql(_FIND_KEY, (user_id, route, key)).one()
    if row[1] is None:
        return row[0], None
    body = None if row[4] is None else bytes(row[4])
    return row[0], StoredAnswer(bytes(row[1]), row[2] or "", row[3], body, bool(row[5]))


def store_answer(session: Session, user_id: str, route: str, key: str, status: int, body: bytes) -> tuple[int, bytes]:
    """Keep the answer that a waiting request is about to give, unless another request gave one before;
    the answer that is kept."""
    row = session.execute(
        text(
            """UPDATE idempotency_keys
                  SET response_status = COALESCE(response_status, :status), response_body = COALESCE(response_body, :body)
                WHERE user_id = CAST(:user_id AS uuid) AND route = :route AND key = :key
            RETURNING response_status, response_body"""
        ),
        {"user_id": user_id, "route": route, "key": key, "status": status, "body": body},
    ).one()
    return int(row[0]), bytes(row[1])


# One statement takes a transaction in. The transaction id is read first and on purpose: it must be
# taken before the event's position, which is the `seq` that lanes are claimed by (see
# `bank.ledger.store.claim`), and a CTE is the only order PostgreSQL keeps.
_SUBMIT = """
WITH begun AS MATERIALIZED (
    SELECT pg_current_xact_id() AS xid
), event AS (
    INSERT INTO events (stream_id, version, type, schema, data, actor_id, request_id, trace_id)
    SELECT %(id)s::uuid, 1, 'TransactionSubmitted', %(schema)s, %(data)s::json, %(actor_id)s::uuid, %(request_id)s, %(trace_id)s
      FROM begun WHERE xid IS NOT NULL
    RETURNING position, recorded_at
), submitted AS (
    INSERT INTO transactions (id, seq, lane, type, status, from_user_id, to_user_id, from_account_id, to_account_id,
                              amount, currency, to_amount, to_currency, rate, remainder, quote_id, description, reference, metadata,
                              reverses_id, expires_at, captures_id, voids_id, actor_id, request_id, trace_id, awaited,
                              effective_at, created_at)
    SELECT %(id)s::uuid, position, %(lane)s, %(type)s, 'pending', %(from_user_id)s::uuid, %(to_user_id)s::uuid,
           %(from_account_id)s::uuid, %(to_account_id)s::uuid, %(amount)s, %(currency)s, %(to_amount)s,
           %(to_currency)s, %(rate)s, %(remainder)s, %(quote_id)s::uuid, %(description)s, %(reference)s,
           %(metadata)s::json, %(reverses_id)s::uuid, %(expires_at)s::timestamptz, %(captures_id)s::uuid, %(voids_id)s::uuid,
           %(actor_id)s::uuid, %(request_id)s, %(trace_id)s, %(awaited)s, COALESCE(%(effective_at)s::timestamptz, recorded_at), recorded_at
      FROM event
), audited AS (
    INSERT INTO audit_logs (entity_type, entity_id, action, details, actor_id, address, request_id)
    VALUES ('transaction', %(id)s::uuid, %(action)s, %(details)s::json, %(actor_id)s::uuid, %(address)s, %(request_id)s)
), keyed AS (
    INSERT INTO idempotency_keys (user_id, route, key, fingerprint, transaction_id, response_status, response_body,
                                  answer_by)
    SELECT %(actor_id)s::uuid, %(route)s, %(key)s, %(fingerprint)s, %(id)s::uuid, %(response_status)s,
           %(response_body)s, now() + make_interval(secs => %(wait_seconds)s)
     WHERE %(key)s IS NOT NULL
)
SELECT position FROM event
"""


def submit(
    connection: Connection, transaction_id: str, event: TransactionSubmitted, action: str, origin: Origin, key: KeyToStore | None
) -> None:
    """Insert a pending transaction, its event, its audit row (of that `action`) and its idempotency key.

    Raises sqlalchemy.exc.IntegrityError when the key was committed by another request meanwhile.
    """
    data = orjson.dumps(event).decode()
    connection.exec_driver_sql(
        _SUBMIT,
        {
            "id": transaction_id,
            "schema": event.SCHEMA,
            "data": data,
            "lane": event.lane,
            "type": event.type,
            "from_user_id": event.from_user_id,
            "to_user_id": event.to_user_id,
            "from_account_id": event.from_account_id,
            "to_account_id": event.to_account_id,
            "amount": event.amount,
            "currency": event.currency,
            "to_amount": event.to_amount,
            "to_currency": event.to_currency,
            "rate": event.rate,
            "remainder": event.remainder,
            "quote_id": event.quote_id,
            "description": event.description,
            "reference": event.reference,
            "metadata": None if event.metadata is None else orjson.dumps(event.metadata).decode(),
            "reverses_id": event.reverses_id,
            "expires_at": event.expires_at,
            "captures_id": event.captures_id,
            "voids_id": event.voids_id,
            "awaited": event.awaited,
            "effective_at": event.effective_at,
            "actor_id": origin.actor_id,
            "request_id": origin.request_id,
            "trace_id": origin.trace_id,
            "address": origin.address,
            "action": action,
            "details": orjson.dumps({"amount": event.amount, "currency": event.currency}).decode(),
            "route": key.route if key else None,
            "key": key.key if key else None,
            "fingerprint": key.fingerprint if key else None,
            "response_status": key.status if key else None,
            "response_body": key.body if key else None,
            "wait_seconds": key.wait_seconds if key else 0,
        },
    )


def get(session: Session, transaction_id: str) -> Row[Any] | None:
    """One transaction."""
    query = text(f"SELECT {COLUMNS} FROM transactions t WHERE t.id = CAST(:id AS uuid)")
    return session.execute(query, {"id": transaction_id}).one_or_none()


def entries_of(session: Session, transaction_id: str) -> Sequence[Row[Any]]:
    """The entries of a transaction with the owner of each account, what went out first."""
    return session.execute(
        text(
            """SELECT e.account_id::text, a.user_id::text, e.version, e.amount, e.currency, e.balance,
                      e.effective_at, e.posted_at
                 FROM entries e JOIN accounts a ON a.id = e.account_id
                WHERE e.transaction_id = CAST(:id AS uuid) ORDER BY e.amount, e.account_id"""
        ),
        {"id": transaction_id},
    ).all()


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """What of history to show: None filters nothing. Amounts are minor units, `since` counts, `until` does not.

    `account_id` goes before `user_id`; `before` is the `seq` of the last row of the page before; `seen_by` is a teller, for whom
    what is between colleagues is left out.
    """

    limit: int
    account_id: str | None = None
    user_id: str | None = None
    type: str | None = None
    status: str | None = None
    currency: str | None = None
    min_amount: int | None = None
    max_amount: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    reference: str | None = None
    batch_id: str | None = None
    hold_id: str | None = None
    schedule_id: str | None = None
    review: str | None = None
    request_id: str | None = None
    seen_by: str | None = None
    before: int | None = None


_CONDITIONS = {
    "type": "t.type = :type",
    "status": "t.status = :status",
    "currency": "t.currency = :currency",
    "min_amount": "t.amount >= :min_amount",
    "max_amount": "t.amount <= :max_amount",
    "since": "t.created_at >= :since",
    "until": "t.created_at < :until",
    "reference": "t.reference = :reference",
    "batch_id": "t.batch_id = CAST(:batch_id AS uuid)",
    # As the index has it, what it leaves out included.
    "hold_id": """(t.captures_id IS NOT NULL OR t.voids_id IS NOT NULL)
                  AND COALESCE(t.captures_id, t.voids_id) = CAST(:hold_id AS uuid)""",
    "schedule_id": "t.schedule_id = CAST(:schedule_id AS uuid)",
    "review": "t.review = :review",
    "request_id": "t.request_id = :request_id",
    "seen_by": customers_and(":seen_by", "t.from_user_id", "t.to_user_id"),
    "before": "t.seq < :before",
}

# What has a value if and only if it is so, says a check of the schema, and is in an index of the few that have one. The planner does
# not conclude from checks. `status` itself is in no index: each posting would pay for that.
_AS_WELL = {("status", "held"): " AND t.held_amount > 0", ("type", "rollback"): " AND t.reverses_id IS NOT NULL"}


def history(session: Session, query: HistoryQuery) -> Sequence[Row[Any]]:
    """Transactions newest first; one more than `limit` when more follow."""
    parameters = {name: value for name in _CONDITIONS if (value := getattr(query, name)) is not None}
    conditions = "".join(f" AND {_CONDITIONS[name]}{_AS_WELL.get((name, value), '')}" for name, value in parameters.items())
    party = query.account_id or query.user_id
    column = "account_id" if query.account_id else "user_id"
    found_by = query.batch_id or query.hold_id or query.request_id
    if query.status == TransactionStatus.PENDING and not (party or found_by):
        # Behind where a lane stands nothing is pending, and before it there is not much. Read before the rows: it only moves on.
        lanes = session.execute(text("SELECT lane, position FROM lanes")).all()
        waiting = [
            f"""(SELECT t.seq FROM transactions t WHERE t.lane = {lane} AND t.seq > {position} {conditions}
                  ORDER BY t.seq DESC LIMIT :limit)"""
            for lane, position in lanes
        ]
        if not waiting:
            return []
        source = f"{' UNION ALL '.join(waiting)} ORDER BY seq DESC LIMIT :limit"
    elif party is None or found_by:
        # What is about one hold, came in one batch or by one request is found by that, whosever it is. The order of `seq` is that of
        # the batch, which has an index, and ten thousand transactions at most.
        own = f"AND CAST(:party AS uuid) IN (t.from_{column}, t.to_{column})" if party else ""
        order = "batch_index" if query.batch_id else "seq"
        source = f"SELECT t.seq FROM transactions t WHERE true {conditions} {own} ORDER BY t.{order} DESC LIMIT :limit"
    else:
        # Each side has an index in the order of `seq`; the newest of both are merged here, so a page
        # costs the same at any depth and however much others do.
        from_side, to_side = (
            f"""(SELECT t.seq FROM transactions t WHERE t.{side}_{column} = CAST(:party AS uuid) {conditions}
                  ORDER BY t.seq DESC LIMIT :limit)"""
            for side in ("from", "to")
        )
        source = f"{from_side} UNION {to_side} ORDER BY seq DESC LIMIT :limit"
    statement = f"""
        WITH page AS MATERIALIZED ({source})
        SELECT {COLUMNS} FROM page JOIN transactions t USING (seq) ORDER BY t.seq DESC
    """
    return session.execute(text(statement), {**parameters, "party": party, "limit": query.limit + 1}).all()


def present(row: Any) -> dict[str, Any]:
    """The transaction as the API shows it. `row` is a Row of COLUMNS, or anything with the same names."""
    currency = row.currency
    return {
        "id": row.id,
        "type": row.type,
        "status": row.status,
        "from_user_id": row.from_user_id,
        "to_user_id": row.to_user_id,
        "from_account_id": row.from_account_id,
        "to_account_id": row.to_account_id,
        "amount": format_amount(row.amount, currency),
        "currency": currency,
        "to_amount": format_amount(row.to_amount, row.to_currency),
        "to_currency": row.to_currency,
        "rate": row.rate,
        "quote_id": row.quote_id,
        "description": row.description,
        "reference": row.reference,
        "metadata": row.metadata or {},
        "failure_code": row.failure_code,
        "reverses_id": row.reverses_id,
        "rolled_back_amount": format_amount(row.rolled_back_amount, currency),
        "expires_at": timestamp(row.expires_at),
        "held_amount": format_amount(row.held_amount, currency),
        "captured_amount": format_amount(row.captured_amount, currency),
        "captures_id": row.captures_id,
        "voids_id": row.voids_id,
        "review": row.review,
        "batch_id": row.batch_id,
        "schedule_id": row.schedule_id,
        "effective_at": timestamp(row.effective_at),
        "created_at": timestamp(row.created_at),
        "completed_at": timestamp(row.completed_at),
    }


def present_entry(row: Any, viewer_id: str | None) -> dict[str, Any]:
    """An entry of a transaction. Its balance is shown to staff (`viewer_id` None) and to the account's owner only."""
    mine = viewer_id is None or row.user_id == viewer_id
    return {
        "account_id": row.account_id,
        "version": row.version,
        "amount": format_amount(row.amount, row.currency),
        "currency": row.currency,
        "balance": format_amount(row.balance, row.currency) if mine else None,
        "effective_at": timestamp(row.effective_at),
        "created_at": timestamp(row.posted_at),
    }
