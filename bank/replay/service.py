"""Asking for a replay, and reading what came out."""

from typing import Any

from sqlalchemy import Row, text

from bank.audit import service as audit
from bank.db import reader, unit_of_work
from bank.errors import NotFound, ReplayNotFinished, TooManyReplays
from bank.events.types import Origin
from bank.money import format_amount
from bank.replay import jobs
from bank.replay.run import Until, goal
from bank.replay.state import Account
from bank.web.context import new_id
from bank.web.fields import timestamp

# Each takes a worker's time.
_MOST_OPEN = 3

# Any number; it is this lock's name. Under it they are counted, so that two who ask at once are not both the third.
_LOCK = 0x7265706C617973

_ASK = text(
    """
    INSERT INTO replays (id, asked_by, until_position, until_time, account_id, from_start)
    VALUES (:id, :asked_by, :until_position, :until_time, :account_id, :from_start)
    """
)


def ask(until: Until, account_id: str | None, from_start: bool, origin: Origin) -> dict[str, Any]:
    """Queue a replay up to a moment, of one account or of all (None), and ring for it; the replay as the API shows it.

    `from_start`: it uses no snapshot of an earlier replay.
    Raises Unprocessable for a position past the end of the log, and TooManyReplays.
    """
    # The present moment is written down as the position that it is at: asked once more, the same comes out.
    end = goal(until)
    replay_id = new_id()
    position = end.position if end.time is None else None
    asked = {"until_position": position, "until_time": end.time, "account_id": account_id, "from_start": from_start}
    with unit_of_work() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        are_open = session.execute(text("SELECT count(*) FROM replays WHERE status IN ('queued', 'running')")).scalar_one()
        if are_open >= _MOST_OPEN:
            raise TooManyReplays(f"{are_open} replays wait or are at work; ask again when one of them is over.")
        session.execute(_ASK, {**asked, "id": replay_id, "asked_by": origin.actor_id})
        audit.record(session, "replay", replay_id, "replay.started", origin, {**asked, "until_time": timestamp(end.time)})
    jobs.ring(replay_id)
    return get(replay_id)


_GET = text(
    """
    SELECT id::text, status, until_position, until_time, account_id::text, from_start, started_from, position, end_position,
           users, submitted, completed, failed, open_holds, voided, error, created_at, finished_at
      FROM replays WHERE id = :id AND status <> 'forgotten'
    """
)


def get(replay_id: str) -> dict[str, Any]:
    """A replay as the API shows it. Raises NotFound."""
    with reader() as session:
        row = session.execute(_GET, {"id": replay_id}).one_or_none()
    if row is None:
        raise NotFound
    times = {name: timestamp(getattr(row, name)) for name in ("until_time", "created_at", "finished_at")}
    return {**row._mapping, **times, "progress": _percent(row)}


def _percent(row: Row[Any]) -> int:
    if row.status == "finished":
        return 100
    # It is there and not written down yet; and 0 events are read at once.
    return min(99, 100 * row.position // row.end_position) if row.end_position else 0


# One statement: between two the replay could be forgotten, and some of its accounts be gone.
_ACCOUNTS = text(
    """
    SELECT r.status AS replay_status, a.*
      FROM replays r LEFT JOIN LATERAL (
          SELECT account_id::text, user_id::text, currency, kind, name, status, overdraft_limit, balance, held, version
            FROM replayed_accounts
           WHERE replay_id = r.id AND r.status = 'finished' AND (CAST(:after AS uuid) IS NULL OR account_id > :after)
           ORDER BY replayed_accounts.account_id LIMIT :limit
      ) a ON true
     WHERE r.id = :id AND r.status <> 'forgotten' ORDER BY a.account_id
    """
)


def accounts(replay_id: str, after: str | None, limit: int) -> list[dict[str, Any]]:
    """The accounts that came out, from behind the one with the id `after`; one more than `limit` when more follow.

    Raises NotFound, and ReplayNotFinished for a replay that failed or is at work.
    """
    with reader() as session:
        rows = session.execute(_ACCOUNTS, {"id": replay_id, "after": after, "limit": limit + 1}).all()
    if not rows:
        raise NotFound
    if rows[0].replay_status != "finished":
        raise ReplayNotFinished(f"It is {rows[0].replay_status}.")
    return [present(row.account_id, row) for row in rows if row.account_id is not None]


def present(account_id: str, account: Account | Row[Any]) -> dict[str, Any]:
    """An account as it was then: amounts as decimal strings of its currency."""
    currency, limit = account.currency, account.overdraft_limit
    return {
        "id": account_id,
        "user_id": account.user_id,
        "currency": currency,
        "kind": account.kind,
        "name": account.name,
        "status": account.status,
        "balance": format_amount(account.balance, currency),
        "held": format_amount(account.held, currency),
        "overdraft_limit": None if limit is None else format_amount(limit, currency),
        "version": account.version,
    }
