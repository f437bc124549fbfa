"""`?dry_run=true` runs every check, answers what would happen, and changes nothing."""

import pytest


@pytest.mark.parametrize(("amount", "failure"), [("30.00", None), ("100.00", None), ("100.01", "insufficient_funds")])
def test_what_is_shown_is_what_then_happens(alice, bob, funded, outcome, changes_nothing, amount, failure, check_it_comes_true):
    funded(alice)
    body = {"to_account_id": funded(bob), "amount": amount, "currency": "USD", "reference": "A-1", "metadata": {"a": "b"}}
    response = changes_nothing(alice, "/transactions/transfer", body)
    assert response.status_code == 200
    found = outcome(alice, alice.post("/transactions/transfer", body))
    check_it_comes_true(response.json, found)
    assert found["failure_code"] == failure


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_a_credit_and_a_debit_are_shown_as_well(alice, funded, outcome, changes_nothing, kind, check_it_comes_true):
    body = {"account_id": funded(alice), "amount": "5.00", "currency": "USD"}
    response = changes_nothing(alice, f"/transactions/{kind}", body)
    check_it_comes_true(response.json, outcome(alice, alice.post(f"/transactions/{kind}", body)))


def test_a_rollback_is_shown_as_well(alice, bob, funded, outcome, changes_nothing, check_it_comes_true):
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


def test_staff_see_the_balances_that_they_would_see(alice, teller, funded, outcome, changes_nothing, check_it_comes_true):
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
