"""What must become of every request, in plain Python: a reading of the contract (api.md, docs/decisions), and not of the bank's code.

Accounts are numbers in the order of their opening, users are names, money is whole minor units, time is hours since the run began.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

LARGEST_AMOUNT, LARGEST_BALANCE = 10**18 - 1, 2**63 - 1
USUAL_HOLD = 7 * 24.0
BATCH_LANE = 1000
STAFF = ("teller", "admin")
MISSED_AFTER = 5 / 60
MOST_RUNS = 10
RETRY_AFTER = 1.0

Body = Mapping[str, Any]


class Refused(Exception):
    """Nothing comes of the request; its answer has this status and code."""


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
    """`source` and `target` None: the outside. `of` is what it moves back, takes from or lets go."""

    operation: str
    source: int | None
    target: int | None
    amount: int
    currency: str
    reference: str | None = None
    of: "Transaction | None" = None
    ends: float | None = None
    batch: "Batch | None" = None
    schedule: "Schedule | None" = None
    status: str = "pending"
    code: str | None = None
    moved_back: int = 0
    held: int = 0
    captured: int = 0
    expired: bool = False


@dataclass(eq=False)
class Batch:
    atomic: bool
    items: list[Transaction] = field(default_factory=list)


@dataclass(eq=False)
class Run:
    due: float
    attempts: int
    transaction: Transaction | None
    look_at: float | None


@dataclass(eq=False)
class Schedule:
    """`times` are all that its rule gives; `coming` those still to be run."""

    source: int
    target: int
    body: Body
    times: Sequence[float]
    coming: Sequence[float]
    status: str = "active"
    runs: list[Run] = field(default_factory=list)


class Model:
    """A bank. `outside` is what its own accounts have, by currency and lane, before anything happens here."""

    def __init__(self, outside: Mapping[tuple[str, int], int]) -> None:
        self.outside = dict(outside)
        self.now = 0.0
        self.accounts: list[Account] = []
        self.transactions: list[Transaction] = []
        self.schedules: list[Schedule] = []
        # In the order of posting: the account, its transaction, and by how much it moved.
        self.entries: list[tuple[int, Transaction, int]] = []
        self.keys: dict[tuple[str, str, str], tuple[Body, Any]] = {}

    def ask(self, caller: str, operation: str, body: Body, key: str | None = None) -> tuple[Any, bool]:
        """The transaction, batch or schedule that is made, and whether the same request had made it before. Raises Refused."""
        _check(body)
        if key is not None and (caller, operation, key) in self.keys:
            asked, made = self.keys[caller, operation, key]
            if asked != body:
                raise Refused(422, "idempotency_key_reused")
            return made, True
        opened, submitted = len(self.accounts), len(self.transactions)
        try:
            made = getattr(self, operation)(caller, body)
        except Refused:
            del self.accounts[opened:], self.transactions[submitted:]
            raise
        if key is not None:
            self.keys[caller, operation, key] = (body, made)
        return made, False

    def preview(self, caller: str, operation: str, body: Body) -> "tuple[Model, Any]":
        """The bank as it would be if this were decided now, before what waits, and what is made. Raises Refused."""
        other = deepcopy(self)
        made, _ = other.ask(caller, operation, body)
        other._decide_all(made.items if isinstance(made, Batch) else [made] if isinstance(made, Transaction) else [])
        return other, made

    # What a request makes.

    def credit(self, caller: str, body: Body) -> Transaction:
        if not _is_staff(caller):
            raise Refused(403, "forbidden")
        return self._submit("credit", None, self._side(caller, body, opens=True), body)

    def debit(self, caller: str, body: Body) -> Transaction:
        return self._submit("debit", self._side(caller, body, opens=False), None, body)

    def _side(self, caller: str, body: Body, *, opens: bool) -> int:
        owner = self.accounts[body["account"]].owner if "account" in body else body["user"]
        if caller != owner and not _is_staff(caller):
            raise Refused(404, "not_found")
        return body["account"] if "account" in body else self._default(owner, body["currency"], opens=opens)

    def transfer(self, caller: str, body: Body) -> Transaction:
        ends = body.get("until", self.now + USUAL_HOLD) if body.get("hold") else None
        return self._submit("transfer", *self._sides(caller, body), body, ends=ends)

    def _sides(self, caller: str, body: Body) -> tuple[int, int]:
        source = body["from"] if "from" in body else self._default(caller, body["currency"], opens=False)
        if caller not in (self.accounts[source].owner, "admin"):
            raise Refused(404, "not_found")
        if "to" in body:
            return source, body["to"]
        # Only money of that currency opens an account for it.
        if self.accounts[source].currency != body["currency"] and self._find(body["to_user"], body["currency"]) is None:
            raise Refused(422, "currency_mismatch")
        return source, self._default(body["to_user"], body["currency"], opens=True)

    def capture(self, caller: str, body: Body) -> Transaction:
        hold = self._hold(caller, body)
        return self._submit("capture", hold.source, hold.target, _part(body, hold.held or hold.amount, hold), of=hold)

    def void(self, caller: str, body: Body) -> Transaction:
        hold = self._hold(caller, body)
        return self._submit("void", hold.source, hold.target, _part({}, hold.held or hold.amount, hold), of=hold)

    def rollback(self, caller: str, body: Body) -> Transaction:
        of = self._original(caller, body)
        if of.ends is not None or of.operation in ("void", "rollback") or of.status not in ("completed", "rolled_back"):
            raise Refused(409, "not_reversible")
        return self._submit("rollback", of.target, of.source, _part(body, of.amount - of.moved_back or of.amount, of), of=of)

    def _hold(self, caller: str, body: Body) -> Transaction:
        hold = self._original(caller, body)
        if hold.ends is None or hold.status in ("pending", "failed"):
            raise Refused(409, "not_held")
        return hold

    def _original(self, caller: str, body: Body) -> Transaction:
        """By staff, or by who receives the money: not by who pays, and for strangers it is not there."""
        of = self.transactions[body["of"]]
        payer, payee = (None if side is None else self.accounts[side].owner for side in (of.source, of.target))
        if not _is_staff(caller) and caller != payee:
            raise Refused(403, "forbidden") if caller == payer else Refused(404, "not_found")
        return of

    def batch(self, caller: str, body: Body) -> Batch:
        batch = Batch(body["atomic"])
        for item in body["items"]:
            try:
                made = getattr(self, item["type"])(caller, item)
            except Refused:
                raise Refused(422, "validation_failed") from None
            if any(side is not None and self.accounts[side].currency != made.currency for side in (made.source, made.target)):
                raise Refused(422, "validation_failed")
            made.batch = batch
            batch.items.append(made)
        return batch

    def _submit(self, operation: str, source: int | None, target: int | None, body: Body, **more: Any) -> Transaction:
        made = Transaction(operation, source, target, body["amount"], body["currency"], body.get("reference"), **more)
        self.transactions.append(made)
        return made

    def _find(self, user: str, currency: str) -> int | None:
        return next((n for n, a in enumerate(self.accounts) if a.default and (a.owner, a.currency) == (user, currency)), None)

    def _default(self, user: str, currency: str, *, opens: bool) -> int:
        found = self._find(user, currency)
        if found is None and not opens:
            raise Refused(404, "not_found")
        return self.open(user, currency) if found is None else found

    def open(self, user: str, currency: str) -> int:
        """The first account in a currency is the default for money that reaches the user."""
        self.accounts.append(Account(user, currency, self._find(user, currency) is None))
        return len(self.accounts) - 1

    def change(self, caller: str, account: int, *, status: str | None = None, limit: int | None = None) -> None:
        """Freeze, close, or let be overdrawn; at once. Raises Refused."""
        was = self.accounts[account]
        if not _is_staff(caller):
            raise Refused(403, "forbidden") if caller == was.owner else Refused(404, "not_found")
        now = replace(was, status=status or was.status, limit=was.limit if limit is None else limit)
        if now == was:
            return
        if was.status == "closed":
            raise Refused(409, "account_closed")
        if now.status == "closed" and (was.amount or was.held):
            raise Refused(409, "balance_not_zero")
        if was.amount - was.held < -now.limit:
            raise Refused(409, "balance_below_limit")
        self.accounts[account] = replace(now, default=was.default and now.status != "closed")

    # What the ledger decides.

    def lanes_that_wait(self) -> list[int]:
        return sorted({self._lane(t) for t in self.transactions if t.status == "pending"})

    def post(self) -> None:
        """Decide what waits: a lane after the other, what came in batches last, each in its order."""
        for lane in self.lanes_that_wait():
            for t in self.transactions:
                if t.status == "pending" and self._lane(t) == lane:
                    self._decide_all(t.batch.items if t.batch and t.batch.atomic else [t])

    def _lane(self, t: Transaction) -> int:
        spends = t.target if t.source is None else t.source
        return BATCH_LANE if t.batch or spends is None else self.accounts[spends].lane

    def _decide_all(self, items: Iterable[Transaction]) -> None:
        """All that are decided together: of an atomic batch all or none."""
        before = [replace(each) for each in self.accounts], dict(self.outside), list(self.entries)
        for t in items:
            t.code = self._objection(t)
            t.status = "failed" if t.code else self._do(t)
            if t.code and t.batch and t.batch.atomic:
                self.accounts, self.outside, self.entries = before
                for other in t.batch.items:
                    other.status, other.code, other.held = "failed", t.code if other is t else "batch_refused", 0
                return

    def _objection(self, t: Transaction) -> str | None:
        if t.operation == "void":
            return self._objection_of_hold(t.of, 0)
        sides = [self.accounts[side] for side in (t.source, t.target) if side is not None]
        if t.source == t.target:
            return "same_account"
        if any(side.currency != t.currency for side in sides):
            return "currency_mismatch"
        for status in ("closed", "frozen"):
            if any(side.status == status for side in sides):
                return f"account_{status}"
        if t.operation == "capture" and (code := self._objection_of_hold(t.of, t.amount)):
            return code
        if t.operation == "rollback" and t.amount > t.of.amount - t.of.moved_back:
            return "already_rolled_back" if t.of.moved_back == t.of.amount else "amount_exceeds_original"
        if t.source is not None and t.operation != "capture":
            source = self.accounts[t.source]
            if t.amount > source.amount + source.limit - source.held:
                return "insufficient_funds"
        after = self._has(t.source, t) - t.amount, self._has(t.target, t) + t.amount
        return "amount_out_of_range" if after[0] < -LARGEST_BALANCE or after[1] > LARGEST_BALANCE else None

    def _objection_of_hold(self, hold: Transaction, amount: int) -> str | None:
        if hold.expired or (hold.held and self.now >= hold.ends):
            return "hold_expired"
        if not hold.held:
            return "hold_closed"
        return "amount_exceeds_original" if amount > hold.held else None

    def _has(self, side: int | None, t: Transaction) -> int:
        return self.outside.get((t.currency, self._lane(t)), 0) if side is None else self.accounts[side].amount

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
            t.of.moved_back += t.amount
            t.of.status = "rolled_back" if t.of.moved_back == t.of.amount else "completed"
        for side, amount in ((t.source, -t.amount), (t.target, t.amount)):
            if side is None:
                self.outside[t.currency, self._lane(t)] = self._has(None, t) + amount
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

    # Transfers to come.

    def schedule(self, caller: str, body: Body) -> Schedule:
        self.schedules.append(Schedule(*self._sides(caller, body), body, body["times"], body["times"]))
        return self.schedules[-1]

    def reschedule(self, caller: str, number: int, status: str) -> None:
        """Pause it, let it go on, or delete it. Raises Refused."""
        it = self.schedules[number]
        if caller not in (self.accounts[it.source].owner, "admin"):
            raise Refused(404, "not_found")
        if status != "deleted" and it.status in ("deleted", "finished"):
            raise Refused(409, "schedule_over")
        if status == "active" and it.status == "paused":
            it.coming = [due for due in it.times if due > self.now]
            if not it.coming:
                raise Refused(422, "validation_failed")
        it.coming = it.coming if status == "active" else []
        it.status = status

    def tick(self) -> None:
        """Run what is due, what is longest due first; then try again what failed and may be."""
        while due := sorted((it for it in self.schedules if it.coming and it.coming[0] <= self.now), key=lambda it: it.coming[0]):
            for it in due:
                times = [at for at in it.coming if at <= self.now][:MOST_RUNS]
                it.coming = it.coming[len(times) :]
                it.status = it.status if it.coming else "finished"
                for at in times:
                    it.runs.append(Run(at, 0, None, None))
                    if not (it.body["skips"] and self.now - at > MISSED_AFTER):
                        self._try(it, it.runs[-1])
            self._retry()
        self._retry()

    def _try(self, it: Schedule, run: Run) -> None:
        run.attempts += 1
        run.transaction = self._submit("transfer", it.source, it.target, it.body, schedule=it)
        run.look_at = self.now + RETRY_AFTER if run.attempts < it.body["attempts"] else None

    def _retry(self) -> None:
        looks = [(run.look_at, it, run) for it in self.schedules for run in it.runs if run.look_at is not None and run.look_at <= self.now]
        for _, it, run in sorted(looks, key=lambda look: look[0]):
            if it.status in ("paused", "deleted") or run.transaction.status not in ("pending", "failed"):
                run.look_at = None
            elif run.transaction.status == "pending":
                run.look_at = self.now + RETRY_AFTER
            else:
                self._try(it, run)


def _is_staff(caller: str) -> bool:
    return caller in STAFF


def _check(body: Body) -> None:
    """What can be seen of the request alone."""
    items = body.get("items", [body])
    references = [item["reference"] for item in items if item.get("reference")]
    amounts = [item["amount"] for item in items] if "of" not in body else []
    if not all(0 < amount <= LARGEST_AMOUNT for amount in amounts) or len(set(references)) < len(references):
        raise Refused(422, "validation_failed")


def _part(body: Body, whole: int, of: Transaction) -> Body:
    amount = body.get("amount", whole)
    if not 0 < amount <= LARGEST_AMOUNT:
        raise Refused(422, "validation_failed")
    return {"amount": amount, "currency": of.currency, "reference": body.get("reference")}
