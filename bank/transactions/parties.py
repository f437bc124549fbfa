"""Between whom money is to move: what a request names, looked up and checked for who may ask."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from flask import current_app
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.accounts import service as accounts
from bank.accounts.access import check_teller, reads_as, staff_among
from bank.auth.guard import Principal
from bank.config import Config
from bank.errors import CurrencyMismatch, Forbidden, NotFound, NotHeld, NotReversible, Unprocessable
from bank.events.types import Origin
from bank.fx import service as fx
from bank.fx.service import Agreed, Price
from bank.money import InvalidMoney, parse_amount
from bank.transactions.models import ReviewStatus, TransactionStatus, TransactionType
from bank.users.models import Role


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a movement."""

    account_id: str
    user_id: str
    currency: str


@dataclass(frozen=True, slots=True)
class Found:
    """The two sides (None: the outside) and the amount in minor units of `currency`; where other money arrives, what was agreed on."""

    source: Party | None
    target: Party | None
    amount: int
    currency: str
    reverses_id: str | None = None
    captures_id: str | None = None
    voids_id: str | None = None
    agreed: Agreed | None = None

    @property
    def to_currency(self) -> str:
        """What arrives."""
        return self.agreed.to_currency if self.agreed else self.currency


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

    def is_staff(self, user_id: str) -> bool:
        """Whether the user works at the bank; asked only where a teller is the caller."""

    def price(self, currency: str, to_currency: str) -> Price:
        """Today's rate between two currencies. Raises RateUnavailable."""


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
    Forbidden for what the role may not do. `operation` is what the client calls it, by which idempotency keys are told
    apart. With `holds` the money is reserved until `expires_at` (None: for as long as is usual), and not moved.
    """

    type: TransactionType
    operation: str
    find: Callable[[Directory], Found]
    description: str | None = None
    reference: str | None = None
    metadata: dict[str, Any] | None = None
    effective_at: datetime | None = None
    holds: bool = False
    expires_at: datetime | None = None


def credit_or_debit(kind: TransactionType, caller: Principal, body: Mapping[str, Any]) -> Intent:
    """A movement between the outside and the account that `body` names by `account_id` or `user_id`."""
    config: Config = current_app.config["BANK"]
    if caller.role == Role.CUSTOMER and kind is TransactionType.CREDIT and not config.self_service_deposits:
        raise Forbidden("Only staff may credit an account.")

    def find(directory: Directory) -> Found:
        owner_id = caller.id if caller.role == Role.CUSTOMER else None
        by_default = "account_id" not in body
        field = "user_id" if by_default else "account_id"
        if not by_default:
            party = _account(directory, body, "account_id", owner_id)
        elif owner_id not in (None, body["user_id"]):
            raise PartyNotFound("user_id")
        else:
            party = _default(directory, body["user_id"], body["currency"], "user_id", opens=kind is TransactionType.CREDIT)
        if caller.role == Role.TELLER:
            if party.user_id == caller.id:
                raise Forbidden("Tellers act on customers' accounts.")
            if directory.is_staff(party.user_id):
                # A colleague's is not there for a teller, and is told of as what is not.
                raise _no_default(body["currency"]) if by_default and kind is TransactionType.DEBIT else PartyNotFound(field)
        source, target = (None, party) if kind is TransactionType.CREDIT else (party, None)
        return Found(source, target, body["minor"], body["currency"])

    return Intent(kind, kind.value, find, **_told(body), effective_at=body.get("effective_at"))


def transfer(caller: Principal, body: Mapping[str, Any]) -> Intent:
    """A movement from an account of the caller (for an admin: anybody's) to any customer's account; or a hold for one."""

    def find(directory: Directory) -> Found:
        if "from_account_id" in body:
            owner_id = None if caller.role == Role.ADMIN else caller.id
            source = _account(directory, body, "from_account_id", owner_id)
        else:
            source = _default(directory, caller.id, body["currency"], "from_account_id", opens=False)
        agreed = _agreed(directory, caller, source, body)
        currency = agreed.to_currency if agreed else body["currency"]
        if "to_account_id" in body:
            target = _account(directory, body, "to_account_id", None)
        else:
            field = "to_user_id" if "to_user_id" in body else "to_username"
            user_id = body[field] if field == "to_user_id" else directory.user_named(body[field])
            if user_id is None:
                raise PartyNotFound(field)
            # Only money of that currency opens an account for it; else anybody could fill another's list with empty ones.
            if source.currency != body["currency"] and directory.default(user_id, currency) is None:
                raise CurrencyMismatch
            target = _default(directory, user_id, currency, field, opens=True)
        return Found(source, target, body["minor"], body["currency"], agreed=agreed)

    holds, expires_at = body.get("hold", False), body.get("expires_at")
    return Intent(TransactionType.TRANSFER, "transfer", find, **_told(body), holds=holds, expires_at=expires_at)


def _agreed(directory: Directory, caller: Principal, source: Party, body: Mapping[str, Any]) -> Agreed | None:
    """What other money is to arrive than leaves, by the quote or at the rate of today; None where it is the same.

    Raises CurrencyMismatch when the money is not of the account that it is to leave: the bank makes no rates and no positions for that.
    """
    minor, currency = body["minor"], body["currency"]
    to_currency = body.get("to_currency", currency)
    if "quote_id" not in body and to_currency == currency:
        return None
    if source.currency != currency:
        raise CurrencyMismatch
    if "quote_id" not in body:
        return fx.agree(minor, currency, directory.price(currency, to_currency))
    try:
        return fx.use_quote(directory.session, body["quote_id"], caller.id, minor, currency, body.get("to_currency"))
    except NotFound as error:
        raise PartyNotFound("quote_id", error.detail) from error


def capture(caller: Principal, transaction_id: str, body: Mapping[str, Any]) -> Intent:
    """The movement of what a hold reserves, or of a part; for staff and for who is to receive the money.

    Raises NotHeld for what is no hold, or is not held yet. What a hold has left is the ledger's to say.
    """

    def find(directory: Directory) -> Found:
        hold = _hold(directory, caller, transaction_id)
        amount = _part(body, hold.held_amount or hold.amount, hold.currency)
        return Found(*_sides(hold), amount, hold.currency, captures_id=transaction_id)

    return Intent(TransactionType.TRANSFER, "capture", find, **_told(body))


def void(caller: Principal, transaction_id: str, body: Mapping[str, Any]) -> Intent:
    """The end of a hold, of which all that is left is let go; for the same. Its amount is what was left when it was asked for.

    Raises NotHeld as `capture` does.
    """

    def find(directory: Directory) -> Found:
        hold = _hold(directory, caller, transaction_id)
        return Found(*_sides(hold), hold.held_amount or hold.amount, hold.currency, voids_id=transaction_id)

    return Intent(TransactionType.TRANSFER, "void", find, description=body.get("reason"))


def _hold(directory: Directory, caller: Principal, transaction_id: str) -> Row[Any]:
    hold = _original(directory, caller, transaction_id, "Only staff, or who is to receive the money, may take a hold or let it go.")
    if hold.expires_at is None or hold.status in ("pending", "failed"):
        raise NotHeld(f"It is a {'hold' if hold.expires_at else hold.type} that is {hold.status}.")
    if hold.status == TransactionStatus.HELD and hold.review == ReviewStatus.OPEN:
        raise NotHeld("It is under review.")
    return hold


def _sides(original: Row[Any]) -> tuple[Party | None, Party | None]:
    """The two sides of a transaction that is there."""
    source = Party(original.from_account_id, original.from_user_id, original.currency) if original.from_account_id else None
    target = Party(original.to_account_id, original.to_user_id, original.to_currency) if original.to_account_id else None
    return source, target


def _part(body: Mapping[str, Any], whole: int, currency: str) -> int:
    """The `amount` in the body, in minor units, or else the whole."""
    try:
        return parse_amount(body["amount"], currency) if "amount" in body else whole
    except InvalidMoney as error:
        raise Unprocessable.at("/amount", str(error)) from None


def rollback(caller: Principal, transaction_id: str, body: Mapping[str, Any]) -> Intent:
    """The way back of a completed transaction, in whole or in part; for staff and for who received the money.

    Raises NotReversible for a rollback, for a hold (its captures can be moved back), and for what is pending or failed.
    """

    def find(directory: Directory) -> Found:
        original = _original(directory, caller, transaction_id, "Only staff, or who received the money, may move it back.")
        if original.expires_at is not None:
            raise NotReversible("It is a hold, and moved nothing itself. Its captures can be moved back.")
        if original.type == TransactionType.ROLLBACK or original.status not in ("completed", "rolled_back"):
            raise NotReversible(f"It is a {original.type} that is {original.status}.")
        # Of what is fully rolled back nothing is left: the ledger will say so to a rollback of the whole.
        amount = _part(body, (original.amount - original.rolled_back_amount) or original.amount, original.currency)
        target, source = _sides(original)
        if original.rate is None:
            return Found(source, target, amount, original.currency, reverses_id=transaction_id)
        sold = fx.Exchanged(original.amount, original.currency, original.to_amount, original.to_currency, original.rate)
        taken, agreed = fx.take_back(sold, amount, *_moved_back(directory.session, transaction_id, original.amount - amount))
        return Found(source, target, taken, original.to_currency, reverses_id=transaction_id, agreed=agreed)

    return Intent(TransactionType.ROLLBACK, "rollback", find, description=body["reason"])


# Of those that are asked for at once, each must see the one before: the original's lock lets them come one by one.
_LOCK_ORIGINAL = text("SELECT FROM transactions WHERE id = CAST(:id AS uuid) FOR NO KEY UPDATE")
_MOVED_BACK = text(
    """SELECT CAST(COALESCE(sum(to_amount), 0) AS bigint), CAST(COALESCE(sum(amount), 0) AS bigint)
         FROM transactions WHERE reverses_id = CAST(:id AS uuid) AND status = ANY(:statuses)"""
)


def _moved_back(session: Session, transaction_id: str, most: int) -> tuple[int, int]:
    """How much of an exchange rollbacks have moved back or are about to: what was given back, and what was taken for it.

    Where that is more than `most`, the one that is asked for can be posted only if those fail that still wait: they are not counted.
    """
    session.execute(_LOCK_ORIGINAL, {"id": transaction_id})
    given, taken = session.execute(_MOVED_BACK, {"id": transaction_id, "statuses": ["pending", "completed"]}).one()
    if given > most:
        given, taken = session.execute(_MOVED_BACK, {"id": transaction_id, "statuses": ["completed"]}).one()
    return given, taken


def _original(directory: Directory, caller: Principal, transaction_id: str, otherwise: str) -> Row[Any]:
    """The transaction that a request is about, which only staff and who gets its money may make.

    Raises NotFound for strangers, and Forbidden with the message `otherwise` for who pays.
    """
    original = directory.session.execute(_ORIGINAL, {"id": transaction_id}).one_or_none()
    staff = caller.role in (Role.TELLER, Role.ADMIN)
    if original is None:
        raise NotFound
    reads_as(directory.session, caller, original.from_user_id, original.to_user_id)
    if not staff and caller.id != original.to_user_id:
        raise Forbidden(otherwise)
    if caller.id != original.to_user_id:
        check_teller(directory.session, caller, original.from_user_id, original.to_user_id)
    return original


_ORIGINAL = text(
    """SELECT type, status, from_user_id::text, to_user_id::text, from_account_id::text, to_account_id::text,
              amount, currency, to_amount, to_currency, rate, rolled_back_amount, expires_at, held_amount, review
         FROM transactions WHERE id = CAST(:id AS uuid)"""
)


def _told(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body.get(name) for name in ("description", "reference", "metadata")}


def _account(directory: Directory, body: Mapping[str, Any], field: str, owner_id: str | None) -> Party:
    party = directory.account(body[field])
    if party is None or owner_id not in (None, party.user_id):
        raise PartyNotFound(field)
    return party


def _no_default(currency: str, field: str = "user_id") -> PartyNotFound:
    return PartyNotFound(field, f"There is no default account in {currency}.")


def _default(directory: Directory, user_id: str, currency: str, field: str, *, opens: bool) -> Party:
    """The user's default account; where there is none it is opened, if money that comes to it `opens` it."""
    account_id = directory.default(user_id, currency)
    if account_id is None and not opens:
        raise _no_default(currency, field)
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

    def is_staff(self, user_id: str) -> bool:
        """See Directory."""
        return user_id in staff_among(self.session, user_id)

    def price(self, currency: str, to_currency: str) -> Price:
        """See Directory."""
        return fx.price(self.session, currency, to_currency)
