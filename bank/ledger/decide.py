"""What becomes of each transaction: the one place where the rules of the ledger stand.

Pure: no clock, no database, no I/O. A single transfer is a list of one; a preview is a decision
that nobody writes; the drain hands in hundreds and writes the outcomes in sets.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from bank.money import MAX_BALANCE


class FailureCode(StrEnum):
    """Why the ledger refused. Clients are promised these names."""

    INSUFFICIENT_FUNDS = "insufficient_funds"  # the account would fall under its limit
    ACCOUNT_FROZEN = "account_frozen"  # one of the two accounts is frozen
    ACCOUNT_CLOSED = "account_closed"  # one of the two accounts is closed
    CURRENCY_MISMATCH = "currency_mismatch"  # an account holds another currency than the transaction names
    SAME_ACCOUNT = "same_account"  # from an account to itself
    ALREADY_ROLLED_BACK = "already_rolled_back"  # nothing of the original is left to move back
    AMOUNT_EXCEEDS_ORIGINAL = "amount_exceeds_original"  # more than what is left of the original
    AMOUNT_OUT_OF_RANGE = "amount_out_of_range"  # a balance would leave the range of the ledger
    BATCH_REFUSED = "batch_refused"  # another of its atomic batch was refused, so nothing of the batch moves
    INTERNAL_ERROR = "internal_error"  # not a decision: it could not be written, so nothing moved


@dataclass(frozen=True, slots=True)
class Command:
    """Move `amount` minor units of `currency` from one account to another.

    Both accounts are named: where the money comes from or goes to the outside, it is the bank's
    own account of that currency and lane. `reverses_id` makes it a rollback of that transaction.
    """

    transaction_id: str
    from_account_id: str
    to_account_id: str
    amount: int
    currency: str
    effective_at: datetime
    reverses_id: str | None = None


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
    """A transaction that a rollback points at: how much of it moved, and how much moved back."""

    transaction_id: str
    amount: int
    rolled_back_amount: int
    version: int


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
class Posting:
    """The decision to post: two entries that sum to zero, and the mark on the original of a rollback."""

    command: Command
    entries: tuple[EntryDraft, EntryDraft]
    reversal: ReversalDraft | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The decision not to post."""

    command: Command
    code: FailureCode


Outcome = Posting | Refusal


def decide(
    commands: Iterable[Command],
    accounts: Mapping[str, AccountState],
    originals: Mapping[str, OriginalState],
) -> list[Outcome]:
    """Decide the commands in their order, each seeing the effects of those before it.

    `accounts` holds the state of every account named by a command, `originals` that of every
    transaction that one rolls back; both are moved on. Returns one outcome a command. Raises
    KeyError when a state is missing, which is a bug of the caller.
    """
    return [_decide_one(command, accounts, originals) for command in commands]


def decide_together(
    commands: Sequence[Command],
    accounts: Mapping[str, AccountState],
    originals: Mapping[str, OriginalState],
) -> list[Outcome]:
    """Decide the commands as `decide` does, but post all of them or none.

    Where one is refused, it is the first that would be, with its reason, and the others fail as `BATCH_REFUSED`. The states are
    those before and stay so. Raises what `decide` raises.
    """
    accounts = {account_id: replace(state) for account_id, state in accounts.items()}
    originals = {original_id: replace(state) for original_id, state in originals.items()}
    outcomes: list[Outcome] = []
    for command in commands:
        outcome = _decide_one(command, accounts, originals)
        if isinstance(outcome, Refusal):
            return [outcome if each is command else Refusal(each, FailureCode.BATCH_REFUSED) for each in commands]
        outcomes.append(outcome)
    return outcomes


def _decide_one(command: Command, accounts: Mapping[str, AccountState], originals: Mapping[str, OriginalState]) -> Outcome:
    source = accounts[command.from_account_id]
    target = accounts[command.to_account_id]
    original = originals[command.reverses_id] if command.reverses_id is not None else None
    code = _objection(command, source, target, original)
    if code is not None:
        return Refusal(command, code)
    entries = (_move(source, -command.amount), _move(target, command.amount))
    if original is None:
        return Posting(command, entries)
    original.rolled_back_amount += command.amount
    original.version += 1
    return Posting(command, entries, ReversalDraft(original.transaction_id, original.rolled_back_amount, original.version))


def _objection(command: Command, source: AccountState, target: AccountState, original: OriginalState | None) -> FailureCode | None:
    """The first reason against the command. The order is part of the contract: what the request
    says comes before what the accounts are, and the accounts before what they hold."""
    if source is target:
        return FailureCode.SAME_ACCOUNT
    if source.currency != command.currency or target.currency != command.currency:
        return FailureCode.CURRENCY_MISMATCH
    if "closed" in (source.status, target.status):
        return FailureCode.ACCOUNT_CLOSED
    if "frozen" in (source.status, target.status):
        return FailureCode.ACCOUNT_FROZEN
    if original is not None:
        left = original.amount - original.rolled_back_amount
        if left == 0:
            return FailureCode.ALREADY_ROLLED_BACK
        if command.amount > left:
            return FailureCode.AMOUNT_EXCEEDS_ORIGINAL
    spendable = source.amount - source.held
    if source.overdraft_limit is not None and spendable - command.amount < -source.overdraft_limit:
        return FailureCode.INSUFFICIENT_FUNDS
    if target.amount + command.amount > MAX_BALANCE or source.amount - command.amount < -MAX_BALANCE:
        return FailureCode.AMOUNT_OUT_OF_RANGE
    return None


def _move(account: AccountState, amount: int) -> EntryDraft:
    account.amount += amount
    account.version += 1
    return EntryDraft(account.account_id, account.version, amount, account.amount)
