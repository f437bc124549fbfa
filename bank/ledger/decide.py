"""What becomes of each transaction: the one place where the rules of the ledger stand.

Pure: no clock, no database, no I/O. A single transfer is a list of one; a preview is a decision
that nobody writes; the drain hands in hundreds and writes the outcomes in sets.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from bank.money import MAX_BALANCE


class FailureCode(StrEnum):
    """Why the ledger refused. Clients are promised these names."""

    INSUFFICIENT_FUNDS = "insufficient_funds"  # the account would fall under its limit
    ACCOUNT_FROZEN = "account_frozen"  # one of the two accounts is frozen
    ACCOUNT_CLOSED = "account_closed"  # one of the two accounts is closed
    CURRENCY_MISMATCH = "currency_mismatch"  # an account holds another currency than the transaction names
    SAME_ACCOUNT = "same_account"  # from an account to itself
    ALREADY_ROLLED_BACK = "already_rolled_back"  # nothing of the original is left to move back
    AMOUNT_EXCEEDS_ORIGINAL = "amount_exceeds_original"  # more than what is left of the original, or of the hold
    HOLD_EXPIRED = "hold_expired"  # the hold's time was over before it was taken or let go
    HOLD_CLOSED = "hold_closed"  # nothing of the hold is left: it was taken or let go before
    LIMIT_EXCEEDED = "limit_exceeded"  # more than a limit of the payer allows, or not to whom or when it does
    RULE_DENIED = "rule_denied"  # a rule is against it, or an admin who was to review it
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"  # a balance would leave the range of the ledger
    BATCH_REFUSED = "batch_refused"  # another of its atomic batch was refused, so nothing of the batch moves
    INTERNAL_ERROR = "internal_error"  # not a decision: it could not be written, so nothing moved


@dataclass(frozen=True, slots=True)
class Exchange:
    """What arrives in another currency than left, and the bank's own positions in the two, which take the one money and give the other.

    Rate and rounding were agreed before; `remainder` is what that left of a minor unit, exactly, of the currency that was bought:
    `to_currency`, or in a rollback, which goes the other way, the command's own.
    """

    to_amount: int
    to_currency: str
    from_position_id: str
    to_position_id: str
    remainder: str


@dataclass(frozen=True, slots=True)
class Command:
    """Move `amount` minor units of `currency` from one account to another.

    Both accounts are named: where the money comes from or goes to the outside, it is the bank's
    own account of that currency and lane. `reverses_id` makes it a rollback of that transaction.
    With `holds` the amount is reserved and not moved; `captures_id` makes it a capture, which moves what that hold has
    reserved, and `voids_id` a void, which lets all that is left of that hold go and moves nothing. Both name
    the accounts of the hold. With an `exchange` other money arrives than left.
    """

    transaction_id: str
    from_account_id: str
    to_account_id: str
    amount: int
    currency: str
    effective_at: datetime
    reverses_id: str | None = None
    holds: bool = False
    captures_id: str | None = None
    voids_id: str | None = None
    exchange: Exchange | None = None

    @property
    def arrives(self) -> int:
        """What reaches the other account, in minor units of its currency; of a rollback what its original is less by."""
        return self.exchange.to_amount if self.exchange is not None else self.amount

    @property
    def original_id(self) -> str | None:
        """The transaction that it points at: what it moves back, takes from or lets go."""
        return self.reverses_id or self.captures_id or self.voids_id


@dataclass(slots=True)
class AccountState:
    """An account as it stands before the next command. `decide` moves it on as it decides.

    `amount` and `held` are minor units; `overdraft_limit` is how far below zero it may go, None
    for without limit; `version` counts its entries.
    """

    account_id: str
    currency: str
    status: str
    overdraft_limit: int | None
    amount: int
    held: int
    version: int


@dataclass(slots=True)
class OriginalState:
    """A transaction that a rollback, a capture or a void points at: how much it was for, and how much moved back; of a hold
    what is still held and what was captured, and whether its time is over, or was when it ended."""

    transaction_id: str
    amount: int
    rolled_back_amount: int
    version: int
    held_amount: int = 0
    captured_amount: int = 0
    expired: bool = False


@dataclass(frozen=True, slots=True)
class EntryDraft:
    """One side of a posting: `amount` is signed minor units, `balance` and `version` are the account's after it."""

    account_id: str
    version: int
    amount: int
    balance: int


@dataclass(frozen=True, slots=True)
class ReversalDraft:
    """What a rollback makes of its original: how much is back in sum (minor units), and its version after that."""

    original_id: str
    rolled_back_amount: int
    version: int


@dataclass(frozen=True, slots=True)
class HoldDraft:
    """What a capture, a void or the end of its time makes of a hold: `amount` minor units less are held on the account;
    `captured_amount` is taken in sum and `held_amount` is left, and its version after that."""

    hold_id: str
    account_id: str
    amount: int
    captured_amount: int
    held_amount: int
    version: int


Checked = tuple[str, int | None, str, int | str | None]
"""Something that was asked before the decision: the id and version of a limit or a rule, or `funds` and None; `passed`, `denied`,
`review` or `flagged`; and what was known then, as minor units that were used or there, a count, or why a rule came to no answer."""

Checks = tuple[Checked, ...]
"""In the order in which they were asked. No part of what is decided: decisions that differ only in it are equal."""


@dataclass(frozen=True, slots=True)
class Posting:
    """The decision to post: two entries that sum to zero, and the mark on the original of a rollback or of a capture.

    Of an exchange there are four, which sum to zero in each currency: what left and what the bank's position took, what the
    bank's other position gave and what arrived.
    """

    command: Command
    entries: tuple[EntryDraft, ...]
    reversal: ReversalDraft | None = None
    hold: HoldDraft | None = None
    checks: Checks = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The decision to hold: nothing moves. `review`: until somebody has approved it, and not because it was asked for."""

    command: Command
    review: bool = False
    checks: Checks = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Release:
    """The decision to let a hold go: nothing moves."""

    command: Command
    hold: HoldDraft


@dataclass(frozen=True, slots=True)
class Refusal:
    """The decision against it."""

    command: Command
    code: FailureCode
    checks: Checks = field(default=(), compare=False)


Outcome = Posting | Reservation | Release | Refusal


@dataclass(frozen=True, slots=True)
class Verdict:
    """What limits and rules say of a command: with a `code` it must not be, with `review` not yet."""

    checks: Checks
    code: FailureCode | None = None
    review: bool = False


class Policy(Protocol):
    """Limits and rules, as `bank.limits.checks` knows them."""

    def check(self, command: Command, accounts: Mapping[str, AccountState]) -> Verdict | None:
        """What they say of a command that the ledger has nothing against; None where none applies."""

    def decided(self, outcome: Outcome) -> None:
        """Hear of each decision before the next is asked about."""


def decide(
    commands: Iterable[Command],
    accounts: Mapping[str, AccountState],
    originals: Mapping[str, OriginalState],
    policy: Policy | None = None,
) -> list[Outcome]:
    """Decide the commands in their order, each seeing the effects of those before it.

    `accounts` holds the state of every account named by a command, `originals` that of every
    transaction that one points at; both are moved on. `policy` is asked last; None: nobody has set limits or rules.
    Returns one outcome a command. Raises KeyError when a state is missing, which is a bug of the caller.
    """
    return [_decide_one(command, accounts, originals, policy) for command in commands]


def decide_together(
    commands: Sequence[Command],
    accounts: Mapping[str, AccountState],
    originals: Mapping[str, OriginalState],
    policy: Policy | None = None,
) -> list[Outcome]:
    """Decide the commands as `decide` does, but post all of them or none.

    Where one is refused, it is the first that would be, with its reason, and the others fail as `BATCH_REFUSED`. What would have to
    be reviewed is refused: the others cannot wait for it. The states are those before and stay so. Raises what `decide` raises.
    """
    accounts = {account_id: replace(state) for account_id, state in accounts.items()}
    originals = {original_id: replace(state) for original_id, state in originals.items()}
    outcomes: list[Outcome] = []
    for command in commands:
        outcome = _decide_one(command, accounts, originals, policy)
        if isinstance(outcome, Reservation) and outcome.review:
            outcome = Refusal(command, FailureCode.RULE_DENIED, outcome.checks)
        if isinstance(outcome, Refusal):
            return [outcome if each is command else Refusal(each, FailureCode.BATCH_REFUSED) for each in commands]
        outcomes.append(outcome)
    return outcomes


def _decide_one(
    command: Command, accounts: Mapping[str, AccountState], originals: Mapping[str, OriginalState], policy: Policy | None
) -> Outcome:
    if policy is None:
        return _apply(command, accounts, originals, None)
    outcome = _apply(command, accounts, originals, policy)
    policy.decided(outcome)
    return outcome


def _apply(
    command: Command, accounts: Mapping[str, AccountState], originals: Mapping[str, OriginalState], policy: Policy | None
) -> Outcome:
    source = accounts[command.from_account_id]
    target = accounts[command.to_account_id]
    original_id = command.original_id
    original = originals[original_id] if original_id is not None else None
    code = _objection(command, source, target, original)
    if code is None and command.exchange is not None:
        code = _objection_of_positions(command, command.exchange, accounts)
    if code is not None:
        return Refusal(command, code, _funds(source) if code is FailureCode.INSUFFICIENT_FUNDS else ())
    verdict = policy.check(command, accounts) if policy is not None else None
    checks, review = ((), False) if verdict is None else (verdict.checks, verdict.review)
    if verdict is not None and verdict.code is not None:
        return Refusal(command, verdict.code, checks)
    if command.holds or review:
        source.held += command.amount
        return Reservation(command, review, checks)
    if original is not None and command.voids_id is not None:
        return Release(command, let_go(original, source))
    hold = _take(original, source, command.amount) if original is not None and command.captures_id is not None else None
    entries = (
        (_move(source, -command.amount), _move(target, command.amount))
        if command.exchange is None
        else _exchange(command, command.exchange, source, target, accounts)
    )
    if original is None or hold is not None:
        return Posting(command, entries, hold=hold, checks=checks)
    original.rolled_back_amount += command.arrives
    original.version += 1
    return Posting(command, entries, ReversalDraft(original.transaction_id, original.rolled_back_amount, original.version))


def _exchange(
    command: Command, exchange: Exchange, source: AccountState, target: AccountState, accounts: Mapping[str, AccountState]
) -> tuple[EntryDraft, ...]:
    return (
        _move(source, -command.amount),
        _move(accounts[exchange.from_position_id], command.amount),
        _move(accounts[exchange.to_position_id], -exchange.to_amount),
        _move(target, exchange.to_amount),
    )


def _funds(source: AccountState) -> Checks:
    """What there was to spend when it was not enough; a refusal leaves no entry that would tell."""
    available = source.amount - source.held + (source.overdraft_limit or 0)
    return (("funds", None, "denied", available),)


def let_go(hold: OriginalState, account: AccountState) -> HoldDraft:
    """Free all that an open hold still has of the account; both are moved on. For a void, and for who ends what has expired."""
    return _free(hold, account, hold.held_amount)


def _take(hold: OriginalState, account: AccountState, amount: int) -> HoldDraft:
    hold.captured_amount += amount
    return _free(hold, account, amount)


def _free(hold: OriginalState, account: AccountState, amount: int) -> HoldDraft:
    account.held -= amount
    hold.held_amount -= amount
    hold.version += 1
    return HoldDraft(hold.transaction_id, account.account_id, amount, hold.captured_amount, hold.held_amount, hold.version)


def _objection(command: Command, source: AccountState, target: AccountState, original: OriginalState | None) -> FailureCode | None:
    """The first reason against the command. The order is part of the contract: what the request
    says comes before what the accounts are, and the accounts before what they hold."""
    if original is not None and command.voids_id is not None:
        # It moves nothing, so it does not matter what became of the accounts.
        return _objection_of_hold(original, original.held_amount)
    if source is target:
        return FailureCode.SAME_ACCOUNT
    to_currency = command.exchange.to_currency if command.exchange is not None else command.currency
    if source.currency != command.currency or target.currency != to_currency:
        return FailureCode.CURRENCY_MISMATCH
    if "closed" in (source.status, target.status):
        return FailureCode.ACCOUNT_CLOSED
    if "frozen" in (source.status, target.status):
        return FailureCode.ACCOUNT_FROZEN
    spendable = source.amount - source.held
    if original is not None and command.captures_id is not None:
        code = _objection_of_hold(original, command.amount)
        if code is not None:
            return code
        # Kept for it when it was held.
        spendable += command.amount
    elif original is not None:
        left = original.amount - original.rolled_back_amount
        if left == 0:
            return FailureCode.ALREADY_ROLLED_BACK
        if command.arrives > left:
            return FailureCode.AMOUNT_EXCEEDS_ORIGINAL
    if source.overdraft_limit is not None and spendable - command.amount < -source.overdraft_limit:
        return FailureCode.INSUFFICIENT_FUNDS
    if target.amount + command.arrives > MAX_BALANCE or source.amount - command.amount < -MAX_BALANCE:
        return FailureCode.AMOUNT_OUT_OF_RANGE
    return None


def _objection_of_positions(command: Command, exchange: Exchange, accounts: Mapping[str, AccountState]) -> FailureCode | None:
    """They are the bank's own and have no limit but the ledger's range."""
    takes, gives = accounts[exchange.from_position_id], accounts[exchange.to_position_id]
    out = takes.amount + command.amount > MAX_BALANCE or gives.amount - exchange.to_amount < -MAX_BALANCE
    return FailureCode.AMOUNT_OUT_OF_RANGE if out else None


def _objection_of_hold(hold: OriginalState, amount: int) -> FailureCode | None:
    if hold.expired:
        return FailureCode.HOLD_EXPIRED
    if hold.held_amount == 0:
        return FailureCode.HOLD_CLOSED
    return FailureCode.AMOUNT_EXCEEDS_ORIGINAL if amount > hold.held_amount else None


def _move(account: AccountState, amount: int) -> EntryDraft:
    account.amount += amount
    account.version += 1
    return EntryDraft(account.account_id, account.version, amount, account.amount)
