"""Opening, changing and finding accounts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.accounts.access import customers_and
from bank.accounts.models import AccountKind
from bank.audit import service as audit
from bank.db import reader, unit_of_work
from bank.errors import AccountClosed, BalanceBelowLimit, BalanceNotZero, NotFound, PreconditionFailed
from bank.events import store as events
from bank.events.types import AccountChanged, AccountOpened, Origin, load
from bank.ledger import store as ledger
from bank.ledger.system import outside_account_id, position_account_id
from bank.money import format_amount
from bank.web.context import new_id
from bank.web.fields import timestamp

_COLUMNS = """
    a.id::text, a.user_id::text, a.currency, a.name, a.is_default, a.version, a.created_at,
    b.status, b.amount, b.held, b.overdraft_limit, b.version AS balance_version
"""


def present(account: Row[Any]) -> dict[str, Any]:
    """The account as the API shows it: amounts as decimal strings of its currency."""
    currency, limit = account.currency, account.overdraft_limit
    return {
        "id": account.id,
        "user_id": account.user_id,
        "currency": currency,
        "name": account.name,
        "status": account.status,
        "balance": format_amount(account.amount, currency),
        "available": format_amount(account.amount - account.held + (limit or 0), currency),
        "held": format_amount(account.held, currency),
        "overdraft_limit": None if limit is None else format_amount(limit, currency),
        "version": account.balance_version,
        "created_at": timestamp(account.created_at),
    }


def etag(account: Row[Any]) -> str:
    """Changes with the account's settings, with its balance and with what is held: all are in what the API shows."""
    return f"{account.version}-{account.balance_version}-{account.held}"


def shown(account_ids: Sequence[str], bind: str) -> dict[str, Any]:
    """For the cache: of each of these customers' accounts that there is, `body` as it is shown and its `etag`, read from `bind`."""
    with reader(bind) as session:
        rows = session.execute(
            text(
                f"""SELECT {_COLUMNS} FROM accounts a JOIN balances b ON b.account_id = a.id
                     WHERE a.id = ANY(CAST(:ids AS uuid[])) AND a.kind = 'customer'"""
            ),
            {"ids": list(account_ids)},
        ).all()
    return {row.id: {"body": present(row), "etag": etag(row)} for row in rows}


def get(account_id: str, owner_id: str | None) -> Row[Any]:
    """One customer's account. Raises NotFound when it is not there or not `owner_id`'s (None: anybody's)."""
    with reader() as session:
        return _get(session, account_id, owner_id)


def _get(session: Session, account_id: str, owner_id: str | None, *, lock: bool = False) -> Row[Any]:
    row = session.execute(
        text(
            f"""SELECT {_COLUMNS} FROM accounts a JOIN balances b ON b.account_id = a.id
                 WHERE a.id = CAST(:id AS uuid) AND a.kind = 'customer'
                   AND (CAST(:owner AS uuid) IS NULL OR a.user_id = CAST(:owner AS uuid))
                   {"FOR NO KEY UPDATE" if lock else ""}"""
        ),
        {"id": account_id, "owner": owner_id},
    ).one_or_none()
    if row is None:
        raise NotFound
    return row


def search(
    owner_id: str | None, currency: str | None, status: str | None, after: str | None, limit: int, seen_by: str | None = None
) -> list[Row[Any]]:
    """Users' accounts, oldest first, from behind the id `after`; one more than `limit` when more follow.

    For a teller, `seen_by`, those of customers and their own.
    """
    with reader() as session:
        return list(
            session.execute(
                text(
                    f"""SELECT {_COLUMNS} FROM accounts a JOIN balances b ON b.account_id = a.id
                         WHERE a.kind = 'customer'
                           {"AND a.user_id = CAST(:owner AS uuid)" if owner_id else ""}
                           {"AND " + customers_and(":seen_by", "a.user_id") if seen_by else ""}
                           {"AND a.currency = :currency" if currency else ""}
                           {"AND b.status = :status" if status else ""}
                           {"AND a.id > CAST(:after AS uuid)" if after else ""}
                         ORDER BY a.id LIMIT :limit"""
                ),
                {"owner": owner_id, "currency": currency, "status": status, "after": after, "limit": limit + 1, "seen_by": seen_by},
            )
        )


def entries(account_id: str, before: int | None, limit: int) -> list[Row[Any]]:
    """The account's entries, newest first, from before version `before`; one more than `limit` when more follow."""
    with reader() as session:
        return list(
            session.execute(
                text(
                    f"""SELECT version, transaction_id::text, amount, balance, currency, effective_at, posted_at
                          FROM entries WHERE account_id = CAST(:id AS uuid)
                               {"AND version < :before" if before is not None else ""}
                         ORDER BY version DESC LIMIT :limit"""
                ),
                {"id": account_id, "before": before, "limit": limit + 1},
            )
        )


def present_entry(entry: Row[Any]) -> dict[str, Any]:
    """An entry as the API shows it: signed decimal amount, and the balance right after it."""
    return {
        "transaction_id": entry.transaction_id,
        "version": entry.version,
        "amount": format_amount(entry.amount, entry.currency),
        "currency": entry.currency,
        "balance": format_amount(entry.balance, entry.currency),
        "effective_at": timestamp(entry.effective_at),
        "created_at": timestamp(entry.posted_at),
    }


def open_account(user_id: str, currency: str, name: str | None, origin: Origin) -> Row[Any]:
    """A new, empty account for an active user. Raises NotFound when there is no such user."""
    with unit_of_work() as session:
        account_id = open_in(session, user_id, currency, name, origin)
        return _get(session, account_id, user_id)


def open_in(
    session: Session,
    user_id: str,
    currency: str,
    name: str | None,
    origin: Origin,
    *,
    default_only: bool = False,
    overdraft_limit: int = 0,
) -> str:
    """Open an account in the caller's unit of work and return its id.

    The user's first in the currency becomes the default. `default_only` opens nothing when there
    is a default and returns that. Raises NotFound when there is no active user of this id.
    """
    # The user's row is locked, so two openings at once agree on which of them is the first.
    user = text("SELECT 1 FROM users WHERE id = CAST(:id AS uuid) AND status <> 'deleted' FOR NO KEY UPDATE")
    if session.execute(user, {"id": user_id}).one_or_none() is None:
        raise NotFound
    default = default_account(session, user_id, currency)
    if default is not None and default_only:
        return default
    ensure_outside(session, currency, origin)
    account_id = new_id()
    event = AccountOpened(user_id=user_id, currency=currency, kind=AccountKind.CUSTOMER.value, name=name, is_default=default is None)
    _insert(session, account_id, event, overdraft_limit)
    events.append(session, account_id, 1, event, origin)
    if overdraft_limit:
        changed = AccountChanged(name=name, status="active", overdraft_limit=overdraft_limit)
        session.execute(text("UPDATE accounts SET version = 2 WHERE id = CAST(:id AS uuid)"), {"id": account_id})
        events.append(session, account_id, 2, changed, origin)
    audit.record(session, "account", account_id, "account.opened", origin, {"user_id": user_id, "currency": currency})
    return account_id


def default_account(session: Session, user_id: str, currency: str) -> str | None:
    """The id of the user's default account in the currency, if there is one."""
    query = text(
        """SELECT id::text FROM accounts
            WHERE user_id = CAST(:user AS uuid) AND currency = :currency AND is_default"""
    )
    return session.execute(query, {"user": user_id, "currency": currency}).scalar_one_or_none()


def ensure_outside(session: Session, currency: str, origin: Origin) -> None:
    """Make the bank's own accounts for a currency, one a lane, where they are not there yet."""
    event = AccountOpened(user_id=None, currency=currency, kind=AccountKind.OUTSIDE.value, name=f"Outside {currency}", is_default=False)
    # The lanes that there are, and not those of our own setting: while it is raised, another process may know more of them.
    _ensure_own(session, {outside_account_id(currency, lane): event for lane in ledger.lanes(session.connection())}, origin)


def ensure_positions(session: Session, currencies: Iterable[str], lane: int, origin: Origin) -> None:
    """Make the bank's positions that exchanges on a lane need, at the first one between these currencies, in the caller's unit of work."""
    kind = AccountKind.POSITION.value
    opened = {
        position_account_id(currency, lane): AccountOpened(None, currency, kind, f"Position {currency}", is_default=False)
        for currency in currencies
    }
    _ensure_own(session, opened, origin)


def _ensure_own(session: Session, opened: Mapping[str, AccountOpened], origin: Origin) -> None:
    """Open those of the bank's own accounts that are not there yet, in the order of their ids: two who open the same wait for
    each other, and must not do so both at once."""
    there = text("SELECT id::text FROM accounts WHERE id = ANY(CAST(:ids AS uuid[]))")
    for account_id in sorted(opened.keys() - set(session.execute(there, {"ids": list(opened)}).scalars())):
        if _insert(session, account_id, opened[account_id], None):
            events.append(session, account_id, 1, opened[account_id], origin)


def _insert(session: Session, account_id: str, opened: AccountOpened, overdraft_limit: int | None) -> bool:
    """Insert the account and its balance; whether they were not there before."""
    inserted = session.execute(
        text(
            """WITH account AS (
                   INSERT INTO accounts (id, user_id, currency, kind, name, is_default, version)
                   VALUES (CAST(:id AS uuid), CAST(:user_id AS uuid), :currency, :kind, :name, :is_default, 1)
                   ON CONFLICT (id) DO NOTHING RETURNING id, user_id, currency)
               INSERT INTO balances (account_id, user_id, currency, overdraft_limit)
               SELECT id, user_id, currency, :overdraft_limit FROM account RETURNING 1"""
        ),
        {
            "id": account_id,
            "user_id": opened.user_id,
            "currency": opened.currency,
            "kind": opened.kind,
            "name": opened.name,
            "is_default": opened.is_default,
            "overdraft_limit": overdraft_limit,
        },
    )
    return inserted.one_or_none() is not None


def ensure_all_outside(origin: Origin) -> None:
    """After the number of lanes was raised: give every currency in use its accounts on the new lanes."""
    with unit_of_work() as session:
        for currency in session.execute(text("SELECT DISTINCT currency FROM accounts ORDER BY 1")).scalars().all():
            ensure_outside(session, currency, origin)


def change(
    account_id: str, owner_id: str | None, changes: dict[str, Any], origin: Origin, if_match: Any = None, reason: str | None = None
) -> Row[Any]:
    """Change `name`, `status` or `overdraft_limit` (minor units) of an account.

    `if_match` tells whether an ETag is what the client has seen; the audit row carries the `reason`. Raises NotFound, PreconditionFailed,
    AccountClosed (a closed account stays as it is), BalanceNotZero (closing with money in it) and
    BalanceBelowLimit (more overdraft in use than the new limit allows).
    """
    with unit_of_work() as session:
        account = _get(session, account_id, owner_id, lock=True)
        if if_match is not None and not if_match(etag(account)):
            raise PreconditionFailed
        return _change(session, account, changes, origin, {"reason": reason} if reason else None)


def freeze(account_id: str, reason: str, origin: Origin) -> bool:
    """Freeze a customer's account; whether it was active until now. The audit row carries the reason.

    Raises NotFound when no customer has an account of this id, AccountClosed when its events say that it is closed, and
    UnknownEventError when they say nothing that can be read.
    """
    with unit_of_work() as session:
        account = _get(session, account_id, None, lock=True)
        if account.status != "active":
            return False
        _change(session, account, {"status": "frozen"}, origin, {"reason": reason})
        return True


def _change(
    session: Session, account: Row[Any], changes: dict[str, Any], origin: Origin, details: Mapping[str, str] | None = None
) -> Row[Any]:
    """Change a locked account. `details` go into the audit row beside what changed.

    What is not being changed is told again as the events told it before, and the row keeps what it has: where somebody
    wrote to the row past the bank, it must not become the truth with the next event.
    """
    told = _told(session, account)
    changed = {key: value for key, value in changes.items() if value != getattr(account, key) or value != getattr(told, key)}
    if not changed:
        return account
    if "closed" in (account.status, told.status):
        raise AccountClosed
    event = replace(told, **changed)
    if event.status == "closed" and (account.amount or account.held):
        raise BalanceNotZero
    limit = changed.get("overdraft_limit")
    if limit is not None and account.amount - account.held < -limit:
        raise BalanceBelowLimit
    parameters = {
        "id": account.id,
        "name": changed.get("name", account.name),
        "status": changed.get("status", account.status),
        "limit": changed.get("overdraft_limit", account.overdraft_limit),
        "is_default": account.is_default and event.status != "closed",
        "version": account.version + 1,
    }
    session.execute(text("UPDATE accounts SET name = :name, is_default = :is_default, version = :version WHERE id = :id"), parameters)
    session.execute(text("UPDATE balances SET status = :status, overdraft_limit = :limit WHERE account_id = :id"), parameters)
    events.append(session, account.id, account.version + 1, event, origin)
    audit.record(session, "account", account.id, "account.changed", origin, {**changed, **(details or {})})
    return _get(session, account.id, None)


def _told(session: Session, account: Row[Any]) -> AccountChanged:
    """What the account's events say of it: the last that names its settings, or the first, which opened it.

    Raises UnknownEventError when nobody can read that event.
    """
    last = text(
        """SELECT type, schema, data FROM events
            WHERE stream_id = CAST(:id AS uuid) AND type IN ('AccountOpened', 'AccountChanged') ORDER BY version DESC LIMIT 1"""
    )
    row = session.execute(last, {"id": account.id}).one_or_none()
    match row and load(row.type, row.schema, row.data):
        case AccountChanged() as changed:
            return changed
        case AccountOpened(name=name):
            return AccountChanged(name=name, status="active", overdraft_limit=0)
    # All events are gone. Whoever looks finds that, whatever a new one says, so that the row may stand in for them.
    return AccountChanged(account.name, account.status, account.overdraft_limit)


def has_frozen(session: Session, user_id: str) -> bool:
    """Whether an account of the user's is frozen."""
    query = text(
        """SELECT EXISTS (SELECT FROM accounts a JOIN balances b ON b.account_id = a.id
                           WHERE a.user_id = CAST(:user AS uuid) AND b.status = 'frozen')"""
    )
    return bool(session.execute(query, {"user": user_id}).scalar_one())


def close_all_of(session: Session, user_id: str, origin: Origin) -> None:
    """Close every account of a user in the caller's unit of work.

    Raises BalanceNotZero while any holds money, owes it or waits for some that is on its way.
    """
    waiting = text(
        """SELECT EXISTS (SELECT FROM accounts a JOIN transactions t ON a.id IN (t.from_account_id, t.to_account_id)
                           WHERE a.user_id = CAST(:user AS uuid) AND (t.status = 'pending' OR t.held_amount > 0))"""
    )
    ids = text("SELECT id::text FROM accounts WHERE user_id = CAST(:user AS uuid) ORDER BY id")
    for account_id in session.execute(ids, {"user": user_id}).scalars().all():
        account = _get(session, account_id, user_id, lock=True)
        if account.status != "closed":
            _change(session, account, {"status": "closed"}, origin)
    if session.execute(waiting, {"user": user_id}).scalar_one():
        raise BalanceNotZero("A transaction of one of the accounts is still pending, or a hold is open: void it first.")
