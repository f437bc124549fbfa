"""Transfers by which other money arrives than left."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from bank.db import reader
from bank.ledger.invariants import CHECKS
from tests.conftest import Person


@pytest.fixture(autouse=True)
def rates(publish: Callable[..., None]) -> None:
    """One euro is 1.25 dollars, 175.68 yen and 0.35 Bahraini dinars. The bank keeps half a percent."""
    for currency, rate in {"USD": "1.25", "JPY": "175.68", "BHD": "0.35"}.items():
        publish(currency, rate)


@pytest.fixture
def exchange(alice: Person, bob: Person, funded: Callable[..., str], outcome: Any) -> Callable[..., dict[str, Any]]:
    """Let Alice send Bob other money than she has, and read what became of it."""

    def send(amount: str, currency: str = "USD", to_currency: str = "EUR", **fields: Any) -> dict[str, Any]:
        account = funded(alice, amount, currency)
        body = {"from_account_id": account, "to_user_id": bob.id, "amount": amount, "currency": currency, "to_currency": to_currency}
        return outcome(alice, alice.post("/transactions/transfer", {**body, **fields}))

    return send


def test_an_exchange_has_four_entries_and_each_currency_sums_to_zero(alice, bob, exchange):
    made = exchange("100.00")
    # 100 / 1.25, less half a percent.
    assert (made["status"], made["to_amount"], made["to_currency"], made["rate"]) == ("completed", "79.60", "EUR", "0.796")
    assert made["quote_id"] is None
    sides = [(entry["amount"], entry["currency"], entry["account_id"]) for entry in made["entries"]]
    assert [side[:2] for side in sides] == [("-100.00", "USD"), ("-79.60", "EUR"), ("79.60", "EUR"), ("100.00", "USD")]
    assert (sides[0][2], sides[2][2]) == (made["from_account_id"], made["to_account_id"])
    # Of the bank's own accounts nobody is told what is in them.
    assert [entry["balance"] for entry in made["entries"]] == ["0.00", None, None, None]
    (balance,) = bob.get("/balances/current?currency=EUR").json["data"]
    assert (balance["amount"], balance["account_id"]) == ("79.60", made["to_account_id"])


def test_nothing_is_wrong_with_the_books(app, exchange):
    for amount, currency, to_currency in [("33.33", "USD", "EUR"), ("777", "JPY", "BHD"), ("1.001", "BHD", "JPY")]:
        assert exchange(amount, currency, to_currency)["status"] == "completed"
    with app.app_context(), reader() as session:
        assert {check.name: found for check in CHECKS if (found := check.find(session.connection(), None))} == {}
