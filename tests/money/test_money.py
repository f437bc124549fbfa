"""Text becomes minor units and text again, for every currency of ISO 4217, and nothing else becomes money."""

from decimal import Decimal

import iso4217
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.money import MAX_MINOR, InvalidMoney, exponent, format_amount, parse_amount

CURRENCIES = sorted(currency.code for currency in iso4217.Currency if currency.exponent is not None)

currencies = st.sampled_from(CURRENCIES)
amounts = st.integers(1, MAX_MINOR)


@given(amounts, currencies)
def test_what_is_printed_parses_to_the_same_money(minor, currency):
    assert parse_amount(format_amount(minor, currency), currency) == minor


@given(st.integers(-(2**63), 2**63 - 1), currencies)
def test_what_is_printed_is_the_exact_decimal_with_all_decimals_of_the_currency(minor, currency):
    text = format_amount(minor, currency)
    assert Decimal(text).scaleb(exponent(currency)) == minor
    assert len(text.partition(".")[2]) == exponent(currency)


@given(st.integers(0, 18), amounts, currencies)
def test_decimals_that_are_left_out_are_zeros(dropped, minor, currency):
    whole, _, fraction = format_amount(minor, currency).partition(".")
    kept = fraction[: max(0, len(fraction) - dropped)]
    text = f"{whole}.{kept}" if kept else whole
    if any(character != "0" for character in whole + kept):
        expected = int(Decimal(text).scaleb(exponent(currency)))
        assert parse_amount(text, currency) == expected


@given(st.integers(1, 10**14 - 1), currencies)
def test_a_whole_number_counts_units_and_not_minor_units(units, currency):
    assert parse_amount(units, currency) == units * 10 ** exponent(currency)


@given(st.text(), currencies)
def test_any_text_that_parses_is_ascii_digits_with_at_most_one_point(text, currency):
    try:
        minor = parse_amount(text, currency)
    except InvalidMoney:
        return
    assert set(text) <= set("0123456789.")
    assert text.count(".") <= 1
    assert minor == int(Decimal(text).scaleb(exponent(currency)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "-5",
        "-0",
        "+5",
        "--5",
        "1_000",
        "1,000",
        "1 000",
        " 5",
        "5 ",
        "5\n",
        "05",
        "00",
        "5.",
        ".5",
        "5..0",
        "1e2",
        "1E2",
        "1e400",
        "0x10",
        "\u0663",
        "\uff11",
        "¹",
        "½",
        "NaN",
        "nan",
        "Infinity",
        "-Infinity",
        "inf",
        "five",
        "5.0\x00",
        "$5",
        "5 USD",
        "0.001",
        "12.345",
        "9" * 5000,
    ],
)
def test_what_is_no_plain_decimal_is_refused(text):
    with pytest.raises(InvalidMoney):
        parse_amount(text, "USD")


@pytest.mark.parametrize("zero", ["0", "0.0", "0.00", 0])
def test_zero_is_refused_unless_it_is_asked_for(zero):
    with pytest.raises(InvalidMoney):
        parse_amount(zero, "USD")
    assert parse_amount(zero, "USD", allow_zero=True) == 0


@pytest.mark.parametrize(("currency", "decimals"), [("JPY", 0), ("KRW", 0), ("USD", 2), ("EUR", 2), ("BHD", 3), ("KWD", 3), ("CLF", 4)])
def test_a_currency_takes_its_decimals_and_not_one_more(currency, decimals):
    assert exponent(currency) == decimals
    assert parse_amount("1." + "0" * decimals if decimals else "1", currency) == 10**decimals
    with pytest.raises(InvalidMoney):
        parse_amount("1." + "0" * (decimals + 1), currency)


@pytest.mark.parametrize("currency", CURRENCIES)
def test_the_largest_amount_is_taken_and_one_minor_unit_more_is_not(currency):
    assert parse_amount(format_amount(MAX_MINOR, currency), currency) == MAX_MINOR
    with pytest.raises(InvalidMoney):
        parse_amount(format_amount(MAX_MINOR + 1, currency), currency)


@pytest.mark.parametrize("code", ["usd", "Usd", "US", "USDD", "", "ZZZ", "XXX", "XTS", "XAU", "XAG", "XDR", "US$", "U\x00D"])
def test_what_is_no_currency_to_hold_is_refused(code):
    with pytest.raises(InvalidMoney):
        exponent(code)


@pytest.mark.parametrize(
    ("minor", "currency", "text"),
    [
        (500, "USD", "5.00"),
        (5, "USD", "0.05"),
        (-5, "USD", "-0.05"),
        (-123456, "EUR", "-1234.56"),
        (500, "JPY", "500"),
        (-500, "JPY", "-500"),
        (1250, "BHD", "1.250"),
        (0, "BHD", "0.000"),
        (0, "JPY", "0"),
    ],
)
def test_all_decimals_of_the_currency_are_printed(minor, currency, text):
    assert format_amount(minor, currency) == text
