"""What customers may pay, in plain Python: the model of limits and rules."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.properties.ledger import Account, Ledger, Transaction

HOURS = {"hour": 1, "day": 24, "week": 7 * 24}


@dataclass(eq=False)
class Limit:
    """For an account, for a user, or for each customer; `most` is the amount or the count that it says."""

    account: int | None
    user: str | None
    currency: str
    kind: str
    most: int
    window: str | None


@dataclass(eq=False)
class Rule:
    """True of payments of more than this."""

    over: int
    denies: bool


class Limited(Ledger):
    """The ledger, and what it asks last."""

    def __init__(self, own: Mapping[tuple[str, int], int]) -> None:
        super().__init__(own)
        self.limits: list[Limit] = []
        self.rules: list[Rule] = []

    def _objection(self, t: Transaction) -> str | None:
        code = super()._objection(t)
        # What moves back, and what takes what is held, is no payment.
        if code or t.source is None or t.operation not in ("debit", "transfer"):
            return code
        if any(not self._keeps(limit, t) for limit in self.limits if self._is_for(limit, t)):
            return "limit_exceeded"
        return "rule_denied" if any(rule.denies and t.amount > rule.over for rule in self.rules) else None

    def _is_for(self, limit: Limit, t: Transaction) -> bool:
        owner = self.accounts[t.source].owner
        return limit.currency == t.currency and limit.account in (None, t.source) and limit.user in (None, owner)

    def _keeps(self, limit: Limit, t: Transaction) -> bool:
        account = self.accounts[t.source]
        if limit.kind == "single":
            return t.amount <= limit.most
        if limit.kind == "minimum_balance":
            return account.amount - account.held - t.amount >= limit.most
        used = list(self._used(limit, account))
        return sum(used) + t.amount <= limit.most if limit.kind == "sum" else len(used) < limit.most

    def _used(self, limit: Limit, payer: Account) -> Iterator[int]:
        """What has left the account, or all of the user's, in the window, and what is held."""
        for number, account in enumerate(self.accounts):
            if limit.account == number or (limit.account is None and (account.owner, account.currency) == (payer.owner, limit.currency)):
                since = self.now - HOURS[limit.window or ""]
                yield from (-amount for n, t, amount in self.entries if n == number and _is_payment(t, amount) and t.posted > since)
                yield from (t.held for t in self.transactions if t.held and t.source == number)


def _is_payment(t: Transaction, amount: int) -> bool:
    return amount < 0 and t.operation != "rollback"
