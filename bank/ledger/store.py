"""The ledger's SQL: claim a lane, lock what it touches, write the outcomes in sets.

A handful of statements, whatever the batch size. What the database knows already (amounts,
currencies, times) is not sent to it again: the statement that completes the transactions hands
their rows on to those that write entries, balances, closing balances and events.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

import orjson
from sqlalchemy import Connection, Row

from bank.events.types import Origin
from bank.ledger.decide import (
    AccountState,
    Checks,
    Command,
    Exchange,
    HoldDraft,
    OriginalState,
    Outcome,
    Posting,
    Refusal,
    Release,
    Reservation,
)
from bank.ledger.system import BATCH_LANE, outside_account_id, position_account_id


@dataclass(frozen=True, slots=True)
class Pending:
    """A claimed transaction: its command, and what the drain needs beside it. `payer_id` is the customer who pays because somebody
    asked for it; None where nobody pays, or where it takes back, captures or lets go what was asked for before. `request_id` and `trace_id`
    are those of the request that brought it."""

    seq: int
    type: str
    command: Command
    awaited: bool
    created_at: datetime
    batch_id: str | None
    payer_id: str | None
    request_id: str | None
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a drain took from a lane, oldest first, and where the lane may stand afterwards. `atomic`: it is all of an atomic
    batch, to be posted together or not at all."""

    lane: int
    pending: list[Pending]
    atomic: bool
    position: int
    candidate: int
    candidate_xid: int | None


@dataclass(frozen=True, slots=True)
class States:
    """What a decision needs to know, and the time it may carry."""

    accounts: dict[str, AccountState]
    originals: dict[str, OriginalState]
    posted_at: datetime


class LaneLost(RuntimeError):
    """A row of the batch was not pending any more: the lane's lock did not hold. Nothing is written."""


_LOCK_LANE = """
    SELECT position, candidate, candidate_xid, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
      FROM lanes WHERE lane = %s FOR UPDATE SKIP LOCKED
"""

_COLUMNS = """
    SELECT seq, type, id::text, from_account_id::text, to_account_id::text, amount, currency, to_currency,
           effective_at, reverses_id::text, expires_at IS NOT NULL, captures_id::text, voids_id::text, to_amount, remainder,
           awaited, created_at, batch_id::text,
           CASE WHEN actor_id IS NOT NULL AND COALESCE(reverses_id, captures_id, voids_id) IS NULL THEN from_user_id::text END,
           request_id, trace_id
      FROM transactions
"""

_PENDING = _COLUMNS + "WHERE lane = %s AND seq > %s AND status = 'pending' ORDER BY seq LIMIT %s"

_BATCH = _COLUMNS + "WHERE batch_id = %s::uuid AND status = 'pending' ORDER BY batch_index"

_ATOMIC = "SELECT id::text FROM batches WHERE id = ANY(%s::uuid[]) AND mode = 'atomic'"


def claim(connection: Connection, lane: int, limit: int) -> Claim | None:
    """Lock the lane and take up to `limit` pending transactions, oldest first; of an atomic batch all, however many, and
    nothing else with them.

    None when another drain has the lane. The lock is the transaction's: it ends with it, whatever
    happens to the process.
    """
    locked = connection.exec_driver_sql(_LOCK_LANE, (lane,)).fetchone()
    if locked is None:
        return None
    position, candidate, candidate_xid, xmin = locked
    seen = [_pending(lane, row) for row in connection.exec_driver_sql(_PENDING, (lane, position, limit))]
    pending, atomic = _of_one_kind(connection, seen) if lane == BATCH_LANE else (seen, False)
    taken = {row.seq for row in pending}
    # What was seen and is left to a later claim, as two batches that came at once lie between each other.
    left = [row.seq for row in seen if row.seq not in taken]
    last_seq = seen[-1].seq if seen else candidate
    # Sequence order is not commit order: below any seq that was seen, a smaller one may still be
    # uncommitted. Whoever holds it took its transaction id before its seq (the submission sees to
    # that), so before the claim that saw the candidate ended, and so before this later claim took an
    # id of its own. That id is the bound: once all below it have ended, nothing new comes below the candidate.
    if candidate_xid is None:
        candidate_xid = connection.exec_driver_sql("SELECT pg_current_xact_id()::text::bigint").scalar_one()
    elif candidate_xid <= xmin:
        # What is still pending up to the candidate is in this claim, unless it is full or something was left.
        reached = left[0] - 1 if left else last_seq if len(seen) == limit else candidate
        position = max(position, min(candidate, reached))
        candidate, candidate_xid = last_seq, None
    return Claim(lane, pending, atomic, position, candidate, candidate_xid)


def _of_one_kind(connection: Connection, seen: list[Pending]) -> tuple[list[Pending], bool]:
    """What a claim takes of those it sees in the lane of the batches: all of the first one's batch, and True, where that is
    atomic; else what comes before any of an atomic one."""
    batch_ids = {row.batch_id for row in seen if row.batch_id}
    atomic = set(connection.exec_driver_sql(_ATOMIC, (_array(batch_ids),)).scalars())
    if seen and seen[0].batch_id in atomic:
        return [_pending(BATCH_LANE, row) for row in connection.exec_driver_sql(_BATCH, (seen[0].batch_id,))], True
    return list(takewhile(lambda row: row.batch_id not in atomic, seen)), False


def _pending(lane: int, row: Sequence[Any]) -> Pending:
    seq, kind, transaction_id, source, target, amount, currency, to_currency, effective_at, *rest = row
    *points_at, to_amount, remainder, awaited, created_at, batch_id, payer_id, request_id, trace_id = rest
    if remainder is not None:
        points_at.append(exchange(lane, currency, to_amount, to_currency, remainder))
    command = Command(
        transaction_id,
        source or outside_account_id(currency, lane),
        target or outside_account_id(to_currency, lane),
        amount,
        currency,
        effective_at,
        *points_at,
    )
    return Pending(seq, kind, command, awaited, created_at, batch_id, payer_id, request_id, trace_id)


def exchange(lane: int, currency: str, to_amount: int, to_currency: str, remainder: str) -> Exchange:
    """What a command says of an exchange that was agreed, with the bank's positions on that lane."""
    return Exchange(to_amount, to_currency, position_account_id(currency, lane), position_account_id(to_currency, lane), remainder)


_ACCOUNTS = """
    SELECT account_id::text, currency, status, overdraft_limit, amount, held, version, last_updated_at
      FROM balances WHERE account_id = ANY(%s::uuid[])
"""

_ORIGINALS = """
    SELECT id::text, amount, rolled_back_amount, version, held_amount, captured_amount, expires_at, completed_at
      FROM transactions WHERE id = ANY(%s::uuid[])
"""


def load_states(connection: Connection, commands: Sequence[Command], *, also: Iterable[str] = (), lock: bool = True) -> States:
    """The states of all accounts and originals that the commands name, and of the accounts `also`, locked until the transaction ends.

    Locks are taken in the order of the ids, so that drains that meet wait instead of deadlocking
    (sorted FOR UPDATE was also the fastest of all ways tried). NO KEY: a submission that refers to
    an account by foreign key does not wait for a drain. `lock=False` is for a preview.

    `posted_at` is the database's clock, taken after the locks and never earlier than the last
    posting of any of the accounts or than what is posted counts from: an account's entries are in
    the order of their times even if the clock is set back.
    """
    ids: set[str] = set(also)
    original_ids: set[str] = set()
    effective = []
    for command in commands:
        ids.add(command.from_account_id)
        ids.add(command.to_account_id)
        if command.exchange is not None:
            ids.update((command.exchange.from_position_id, command.exchange.to_position_id))
        effective.append(command.effective_at)
        original_id = command.original_id
        if original_id is not None:
            original_ids.add(original_id)
    in_order = " ORDER BY {} FOR NO KEY UPDATE" if lock else ""
    rows = connection.exec_driver_sql(_ACCOUNTS + in_order.format("balances.account_id"), (_array(ids),)).fetchall()
    accounts = {row[0]: AccountState(*row[:7]) for row in rows}
    if len(accounts) < len(ids):
        _stand_in(accounts, commands)
    found: Sequence[Any] = []
    if original_ids:
        found = connection.exec_driver_sql(_ORIGINALS + in_order.format("transactions.id"), (_array(original_ids),)).fetchall()
    clock: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    posted_at = max(clock, *effective, *(row[7] for row in rows))
    return States(accounts, {row[0]: _original(row, posted_at) for row in found}, posted_at)


def _original(row: Sequence[Any], posted_at: datetime) -> OriginalState:
    transaction_id, amount, rolled_back_amount, version, held_amount, captured_amount, expires_at, ended_at = row
    # A hold ends when its time is over, whether or not somebody has come to write that down.
    expired = expires_at is not None and expires_at <= (ended_at or posted_at)
    return OriginalState(transaction_id, amount, rolled_back_amount, version, held_amount, captured_amount, expired)


def _stand_in(accounts: dict[str, AccountState], commands: Sequence[Command]) -> None:
    """Give the bank's own accounts that are not there a state to be decided on.

    There is none in a currency in which nobody has an account. A transaction that names such a
    currency names another than its customer's account holds, and is refused for that. A posting to
    one would be refused by the foreign key of its entries.
    """
    for command in commands:
        for account_id in (command.from_account_id, command.to_account_id):
            if account_id not in accounts:
                accounts[account_id] = AccountState(account_id, command.currency, "active", None, amount=0, held=0, version=0)


# The clock of the transaction and not of the moment: only with that the index is searched.
_EXPIRING = """
    SELECT from_account_id::text, to_account_id::text, held_amount, currency, effective_at, id::text
      FROM transactions WHERE held_amount > 0 AND expires_at <= now() ORDER BY expires_at LIMIT %s
"""


def expiring(connection: Connection, limit: int) -> list[Command]:
    """Up to `limit` holds whose time is over, as the commands that would let them go: states can be loaded for these."""
    rows = connection.exec_driver_sql(_EXPIRING, (limit,)).fetchall()
    return [
        Command("", source, target, amount, currency, effective_at, voids_id=hold_id)
        for source, target, amount, currency, effective_at, hold_id in rows
    ]


# One statement and one round trip for the whole batch. Every part but the first reads what the
# parts before it returned; PostgreSQL runs them as one, on one snapshot. There are two of them: where nothing is exchanged, posting
# pays nothing for the bank's positions, which are the two more sides that an exchange has. An event that has no checks to tell
# of is written in the first version of its shape, which has no place for them.
_WRITE_SIDES = """
WITH final AS (
    UPDATE transactions t
       SET status = CASE WHEN f.source IS NOT NULL THEN 'completed' WHEN f.failure_code IS NOT NULL THEN 'failed'
                         WHEN t.voids_id IS NULL THEN 'held' ELSE 'voided' END,
           held_amount = CASE WHEN f.source IS NULL AND f.failure_code IS NULL AND t.voids_id IS NULL THEN t.amount ELSE 0 END,
           failure_code = f.failure_code, version = t.version + 1,
           review = CASE WHEN f.reviewed THEN 'open' ELSE t.review END,
           completed_at = CASE WHEN f.source IS NOT NULL OR f.failure_code IS NOT NULL OR t.voids_id IS NOT NULL
                               THEN %(posted_at)s::timestamptz END
      FROM unnest(%(ids)s::uuid[], %(failures)s::text[],
                  %(sources)s::uuid[], %(source_versions)s::bigint[], %(source_balances)s::bigint[],
                  %(targets)s::uuid[], %(target_versions)s::bigint[], %(target_balances)s::bigint[],
                  %(reviewed)s::boolean[], %(checks)s::text[]<<arrays>>) WITH ORDINALITY
        AS f (id, failure_code, source, source_version, source_balance, target, target_version, target_balance,
              reviewed, checks<<names>>, number)
     WHERE t.id = f.id AND t.status = 'pending'
    RETURNING t.id, t.status, t.version, t.from_account_id, t.amount, t.currency, t.to_amount, t.to_currency, t.effective_at,
              t.request_id, t.trace_id, f.failure_code, f.source, f.source_version, f.source_balance, f.target, f.target_version,
              f.target_balance, f.reviewed, f.checks<<names>>, f.number
), logged AS (
    INSERT INTO events (stream_id, version, type, schema, data, request_id, trace_id, recorded_at)
    SELECT id, version,
           CASE status WHEN 'completed' THEN 'TransactionCompleted' WHEN 'failed' THEN 'TransactionFailed'
                       WHEN 'held' THEN 'TransactionHeld' ELSE 'TransactionVoided' END,
           CASE WHEN checks IS NULL THEN 1 ELSE 2 END,
           CASE status WHEN 'completed'
                THEN format('{"entries":[["%%s",%%s,-%%s,%%s],<<told>>["%%s",%%s,%%s,%%s]]%%s}', source, source_version, amount,
                            source_balance, <<values>>target, target_version, to_amount, target_balance, ',"checks":' || checks)
                WHEN 'failed' THEN format('{"failure_code":"%%s"%%s}', failure_code, ',"checks":' || checks)
                WHEN 'held' THEN format('{"account_id":"%%s","amount":%%s%%s}', from_account_id, amount,
                                        CASE WHEN reviewed THEN ',"review":true' WHEN checks IS NOT NULL THEN ',"review":false' END
                                        || ',"checks":' || checks)
                ELSE '{}' END::json,
           request_id, trace_id, %(posted_at)s
      FROM final ORDER BY number
), posted AS (
    INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
    SELECT side.account_id, side.version, f.id, side.currency, side.amount, side.balance, f.effective_at, %(posted_at)s
      FROM final f CROSS JOIN LATERAL (
               VALUES (source, source_version, -amount, source_balance, currency),
                      <<sides>>(target, target_version, to_amount, target_balance, to_currency)
           ) AS side (account_id, version, amount, balance, currency)
     WHERE side.account_id IS NOT NULL
    RETURNING account_id, amount, effective_at
), day AS (
    SELECT account_id, CAST(effective_at AT TIME ZONE 'UTC' AS date) AS day, sum(amount) AS change,
           COALESCE(sum(amount) FILTER (WHERE amount > 0), 0) AS credits,
           COALESCE(-sum(amount) FILTER (WHERE amount < 0), 0) AS debits, count(*) AS count
      FROM posted GROUP BY 1, 2
), moved AS (
    UPDATE balances b
       SET amount = b.amount + n.change, version = b.version + n.count, last_updated_at = %(posted_at)s
      FROM (SELECT account_id, sum(change) AS change, sum(count) AS count FROM day GROUP BY 1) n
     WHERE b.account_id = n.account_id
), closed AS (
    INSERT INTO daily_balances AS d (account_id, day, closing, credits, debits, count)
    SELECT account_id, day,
           sum(change) OVER (PARTITION BY account_id ORDER BY day)
               + COALESCE((SELECT p.closing FROM daily_balances p
                            WHERE p.account_id = day.account_id AND p.day <= day.day
                            ORDER BY p.day DESC LIMIT 1), 0),
           credits, debits, count
      FROM day
    ON CONFLICT (account_id, day) DO UPDATE
       SET closing = EXCLUDED.closing, credits = d.credits + EXCLUDED.credits,
           debits = d.debits + EXCLUDED.debits, count = d.count + EXCLUDED.count
)
SELECT count(*) FROM final
"""


def _with_sides(**parts: str) -> str:
    statement = _WRITE_SIDES
    for name in ("arrays", "names", "told", "values", "sides"):
        statement = statement.replace(f"<<{name}>>", parts.get(name, ""))
    return statement


_WRITE = _with_sides()

# In a batch with exchanges the others have no positions, which are NULL.
_WRITE_EXCHANGES = _with_sides(
    arrays=""",
                  %(takers)s::uuid[], %(taker_versions)s::bigint[], %(taker_balances)s::bigint[],
                  %(givers)s::uuid[], %(giver_versions)s::bigint[], %(giver_balances)s::bigint[]""",
    names=", taker, taker_version, taker_balance, giver, giver_version, giver_balance",
    told="%%s",
    values="""CASE WHEN taker IS NOT NULL
                                 THEN format('["%%s",%%s,%%s,%%s],["%%s",%%s,-%%s,%%s],', taker, taker_version, amount, taker_balance,
                                             giver, giver_version, to_amount, giver_balance) END,
                            """,
    sides="""(taker, taker_version, amount, taker_balance, currency),
                      (giver, giver_version, -to_amount, giver_balance, to_currency),
                      """,
)

# What roundings left is kept with the position in the currency that was bought.
_KEEP_REMAINDERS = """
    UPDATE balances b SET remainder = b.remainder + n.remainder
      FROM (SELECT account_id, sum(remainder) AS remainder FROM unnest(%s::uuid[], %s::numeric[]) AS k (account_id, remainder) GROUP BY 1) n
     WHERE b.account_id = n.account_id
"""

# Backdated entries move the closing balances of the days behind theirs. The days of the batch itself
# were right already, so each moves what lies between it and the batch's next day of that account.
_MOVE_LATER_DAYS = """
    WITH day AS (
        SELECT account_id, CAST(effective_at AT TIME ZONE 'UTC' AS date) AS day, sum(amount) AS change
          FROM entries WHERE transaction_id = ANY(%(ids)s::uuid[]) GROUP BY 1, 2
    ), span AS (
        SELECT account_id, day AS after, lead(day, 1, 'infinity') OVER account AS before,
               sum(change) OVER account AS change
          FROM day WINDOW account AS (PARTITION BY account_id ORDER BY day)
    )
    UPDATE daily_balances d SET closing = d.closing + span.change
      FROM span WHERE d.account_id = span.account_id AND d.day > span.after AND d.day < span.before
"""

# A rollback marks its original. Several of one original in a batch are events of their own; the last
# of them is what stays on the row.
_MARK_ORIGINALS = """
    WITH mark AS (
        SELECT n.*, t.amount AS original_amount
          FROM unnest(%(originals)s::uuid[], %(rollbacks)s::uuid[], %(amounts)s::bigint[], %(sums)s::bigint[],
                      %(versions)s::int[]) AS n (original_id, rollback_id, amount, rolled_back_amount, version)
          JOIN transactions t ON t.id = n.original_id
    ), logged AS (
        INSERT INTO events (stream_id, version, type, data, request_id, trace_id, recorded_at)
        SELECT m.original_id, m.version, 'TransactionRolledBack',
               format('{"rollback_id":"%%s","amount":%%s,"rolled_back_amount":%%s}',
                      m.rollback_id, m.amount, m.rolled_back_amount)::json,
               r.request_id, r.trace_id, %(posted_at)s
          FROM mark m JOIN transactions r ON r.id = m.rollback_id ORDER BY m.version
    )
    UPDATE transactions t SET rolled_back_amount = m.rolled_back_amount, version = m.version,
           status = CASE WHEN m.rolled_back_amount = t.amount THEN 'rolled_back' ELSE 'completed' END
      FROM (SELECT DISTINCT ON (original_id) * FROM mark ORDER BY original_id, version DESC) m
     WHERE t.id = m.original_id
"""

# What captures, voids and the end of their time make of holds: the latter is nobody's request. As with rollbacks the
# last of several is what stays on the row.
_MARK_HOLDS = """
    WITH mark AS (
        SELECT * FROM unnest(%(types)s::text[], %(requests)s::uuid[], %(holds)s::uuid[], %(accounts)s::uuid[], %(amounts)s::bigint[],
                             %(captured)s::bigint[], %(left)s::bigint[], %(versions)s::int[])
                   AS n (type, request_id, hold_id, account_id, amount, captured_amount, held_amount, version)
    ), logged AS (
        INSERT INTO events (stream_id, version, type, data, request_id, trace_id, recorded_at)
        SELECT m.hold_id, m.version, m.type,
               format(CASE m.type
                          WHEN 'HoldCaptured'
                          THEN '{"capture_id":"%%1$s","account_id":"%%2$s","amount":%%3$s,"captured_amount":%%4$s,"held_amount":%%5$s}'
                          WHEN 'HoldVoided' THEN '{"void_id":"%%1$s","account_id":"%%2$s","amount":%%3$s,"captured_amount":%%4$s}'
                          ELSE '{"account_id":"%%2$s","amount":%%3$s,"captured_amount":%%4$s}' END,
                      m.request_id, m.account_id, m.amount, m.captured_amount, m.held_amount)::json,
               r.request_id, r.trace_id, %(posted_at)s
          FROM mark m LEFT JOIN transactions r ON r.id = m.request_id ORDER BY m.version
    )
    UPDATE transactions t
       SET captured_amount = m.captured_amount, held_amount = m.held_amount, version = m.version,
           status = CASE WHEN m.held_amount > 0 THEN 'held' WHEN m.captured_amount > 0 THEN 'completed' ELSE 'voided' END,
           completed_at = CASE WHEN m.held_amount = 0 THEN %(posted_at)s::timestamptz END
      FROM (SELECT DISTINCT ON (hold_id) * FROM mark ORDER BY hold_id, version DESC) m
     WHERE t.id = m.hold_id
"""

# Not a part of `_WRITE`, so that posting pays nothing for it where nothing is held.
_HOLD = """
    UPDATE balances b SET held = b.held + n.change
      FROM unnest(%s::uuid[], %s::bigint[]) AS n (account_id, change) WHERE b.account_id = n.account_id
"""

_SAVE_LANE = "UPDATE lanes SET position = %s, candidate = %s, candidate_xid = %s WHERE lane = %s"

NOTIFY_CHANNEL = "transactions_final"

# One notification holds at most 8,000 bytes.
_IDS_PER_NOTIFICATION = 200


def write(connection: Connection, claimed: Claim, states: States, outcomes: Sequence[Outcome]) -> None:
    """Write a whole batch, and where the lane stands. Raises LaneLost as `write_outcomes` does."""
    write_outcomes(connection, states, outcomes)
    connection.exec_driver_sql(_SAVE_LANE, (claimed.position, claimed.candidate, claimed.candidate_xid, claimed.lane))
    awaited = [pending.command.transaction_id for pending in claimed.pending if pending.awaited]
    for start in range(0, len(awaited), _IDS_PER_NOTIFICATION):
        payload = ",".join(awaited[start : start + _IDS_PER_NOTIFICATION])
        connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (NOTIFY_CHANNEL, payload))


def write_outcomes(connection: Connection, states: States, outcomes: Sequence[Outcome]) -> None:
    """Write what was decided: statuses, entries, balances, closing balances and events.

    Raises LaneLost when one of the transactions is not pending any more; the caller's transaction
    must then be rolled back.
    """
    ids = _array(outcome.command.transaction_id for outcome in outcomes)
    changes = _held(outcomes)
    # The schema refuses a balance under its limit after each statement. What is held less is so before the money
    # moves, what is held more afterwards: in between every account has more to spend than at the end.
    _hold(connection, {account_id: change for account_id, change in changes.items() if change < 0})
    exchanges = [(outcome, outcome.command.exchange) for outcome in outcomes if isinstance(outcome, Posting) and outcome.command.exchange]
    columns = _columns(ids, states.posted_at, outcomes)
    if exchanges:
        columns |= _positions(outcomes)
    written = connection.exec_driver_sql(_WRITE_EXCHANGES if exchanges else _WRITE, columns).scalar_one()
    if written != len(outcomes):
        raise LaneLost(f"{written} of {len(outcomes)} transactions were still pending")
    midnight = states.posted_at.replace(hour=0, minute=0, second=0, microsecond=0)
    if any(outcome.command.effective_at < midnight for outcome in outcomes):
        connection.exec_driver_sql(_MOVE_LATER_DAYS, {"ids": ids})
    if exchanges:
        bought = [each.from_position_id if posting.reversal else each.to_position_id for posting, each in exchanges]
        connection.exec_driver_sql(_KEEP_REMAINDERS, (_array(bought), _array(each.remainder for _, each in exchanges)))
    _hold(connection, {account_id: change for account_id, change in changes.items() if change > 0})
    _mark_holds(
        connection,
        states.posted_at,
        [
            ("HoldCaptured" if isinstance(outcome, Posting) else "HoldVoided", outcome.command.transaction_id, outcome.hold)
            for outcome in (outcomes if changes else ())
            if not isinstance(outcome, Reservation | Refusal) and outcome.hold is not None
        ],
    )
    reversals = [outcome for outcome in outcomes if isinstance(outcome, Posting) and outcome.reversal]
    if reversals:
        _mark_originals(connection, states.posted_at, reversals)


_REVIEW = """
    SELECT id::text, lane, type, from_user_id::text, to_user_id::text, from_account_id::text, to_account_id::text, amount, currency,
           to_amount, to_currency, remainder, effective_at, expires_at, held_amount, actor_id::text,
           status = 'held' AND review = 'open' AS open
      FROM transactions WHERE id = %s::uuid
"""


def review_of(connection: Connection, transaction_id: str, *, lock: bool = False) -> Row[Any] | None:
    """A transaction, and whether its review is `open`; None where there is none. It is locked after its accounts are, as by a drain."""
    return connection.exec_driver_sql(_REVIEW + ("FOR NO KEY UPDATE" if lock else ""), (transaction_id,)).one_or_none()


# What is not held any more is pending again until the statement that completes it or lets it fail, in the same transaction.
_END_REVIEW = """
    WITH reviewed AS (
        UPDATE transactions
           SET review = %(review)s, held_amount = held_amount - %(freed)s, version = version + 1,
               status = CASE WHEN %(freed)s > 0 THEN 'pending' ELSE status END
         WHERE id = %(id)s::uuid
        RETURNING id, version, from_account_id
    ), freed AS (
        UPDATE balances b SET held = b.held - %(freed)s FROM reviewed r WHERE b.account_id = r.from_account_id AND %(freed)s > 0
    )
    INSERT INTO events (stream_id, version, type, data, actor_id, request_id, trace_id, recorded_at)
    SELECT id, version, %(type)s, format('{"account_id":"%%s","amount":%%s}', from_account_id, %(freed)s)::json, %(actor_id)s::uuid,
           %(request_id)s, %(trace_id)s, %(posted_at)s
      FROM reviewed
"""


def end_review(connection: Connection, posted_at: datetime, transaction_id: str, freed: int, approved: bool, origin: Origin) -> None:
    """Write that a review is over, and that `freed` minor units are not held any more: then its outcome must be written next.

    Its accounts and it itself must be locked, in this order, and the review open.
    """
    connection.exec_driver_sql(
        _END_REVIEW,
        {
            "id": transaction_id,
            "review": "approved" if approved else "rejected",
            "type": "TransactionApproved" if approved else "TransactionRejected",
            "freed": freed,
            "posted_at": posted_at,
            "actor_id": origin.actor_id,
            "request_id": origin.request_id,
            "trace_id": origin.trace_id,
        },
    )


def _held(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """By how much what is held changes, by account."""
    held: dict[str, int] = {}
    for outcome in outcomes:
        account_id = outcome.command.from_account_id
        if isinstance(outcome, Reservation):
            held[account_id] = held.get(account_id, 0) + outcome.command.amount
        elif not isinstance(outcome, Refusal) and outcome.hold is not None:
            held[account_id] = held.get(account_id, 0) - outcome.hold.amount
    return held


def _hold(connection: Connection, changes: Mapping[str, int]) -> None:
    if changes:
        connection.exec_driver_sql(_HOLD, (_array(changes), _array(str(change) for change in changes.values())))


def end_holds(connection: Connection, posted_at: datetime, ended: Sequence[HoldDraft]) -> None:
    """Write that these holds are over because their time was. Their accounts and they themselves must be locked, in this order."""
    freed: dict[str, int] = {}
    for hold in ended:
        freed[hold.account_id] = freed.get(hold.account_id, 0) - hold.amount
    _hold(connection, freed)
    _mark_holds(connection, posted_at, [("HoldExpired", "NULL", hold) for hold in ended])


def _mark_holds(connection: Connection, posted_at: datetime, marks: Sequence[tuple[str, str, HoldDraft]]) -> None:
    """Write what became of holds: by which type of event, by whose request, and how they stand then."""
    if not marks:
        return
    connection.exec_driver_sql(
        _MARK_HOLDS,
        {
            "types": _array(kind for kind, _, _ in marks),
            "requests": _array(request_id for _, request_id, _ in marks),
            "holds": _array(hold.hold_id for _, _, hold in marks),
            "accounts": _array(hold.account_id for _, _, hold in marks),
            "amounts": _array(str(hold.amount) for _, _, hold in marks),
            "captured": _array(str(hold.captured_amount) for _, _, hold in marks),
            "left": _array(str(hold.held_amount) for _, _, hold in marks),
            "versions": _array(str(hold.version) for _, _, hold in marks),
            "posted_at": posted_at,
        },
    )


def _columns(ids: str, posted_at: datetime, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The outcomes turned from rows into columns; what a refusal does not have is NULL."""
    rows = [
        ("NULL", *_side(outcome, 0), *_side(outcome, -1))
        if isinstance(outcome, Posting)
        else (outcome.code.value if isinstance(outcome, Refusal) else "NULL", *["NULL"] * 6)
        for outcome in outcomes
    ]
    reviewed = _array(str(isinstance(outcome, Reservation) and outcome.review) for outcome in outcomes)
    checks = _array("NULL" if isinstance(outcome, Release) or not outcome.checks else _quoted(outcome.checks) for outcome in outcomes)
    names = (
        "failures",
        "sources",
        "source_versions",
        "source_balances",
        "targets",
        "target_versions",
        "target_balances",
    )
    columns = {name: _array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    return {"ids": ids, "posted_at": posted_at, "reviewed": reviewed, "checks": checks, **columns}


def _quoted(checks: Checks) -> str:
    """The checks as JSON, as an element of an array literal."""
    told = orjson.dumps(checks).decode().replace("\\", "\\\\").replace('"', '\\"')
    return f'"{told}"'


def _positions(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The columns of the two more sides that an exchange has; NULL in all others."""
    rows = [
        (*_side(outcome, 1), *_side(outcome, 2)) if isinstance(outcome, Posting) and outcome.command.exchange else ("NULL",) * 6
        for outcome in outcomes
    ]
    names = ("takers", "taker_versions", "taker_balances", "givers", "giver_versions", "giver_balances")
    return {name: _array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _side(posting: Posting, side: int) -> tuple[str, str, str]:
    entry = posting.entries[side]
    return entry.account_id, str(entry.version), str(entry.balance)


def _mark_originals(connection: Connection, posted_at: datetime, reversals: Sequence[Posting]) -> None:
    marks = [(posting.command, posting.reversal) for posting in reversals if posting.reversal]
    connection.exec_driver_sql(
        _MARK_ORIGINALS,
        {
            "originals": _array(mark.original_id for _, mark in marks),
            "rollbacks": _array(command.transaction_id for command, _ in marks),
            "amounts": _array(str(command.arrives) for command, _ in marks),
            "sums": _array(str(mark.rolled_back_amount) for _, mark in marks),
            "versions": _array(str(mark.version) for _, mark in marks),
            "posted_at": posted_at,
        },
    )


def _array(values: Iterable[str]) -> str:
    """A PostgreSQL array literal of ids, numbers and codes, none of which needs quoting.

    The server reads one literal far faster than a thousand parameters.
    """
    return "{" + ",".join(values) + "}"


def lanes(connection: Connection) -> list[int]:
    """The lanes that there are, in order. A lane that is not there is drained by nobody."""
    return list(connection.exec_driver_sql("SELECT lane FROM lanes ORDER BY lane").scalars())


# Where a lane stands is put in as a number and not joined: only then does the planner know that nearly
# nothing lies behind it, and takes the index whatever its statistics say of pending rows.
_QUEUE = """
    SELECT {lane}, count(*), EXTRACT(epoch FROM now() - min(created_at)) FROM transactions
     WHERE lane = {lane} AND seq > {position} AND status = 'pending' HAVING count(*) > 0
"""


def queue(connection: Connection) -> list[tuple[int, int, float]]:
    """The lanes in which transactions wait: lane, how many, and for how many seconds the oldest."""
    return [(lane, count, float(seconds)) for lane, count, seconds in _by_lane(connection, _QUEUE)]


_OLDEST = """(SELECT {lane}, EXTRACT(epoch FROM clock_timestamp() - created_at) FROM transactions
               WHERE lane = {lane} AND seq > {position} AND status = 'pending' ORDER BY seq LIMIT 1)"""


def oldest(connection: Connection) -> dict[int, float]:
    """By lane, for how many seconds the oldest pending transaction waits; lanes in which none does are left out.

    Unlike `queue` it looks at one row of each lane, however many there are.
    """
    return {lane: float(seconds) for lane, seconds in _by_lane(connection, _OLDEST)}


def _by_lane(connection: Connection, statement: str) -> Sequence[Row[Any]]:
    positions = connection.exec_driver_sql("SELECT lane, position FROM lanes ORDER BY lane").fetchall()
    if not positions:
        return []
    return connection.exec_driver_sql(
        " UNION ALL ".join(statement.format(lane=lane, position=position) for lane, position in positions)
    ).fetchall()
