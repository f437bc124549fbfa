"""Whether limits and rules let a customer pay: pure, like the decision that asks it.

It is told what applies and what was used before, and keeps that up while commands are decided, so that each sees those before it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from bank.ledger.decide import AccountState, Checked, Command, FailureCode, Outcome, Posting, Refusal, Reservation, Verdict

OUTSIDE = "outside"
"""The counterparty of money that leaves the bank."""


class Scope(StrEnum):
    """Whom a limit is for. What counts together is what one user pays in the currency, or one account."""

    ROLE = "role"  # each user of a role
    USER = "user"  # one user
    ACCOUNT = "account"  # one account


class LimitKind(StrEnum):
    """What a limit bounds."""

    SINGLE = "single"  # the amount of one payment
    SUM = "sum"  # what is paid in a window
    COUNT = "count"  # how many payments there are in a window
    MINIMUM_BALANCE = "minimum_balance"  # what a payment must leave on the account, beside holds and without the overdraft
    COUNTERPARTIES = "counterparties"  # who may be paid
    HOURS = "hours"  # when payments may be made


class Window(StrEnum):
    """A span that ends now and moves with it."""

    HOUR = "hour"  # 60 minutes
    DAY = "day"  # 24 hours
    WEEK = "week"  # 7 days
    MONTH = "month"  # as PostgreSQL takes a month from a time: to the same day of the month before, or its last


class Effect(StrEnum):
    """What becomes of a payment of which a rule is true."""

    DENY = "deny"  # it fails, as `rule_denied`
    REVIEW = "review"  # it is held until another admin approves it
    FLAG = "flag"  # it goes through, and is marked


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that is in force. `amount` is minor units; what its kind does not need is None.

    `opens_at` and `closes_at` are minutes of the day in `time_zone`; where it closes before it opens, midnight lies between.
    """

    id: str
    version: int
    scope: Scope
    kind: LimitKind
    amount: int | None = None
    count: int | None = None
    # One of `Window`, as plain text: it is looked up by it for each payment. None where nothing is counted.
    window: str | None = None
    counterparties: frozenset[str] = frozenset()
    opens_at: int | None = None
    closes_at: int | None = None
    time_zone: str | None = None

    @property
    def counts_together(self) -> bool:
        """Whether it counts what all of the user's accounts pay."""
        return self.window is not None and self.scope is not Scope.ACCOUNT


Field = tuple[str, str]
"""A variable of a condition and its field, as in `("transaction", "amount")`."""


class Values(Protocol):
    """Where conditions read the fields of one payment after the other, as in `bank.limits.cel`."""

    def set(self, field: Field, value: Any) -> None:
        """Let a field have this value."""
        ...


class Condition(Protocol):
    """What a rule says, as `bank.limits.cel` reads it."""

    @property
    def fields(self) -> frozenset[Field]:
        """Which values it reads."""
        ...

    def holds(self, values: Any) -> bool:
        """Whether it is true of these. Raises the policy's `unanswered`."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that is enabled."""

    id: str
    version: int
    effect: Effect
    condition: Condition


@dataclass(slots=True)
class Payer:
    """The user that pays, and since when there is one."""

    id: str
    username: str
    role: str
    created_at: datetime


@dataclass(slots=True)
class Payment:
    """What is known of a payment beside its command. `to_user_id` None: the outside, or, as with what follows, that nothing which
    applies asks for it."""

    type: str
    payer: Payer
    to_user_id: str | None = None
    description: str | None = None
    reference: str | None = None
    metadata: Mapping[str, str] | None = None


_Reader = Callable[[Command, Payment, AccountState, datetime], Any]


@dataclass(slots=True)
class Used:
    """What was paid in a window: in sum, in minor units, and how often."""

    amount: int = 0
    count: int = 0


@dataclass(slots=True)
class Policy:
    """What applies to the commands of one decision.

    `payments` holds those by a customer, by transaction id; the others are not looked at, neither money from the outside nor what
    takes back, captures or lets go. `limits` are those that apply to an account, `together` the accounts whose payments count
    together with its own, itself included. `used` is what was posted from an account in each window that is asked for, and
    `open_holds` how many holds it has: what is held counts as used as long as it is, and what is captured from when it is. `now` is
    when it is decided. `values` is where conditions read fields from; `unanswered` is the error of one that comes to no answer.
    """

    now: datetime
    payments: Mapping[str, Payment]
    limits: Mapping[str, Sequence[Limit]]
    together: Mapping[str, Sequence[str]]
    rules: Sequence[Rule]
    values: Values
    unanswered: type[Exception]
    used: Mapping[str, Mapping[str, Used]] = field(default_factory=dict)
    open_holds: dict[str, int] = field(default_factory=dict)
    # The fields that any rule reads, and no others: handing them to the library is most of what a rule costs.
    _read: Sequence[tuple[Field, _Reader]] = field(init=False)

    def __post_init__(self) -> None:
        self._read = [(each, _VALUES[each]) for each in sorted({each for rule in self.rules for each in rule.condition.fields})]

    def check(self, command: Command, accounts: Mapping[str, AccountState]) -> Verdict | None:
        """The verdict on a command that the ledger itself has nothing against; None where nothing applies to it.

        All that apply are asked, so that a refusal tells of each; the first against it decides, limits before rules.
        """
        payment = self.payments.get(command.transaction_id)
        limits = self.limits.get(command.from_account_id, ())
        if payment is None or command.original_id is not None or not (limits or self.rules):
            return None
        code, review = None, False
        checks: list[Checked] = []
        for limit in limits:
            passed, known = self._limit(limit, command, payment, accounts)
            if not passed:
                code = FailureCode.LIMIT_EXCEEDED
            checks.append((limit.id, limit.version, "passed" if passed else "denied", known))
        if self.rules:
            account = accounts[command.from_account_id]
            for name, reader in self._read:
                self.values.set(name, reader(command, payment, account, self.now))
            for rule in self.rules:
                outcome, error = self._rule(rule)
                if outcome == "denied":
                    code = code or FailureCode.RULE_DENIED
                review = review or outcome == "review"
                checks.append((rule.id, rule.version, outcome, error))
        return Verdict(tuple(checks), code, review)

    def decided(self, outcome: Outcome) -> None:
        """Count what was decided, for the commands behind it."""
        account_id = outcome.command.from_account_id
        windows = self.used.get(account_id)
        if windows is None or isinstance(outcome, Refusal):
            return
        if not isinstance(outcome, Posting):
            change = 1 if isinstance(outcome, Reservation) else -1
        else:
            change = -1 if outcome.hold is not None and outcome.hold.held_amount == 0 else 0
            if outcome.command.reverses_id is None:
                for used in windows.values():
                    used.amount += outcome.command.amount
                    used.count += 1
        if change:
            self.open_holds[account_id] = self.open_holds.get(account_id, 0) + change

    def _limit(self, limit: Limit, command: Command, payment: Payment, accounts: Mapping[str, AccountState]) -> tuple[bool, int | None]:
        """Whether it is kept, and what was used before, or was on the account."""
        kind, most = limit.kind, limit.amount or 0
        if kind is LimitKind.SINGLE:
            return command.amount <= most, None
        if limit.window is not None:
            amount, count = 0, 0
            for each in (command.from_account_id,) if limit.scope is Scope.ACCOUNT else self.together[command.from_account_id]:
                used = self.used[each][limit.window]
                amount += used.amount + accounts[each].held
                count += used.count + self.open_holds.get(each, 0)
            if kind is LimitKind.SUM:
                return amount + command.amount <= most, amount
            return count < (limit.count or 0), count
        if kind is LimitKind.MINIMUM_BALANCE:
            account = accounts[command.from_account_id]
            balance = account.amount - account.held
            return balance - command.amount >= most, balance
        if kind is LimitKind.COUNTERPARTIES:
            to = payment.to_user_id or OUTSIDE
            return to in limit.counterparties or to == payment.payer.id, None
        return _is_open(limit, self.now), None

    def _rule(self, rule: Rule) -> tuple[str, str | None]:
        """How it came out, and why it came to no answer."""
        try:
            applies, why = rule.condition.holds(self.values), None
        except self.unanswered as error:
            # A rule that cannot be asked is taken to apply: who wrote it wanted to stop something.
            applies, why = True, str(error)[:200]
        return _OUTCOMES[rule.effect] if applies else "passed", why


_OUTCOMES = {Effect.DENY: "denied", Effect.REVIEW: "review", Effect.FLAG: "flagged"}


def _is_open(limit: Limit, now: datetime) -> bool:
    if limit.opens_at is None or limit.closes_at is None or limit.time_zone is None:
        raise AssertionError("Hours open and close, in a time zone.")
    local = now.astimezone(ZoneInfo(limit.time_zone))
    minute = local.hour * 60 + local.minute
    if limit.opens_at < limit.closes_at:
        return limit.opens_at <= minute < limit.closes_at
    return minute >= limit.opens_at or minute < limit.closes_at


_VALUES: dict[Field, _Reader] = {
    ("transaction", "type"): lambda command, payment, account, now: payment.type,
    ("transaction", "amount"): lambda command, payment, account, now: command.amount,
    ("transaction", "currency"): lambda command, payment, account, now: command.currency,
    ("transaction", "hold"): lambda command, payment, account, now: command.holds,
    ("transaction", "from_account_id"): lambda command, payment, account, now: command.from_account_id,
    ("transaction", "to_account_id"): lambda command, payment, account, now: command.to_account_id if payment.to_user_id else "",
    ("transaction", "to_user_id"): lambda command, payment, account, now: payment.to_user_id or "",
    ("transaction", "description"): lambda command, payment, account, now: payment.description or "",
    ("transaction", "reference"): lambda command, payment, account, now: payment.reference or "",
    ("transaction", "metadata"): lambda command, payment, account, now: dict(payment.metadata or {}),
    ("transaction", "hour"): lambda command, payment, account, now: now.hour,
    ("transaction", "weekday"): lambda command, payment, account, now: now.isoweekday(),
    ("account", "id"): lambda command, payment, account, now: account.account_id,
    ("account", "currency"): lambda command, payment, account, now: account.currency,
    ("account", "balance"): lambda command, payment, account, now: account.amount,
    ("account", "held"): lambda command, payment, account, now: account.held,
    ("account", "available"): lambda command, payment, account, now: account.amount - account.held + (account.overdraft_limit or 0),
    ("account", "overdraft_limit"): lambda command, payment, account, now: account.overdraft_limit or 0,
    ("user", "id"): lambda command, payment, account, now: payment.payer.id,
    ("user", "username"): lambda command, payment, account, now: payment.payer.username,
    ("user", "role"): lambda command, payment, account, now: payment.payer.role,
    ("user", "age_days"): lambda command, payment, account, now: (now - payment.payer.created_at).days,
}

OF_DETAILS = frozenset(("transaction", name) for name in ("to_account_id", "to_user_id", "description", "reference", "metadata"))
"""The fields that are read from what a payment alone says, beside its command."""
