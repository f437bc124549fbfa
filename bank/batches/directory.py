"""The parties of a whole batch, looked up in sets: as many statements for ten thousand transactions as for one."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.orm import Session

from bank.accounts.many import open_defaults
from bank.auth.guard import Principal
from bank.batches.schemas import Item
from bank.errors import NotFound
from bank.events.types import Origin
from bank.fx import service as fx
from bank.fx.service import Price
from bank.transactions.models import TransactionType
from bank.transactions.parties import Party
from bank.users.models import Role
from bank.web.context import new_id

_ACCOUNTS = "SELECT id::text, user_id::text, currency FROM accounts WHERE id = ANY(%s::uuid[]) AND kind = 'customer'"

_NAMED = """
    SELECT w.name, u.id::text FROM unnest(%s::text[]) AS w (name) JOIN users u ON lower(u.username) = lower(w.name)
"""

_DEFAULTS = """
    SELECT a.user_id::text, a.currency, a.id::text
      FROM unnest(%s::uuid[], %s::text[]) AS w (user_id, currency)
      JOIN accounts a ON a.user_id = w.user_id AND a.currency = w.currency AND a.is_default
"""

# In the order of the ids, so that two batches that open accounts for the same users do not wait for each other.
_LOCK_USERS = "SELECT id::text FROM users WHERE id = ANY(%s::uuid[]) AND status <> 'deleted' ORDER BY id FOR NO KEY UPDATE"

_STAFF = "SELECT id::text FROM users WHERE id = ANY(%s::uuid[]) AND role <> 'customer'"

_Pair = tuple[str, str]


class BatchDirectory:
    """A directory (`bank.transactions.parties.Directory`) of those whom the items name.

    Users who are to get money and have no account for it are locked, so that nobody else opens one meanwhile; `open` only
    notes down that it is to be opened, and `open_noted` opens all of these.
    """

    def __init__(self, session: Session, caller: Principal, items: Sequence[Item]) -> None:
        self.session = session
        bodies = [item.body for item in items]
        self._accounts = {
            account_id: Party(account_id, user_id, currency)
            for account_id, user_id, currency in self._rows(_ACCOUNTS, _named(bodies, "account_id", "from_account_id", "to_account_id"))
        }
        self._users: dict[str, str] = dict(self._rows(_NAMED, _named(bodies, "to_username")))
        spends, receives = self._pairs(caller, items)
        self._defaults = self._find_defaults({*spends, *receives})
        missing = {pair for pair in receives if pair not in self._defaults}
        self._may_open: set[str] = set()
        if missing:
            self._may_open = {row[0] for row in self._rows(_LOCK_USERS, {user_id for user_id, _ in missing})}
            self._defaults |= self._find_defaults(missing)
        self._noted: dict[_Pair, str] = {}
        self._prices: dict[_Pair, Price] = {}
        owners = {party.user_id for party in self._accounts.values()} | {user_id for user_id, _ in receives | spends}
        self._staff = {row[0] for row in self._rows(_STAFF, owners)} if caller.role == Role.TELLER else set()

    def _pairs(self, caller: Principal, items: Iterable[Item]) -> tuple[set[_Pair], set[_Pair]]:
        """Whose default accounts are named, by user and currency: to pay from, and to receive on."""
        spends: set[_Pair] = set()
        receives: set[_Pair] = set()
        for item in items:
            body, currency = item.body, item.body["currency"]
            if item.type is not TransactionType.TRANSFER:
                if "user_id" in body:
                    (receives if item.type is TransactionType.CREDIT else spends).add((body["user_id"], currency))
                continue
            if "from_account_id" not in body:
                spends.add((caller.id, currency))
            user_id = body.get("to_user_id") or self._users.get(body.get("to_username", ""))
            if user_id is not None:
                receives.add((user_id, body.get("to_currency", currency)))
        return spends, receives

    def _find_defaults(self, pairs: Iterable[_Pair]) -> dict[_Pair, str]:
        wanted = list(pairs)
        if not wanted:
            return {}
        rows = self.session.connection().exec_driver_sql(
            _DEFAULTS, ([user_id for user_id, _ in wanted], [currency for _, currency in wanted])
        )
        return {(user_id, currency): account_id for user_id, currency, account_id in rows}

    def _rows(self, statement: str, names: Iterable[str]) -> Sequence[Any]:
        wanted = list(names)
        return self.session.connection().exec_driver_sql(statement, (wanted,)).all() if wanted else []

    def account(self, account_id: str) -> Party | None:
        """See Directory."""
        return self._accounts.get(account_id)

    def default(self, user_id: str, currency: str) -> str | None:
        """See Directory; one that is noted down counts."""
        return self._defaults.get((user_id, currency)) or self._noted.get((user_id, currency))

    def open(self, user_id: str, currency: str) -> str:
        """See Directory."""
        if user_id not in self._may_open:
            raise NotFound
        return self._noted.setdefault((user_id, currency), new_id())

    def user_named(self, username: str) -> str | None:
        """See Directory."""
        return self._users.get(username)

    def is_staff(self, user_id: str) -> bool:
        """See Directory."""
        return user_id in self._staff

    def price(self, currency: str, to_currency: str) -> Price:
        """See Directory; the same for the whole batch."""
        pair = (currency, to_currency)
        if pair not in self._prices:
            self._prices[pair] = fx.price(self.session, currency, to_currency)
        return self._prices[pair]

    def open_noted(self, origin: Origin) -> None:
        """Open the accounts that were noted down."""
        open_defaults(self.session, self._noted, origin)


def _named(bodies: Iterable[dict[str, Any]], *fields: str) -> set[str]:
    return {body[field] for body in bodies for field in fields if field in body}
