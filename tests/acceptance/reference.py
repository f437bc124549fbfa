"""What PKDD'99's file says, by plain `decimal` arithmetic and nothing of this project's code."""

import csv
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path

ZERO = Decimal("0.00")


@dataclass(frozen=True)
class Row:
    """One transaction: `amount` is positive, `is_credit` tells its direction."""

    reference: str
    account: str
    day: date
    is_credit: bool
    amount: Decimal

    @property
    def signed(self) -> Decimal:
        return self.amount if self.is_credit else -self.amount


@dataclass(frozen=True)
class Day:
    """An account on a day with transactions."""

    closing: Decimal
    credits: Decimal
    debits: Decimal
    count: int


class Year:
    """All transactions of the file, in its order, and the sums that follow from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open(encoding="ascii", newline="") as file:
            self.rows = [
                Row(
                    reference=record["trans_id"],
                    account=record["account_id"],
                    day=date(1900 + int(record["date"][:2]), int(record["date"][2:4]), int(record["date"][4:])),
                    is_credit={"PRIJEM": True, "VYDAJ": False, "VYBER": False}[record["type"]],
                    amount=Decimal(record["amount"]),
                )
                for record in csv.DictReader(file, delimiter=";")
            ]

    @cached_property
    def by_account(self) -> dict[str, list[Row]]:
        accounts: dict[str, list[Row]] = defaultdict(list)
        for row in self.rows:
            accounts[row.account].append(row)
        return dict(accounts)

    @cached_property
    def balances(self) -> dict[str, Decimal]:
        return {account: sum((row.signed for row in rows), ZERO) for account, rows in self.by_account.items()}

    @cached_property
    def lowest(self) -> dict[str, Decimal]:
        """The lowest balance of each account after any single row, or zero if none is below."""
        lowest = {}
        for account, rows in self.by_account.items():
            balance = low = ZERO
            for row in rows:
                balance += row.signed
                low = min(low, balance)
            lowest[account] = low
        return lowest

    @cached_property
    def days(self) -> dict[tuple[str, date], Day]:
        """Each account on each day on which it has rows."""
        days = {}
        for account, rows in self.by_account.items():
            balance = ZERO
            grouped: dict[date, list[Row]] = defaultdict(list)
            for row in rows:
                grouped[row.day].append(row)
            for day, of_day in sorted(grouped.items()):
                credits = sum((row.amount for row in of_day if row.is_credit), ZERO)
                debits = sum((row.amount for row in of_day if not row.is_credit), ZERO)
                balance += credits - debits
                days[account, day] = Day(balance, credits, debits, len(of_day))
        return days

    def closings(self, account: str) -> list[Decimal]:
        """The account's balance at the end of each of the 365 days of 1993."""
        balance, closings, day = ZERO, [], date(1993, 1, 1)
        while day.year == 1993:
            found = self.days.get((account, day))
            balance = found.closing if found else balance
            closings.append(balance)
            day += timedelta(days=1)
        return closings
