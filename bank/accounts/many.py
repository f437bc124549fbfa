"""Opening many accounts at once."""

from collections.abc import Mapping, Sequence

import orjson
from sqlalchemy.orm import Session

from bank.accounts.models import AccountKind
from bank.accounts.service import ensure_outside, open_in
from bank.events.types import AccountChanged, AccountOpened, Happened, Origin
from bank.web.context import new_id

_KIND = AccountKind.CUSTOMER.value

_OPEN = """
WITH wanted AS (
    SELECT * FROM unnest(%(ids)s::uuid[], %(user_ids)s::uuid[], %(currencies)s::text[], %(names)s::text[])
        AS w (id, user_id, currency, name)
), account AS (
    INSERT INTO accounts (id, user_id, currency, kind, name, is_default, version)
    SELECT id, user_id, currency, %(kind)s, name, %(is_default)s, %(version)s FROM wanted
), balance AS (
    INSERT INTO balances (account_id, user_id, currency, overdraft_limit)
    SELECT id, user_id, currency, %(overdraft_limit)s FROM wanted
)
INSERT INTO events (stream_id, version, type, data, actor_id, request_id, trace_id)
SELECT e.stream_id, e.version, e.type, e.data, %(actor_id)s::uuid, %(request_id)s, %(trace_id)s
  FROM ROWS FROM (unnest(%(streams)s::uuid[]), unnest(%(versions)s::int[]), unnest(%(types)s::text[]),
                  json_array_elements(%(data)s::json)) WITH ORDINALITY AS e (stream_id, version, type, data, n)
 ORDER BY e.n
"""


def open_many(
    session: Session, user_id: str, currency: str, names: Sequence[str], origin: Origin, *, overdraft_limit: int = 0
) -> dict[str, str]:
    """Open an account in `currency` under each of the names, in the caller's unit of work: the ids by name.

    As `open_in` for each, with one audit row for all. `overdraft_limit` is in minor units. Raises
    NotFound when there is no such user.
    """
    # The first takes the user's lock, makes the bank's own accounts, and the default if there is none;
    # the others are then of the plain kind.
    opened = {names[0]: open_in(session, user_id, currency, names[0], origin, overdraft_limit=overdraft_limit)}
    opened |= {name: new_id() for name in names[1:]}
    if len(names) > 1:
        _open_plain(session, user_id, currency, {name: opened[name] for name in names[1:]}, origin, overdraft_limit)
    return opened


def _open_plain(session: Session, user_id: str, currency: str, accounts: dict[str, str], origin: Origin, overdraft_limit: int) -> None:
    events: list[tuple[str, int, Happened]] = []
    for name, account_id in accounts.items():
        opened = AccountOpened(user_id=user_id, currency=currency, kind=_KIND, name=name, is_default=False)
        events.append((account_id, 1, opened))
        if overdraft_limit:
            events.append((account_id, 2, AccountChanged(name=name, status="active", overdraft_limit=overdraft_limit)))
    owners = [(account_id, user_id, currency, name) for name, account_id in accounts.items()]
    _open(session, owners, events, origin, is_default=False, overdraft_limit=overdraft_limit)


def _open(
    session: Session,
    accounts: Sequence[tuple[str, str, str, str | None]],
    events: Sequence[tuple[str, int, Happened]],
    origin: Origin,
    *,
    is_default: bool,
    overdraft_limit: int,
) -> None:
    """Insert accounts (id, user, currency, name), their balances, and the events that tell of them."""
    ids, user_ids, currencies, names = zip(*accounts, strict=True)
    session.connection().exec_driver_sql(
        _OPEN,
        {
            "ids": list(ids),
            "user_ids": list(user_ids),
            "currencies": list(currencies),
            "names": list(names),
            "kind": _KIND,
            "is_default": is_default,
            "version": 2 if overdraft_limit else 1,
            "overdraft_limit": overdraft_limit,
            "streams": [stream_id for stream_id, _, _ in events],
            "versions": [version for _, version, _ in events],
            "types": [type(event).__name__ for _, _, event in events],
            "data": "[" + ",".join(orjson.dumps(event).decode() for _, _, event in events) + "]",
            "actor_id": origin.actor_id,
            "request_id": origin.request_id,
            "trace_id": origin.trace_id,
        },
    )


_AUDIT = """
    INSERT INTO audit_logs (entity_type, entity_id, action, details, actor_id, address, request_id)
    SELECT 'account', w.id, 'account.opened', json_build_object('user_id', w.user_id, 'currency', w.currency),
           %(actor_id)s::uuid, %(address)s, %(request_id)s
      FROM unnest(%(ids)s::uuid[], %(user_ids)s::uuid[], %(currencies)s::text[]) AS w (id, user_id, currency)
"""


def open_defaults(session: Session, wanted: Mapping[tuple[str, str], str], origin: Origin) -> None:
    """Open the default accounts, by user and currency with the ids they are to have, in the caller's unit of work.

    As `open_in` for each. The users are there, locked, and have no default in that currency.
    """
    if not wanted:
        return
    for currency in sorted({currency for _, currency in wanted}):
        ensure_outside(session, currency, origin)
    accounts = [(account_id, user_id, currency, None) for (user_id, currency), account_id in wanted.items()]
    events = [
        (account_id, 1, AccountOpened(user_id=user_id, currency=currency, kind=_KIND, name=None, is_default=True))
        for (user_id, currency), account_id in wanted.items()
    ]
    _open(session, accounts, events, origin, is_default=True, overdraft_limit=0)
    session.connection().exec_driver_sql(
        _AUDIT,
        {
            "ids": list(wanted.values()),
            "user_ids": [user_id for user_id, _ in wanted],
            "currencies": [currency for _, currency in wanted],
            "actor_id": origin.actor_id,
            "address": origin.address,
            "request_id": origin.request_id,
        },
    )
