"""The ledger's SQL: claim a lane, lock what it touches, write the outcomes in sets.

A handful of statements, whatever the batch size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from bank.ledger.batch import Batch, Pending, States, array
from bank.ledger.decide import AccountState, Command, OriginalState, Outcome
from bank.ledger.system import outside_account_id


@dataclass(frozen=True, slots=True)
class Claim:
    """What a drain took from a lane, oldest first, and where the lane may stand afterwards."""

    lane: int
    pending: list[Pending]
    position: int
    candidate: int
    candidate_xid: int


class LaneLost(RuntimeError):
    """A row of the batch was not pending any more: the lane's lock did not hold. Nothing is written."""


_LOCK_LANE = """
    SELECT position, candidate, candidate_xid, pg_snapshot_xmin(pg_current_snapshot())::text::bigint
      FROM lanes WHERE lane = %s FOR UPDATE SKIP LOCKED
"""

_PENDING = """
    SELECT seq, type, id::text, from_account_id::text, to_account_id::text, amount, currency, to_currency, effective_at,
           reverses_id::text, awaited, created_at, request_id
      FROM transactions
     WHERE lane = %s AND seq > %s AND status = 'pending'
     ORDER BY seq LIMIT %s
"""


def claim(connection: Connection, lane: int, limit: int) -> Claim | None:
    """Lock the lane and take up to `limit` pending transactions, oldest first.

    None when another drain has the lane. The lock is the transaction's: it ends with it, whatever
    happens to the process.
    """
    locked = connection.exec_driver_sql(_LOCK_LANE, (lane,)).fetchone()
    if locked is None:
        return None
    position, candidate, candidate_xid, xmin = locked
    rows = connection.exec_driver_sql(_PENDING, (lane, position, limit)).fetchall()
    pending = [_pending(lane, row) for row in rows]
    last_seq = pending[-1].seq if pending else candidate
    # Everything up to the candidate has been visible to a claim since all transactions below
    # candidate_xid ended, so what is still pending of it is in this batch, unless the batch is full.
    if candidate_xid <= xmin:
        position = max(position, min(candidate, last_seq) if len(rows) == limit else candidate)
        candidate, candidate_xid = last_seq, _next_xid(connection)
    return Claim(lane, pending, position, candidate, candidate_xid)


def _next_xid(connection: Connection) -> int:
    # Read after the claim's statement: whoever took a smaller seq than any seen there took its
    # transaction id before that seq (the submission sees to it), so it is below this one.
    query = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    return int(connection.exec_driver_sql(query).scalar_one())


def _pending(lane: int, row: Sequence[Any]) -> Pending:
    seq, kind, transaction_id, source, target, amount, currency, to_currency, effective_at, reverses, *rest = row
    awaited, created_at, request_id = rest
    command = Command(
        transaction_id=transaction_id,
        from_account_id=source or outside_account_id(currency, lane),
        to_account_id=target or outside_account_id(to_currency, lane),
        amount=amount,
        currency=currency,
        effective_at=effective_at,
        reverses_id=reverses,
    )
    return Pending(seq, kind, command, awaited, created_at, request_id)


_LOCK_ACCOUNTS = """
    SELECT account_id::text, currency, status, overdraft_limit, amount, held, version, last_updated_at
      FROM balances WHERE account_id = ANY(%s::uuid[])
     ORDER BY account_id FOR NO KEY UPDATE
"""

_ACCOUNTS = _LOCK_ACCOUNTS.replace("FOR NO KEY UPDATE", "")

_LOCK_ORIGINALS = """
    SELECT id::text, amount, rolled_back_amount, version FROM transactions
     WHERE id = ANY(%s::uuid[]) ORDER BY id FOR NO KEY UPDATE
"""

_ORIGINALS = _LOCK_ORIGINALS.replace("FOR NO KEY UPDATE", "")


def load_states(connection: Connection, commands: Iterable[Command], *, lock: bool = True) -> States:
    """The states of all accounts and originals that the commands name, locked until the transaction ends.

    Locks are taken in the order of the ids, so that drains that meet wait instead of deadlocking
    (sorted FOR UPDATE was also the fastest of all ways tried). NO KEY: a submission that refers to
    an account by foreign key does not wait for a drain. `lock=False` is for a preview.

    `posted_at` is the database's clock, taken after the locks and never earlier than the last
    posting of any of the accounts or than what is posted counts from: an account's entries are in
    the order of their times even if the clock is set back.
    """
    commands = list(commands)
    ids = {command.from_account_id for command in commands} | {command.to_account_id for command in commands}
    reversed_ids = {command.reverses_id for command in commands if command.reverses_id is not None}
    rows = connection.exec_driver_sql(_LOCK_ACCOUNTS if lock else _ACCOUNTS, (array(sorted(ids)),)).fetchall()
    accounts = {row[0]: AccountState(*row[:7]) for row in rows}
    latest = max([row[7] for row in rows] + [command.effective_at for command in commands])
    originals = {}
    if reversed_ids:
        found = connection.exec_driver_sql(_LOCK_ORIGINALS if lock else _ORIGINALS, (array(sorted(reversed_ids)),)).fetchall()
        originals = {row[0]: OriginalState(*row) for row in found}
    clock: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return States(accounts, originals, max(clock, latest))


_WRITE = """
WITH final AS (
    UPDATE transactions t
       SET status = CASE WHEN f.failure_code IS NULL THEN 'completed' ELSE 'failed' END,
           failure_code = f.failure_code, completed_at = %(posted_at)s, version = 2
      FROM unnest(%(ids)s::uuid[], %(failures)s::text[]) AS f (id, failure_code)
     WHERE t.id = f.id AND t.status = 'pending'
    RETURNING 1
), posted AS (
    INSERT INTO entries (account_id, version, transaction_id, currency, amount, balance, effective_at, posted_at)
    SELECT e.account_id, e.version, e.transaction_id, e.currency, e.amount, e.balance, e.effective_at, %(posted_at)s
      FROM unnest(%(entry_accounts)s::uuid[], %(entry_versions)s::bigint[], %(entry_transactions)s::uuid[],
                  %(entry_currencies)s::text[], %(entry_amounts)s::bigint[], %(entry_balances)s::bigint[],
                  %(entry_effective)s::timestamptz[])
        AS e (account_id, version, transaction_id, currency, amount, balance, effective_at)
), moved AS (
    UPDATE balances b SET amount = n.amount, version = n.version, last_updated_at = %(posted_at)s
      FROM unnest(%(accounts)s::uuid[], %(amounts)s::bigint[], %(versions)s::bigint[]) AS n (id, amount, version)
     WHERE b.account_id = n.id
    RETURNING 1
), days AS (
    INSERT INTO daily_balances AS d (account_id, day, closing, credits, debits, count)
    SELECT n.account_id, n.day,
           n.change + COALESCE((SELECT p.closing FROM daily_balances p
                                 WHERE p.account_id = n.account_id AND p.day <= n.day
                                 ORDER BY p.day DESC LIMIT 1), 0),
           n.credits, n.debits, n.count
      FROM unnest(%(day_accounts)s::uuid[], %(days)s::date[], %(day_changes)s::bigint[], %(day_credits)s::bigint[],
                  %(day_debits)s::bigint[], %(day_counts)s::int[])
        AS n (account_id, day, change, credits, debits, count)
    ON CONFLICT (account_id, day) DO UPDATE
       SET closing = EXCLUDED.closing, credits = d.credits + EXCLUDED.credits,
           debits = d.debits + EXCLUDED.debits, count = d.count + EXCLUDED.count
), logged AS (
    INSERT INTO events (stream_id, version, type, data, request_id, recorded_at)
    SELECT e.stream_id, e.version, e.type, e.data, e.request_id, %(posted_at)s
      FROM unnest(%(streams)s::uuid[], %(stream_versions)s::int[], %(types)s::text[], %(data)s::json[],
                  %(requests)s::text[]) AS e (stream_id, version, type, data, request_id)
)
SELECT (SELECT count(*) FROM final), (SELECT count(*) FROM moved)
"""

_MOVE_LATER_DAYS = """
    UPDATE daily_balances d SET closing = d.closing + n.change
      FROM unnest(%s::uuid[], %s::date[], %s::date[], %s::bigint[]) AS n (account_id, after, before, change)
     WHERE d.account_id = n.account_id AND d.day > n.after AND d.day < n.before
"""

_MARK_ORIGINALS = """
    UPDATE transactions t SET rolled_back_amount = n.amount, version = n.version,
           status = CASE WHEN n.amount = t.amount THEN 'rolled_back' ELSE 'completed' END
      FROM unnest(%s::uuid[], %s::bigint[], %s::int[]) AS n (id, amount, version)
     WHERE t.id = n.id
"""

_SAVE_LANE = "UPDATE lanes SET position = %s, candidate = %s, candidate_xid = %s WHERE lane = %s"

NOTIFY_CHANNEL = "transactions_final"

# One notification holds at most 8,000 bytes.
_IDS_PER_NOTIFICATION = 200


def write(connection: Connection, claimed: Claim, states: States, outcomes: Sequence[Outcome]) -> None:
    """Write a whole batch: statuses, entries, balances, closing balances, events, and where the lane stands.

    `states` are those that `decide` moved on. Raises LaneLost when a transaction of the batch is
    not pending any more; the caller's transaction must then be rolled back.
    """
    batch = Batch(states, claimed.pending, outcomes)
    done, moved = connection.exec_driver_sql(_WRITE, batch.parameters()).one()
    if done != len(outcomes) or moved != len(batch.touched):
        raise LaneLost(f"lane {claimed.lane}: {done} of {len(outcomes)} rows, {moved} of {len(batch.touched)} balances")
    if batch.backdated:
        connection.exec_driver_sql(_MOVE_LATER_DAYS, batch.later_days())
    if batch.reverses:
        connection.exec_driver_sql(_MARK_ORIGINALS, batch.originals())
    _save_lane(connection, claimed)
    awaited = [pending.command.transaction_id for pending in claimed.pending if pending.awaited]
    for start in range(0, len(awaited), _IDS_PER_NOTIFICATION):
        payload = ",".join(awaited[start : start + _IDS_PER_NOTIFICATION])
        connection.exec_driver_sql("SELECT pg_notify(%s, %s)", (NOTIFY_CHANNEL, payload))


def _save_lane(connection: Connection, claimed: Claim) -> None:
    connection.exec_driver_sql(_SAVE_LANE, (claimed.position, claimed.candidate, claimed.candidate_xid, claimed.lane))


_WAITING_LANES = """
    SELECT l.lane FROM lanes l
     WHERE EXISTS (SELECT FROM transactions t
                    WHERE t.lane = l.lane AND t.seq > l.position AND t.status = 'pending'
                      AND t.created_at <= now() - make_interval(secs => %s))
     ORDER BY l.lane
"""


def waiting_lanes(connection: Connection, older_than: float = 0) -> list[int]:
    """The lanes with a transaction that has been pending for `older_than` seconds or more."""
    return [row[0] for row in connection.exec_driver_sql(_WAITING_LANES, (older_than,))]
