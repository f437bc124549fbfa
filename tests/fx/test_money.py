"""The arithmetic of an exchange: exact, rounded once, and nothing of it lost."""

from datetime import date
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.errors import Unprocessable
from bank.fx.service import Exchanged, Price, agree, take_back
from bank.money import MAX_MINOR, currencies, exchanged, exponent, nearest, plain

CURRENCIES = st.sampled_from(["USD", "EUR", "JPY", "BHD", "CLF", "ISK"])
AMOUNTS = st.integers(1, MAX_MINOR)
# Twelve digits, wherever the point is: what a rate can be.
RATES = st.builds(lambda digits, places: Decimal(digits).scaleb(-places), st.integers(1, 10**12 - 1), st.integers(0, 20))


def price(to_currency: str, rate: Decimal) -> Price:
    return Price(to_currency, rate, rate, date(2026, 1, 30))


@given(AMOUNTS, CURRENCIES, CURRENCIES, RATES)
def test_a_product_is_exact(minor, currency, to_currency, rate):
    shift = Fraction(10) ** (exponent(to_currency) - exponent(currency))
    assert Fraction(exchanged(minor, currency, to_currency, rate)) == minor * Fraction(rate) * shift


@pytest.mark.parametrize(("exact", "whole"), [("0.5", 0), ("1.5", 2), ("2.5", 2), ("2.500001", 3), ("-0.5", 0), ("-1.5", -2), ("7", 7)])
def test_halves_are_rounded_to_the_even_neighbour(exact, whole):
    assert nearest(Decimal(exact)) == nearest(Fraction(exact)) == whole


@given(AMOUNTS, CURRENCIES, CURRENCIES, RATES)
def test_what_is_booked_and_what_rounding_left_are_the_exact_product(minor, currency, to_currency, rate):
    try:
        agreed = agree(minor, currency, price(to_currency, rate))
    except Unprocessable as error:
        assert error.errors[0]["pointer"] == "/amount"
        assert not 1 <= nearest(exchanged(minor, currency, to_currency, rate)) <= MAX_MINOR
        return
    assert Decimal(agreed.to_amount) + Decimal(agreed.remainder) == exchanged(minor, currency, to_currency, Decimal(agreed.rate))
    assert abs(Decimal(agreed.remainder)) <= Decimal("0.5")
    assert Decimal(agreed.rate) == rate


@given(st.data(), st.integers(1, 10**9), st.integers(1, 10**9), CURRENCIES, CURRENCIES)
def test_parts_that_go_back_add_up_to_what_was_exchanged(data, amount, to_amount, currency, to_currency):
    # The rate that makes these amounts, as far as twelve digits can.
    shift = Fraction(10) ** (exponent(currency) - exponent(to_currency))
    rate = plain(Decimal(f"{float(Fraction(to_amount, amount) * shift):.11e}"))
    left_over = exchanged(amount, currency, to_currency, Decimal(rate)) - to_amount
    made = Exchanged(amount, currency, to_amount, to_currency, rate)
    given_back = taken = 0
    for last in (False, False, False, False, True):
        if given_back == amount:
            break
        part = amount - given_back if last else data.draw(st.integers(1, amount - given_back))
        try:
            share, agreed = take_back(made, part, given_back, taken)
        except Unprocessable:
            # It was too small a part, or the others had it all already.
            assert nearest(Fraction(to_amount * (given_back + part), amount)) == taken
            if last:
                assert taken == to_amount
                return
            continue
        assert (agreed.to_amount, agreed.to_currency, agreed.rate) == (part, currency, rate)
        given_back += part
        taken += share
        left_over += Decimal(agreed.remainder)
        # Never further than half a unit from the fair share.
        assert abs(taken - Fraction(to_amount * given_back, amount)) <= Fraction(1, 2)
    assert taken == to_amount
    assert left_over == 0


def test_a_part_counts_what_is_asked_for_and_not_done_yet_and_makes_up_for_what_failed():
    # Three dollars were a hundred yen: 33, 67, 100.
    made = Exchanged(300, "USD", 100, "JPY", "33.3333333333")
    assert [take_back(made, 100, given, taken)[0] for given, taken in [(0, 0), (100, 33), (200, 67)]] == [33, 34, 33]
    # The second was refused, and is asked for again after the third.
    assert take_back(made, 100, 200, 33 + 33)[0] == 34


def test_more_than_the_original_is_left_to_the_ledger_to_refuse():
    made = Exchanged(100, "USD", 90, "EUR", "0.9")
    assert take_back(made, MAX_MINOR, 0, 0)[0] == 90


@pytest.mark.parametrize(
    ("number", "text"), [("0.10", "0.1"), ("1500", "1500"), ("1E+3", "1000"), ("1E-7", "0.0000001"), ("-0.50", "-0.5"), ("0.000", "0")]
)
def test_decimals_are_told_without_exponents_and_needless_zeros(number, text):
    assert plain(Decimal(number)) == text


def test_every_currency_of_iso_4217_has_its_decimals():
    known = currencies()
    assert {"EUR", "USD", "JPY", "BHD", "CLF", "KES"} <= set(known) and not {"XAU", "XXX", "XTS", "XDR"} & set(known)
    assert len(known) > 150
    assert {exponent(currency) for currency in known} <= {0, 1, 2, 3, 4}
