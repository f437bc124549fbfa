"""What the ledger must decide, in plain Python: a reading of the contract (api.md, docs/decisions), and not of the bank's code.

Accounts are numbers in the order of their opening, users are names, money is whole minor units, time is hours since the run began.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

LARGEST_AMOUNT, LARGEST_BALANCE = 10**18 - 1, 2**63 - 1
BATCH_LANE = 1000


class Refused(Exception):
    """Nothing comes of a request; its answer has this status and code."""


@dataclass
class Account:
    owner: str
    currency: str
    default: bool
    lane: int = 0
    amount: int = 0
    held: int = 0
    limit: int = 0
    status: str = "active"


@dataclass(eq=False)
class Transaction:
    """`source` and `target` None: the outside. `of` is what it moves back, takes from or lets go. `to_amount` is what arrives."""

    operation: str
    source: int | None
    target: int | None
    amount: int
    currency: str
    to_amount: int
    to_currency: str
    reference: str | None = None
    of: "Transaction | None" = None
    ends: float | None = None
    batch: "Batch | None" = None
    schedule: Any = None
    status: str = "pending"
    code: str | None = None
    moved_back: int = 0
    held: int = 0
    captured: int = 0
    expired: bool = False
    posted: float = 0.0


@dataclass(eq=False)
class Batch:
    atomic: bool
    items: list[Transaction] = field(default_factory=list)


class Ledger:
    """Accounts and what is done to them. `own` is what the bank's own have, by name and lane, before anything happens here."""

    def __init__(self, own: Mapping[tuple[str, int], int]) -> None:
        self.own = dict(own)
        self.now = 0.0
        self.accounts: list[Account] = []
        self.transactions: list[Transaction] = []
        # In the order of posting: the account, its transaction, and by how much it moved.
        self.entries: list[tuple[int, Transaction, int]] = []

    def submit(self, operation: str, source: int | None, target: int | None, body: Mapping[str, Any], **more: Any) -> Transaction:
        sent = body["amount"], body["currency"]
        arrives = body.get("to_amount", sent[0]), body.get("to_currency", sent[1])
        made = Transaction(operation, source, target, *sent, *arrives, body.get("reference"), **more)
        self.transactions.append(made)
        return made

    def lanes_that_wait(self) -> list[int]:
        return sorted({self.lane(t) for t in self.transactions if t.status == "pending"})

    def post(self) -> None:
        """Decide what waits: a lane after the other, what came in batches last, each in its order."""
        for lane in self.lanes_that_wait():
            for t in self.transactions:
                if t.status == "pending" and self.lane(t) == lane:
                    self.decide(t.batch.items if t.batch and t.batch.atomic else [t])

    def lane(self, t: Transaction) -> int:
        spends = t.target if t.source is None else t.source
        return BATCH_LANE if t.batch or spends is None else self.accounts[spends].lane

    def decide(self, items: Iterable[Transaction]) -> None:
        """All that are decided together: of an atomic batch all or none."""
        before = [replace(each) for each in self.accounts], dict(self.own), list(self.entries)
        for t in items:
            t.code = self._objection(t)
            t.status = "failed" if t.code else self._do(t)
            if t.code and t.batch and t.batch.atomic:
                self.accounts, self.own, self.entries = before
                for other in t.batch.items:
                    other.status, other.code, other.held = "failed", t.code if other is t else "batch_refused", 0
                return

    def _objection(self, t: Transaction) -> str | None:
        if t.operation == "void":
            return self._objection_of_hold(t.of, 0)
        sides = [self.accounts[side] for side in (t.source, t.target) if side is not None]
        money = [currency for side, currency in ((t.source, t.currency), (t.target, t.to_currency)) if side is not None]
        if t.source == t.target:
            return "same_account"
        if [side.currency for side in sides] != money:
            return "currency_mismatch"
        for status in ("closed", "frozen"):
            if any(side.status == status for side in sides):
                return f"account_{status}"
        if t.operation == "capture" and (code := self._objection_of_hold(t.of, t.amount)):
            return code
        if t.operation == "rollback" and t.to_amount > t.of.amount - t.of.moved_back:
            return "already_rolled_back" if t.of.moved_back == t.of.amount else "amount_exceeds_original"
        if t.source is not None and t.operation != "capture":
            source = self.accounts[t.source]
            if t.amount > source.amount + source.limit - source.held:
                return "insufficient_funds"
        after = [self._has(side, t) + amount for side, amount in self._moves(t)]
        return None if all(abs(balance) <= LARGEST_BALANCE for balance in after) else "amount_out_of_range"

    def _objection_of_hold(self, hold: Transaction, amount: int) -> str | None:
        if hold.expired or (hold.held and self.now >= hold.ends):
            return "hold_expired"
        if not hold.held:
            return "hold_closed"
        return "amount_exceeds_original" if amount > hold.held else None

    def _moves(self, t: Transaction) -> list[tuple[int | str, int]]:
        """Each side and by how much it moves: an account, or a name of the bank's own."""
        source, target = (f"outside {t.currency}" if side is None else side for side in (t.source, t.target))
        if t.currency == t.to_currency:
            return [(source, -t.amount), (target, t.amount)]
        bought, sold = f"position {t.currency}", f"position {t.to_currency}"
        return [(source, -t.amount), (bought, t.amount), (sold, -t.to_amount), (target, t.to_amount)]

    def _has(self, side: int | str, t: Transaction) -> int:
        return self.accounts[side].amount if isinstance(side, int) else self.own.get((side, self.lane(t)), 0)

    def _do(self, t: Transaction) -> str:
        """Let it happen; its status."""
        if t.ends is not None:
            self.accounts[t.source].held += t.amount
            t.held = t.amount
            return "held"
        if t.operation == "void":
            self._free(t.of, t.of.held)
            return "voided"
        if t.operation == "capture":
            t.of.captured += t.amount
            self._free(t.of, t.amount)
        if t.operation == "rollback":
            t.of.moved_back += t.to_amount
            t.of.status = "rolled_back" if t.of.moved_back == t.of.amount else "completed"
        t.posted = self.now
        for side, amount in self._moves(t):
            if isinstance(side, str):
                self.own[side, self.lane(t)] = self._has(side, t) + amount
            else:
                self.accounts[side].amount += amount
                self.entries.append((side, t, amount))
        return "completed"

    def _free(self, hold: Transaction, amount: int) -> None:
        self.accounts[hold.source].held -= amount
        hold.held -= amount
        hold.status = "held" if hold.held else "completed" if hold.captured else "voided"

    def expire(self) -> None:
        """The tick that lets holds go whose time is over."""
        for hold in self.transactions:
            if hold.held and self.now >= hold.ends:
                self._free(hold, hold.held)
                hold.expired = True
