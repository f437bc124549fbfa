"""Money that goes back where it came from."""

import pytest


@pytest.fixture
def paid(alice, bob, funded, outcome):
    """Alice paid Bob 40 of her 100 dollars."""
    account, other = funded(alice), funded(bob, None)
    body = {"from_account_id": account, "to_account_id": other, "amount": "40.00", "currency": "USD"}
    return outcome(alice, alice.post("/transactions/transfer", body))


def roll_back(who, transaction, amount=None, **kwargs):
    body = {"reason": "Returned goods", **({"amount": amount} if amount is not None else {})}
    return who.post(f"/transactions/{transaction['id']}/rollback", body, **kwargs)


def test_the_whole_goes_back_and_both_transactions_tell_of_it(alice, bob, paid, outcome, balance):
    back = outcome(bob, roll_back(bob, paid))
    assert (back["type"], back["status"], back["reverses_id"]) == ("rollback", "completed", paid["id"])
    assert (back["from_account_id"], back["to_account_id"]) == (paid["to_account_id"], paid["from_account_id"])
    assert (back["amount"], back["description"]) == ("40.00", "Returned goods")
    original = alice.get(f"/transactions/{paid['id']}").json
    assert (original["status"], original["rolled_back_amount"]) == ("rolled_back", "40.00")
    # What was posted stays posted: the way back is entries of its own.
    assert original["entries"] == paid["entries"]
    assert balance(alice, paid["from_account_id"]) == "100.00"
    assert balance(bob, paid["to_account_id"]) == "0.00"


def test_parts_go_back_until_nothing_is_left(alice, bob, paid, outcome, balance):
    for part, sum_so_far, status in (("10.00", "10.00", "completed"), ("0.01", "10.01", "completed"), ("29.99", "40.00", "rolled_back")):
        assert outcome(bob, roll_back(bob, paid, part))["status"] == "completed"
        original = alice.get(f"/transactions/{paid['id']}").json
        assert (original["rolled_back_amount"], original["status"]) == (sum_so_far, status)
    assert outcome(bob, roll_back(bob, paid, "0.01"))["failure_code"] == "already_rolled_back"
    assert outcome(bob, roll_back(bob, paid))["failure_code"] == "already_rolled_back"
    assert balance(alice, paid["from_account_id"]) == "100.00"


def test_without_an_amount_what_is_left_goes_back(bob, paid, outcome):
    outcome(bob, roll_back(bob, paid, "10.00"))
    assert outcome(bob, roll_back(bob, paid))["amount"] == "30.00"


def test_more_than_is_left_is_refused(bob, paid, outcome, balance):
    assert outcome(bob, roll_back(bob, paid, "40.01"))["failure_code"] == "amount_exceeds_original"
    outcome(bob, roll_back(bob, paid, "10.00"))
    assert outcome(bob, roll_back(bob, paid, "30.01"))["failure_code"] == "amount_exceeds_original"
    assert balance(bob, paid["to_account_id"]) == "30.00"


def test_several_that_wait_at_once_never_take_back_more_than_the_original(alice, bob, teller, paid, post_all, balance):
    accepted = [roll_back(who, paid, "15.00") for who in (bob, teller, bob, teller)]
    post_all()
    codes = [bob.get(f"/transactions/{response.json['id']}").json["failure_code"] for response in accepted]
    assert codes == [None, None, "amount_exceeds_original", "amount_exceeds_original"]
    assert alice.get(f"/transactions/{paid['id']}").json["rolled_back_amount"] == "30.00"
    assert balance(bob, paid["to_account_id"]) == "10.00"


def test_each_way_back_is_an_event_of_the_original(app, bob, paid, outcome, post_all):
    from sqlalchemy import text

    from bank.db import reader

    for part in ("10.00", "5.00"):
        roll_back(bob, paid, part)
    post_all()
    outcome(bob, roll_back(bob, paid))
    with app.app_context(), reader() as session:
        events = session.execute(
            text("SELECT version, type, data FROM events WHERE stream_id = :id ORDER BY version"), {"id": paid["id"]}
        ).all()
        version = session.execute(text("SELECT version FROM transactions WHERE id = :id"), {"id": paid["id"]}).scalar_one()
    assert [event.version for event in events] == [1, 2, 3, 4, 5]
    assert version == 5
    assert [(event.type, event.data["amount"], event.data["rolled_back_amount"]) for event in events[2:]] == [
        ("TransactionRolledBack", 1000, 1000),
        ("TransactionRolledBack", 500, 1500),
        ("TransactionRolledBack", 2500, 4000),
    ]


def test_money_that_was_spent_meanwhile_cannot_go_back(bob, paid, outcome):
    account = paid["to_account_id"]
    outcome(bob, bob.post("/transactions/debit", {"account_id": account, "amount": "39.00", "currency": "USD"}))
    assert outcome(bob, roll_back(bob, paid))["failure_code"] == "insufficient_funds"
    assert outcome(bob, roll_back(bob, paid, "1.00"))["status"] == "completed"


def test_a_frozen_account_gives_nothing_back(bob, teller, paid, outcome):
    teller.patch(f"/accounts/{paid['from_account_id']}", {"status": "frozen"})
    assert outcome(bob, roll_back(bob, paid))["failure_code"] == "account_frozen"


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_a_credit_and_a_debit_go_back_to_the_outside_and_from_it(alice, teller, funded, outcome, balance, kind):
    account = funded(alice)
    moved = outcome(alice, alice.post(f"/transactions/{kind}", {"account_id": account, "amount": "30.00", "currency": "USD"}))
    back = outcome(teller, roll_back(teller, moved))
    assert back["status"] == "completed"
    assert sorted(entry["amount"] for entry in back["entries"]) == ["-30.00", "30.00"]
    assert balance(alice, account) == "100.00"


def test_who_received_the_money_and_staff_may_move_it_back_and_nobody_else(alice, bob, carol, teller, auditor, admin, paid, outcome):
    refused = roll_back(alice, paid)
    assert (refused.status_code, refused.json["code"]) == (403, "forbidden")
    assert roll_back(carol, paid).status_code == 404
    assert roll_back(auditor, paid).status_code == 403
    for who in (bob, teller, admin):
        assert outcome(who, roll_back(who, paid, "1.00"))["status"] == "completed"


def test_who_paid_out_may_not_take_it_back_alone(alice, funded, outcome):
    account = funded(alice)
    moved = outcome(alice, alice.post("/transactions/debit", {"account_id": account, "amount": "30.00", "currency": "USD"}))
    assert roll_back(alice, moved).status_code == 403


def test_only_what_is_completed_can_go_back(alice, bob, teller, paid, funded, outcome, post_all):
    def refused(transaction):
        for query in ("", "?dry_run=true"):
            response = teller.post(f"/transactions/{transaction['id']}/rollback{query}", {"reason": "x"})
            assert (response.status_code, response.json["code"]) == (409, "not_reversible")

    back = outcome(bob, roll_back(bob, paid, "1.00"))
    refused(back)
    failed = outcome(alice, alice.post("/transactions/transfer", {"to_user_id": bob.id, "amount": "1000.00", "currency": "USD"}))
    assert failed["status"] == "failed"
    refused(failed)
    pending = alice.post("/transactions/transfer", {"to_user_id": bob.id, "amount": "1.00", "currency": "USD"}).json
    refused(pending)
    post_all()


@pytest.mark.parametrize("amount", ["0.001", "0", "-1", "1e2", "10000000000000000.00"])
def test_an_amount_that_is_none_of_the_originals_currency_is_refused(bob, paid, amount):
    response = roll_back(bob, paid, amount)
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/amount")
