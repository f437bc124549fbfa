"""Between whom money is to move: what a request names, looked up and checked for who may ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from flask import current_app
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.accounts import service as accounts
from bank.accounts.access import check_teller
from bank.auth.guard import Principal
from bank.config import Config
from bank.errors import CurrencyMismatch, Forbidden, NotFound, NotReversible, Unprocessable
from bank.events.types import Origin
from bank.money import InvalidMoney, parse_amount
from bank.transactions.models import TransactionType
from bank.users.models import Role


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a movement."""

    account_id: str
    user_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Found:
    """The two sides (None: the outside) and the amount in minor units of `currency`."""

    source: Party | None
    target: Party | None
    amount: int
    currency: str
    reverses_id: str | None = None


class Directory(Protocol):
    """Where parties are looked up, in the unit of work of `session`: one by one, or among those of a whole batch."""

    @property
    def session(self) -> Session: ...

    def account(self, account_id: str) -> Party | None:
        """The customer's account of this id."""

    def default(self, user_id: str, currency: str) -> str | None:
        """The id of the user's default account in the currency."""

    def open(self, user_id: str, currency: str) -> str:
        """The id of the default account that is opened for a user who has none. Raises NotFound when there is no such user."""

    def user_named(self, username: str) -> str | None:
        """The id of the user of this name."""

    def check_teller(self, caller: Principal, owner_id: str) -> None:
        """Raise Forbidden when a teller acts on an account that is no customer's."""


class PartyNotFound(NotFound):
    """Whom `field` of the request names is not there, or not the caller's."""

    def __init__(self, field: str, detail: str | None = None) -> None:
        super().__init__(detail)
        self.field = field


@dataclass(frozen=True, slots=True)
class Intent:
    """What a client wants to happen.

    `find` looks the parties up in the caller's unit of work, and opens the account by which money
    reaches a user who has none. It raises NotFound for what is not there or not the caller's, and
    Forbidden for what the role may not do.
    """

    type: TransactionType
    find: Callable[[Directory], Found]
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] | None = None
    effective_at: datetime | None = None


def credit_or_debit(kind: TransactionType, caller: Principal, body: Mapping[str, Any]) -> Intent:
    """A movement between the outside and the account that `body` names by `account_id` or `user_id`."""
    config: Config = current_app.config["BANK"]
    if caller.role == Role.CUSTOMER and kind is TransactionType.CREDIT and not config.self_service_deposits:
        raise Forbidden("Only staff may credit an account.")

    def find(directory: Directory) -> Found:
        owner_id = caller.id if caller.role == Role.CUSTOMER else None
        if "account_id" in body:
            party = _account(directory, body, "account_id", owner_id)
        elif owner_id not in (None, body["user_id"]):
            raise PartyNotFound("user_id")
        else:
            party = _default(directory, body["user_id"], body["currency"], "user_id", opens=kind is TransactionType.CREDIT)
        directory.check_teller(caller, party.user_id)
        source, target = (None, party) if kind is TransactionType.CREDIT else (party, None)
        return Found(source, target, body["minor"], body["currency"])

    return Intent(kind, find, **_told(body), effective_at=body.get("effective_at"))


def transfer(caller: Principal, body: Mapping[str, Any]) -> Intent:
    """A movement from an account of the caller (for an admin: anybody's) to any customer's account."""

    def find(directory: Directory) -> Found:
        if "from_account_id" in body:
            owner_id = None if caller.role == Role.ADMIN else caller.id
            source = _account(directory, body, "from_account_id", owner_id)
        else:
            source = _default(directory, caller.id, body["currency"], "from_account_id", opens=False)
        if "to_account_id" in body:
            target = _account(directory, body, "to_account_id", None)
        else:
            field = "to_user_id" if "to_user_id" in body else "to_username"
            user_id = body[field] if field == "to_user_id" else directory.user_named(body[field])
            if user_id is None:
                raise PartyNotFound(field)
            # Only money of that currency opens an account for it; else anybody could fill another's list with empty ones.
            if source.currency != body["currency"] and directory.default(user_id, body["currency"]) is None:
                raise CurrencyMismatch
            target = _default(directory, user_id, body["currency"], field, opens=True)
        return Found(source, target, body["minor"], body["currency"])

    return Intent(TransactionType.TRANSFER, find, **_told(body))


def rollback(caller: Principal, transaction_id: str, body: Mapping[str, Any]) -> Intent:
    """The way back of a completed transaction, in whole or in part; for staff and for who received the money.

    Raises NotReversible for a rollback, and for what is pending or failed.
    """

    def find(directory: Directory) -> Found:
        original = directory.session.execute(_ORIGINAL, {"id": transaction_id}).one_or_none()
        staff = caller.role in (Role.TELLER, Role.ADMIN)
        if original is None or not (staff or caller.id in (original.from_user_id, original.to_user_id)):
            raise NotFound
        if not staff and caller.id != original.to_user_id:
            raise Forbidden("Only staff, or who received the money, may move it back.")
        if caller.id != original.to_user_id:
            check_teller(directory.session, caller, original.from_user_id, original.to_user_id)
        if original.type == TransactionType.ROLLBACK or original.status not in ("completed", "rolled_back"):
            raise NotReversible(f"It is a {original.type} that is {original.status}.")
        # Of what is fully rolled back nothing is left: the ledger will say so to a rollback of the whole.
        amount = (original.amount - original.rolled_back_amount) or original.amount
        if "amount" in body:
            try:
                amount = parse_amount(body["amount"], original.currency)
            except InvalidMoney as error:
                raise Unprocessable.at("/amount", str(error)) from None
        source = Party(original.to_account_id, original.to_user_id, original.currency) if original.to_account_id else None
        target = Party(original.from_account_id, original.from_user_id, original.currency) if original.from_account_id else None
        return Found(source, target, amount, original.currency, reverses_id=transaction_id)

    return Intent(TransactionType.ROLLBACK, find, description=body["reason"])


_ORIGINAL = text(
    """SELECT type, status, from_user_id::text, to_user_id::text, from_account_id::text, to_account_id::text,
              amount, currency, rolled_back_amount
         FROM transactions WHERE id = CAST(:id AS uuid)"""
)


def _told(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body.get(name) for name in ("description", "reference", "metadata")}


def _account(directory: Directory, body: Mapping[str, Any], field: str, owner_id: str | None) -> Party:
    party = directory.account(body[field])
    if party is None or owner_id not in (None, party.user_id):
        raise PartyNotFound(field)
    return party


def _default(directory: Directory, user_id: str, currency: str, field: str, *, opens: bool) -> Party:
    """The user's default account; where there is none it is opened, if money that comes to it `opens` it."""
    account_id = directory.default(user_id, currency)
    if account_id is None and not opens:
        raise PartyNotFound(field, f"There is no default account in {currency}.")
    try:
        return Party(account_id or directory.open(user_id, currency), user_id, currency)
    except NotFound as error:
        raise PartyNotFound(field) from error


_ACCOUNT = "SELECT user_id::text, currency FROM accounts WHERE id = %s::uuid AND kind = 'customer'"
_USER_NAMED = text("SELECT id::text FROM users WHERE lower(username) = lower(:username)")


@dataclass(frozen=True, slots=True)
class OneByOne:
    """The directory of a single transaction: each party is asked for when it is needed."""

    session: Session
    origin: Origin

    def account(self, account_id: str) -> Party | None:
        """See Directory."""
        row = self.session.connection().exec_driver_sql(_ACCOUNT, (account_id,)).one_or_none()
        return None if row is None else Party(account_id, *row)

    def default(self, user_id: str, currency: str) -> str | None:
        """See Directory."""
        return accounts.default_account(self.session, user_id, currency)

    def open(self, user_id: str, currency: str) -> str:
        """See Directory."""
        return accounts.open_in(self.session, user_id, currency, None, self.origin, default_only=True)

    def user_named(self, username: str) -> str | None:
        """See Directory."""
        user_id: str | None = self.session.execute(_USER_NAMED, {"username": username}).scalar_one_or_none()
        return user_id

    def check_teller(self, caller: Principal, owner_id: str) -> None:
        """See Directory."""
        check_teller(self.session, caller, owner_id)
