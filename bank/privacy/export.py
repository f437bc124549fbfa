"""All that the bank holds of a user, for them to read or take elsewhere (GDPR, Articles 15 and 20)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sqlalchemy import Row, text

from bank.accounts import service as accounts
from bank.audit import service as audit
from bank.db import reader, unit_of_work
from bank.events import store as events
from bank.events.types import Origin
from bank.schedules import service as schedules
from bank.transactions import store as transactions
from bank.users import service as users
from bank.users.models import User
from bank.web.fields import timestamp
from bank.web.streaming import PAGE, Pages

# Those that are kept: `bank.auth.logins` forgets old ones.
_LOGINS = text(
    """SELECT id::text, created_at, refreshed_at, ended_at, end_reason, address, user_agent FROM logins
        WHERE user_id = CAST(:user_id AS uuid) AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid))
        ORDER BY id DESC LIMIT :limit"""
)


def note(user: User, origin: Origin) -> None:
    """Write down that somebody else had all that is held of the user."""
    with unit_of_work() as session:
        audit.record(session, "user", user.id, "user.exported", origin)


def pages(user: User) -> Pages:
    """What the bank holds of `user`, in pages of rows of `kind` and `data`, each page read for itself.

    The kinds are user, login, account (each followed by its entries), entry, transaction, schedule, act, which is a row of the audit log,
    and event, which tells what the user was called before; `data` is as the API shows it elsewhere. Passwords and second factors
    are never in it. What happens meanwhile may be in it or not.
    """
    yield [{"kind": "user", "data": users.present_user(user)}]
    for logins in _in_turn(lambda last: _logins(user.id, last), "id"):
        yield [{"kind": "login", "data": _present_login(row)} for row in logins]
    for found in _in_turn(lambda last: accounts.search(user.id, None, None, last, PAGE), "id"):
        for account in found:
            yield [{"kind": "account", "data": accounts.present(account)}]
            yield from _entries(account.id)
    for moved in _in_turn(lambda last: _transactions(user.id, last), "seq"):
        yield [{"kind": "transaction", "data": transactions.present(row)} for row in moved]
    for status in (None, "deleted"):
        yield from _schedules(user.id, status)
    for acts in audit.read_all({"actor_id": user.id}, None):
        yield [{"kind": "act", "data": audit.present(row)} for row in acts]
    # What others did, or tried, to this user: from where is somebody else's, unless nobody knows who it was.
    for acts in audit.read_all({"entity_type": "user", "entity_id": user.id}, None):
        others = [row for row in acts if row.actor_id != user.id]
        yield [{"kind": "act", "data": {**audit.present(row), **({"address": None} if row.actor_id else {})}} for row in others]
    for changes in _in_turn(lambda last: _events(user.id, last), "position"):
        yield [{"kind": "event", "data": audit.present_event(row)} for row in changes]


def _in_turn(read: Callable[[Any], Sequence[Row[Any]]], key: str) -> Iterator[Sequence[Row[Any]]]:
    """Pages of what `read` gives, which takes the `key` of the last row of the page before and gives one row more than a page when more
    follow."""
    last = None
    while True:
        rows = read(last)
        if rows:
            yield rows[:PAGE]
        if len(rows) <= PAGE:
            return
        last = getattr(rows[PAGE - 1], key)


def _entries(account_id: str) -> Pages:
    for rows in _in_turn(lambda last: accounts.entries(account_id, last, PAGE), "version"):
        yield [{"kind": "entry", "data": {"account_id": account_id, **accounts.present_entry(row)}} for row in rows]


def _schedules(user_id: str, status: str | None) -> Pages:
    for rows in _in_turn(lambda last: schedules.search(user_id, status, last, PAGE), "id"):
        yield [{"kind": "schedule", "data": schedules.present(row)} for row in rows]


def _transactions(user_id: str, before: int | None) -> Sequence[Row[Any]]:
    with reader() as session:
        return transactions.history(session, transactions.HistoryQuery(limit=PAGE, user_id=user_id, before=before))


def _events(user_id: str, after: int | None) -> Sequence[Row[Any]]:
    with reader() as session:
        return events.read(session, {"stream_id": user_id}, after or 0, PAGE)


def _logins(user_id: str, before: str | None) -> Sequence[Row[Any]]:
    with reader() as session:
        return session.execute(_LOGINS, {"user_id": user_id, "before": before, "limit": PAGE + 1}).all()


def _present_login(row: Row[Any]) -> dict[str, Any]:
    times = {name: timestamp(getattr(row, name)) for name in ("created_at", "refreshed_at", "ended_at")}
    return {**row._mapping, **times}
