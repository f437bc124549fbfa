"""What must become of every request, in plain Python: who may, what is not there, what a key stands for, and when transfers come."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from decimal import Decimal
from typing import Any

from tests.properties.calendar import Calendar, Schedule
from tests.properties.exchange import Quote, agreed, taken_back
from tests.properties.ledger import LARGEST_AMOUNT, Account, Batch, Refused, Transaction

USUAL_HOLD, FIRM = 7 * 24.0, 30 / 3600
STAFF = ("teller", "admin")

Body = Mapping[str, Any]


class Model(Calendar):
    """The bank behind its API. `decimals` are those of each currency."""

    def __init__(self, own: Mapping[tuple[str, int], int], decimals: Mapping[str, int]) -> None:
        super().__init__(own)
        self.decimals = decimals
        # Of each currency, for one euro.
        self.rates: dict[str, Decimal] = {}
        self.quotes: list[Quote] = []
        self.used: set[int] = set()
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

    def preview(self, caller: str, operation: str, body: Body) -> tuple[Any, list[tuple[int, int, int]]]:
        """What would be made and decided now, before what waits; and which accounts would move, by how much, to what. Raises Refused."""
        before = {name: copy(value) for name, value in vars(self).items()}
        before["accounts"] = [replace(each) for each in self.accounts]
        of = vars(self.transactions[body["of"]]).copy() if "of" in body else {}
        made, _ = self.ask(caller, operation, body)
        self.decide(made.items if isinstance(made, Batch) else [made] if isinstance(made, Transaction) else [])
        moved = [(account, amount, self.accounts[account].amount) for account, t, amount in self.entries if t is made]
        vars(self).update(before)
        vars(self.transactions[body["of"]] if "of" in body else self).update(of)
        return made, moved

    def credit(self, caller: str, body: Body) -> Transaction:
        if caller not in STAFF:
            raise Refused(403, "forbidden")
        return self.submit("credit", None, self._side(caller, body, opens=True), body)

    def debit(self, caller: str, body: Body) -> Transaction:
        return self.submit("debit", self._side(caller, body, opens=False), None, body)

    def _side(self, caller: str, body: Body, *, opens: bool) -> int:
        owner = self.accounts[body["account"]].owner if "account" in body else body["user"]
        if caller != owner and caller not in STAFF:
            raise Refused(404, "not_found")
        return body["account"] if "account" in body else self._default(owner, body["currency"], opens=opens)

    def transfer(self, caller: str, body: Body) -> Transaction:
        ends = body.get("until", self.now + USUAL_HOLD) if body.get("hold") else None
        made = self.submit("transfer", *self._sides(caller, body), {**body, **self._agreed(caller, body)}, ends=ends)
        self.used |= {body["quote"]} if "quote" in body else set()
        return made

    def _sides(self, caller: str, body: Body) -> tuple[int, int]:
        source = body["from"] if "from" in body else self._default(caller, body["currency"], opens=False)
        if caller not in (self.accounts[source].owner, "admin"):
            raise Refused(404, "not_found")
        differs = self.accounts[source].currency != body["currency"]
        if differs and body.keys() & {"to_currency", "quote"}:
            raise Refused(422, "currency_mismatch")
        # Before an account is opened for what would not arrive.
        arrives = self._agreed(caller, body).get("to_currency", body["currency"])
        if "to" in body:
            return source, body["to"]
        # Only money of that currency opens an account for it.
        if differs and self._find(body["to_user"], arrives) is None:
            raise Refused(422, "currency_mismatch")
        return source, self._default(body["to_user"], arrives, opens=True)

    def _agreed(self, caller: str, body: Body) -> Body:
        """What arrives, where it is other money."""
        if "quote" not in body:
            return agreed(body, self.rates, self.decimals) if "to_currency" in body else {}
        quote = self.quotes[body["quote"]]
        if caller != quote.owner:
            raise Refused(404, "not_found")
        if body["quote"] in self.used:
            raise Refused(409, "quote_used")
        if self.now >= quote.until:
            raise Refused(422, "quote_expired")
        return quote.body

    def quote(self, caller: str, body: Body) -> Quote:
        """A rate that is firm for half a minute. Raises Refused."""
        _check(body)
        self.quotes.append(Quote(caller, {**body, **agreed(body, self.rates, self.decimals)}, self.now + FIRM))
        return self.quotes[-1]

    def capture(self, caller: str, body: Body) -> Transaction:
        hold = self._hold(caller, body)
        return self.submit("capture", hold.source, hold.target, _part(body, hold.held or hold.amount, hold), of=hold)

    def void(self, caller: str, body: Body) -> Transaction:
        hold = self._hold(caller, body)
        return self.submit("void", hold.source, hold.target, _part({}, hold.held or hold.amount, hold), of=hold)

    def rollback(self, caller: str, body: Body) -> Transaction:
        of = self._original(caller, body)
        if of.ends is not None or of.operation in ("void", "rollback") or of.status not in ("completed", "rolled_back"):
            raise Refused(409, "not_reversible")
        part = _part(body, of.amount - of.moved_back or of.amount, of)
        if of.to_currency != of.currency:
            before = [t for t in self.transactions if t.of is of and t.status != "failed"]
            part = taken_back(of, part["amount"], before)
        return self.submit("rollback", of.target, of.source, part, of=of)

    def _hold(self, caller: str, body: Body) -> Transaction:
        hold = self._original(caller, body)
        if hold.ends is None or hold.status in ("pending", "failed"):
            raise Refused(409, "not_held")
        return hold

    def _original(self, caller: str, body: Body) -> Transaction:
        """By staff, or by who receives the money: not by who pays, and for strangers it is not there."""
        of = self.transactions[body["of"]]
        payer, payee = (None if side is None else self.accounts[side].owner for side in (of.source, of.target))
        if caller not in STAFF and caller != payee:
            raise Refused(403, "forbidden") if caller == payer else Refused(404, "not_found")
        return of

    def batch(self, caller: str, body: Body) -> Batch:
        batch = Batch(body["atomic"])
        for item in body["items"]:
            try:
                made = getattr(self, item["type"])(caller, item)
            except Refused:
                raise Refused(422, "validation_failed") from None
            sides = ((made.source, made.currency), (made.target, made.to_currency))
            if any(side is not None and self.accounts[side].currency != currency for side, currency in sides):
                raise Refused(422, "validation_failed")
            made.batch = batch
            batch.items.append(made)
        return batch

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
        if caller not in STAFF:
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

    def schedule(self, caller: str, body: Body) -> Schedule:
        source, target = self._sides(caller, body)
        if source == target:
            raise Refused(422, "validation_failed")
        self.schedules.append(Schedule(source, target, body, body["times"], body["times"]))
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
