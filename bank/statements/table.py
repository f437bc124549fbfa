"""A statement as CSV: a record for the opening balance, one for each line, and one for the closing balance."""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

from bank.money import format_amount
from bank.statements.service import Statement
from bank.web.streaming import csv_lines

COLUMNS = (
    "kind",
    "booking_date",
    "value_date",
    "amount",
    "direction",
    "balance",
    "currency",
    "counterparty_account_id",
    "type",
    "description",
    "reference",
    "transaction_id",
    "reverses_id",
)


def csv_of(made: Statement) -> Iterator[bytes]:
    """The pieces of the CSV. Amounts are signed decimals; no text is a formula to a spreadsheet."""
    return csv_lines(COLUMNS, [list(_records(made))])


def _records(made: Statement) -> Iterator[dict[str, Any]]:
    currency = made.account.currency

    def record(kind: str, balance: int, **members: Any) -> dict[str, Any]:
        known = {"kind": kind, "balance": Decimal(format_amount(balance, currency)), "currency": currency}
        return {**dict.fromkeys(COLUMNS), **known, **members}

    yield record("opening", made.opening, value_date=made.since.isoformat())
    for line in made.lines:
        yield record(
            "entry",
            line.balance,
            booking_date=line.booked_on.isoformat(),
            value_date=line.value_on.isoformat(),
            amount=Decimal(format_amount(line.amount, currency)),
            direction="credit" if line.amount > 0 else "debit",
            counterparty_account_id=line.counterparty_id,
            type=line.type,
            description=line.description,
            reference=line.reference,
            transaction_id=line.transaction_id,
            reverses_id=line.reverses_id,
        )
    yield record("closing", made.closing, value_date=(made.until - timedelta(days=1)).isoformat())
