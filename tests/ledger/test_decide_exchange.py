"""The decision of exchanges: four entries, each currency by itself."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bank.ledger.decide import AccountState, Command, Exchange, FailureCode, OriginalState, Outcome, Posting, Refusal, decide
from bank.money import MAX_BALANCE

NOW = datetime(2026, 1, 30, tzinfo=UTC)
CURRENCIES = {"alice": "USD", "dollars": "USD", "euros": "EUR", "bob": "EUR", "yen": "JPY"}
OWN = ("dollars", "euros")


def states(**amounts: int) -> dict[str, AccountState]:
    """Alice has dollars, Bob euros, and the bank a position in each."""
    return {
        name: AccountState(name, currency, "active", None if name in OWN else 0, amounts.get(name, 0), 0, 0)
        for name, currency in CURRENCIES.items()
    }


def there(amount: int, to_amount: int, **more: Any) -> Command:
    """From Alice to Bob."""
    return Command("t", "alice", "bob", amount, "USD", NOW, exchange=Exchange(to_amount, "EUR", "dollars", "euros", "0"), **more)


def back(amount: int, to_amount: int) -> Command:
    """From Bob to Alice, of the transaction `t`."""
    exchange = Exchange(to_amount, "USD", "euros", "dollars", "0")
    return Command("r", "bob", "alice", amount, "EUR", NOW, reverses_id="t", exchange=exchange)


def one(command: Command, accounts: dict[str, AccountState], originals: dict[str, OriginalState] | None = None) -> Outcome:
    return decide([command], accounts, originals or {})[0]


def test_what_leaves_the_bank_takes_and_what_arrives_the_bank_gives():
    accounts = states(alice=100)
    posting = one(there(100, 90), accounts)
    assert isinstance(posting, Posting)
    assert [(entry.account_id, entry.amount) for entry in posting.entries] == [
        ("alice", -100), ("dollars", 100), ("euros", -90), ("bob", 90),
    ]  # fmt: skip
    assert [(entry.version, entry.balance) for entry in posting.entries] == [(1, 0), (1, 100), (1, -90), (1, 90)]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 500), st.integers(1, 500)), max_size=20))
def test_each_currency_sums_to_zero_whatever_is_exchanged(steps):
    accounts = states(alice=1_000, bob=1_000)
    commands = [there(left, arrives) if forth else back(left, arrives) for forth, left, arrives in steps]
    originals = {"t": OriginalState("t", 10**9, 0, 2)}
    for outcome in decide(commands, accounts, originals):
        if isinstance(outcome, Posting):
            for currency in ("USD", "EUR"):
                assert sum(entry.amount for entry in outcome.entries if CURRENCIES[entry.account_id] == currency) == 0
            assert [CURRENCIES[entry.account_id] for entry in outcome.entries] == [outcome.command.currency] * 2 + [
                outcome.command.exchange.to_currency
            ] * 2
    assert accounts["alice"].amount + accounts["dollars"].amount == accounts["bob"].amount + accounts["euros"].amount == 1_000
    assert min(accounts["alice"].amount, accounts["bob"].amount) >= 0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (there(101, 90), FailureCode.INSUFFICIENT_FUNDS),
        (Command("t", "yen", "bob", 1, "USD", NOW, exchange=Exchange(1, "EUR", "dollars", "euros", "0")), FailureCode.CURRENCY_MISMATCH),
        (Command("t", "alice", "yen", 1, "USD", NOW, exchange=Exchange(1, "EUR", "dollars", "euros", "0")), FailureCode.CURRENCY_MISMATCH),
        # What arrives is in the account's currency, and what leaves is not: a transfer without an exchange is refused for that.
        (Command("t", "alice", "bob", 1, "USD", NOW), FailureCode.CURRENCY_MISMATCH),
    ],
)
def test_what_cannot_be_is_refused_and_moves_nothing(command, code):
    accounts = states(alice=100)
    assert one(command, accounts) == Refusal(command, code)
    assert accounts == states(alice=100)


@pytest.mark.parametrize("full", ["dollars", "euros", "bob"])
def test_no_account_leaves_the_range_of_the_ledger_not_even_the_banks_own(full):
    accounts = states(alice=100, **{full: -MAX_BALANCE if full == "euros" else MAX_BALANCE})
    assert one(there(100, 90), accounts).code is FailureCode.AMOUNT_OUT_OF_RANGE
    assert accounts["alice"].amount == 100


def test_what_is_back_is_counted_in_what_was_sent():
    accounts, originals = states(alice=0, bob=90, dollars=100, euros=-90), {"t": OriginalState("t", 100, 0, 2)}
    first = one(back(45, 50), accounts, originals)
    assert (first.reversal.rolled_back_amount, first.reversal.version) == (50, 3)
    assert one(back(45, 51), accounts, originals).code is FailureCode.AMOUNT_EXCEEDS_ORIGINAL
    assert one(back(45, 50), accounts, originals).reversal.rolled_back_amount == 100
    assert one(back(1, 1), accounts, originals).code is FailureCode.ALREADY_ROLLED_BACK
    assert {name: state.amount for name, state in accounts.items()} == {"alice": 100, "bob": 0, "dollars": 0, "euros": 0, "yen": 0}
