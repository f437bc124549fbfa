"""What can happen in this bank, in the past tense, as frozen dataclasses.

An event is a promise for ever: its fields are never changed. A new shape gets a new `SCHEMA` and an
upcaster. Money is whole minor units of the currency beside it, times are RFC 3339 in UTC; no secret and
no password hash is ever in one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self


class UnknownEventError(Exception):
    """The log holds an event that this version cannot read; a newer one wrote it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Who wants something, through which request and from where; it goes with every event and audit row.

    `actor_id` is None where nobody is logged in: a registration, or the operator at the machine.
    """

    actor_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Happened:
    """The parent of all events; `SCHEMA` is the version of the shape."""

    SCHEMA: ClassVar[int] = 1

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Self:
        """The event of what JSON gave back, in the current shape."""
        return cls(**data)


@dataclass(frozen=True, slots=True)
class UserRegistered(Happened):
    """A user came to be. Stream: the user.

    Since its second version with a salt, as every event that holds a name of a person: the name can be erased (`bank.privacy.erasure`), and
    the hash of what the event held stays under a seal. Nobody finds the name by hashing guesses, since the salt is erased with it.
    """

    SCHEMA: ClassVar[int] = 2

    username: str
    email: str
    role: str
    status: str
    # Hexadecimal digits of 16 random bytes; empty in events of the first version, and where the name was erased.
    salt: str


@dataclass(frozen=True, slots=True)
class UserChanged(Happened):
    """Name, email, role or status are now these; `password` tells that the password changed, never to what. `salt` as in
    UserRegistered, since the second version."""

    SCHEMA: ClassVar[int] = 2

    username: str
    email: str
    role: str
    status: str
    password: bool
    salt: str


@dataclass(frozen=True, slots=True)
class PersonalDataErased(Happened):
    """What is personal of a deleted user is gone. Stream: the user, who is called by their id from now on, and their accounts and
    schedules by nothing.

    `events` are the sealed events that it was taken from, [position, hash] each: SHA-256 of what is left of the data, as it is stored,
    in hexadecimal digits.
    """

    events: list[list[Any]]


@dataclass(frozen=True, slots=True)
class AccountOpened(Happened):
    """An account came to be, empty. Stream: the account."""

    user_id: str | None
    currency: str
    kind: str
    name: str | None
    is_default: bool


@dataclass(frozen=True, slots=True)
class AccountChanged(Happened):
    """Name, status and overdraft limit are now these."""

    name: str | None
    status: str
    overdraft_limit: int | None


@dataclass(frozen=True, slots=True)
class TransactionSubmitted(Happened):
    """A transaction was accepted and waits. Stream: the transaction; its position is the transaction's `seq`.

    Since its second version it may be about a hold: with `expires_at` it asks for one, with `captures_id` or `voids_id` it
    takes from that one or lets it go.
    """

    SCHEMA: ClassVar[int] = 2

    lane: int
    type: str
    from_user_id: str | None
    to_user_id: str | None
    from_account_id: str | None
    to_account_id: str | None
    amount: int
    currency: str
    to_amount: int
    to_currency: str
    rate: str | None
    description: str | None
    reference: str | None
    metadata: dict[str, Any] | None
    reverses_id: str | None
    awaited: bool
    # RFC 3339; None: it counts from when it was recorded.
    effective_at: str | None
    # Since version 2. The batch that it came with, and its place there from 0 on; None: it came by itself.
    batch_id: str | None = None
    batch_index: int | None = None
    # RFC 3339; None: it is no hold.
    expires_at: str | None = None
    captures_id: str | None = None
    voids_id: str | None = None
    # The quote whose rate and amounts these are; None: there was none.
    quote_id: str | None = None
    # Of an exchange: `amount` at `rate` less `to_amount`, exactly, as a decimal of minor units; of its rollback see `bank.fx.service`.
    remainder: str | None = None


@dataclass(frozen=True, slots=True)
class BatchSubmitted(Happened):
    """A batch of `items` transactions was accepted, which are submitted right after. Stream: the batch."""

    mode: str
    items: int


@dataclass(frozen=True, slots=True)
class TransactionCompleted(Happened):
    """It was posted. `entries` are [account_id, version, amount, balance] each, in minor units.

    Since its second version, `checks` are the limits and rules that were asked before, [id, version, outcome, known] each
    (`bank.ledger.decide.Checked`): what they said then, their own events tell. None: there were none.
    """

    SCHEMA: ClassVar[int] = 2

    entries: tuple[tuple[str, int, int, int], ...]
    checks: list[list[Any]] | None = None

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Self:
        # JSON has lists only.
        return cls(
            **{**data, "entries": tuple((account_id, version, amount, balance) for account_id, version, amount, balance in data["entries"])}
        )


@dataclass(frozen=True, slots=True)
class TransactionFailed(Happened):
    """The ledger refused it. `checks`, since its second version, say why, where more is to be said than the code does."""

    SCHEMA: ClassVar[int] = 2

    failure_code: str
    checks: list[list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class TransactionRolledBack(Happened):
    """A rollback moved `amount` minor units of it back; `rolled_back_amount` in sum so far. Stream: the original."""

    rollback_id: str
    amount: int
    rolled_back_amount: int


@dataclass(frozen=True, slots=True)
class TransactionHeld(Happened):
    """It reserves `amount` minor units of the account, and moves nothing. Stream: the hold.

    Since its second version with the `checks` that were asked before; with `review` a rule wants an admin to decide first, whether or
    not it asked for a hold.
    """

    SCHEMA: ClassVar[int] = 2

    account_id: str
    amount: int
    review: bool = False
    checks: list[list[Any]] | None = None


@dataclass(frozen=True, slots=True)
class TransactionApproved(Happened):
    """An admin let it go on, and `amount` minor units are not held any more: they are posted by the event that follows. A hold stays
    one, and nothing is let go. Stream: the transaction that was reviewed."""

    account_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class TransactionRejected(Happened):
    """An admin was against it, and `amount` minor units are not held any more. It fails by the event that follows."""

    account_id: str
    amount: int


@dataclass(frozen=True, slots=True)
class TransactionVoided(Happened):
    """It let its hold go, and moved nothing. Stream: the void, which is a transaction as a rollback is one."""


@dataclass(frozen=True, slots=True)
class HoldCaptured(Happened):
    """A capture took `amount` minor units; `captured_amount` in sum so far, `held_amount` is left. Stream: the hold."""

    capture_id: str
    account_id: str
    amount: int
    captured_amount: int
    held_amount: int


@dataclass(frozen=True, slots=True)
class HoldVoided(Happened):
    """A void let the last `amount` minor units go; `captured_amount` in sum had been taken. Stream: the hold."""

    void_id: str
    account_id: str
    amount: int
    captured_amount: int


@dataclass(frozen=True, slots=True)
class HoldExpired(Happened):
    """Its time was over, which let the last `amount` minor units go. Stream: the hold."""

    account_id: str
    amount: int
    captured_amount: int


@dataclass(frozen=True, slots=True)
class ScheduleCreated(Happened):
    """A transfer is to be made once at `run_at`, or by the rule `rrule` from `starts_at` on. Stream: the schedule.

    `ends_at` is the last run that the rule's COUNT or UNTIL allow. In all events of a schedule `next_run_at` is when it is due
    after that event; None: not any more, or not as long as it is paused.
    """

    created_by: str
    name: str | None
    from_user_id: str
    to_user_id: str
    from_account_id: str
    to_account_id: str
    amount: int
    currency: str
    # What arrives, at the rate of the day of each run; None: the same.
    to_currency: str | None
    description: str | None
    reference: str | None
    metadata: dict[str, Any] | None
    run_at: str | None
    rrule: str | None
    time_zone: str | None
    starts_at: str | None
    month_end: str | None
    ends_at: str | None
    misfire: str
    retry_attempts: int
    retry_delay_seconds: int
    next_run_at: str


@dataclass(frozen=True, slots=True)
class ScheduleChanged(Happened):
    """Status, name, amount, description, timing and policies are now these."""

    status: str
    name: str | None
    amount: int
    description: str | None
    run_at: str | None
    rrule: str | None
    time_zone: str | None
    starts_at: str | None
    month_end: str | None
    ends_at: str | None
    misfire: str
    retry_attempts: int
    retry_delay_seconds: int
    next_run_at: str | None


@dataclass(frozen=True, slots=True)
class ScheduleRan(Happened):
    """The run that was due at `due_at` was tried for the `attempt`th time: by this transaction, or for `failure_code` by none.

    `retry_at` is when it is tried again should it fail; None: it is not.
    """

    due_at: str
    attempt: int
    transaction_id: str | None
    failure_code: str | None
    retry_at: str | None
    next_run_at: str | None


@dataclass(frozen=True, slots=True)
class ScheduleSkipped(Happened):
    """The run that was due at `due_at` was missed, and is not made up for."""

    due_at: str
    next_run_at: str | None


@dataclass(frozen=True, slots=True)
class LimitSet(Happened):
    """A limit came to be, or is now this. Stream: the limit. `amount` is minor units, hours are minutes of the day."""

    scope: str
    role: str | None
    user_id: str | None
    account_id: str | None
    currency: str
    kind: str
    amount: int | None
    count: int | None
    window: str | None
    counterparties: list[str] | None
    opens_at: int | None
    closes_at: int | None
    time_zone: str | None


@dataclass(frozen=True, slots=True)
class LimitRemoved(Happened):
    """A limit is no more. Stream: the limit."""


@dataclass(frozen=True, slots=True)
class RuleSet(Happened):
    """A rule came to be, or is now this. Stream: the rule."""

    name: str
    expression: str
    effect: str
    enabled: bool


@dataclass(frozen=True, slots=True)
class RuleRemoved(Happened):
    """A rule is no more. Stream: the rule."""


TYPES: dict[str, type[Happened]] = {
    name: kind for name, kind in list(globals().items()) if isinstance(kind, type) and issubclass(kind, Happened) and kind is not Happened
}
"""Each of them by what the log calls it: the name of its class."""

NAMES = list(TYPES)

_SINCE_VERSION_2 = ("batch_id", "batch_index", "expires_at", "captures_id", "voids_id", "quote_id", "remainder")

UPCASTERS: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {
    # Before names could be erased.
    ("UserRegistered", 1): lambda data: {**data, "salt": ""},
    ("UserChanged", 1): lambda data: {**data, "salt": ""},
    # Before there were batches, holds and exchanges.
    ("TransactionSubmitted", 1): lambda data: {**data, **dict.fromkeys(_SINCE_VERSION_2)},
    # Before there were limits and rules; and what none was asked about is written so still.
    ("TransactionCompleted", 1): lambda data: {**data, "checks": None},
    ("TransactionFailed", 1): lambda data: {**data, "checks": None},
    ("TransactionHeld", 1): lambda data: {**data, "review": False, "checks": None},
}
"""What makes the data of a type's next version from the data of the version named here. A new version comes with
its upcaster, and with an example among those of the tests."""


def load(type: str, schema: int, data: Mapping[str, Any]) -> Happened:
    """The event that is stored as `data` in version `schema` of its type, as it would be told today.

    Raises UnknownEventError for what this bank never wrote: another type, a newer version, another shape.
    """
    kind = TYPES.get(type)
    if kind is None or not 1 <= schema <= kind.SCHEMA:
        raise UnknownEventError(f"a {type} of version {schema}, which this bank cannot read")
    try:
        told = dict(data)
        for version in range(schema, kind.SCHEMA):
            told = UPCASTERS[type, version](told)
        return kind.stored(told)
    except (TypeError, ValueError, KeyError) as error:
        raise UnknownEventError(f"a {type} of version {schema} in another shape than that version has") from error
