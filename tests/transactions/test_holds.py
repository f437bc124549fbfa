"""Money that is reserved, and taken or let go later."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text

from bank.db import unit_of_work
from bank.processing.expiry import expire_holds


@pytest.fixture
def parties(alice, bob, funded):
    """The accounts of Alice, who has 100 dollars, and of Bob, who has nothing."""
    return funded(alice), funded(bob, None)


def hold(who, parties, amount="40.00", **fields):
    source, target = parties
    body = {"from_account_id": source, "to_account_id": target, "amount": amount, "currency": "USD", "hold": True, **fields}
    return who.post("/transactions/transfer", body)


@pytest.fixture
def held(alice, parties, outcome):
    """Alice has 40 of her 100 dollars held for Bob."""
    return outcome(alice, hold(alice, parties))


def capture(who, held, amount=None, **kwargs):
    return who.post(f"/transactions/{held['id']}/capture", {} if amount is None else {"amount": amount}, **kwargs)


def void(who, held, **kwargs):
    return who.post(f"/transactions/{held['id']}/void", {}, **kwargs)


@pytest.fixture
def money(alice, bob, parties):
    """What Alice has, what of that is held, what she can spend, and what Bob has."""

    def read():
        mine, his = alice.get(f"/accounts/{parties[0]}").json, bob.get(f"/accounts/{parties[1]}").json
        return mine["balance"], mine["held"], mine["available"], his["balance"]

    return read


@pytest.fixture
def expire(app, as_superuser, environ):
    """Let the time of a hold be over, as far as the database knows, and do not tell anybody."""

    def end(held):
        with app.app_context(), unit_of_work() as session:
            session.execute(text("UPDATE transactions SET expires_at = now() WHERE id = :id"), {"id": held["id"]})

    return end


def read(who, transaction):
    return who.get(f"/transactions/{transaction['id']}").json


def parts(transaction):
    return tuple(transaction[name] for name in ("status", "amount", "held_amount", "captured_amount"))


def test_a_hold_reserves_and_moves_nothing(alice, held, money):
    assert parts(held) == ("held", "40.00", "40.00", "0.00")
    assert (held["type"], held["completed_at"], held["failure_code"], held["entries"]) == ("transfer", None, None, [])
    assert money() == ("100.00", "40.00", "60.00", "0.00")
    kept = datetime.fromisoformat(held["expires_at"]) - datetime.fromisoformat(held["created_at"])
    assert kept == timedelta(days=7)


def test_a_capture_takes_it_all(alice, bob, held, outcome, money):
    taken = outcome(bob, capture(bob, held))
    assert (taken["type"], taken["status"], taken["amount"], taken["captures_id"]) == ("transfer", "completed", "40.00", held["id"])
    assert [entry["amount"] for entry in taken["entries"]] == ["-40.00", "40.00"]
    assert money() == ("60.00", "0.00", "60.00", "40.00")
    after = read(alice, held)
    assert parts(after) == ("completed", "40.00", "0.00", "40.00")
    assert (after["completed_at"], after["entries"]) == (taken["completed_at"], [])


def test_a_void_lets_it_all_go(alice, bob, held, outcome, money):
    gone = outcome(bob, void(bob, held))
    assert (gone["type"], gone["status"], gone["voids_id"], gone["entries"]) == ("transfer", "voided", held["id"], [])
    assert money() == ("100.00", "0.00", "100.00", "0.00")
    after = read(alice, held)
    assert parts(after) == ("voided", "40.00", "0.00", "0.00")
    assert after["completed_at"] == gone["completed_at"]


def test_its_end_lets_it_go(alice, held, expire, money, context):
    expire(held)
    assert money()[1] == "40.00"
    assert expire_holds() == 1
    assert money() == ("100.00", "0.00", "100.00", "0.00")
    assert parts(read(alice, held)) == ("voided", "40.00", "0.00", "0.00")
    assert expire_holds() == 0
