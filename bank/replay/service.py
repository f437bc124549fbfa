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

# Each takes a worker's time and, until it is forgotten, a row an account.
_MOST_OPEN = 3
_KEPT_DAYS = 7

# How many are forgotten when one is asked for: more than one, so that they do not pile up, and few enough to be quick.
_FORGOTTEN_AT_ONCE = 3

# Any number; it is this lock's name. Under it they are counted, so that two who ask at once are not both the third.
_LOCK = 0x7265706C617973

_FORGET = text(
    """
    DELETE FROM replays WHERE id IN (
        SELECT id FROM replays WHERE created_at < now() - make_interval(days => :days) ORDER BY created_at LIMIT :most
    )
    """
)

_ASK = text(
    """
    INSERT INTO replays (id, asked_by, until_position, until_time, account_id)
    VALUES (:id, :asked_by, :until_position, :until_time, :account_id)
    """
)


def ask(until: Until, account_id: str | None, origin: Origin) -> dict[str, Any]:
    """Queue a replay up to a moment, of one account or of all (None), and ring for it; the replay as the API shows it.

    Raises Unprocessable for a position past the end of the log, and TooManyReplays.
    """
    # The present moment is written down as the position that it is at: asked once more, the same comes out.
    end = goal(until)
    replay_id = new_id()
    position = end.position if end.time is None else None
    asked = {"id": replay_id, "asked_by": origin.actor_id, "until_position": position, "until_time": end.time, "account_id": account_id}
    with unit_of_work() as session:
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        are_open = session.execute(text("SELECT count(*) FROM replays WHERE status IN ('queued', 'running')")).scalar_one()
        if are_open >= _MOST_OPEN:
            raise TooManyReplays(f"{are_open} replays wait or are at work; ask again when one of them is over.")
        session.execute(_FORGET, {"days": _KEPT_DAYS, "most": _FORGOTTEN_AT_ONCE})
        session.execute(_ASK, asked)
        details = {"until_position": position, "until_time": timestamp(end.time), "account_id": account_id}
        audit.record(session, "replay", replay_id, "replay.started", origin, details)
    jobs.ring(replay_id)
    return get(replay_id)


_GET = text(
    """
    SELECT id::text, status, until_position, until_time, account_id::text, position, end_position, users, submitted, completed,
           failed, open_holds, voided, error, created_at, finished_at
      FROM replays WHERE id = :id
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


_ACCOUNTS = text(
    """
    SELECT account_id::text, user_id::text, currency, kind, name, status, overdraft_limit, balance, version, held
      FROM replayed_accounts
     WHERE replay_id = :id AND (CAST(:after AS uuid) IS NULL OR account_id > :after)
     ORDER BY account_id LIMIT :limit
    """
)


def accounts(replay_id: str, after: str | None, limit: int) -> list[dict[str, Any]]:
    """The accounts that came out, from behind the one with the id `after`; one more than `limit` when more follow.

    Raises NotFound, and ReplayNotFinished for a replay that failed or is at work.
    """
    status = get(replay_id)["status"]
    if status != "finished":
        raise ReplayNotFinished(f"It is {status}.")
    with reader() as session:
        rows = session.execute(_ACCOUNTS, {"id": replay_id, "after": after, "limit": limit + 1}).all()
    return [present(row.account_id, row) for row in rows]


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
