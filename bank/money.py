"""Money is an integer number of minor units and an ISO 4217 code; there is no float in this bank.

Text becomes minor units here and nowhere else, and becomes text again here and nowhere else. Where an exchange or a part of
one is no whole number of minor units, it is rounded here and nowhere else.
"""

import re
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact
from fractions import Fraction
from functools import cache

import iso4217

MAX_MINOR = 10**18 - 1
"""The largest single amount, in minor units: one digit below what a `bigint` holds."""

MAX_BALANCE = 2**63 - 1
"""The largest balance, in minor units: what a `bigint` holds."""

_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-9]{1,6}))?", re.ASCII)


class InvalidMoney(ValueError):
    """The text is not an amount of this currency. The message is fit for a client."""


@cache
def exponent(currency: str) -> int:
    """How many decimals ISO 4217 gives the currency (USD 2, JPY 0, BHD 3).

    Raises InvalidMoney for an unknown or lower-case code, and for codes that are no money to hold
    (metals, test codes, the IMF's drawing right: ISO 4217 gives them no minor unit).
    """
    try:
        found = iso4217.Currency(currency).exponent
    except ValueError:
        found = None
    if found is None or not currency.isupper():
        raise InvalidMoney("Not a currency of ISO 4217 in upper case.")
    return found


@cache
def currencies() -> tuple[str, ...]:
    """Every currency that money can be held in, in the order of the codes."""
    return tuple(sorted(currency.code for currency in iso4217.Currency if currency.exponent is not None))


def parse_amount(value: str | int, currency: str, *, allow_zero: bool = False) -> int:
    """Minor units of a decimal string ("12.34") or a whole number (12 is twelve units, not cents).

    Raises InvalidMoney for signs, exponents, spaces, digits that are not ASCII, more decimals than
    the currency has, zero (unless `allow_zero`) and amounts past MAX_MINOR.
    """
    decimals = exponent(currency)
    match = _DECIMAL.fullmatch(str(value))
    if match is None:
        raise InvalidMoney('Not a positive decimal amount such as "12.34".')
    whole, fraction = match[1], match[2] or ""
    if len(fraction) > decimals:
        raise InvalidMoney(f"{currency} has {decimals} decimals, not {len(fraction)}.")
    minor = int(whole + fraction.ljust(decimals, "0"))
    if minor == 0 and not allow_zero:
        raise InvalidMoney("The amount must be more than zero.")
    if minor > MAX_MINOR:
        raise InvalidMoney("The amount is past the ledger's range.")
    return minor


def format_amount(minor: int, currency: str) -> str:
    """The decimal string of `minor` minor units with all decimals of the currency ("5.00", "500" JPY)."""
    decimals = exponent(currency)
    if not decimals:
        return str(minor)
    digits = str(abs(minor)).rjust(decimals + 1, "0")
    sign = "-" if minor < 0 else ""
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


# More digits than an amount (18), a rate (22) and the difference of two exponents have together: a product is exact, or it is a bug.
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[Inexact])


def exchanged(minor: int, currency: str, to_currency: str, rate: Decimal) -> Decimal:
    """What `minor` minor units of `currency` are at `rate` (units of `to_currency` for one), in minor units of `to_currency`, exactly."""
    return _EXACT.scaleb(_EXACT.multiply(Decimal(minor), rate), exponent(to_currency) - exponent(currency))


def nearest(exact: Decimal | Fraction) -> int:
    """The whole number of minor units that is nearest, and of two the even one, so that over many the bank neither wins nor loses.

    This is all the rounding of money there is. What is left, `exact` less the result, is the caller's to keep.
    """
    return round(exact)


def plain(number: Decimal) -> str:
    """The decimal without an exponent and without zeros at its end ("0.0012", "1500")."""
    return format(_EXACT.normalize(number), "f") if number else "0"
