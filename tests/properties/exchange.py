"""What an exchange is agreed at, and what each part of it that goes back takes, in plain Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

from tests.properties.ledger import LARGEST_AMOUNT, Refused, Transaction

TWELVE_DIGITS = Context(prec=12, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, eq=False)
class Quote:
    """What arrives of what, promised to its owner until then."""

    owner: str
    body: Mapping[str, Any]
    until: float


def agreed(body: Mapping[str, Any], rates: Mapping[str, Decimal], decimals: Mapping[str, int]) -> dict[str, Any]:
    """What arrives at these rates for one euro, less the half percent that the bank keeps. Raises Refused."""
    currency, to_currency = body["currency"], body["to_currency"]
    if not {currency, to_currency} <= rates.keys():
        raise Refused(422, "rate_unavailable")
    rate = TWELVE_DIGITS.divide(rates[to_currency] * 995, rates[currency] * 1000)
    to_amount = round(Fraction(rate) * body["amount"] * Fraction(10) ** (decimals[to_currency] - decimals[currency]))
    if not 0 < to_amount <= LARGEST_AMOUNT:
        raise Refused(422, "validation_failed")
    return {"to_amount": to_amount, "to_currency": to_currency}


def taken_back(of: Transaction, part: int, before: Sequence[Transaction]) -> dict[str, Any]:
    """What giving a part back takes: the share of all parts together, less what those `before` took, which may wait. Raises Refused."""
    if sum(t.to_amount for t in before) + part > of.amount:
        # It can only come to be if what waits fails.
        before = [t for t in before if t.status == "completed"]
    given, taken = sum(t.to_amount for t in before) + part, sum(t.amount for t in before)
    share = of.to_amount if part > of.amount else round(Fraction(of.to_amount * given, of.amount)) - taken
    if share < 1:
        raise Refused(422, "validation_failed")
    return {"amount": share, "currency": of.to_currency, "to_amount": part, "to_currency": of.currency}
