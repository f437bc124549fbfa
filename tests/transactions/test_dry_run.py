"""`?dry_run=true` runs every check, answers what would happen, and changes nothing."""

import pytest
from sqlalchemy import text

from bank.db import reader

TABLES = ("transactions", "entries", "events", "audit_logs", "idempotency_keys", "accounts", "balances")

# What a preview cannot know, or is by its nature another.
OTHER = {"id", "created_at", "completed_at", "effective_at", "dry_run", "entries"}


@pytest.fixture
def changes_nothing(app):
    """Fail when rows were added, or balances changed, by a call."""

    def state():
        with app.app_context(), reader() as session:
            counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
            return session.execute(text(f"SELECT {counts}, (SELECT sum(amount * amount) FROM balances)")).one()

    def call(who, path, body):
        before = state()
        response = who.post(f"{path}?dry_run=true", body)
        assert state() == before
        assert "Location" not in response.headers
        return response

    return call


def check_it_comes_true(preview, found):
    assert preview["dry_run"] is True
    assert preview["id"] is None
    assert {name: value for name, value in preview.items() if name not in OTHER} == {
        name: value for name, value in found.items() if name not in OTHER
    }
    kept = ("account_id", "version", "amount", "currency", "balance")
    own = [[entry[name] for name in kept] for entry in preview["entries"]]
    assert own == [[entry[name] for name in kept] for entry in found["entries"]]


@pytest.mark.parametrize(("amount", "failure"), [("30.00", None), ("100.00", None), ("100.01", "insufficient_funds")])
def test_what_is_shown_is_what_then_happens(alice, bob, funded, outcome, changes_nothing, amount, failure):
    funded(alice)
    body = {"to_account_id": funded(bob), "amount": amount, "currency": "USD", "reference": "A-1", "metadata": {"a": "b"}}
    response = changes_nothing(alice, "/transactions/transfer", body)
    assert response.status_code == 200
    found = outcome(alice, alice.post("/transactions/transfer", body))
    check_it_comes_true(response.json, found)
    assert found["failure_code"] == failure


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_a_credit_and_a_debit_are_shown_as_well(alice, funded, outcome, changes_nothing, kind):
    body = {"account_id": funded(alice), "amount": "5.00", "currency": "USD"}
    response = changes_nothing(alice, f"/transactions/{kind}", body)
    check_it_comes_true(response.json, outcome(alice, alice.post(f"/transactions/{kind}", body)))


def test_a_rollback_is_shown_as_well(alice, bob, funded, outcome, changes_nothing):
    funded(alice)
    paid = outcome(alice, alice.post("/transactions/transfer", {"to_user_id": bob.id, "amount": "40.00", "currency": "USD"}))
    path, body = f"/transactions/{paid['id']}/rollback", {"reason": "Returned", "amount": "15.00"}
    response = changes_nothing(bob, path, body)
    check_it_comes_true(response.json, outcome(bob, bob.post(path, body)))


def test_a_refusal_by_the_ledger_is_shown_without_entries(alice, funded, changes_nothing):
    account = funded(alice)
    body = {"to_account_id": account, "amount": "1.00", "currency": "USD"}
    response = changes_nothing(alice, "/transactions/transfer", body)
    assert (response.status_code, response.json["status"], response.json["failure_code"]) == (200, "failed", "same_account")
    assert response.json["entries"] == []


def test_an_account_that_would_be_opened_is_not(alice, bob, funded, changes_nothing):
    funded(alice)
    response = changes_nothing(alice, "/transactions/transfer", {"to_user_id": bob.id, "amount": "1.00", "currency": "USD"})
    assert (response.status_code, response.json["status"]) == (200, "completed")
    assert bob.get("/accounts").json["data"] == []


def test_what_would_be_refused_is_refused(alice, bob, auditor, funded, changes_nothing):
    funded(alice)
    account = funded(bob)
    body = {"from_account_id": account, "to_user_id": alice.id, "amount": "1.00", "currency": "USD"}
    assert changes_nothing(alice, "/transactions/transfer", body).status_code == 404
    assert changes_nothing(auditor, "/transactions/transfer", body).status_code == 403


def test_staff_see_the_balances_that_they_would_see(alice, teller, funded, outcome, changes_nothing):
    body = {"account_id": funded(alice), "amount": "5.00", "currency": "USD"}
    response = changes_nothing(teller, "/transactions/credit", body)
    check_it_comes_true(response.json, outcome(teller, teller.post("/transactions/credit", body)))


def test_a_key_is_not_used_up_by_it(alice, bob, funded, outcome):
    funded(alice)
    body = {"to_user_id": bob.id, "amount": "1.00", "currency": "USD"}
    key = {"Idempotency-Key": "order-4711"}
    assert alice.post("/transactions/transfer?dry_run=true", body, headers=key).status_code == 200
    response = alice.post("/transactions/transfer", body, headers=key)
    assert "Idempotent-Replayed" not in response.headers
    assert outcome(alice, response)["status"] == "completed"
    assert alice.post("/transactions/transfer?dry_run=false", body, headers=key).headers["Idempotent-Replayed"] == "true"
