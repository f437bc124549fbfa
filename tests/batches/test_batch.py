"""Batches: in their order, all or none, or each by itself; who may ask, and what is read of them."""

from dataclasses import replace

import pytest
from sqlalchemy import text

from bank.db import reader
from bank.ledger.invariants import CHECKS
from bank.web.context import new_id
from tests.batches.conftest import read, submit, transfer

NONE = {"pending": 0, "held": 0, "completed": 0, "failed": 0, "rolled_back": 0, "voided": 0}


def statuses(batch):
    return [(item["index"], item["status"], item["failure_code"]) for item in batch["data"]]


@pytest.fixture
def balance(app):
    def read(account_id):
        with app.app_context(), reader() as session:
            return session.execute(text("SELECT amount FROM balances WHERE account_id = :id"), {"id": account_id}).scalar_one()

    return read


@pytest.fixture
def books(app):
    """What the invariants find wrong that they did not before: other tests have their own ways with this database."""

    def wrong():
        with app.app_context(), reader() as session:
            return {(check.name, found) for check in CHECKS for found in check.find(session.connection(), None)}

    before = wrong()
    return lambda: wrong() - before


@pytest.mark.parametrize("mode", ["atomic", "independent"])
def test_each_spends_what_those_before_it_brought(alice, bob, funded, outcome, balance, books, mode):
    mine, bobs = funded(alice, None), funded(bob, None)
    bring = {"type": "credit", "account_id": mine, "amount": "10.00", "currency": "USD"}
    pay = {"type": "debit", "account_id": mine, "amount": "4.00", "currency": "USD"}
    batch = outcome(alice, mode, [bring, transfer(mine, bobs, "6.00"), pay])
    assert (batch["status"], batch["failure"], batch["counts"]) == ("completed", None, {**NONE, "completed": 3})
    assert statuses(batch) == [(index, "completed", None) for index in range(3)]
    assert (balance(mine), balance(bobs)) == (0, 600)
    assert books() == set()


def test_independent_ones_fail_alone_and_only_in_their_order(alice, bob, funded, outcome, balance):
    mine, bobs = funded(alice, None), funded(bob, None)
    bring = {"type": "credit", "account_id": mine, "amount": "10.00", "currency": "USD"}
    batch = outcome(alice, "independent", [transfer(mine, bobs, "6.00"), bring, transfer(mine, bobs, "7.00"), transfer(mine, mine, "1.00")])
    assert batch["counts"] == {**NONE, "completed": 2, "failed": 2}
    assert (batch["status"], batch["failure"]) == ("completed", None)
    assert statuses(batch) == [
        (0, "failed", "insufficient_funds"),
        (1, "completed", None),
        (2, "completed", None),
        (3, "failed", "same_account"),
    ]
    assert (balance(mine), balance(bobs)) == (300, 700)


def test_of_an_atomic_one_nothing_is_posted_when_one_is_refused(alice, bob, funded, outcome, balance, books):
    mine, bobs = funded(alice, "10.00"), funded(bob, None)
    batch = outcome(
        alice,
        "atomic",
        [transfer(mine, bobs, "6.00"), transfer(mine, bobs, "6.00"), transfer(mine, mine, "1.00"), transfer(mine, bobs, "1.00")],
    )
    assert (batch["status"], batch["counts"]) == ("failed", {**NONE, "failed": 4})
    assert statuses(batch) == [
        (0, "failed", "batch_refused"),
        (1, "failed", "insufficient_funds"),
        (2, "failed", "batch_refused"),
        (3, "failed", "batch_refused"),
    ]
    assert batch["failure"] == {"index": 1, "code": "insufficient_funds", "transaction_id": batch["data"][1]["id"]}
    assert (balance(mine), balance(bobs)) == (1000, 0)
    assert batch["completed_at"]
    assert books() == set()


def test_batches_between_each_other_are_each_decided_by_their_own_mode(alice, bob, funded, post_all, balance):
    mine, bobs = funded(alice, "10.00"), funded(bob, None)
    asked = [
        submit(alice, "independent", [transfer(mine, bobs, "1.00"), transfer(mine, bobs, "100.00")]),
        submit(alice, "atomic", [transfer(mine, bobs, "2.00"), transfer(mine, bobs, "100.00")]),
        submit(alice, "atomic", [transfer(mine, bobs, "4.00"), transfer(mine, bobs, "5.00")]),
        submit(alice, "independent", [transfer(mine, bobs, "0.50"), transfer(mine, bobs, "0.50")]),
    ]
    post_all()
    assert [read(alice, each)["counts"]["completed"] for each in asked] == [1, 0, 2, 0]
    assert balance(mine) == 0


def test_what_was_accepted_is_told_at_once_and_a_page_at_a_time_later(alice, bob, funded, post_all):
    mine, bobs = funded(alice), funded(bob, None)
    accepted = submit(
        alice, "independent", [transfer(mine, bobs, f"0.{cents:02}") for cents in range(1, 8)] + [transfer(mine, bobs, "1000.00")]
    )
    assert accepted.status_code == 202
    batch = accepted.json
    assert (batch["mode"], batch["status"], batch["counts"], batch["failure"]) == ("independent", "pending", {**NONE, "pending": 8}, None)
    assert batch["created_at"] and batch["completed_at"] is None
    waiting = read(alice, accepted)
    assert {name: waiting[name] for name in batch} == batch
    post_all()
    first = read(alice, accepted, "?limit=5&status=completed")
    rest = read(alice, accepted, f"?limit=5&status=completed&cursor={first['next_cursor']}")
    assert [item["index"] for item in first["data"] + rest["data"]] == list(range(7))
    assert [item["amount"] for item in rest["data"]] == ["0.06", "0.07"]
    assert (first["has_more"], rest["has_more"]) == (True, False)
    [failed] = read(alice, accepted, "?status=failed")["data"]
    assert failed["index"] == 7
    assert alice.get(f"/transactions/{failed['id']}").json["batch_id"] == batch["id"]


def test_only_who_made_it_and_staff_may_read_it(alice, bob, teller, auditor, admin, funded, post_all):
    mine, bobs = funded(alice), funded(bob, None)
    accepted = submit(alice, "atomic", [transfer(mine, bobs, "1.00")])
    path = accepted.headers["Location"].removeprefix("/api/v1")
    assert [who.get(path).status_code for who in (alice, teller, auditor, admin)] == [200] * 4
    assert bob.get(path).status_code == 404
    assert alice.get(f"/transactions/batch/{new_id()}").status_code == 404
    post_all()


def test_history_shows_those_of_a_batch_to_their_parties(alice, bob, carol, admin, funded, post_all):
    mine, bobs, carols = funded(alice), funded(bob, None), funded(carol, None)
    accepted = submit(alice, "independent", [transfer(mine, bobs, "1.00"), transfer(mine, carols, "2.00"), transfer(mine, bobs, "3.00")])
    alice.post("/transactions/transfer", {"to_account_id": bobs, "amount": "4.00", "currency": "USD"})
    post_all()
    path = f"/transactions/history?batch_id={accepted.json['id']}"

    def amounts(who, query=""):
        return [row["amount"] for row in who.get(path + query).json["data"]]

    assert amounts(alice) == amounts(admin) == ["3.00", "2.00", "1.00"]
    assert amounts(bob) == ["3.00", "1.00"]
    assert amounts(alice, f"&account_id={mine}&min_amount=2&currency=USD") == ["3.00", "2.00"]
    page = bob.get(f"{path}&limit=1").json
    assert bob.get(f"{path}&limit=1&cursor={page['next_cursor']}").json["data"][0]["amount"] == "1.00"


def test_money_reaches_users_who_have_no_account_yet(alice, bob, carol, funded, outcome, books):
    mine = funded(alice)
    to_bob = {"type": "transfer", "to_user_id": bob.id, "amount": "1.00", "currency": "USD"}
    to_carol = {"type": "transfer", "to_username": carol.username.upper(), "amount": "2.00", "currency": "USD"}
    batch = outcome(alice, "atomic", [to_bob, to_carol, to_bob])
    assert batch["counts"]["completed"] == 3
    [opened] = bob.get("/accounts").json["data"]
    assert (opened["balance"], carol.get("/accounts").json["data"][0]["balance"]) == ("2.00", "2.00")
    assert {item["to_account_id"] for item in batch["data"][::2]} == {opened["id"]}
    # It is the default from now on.
    later = outcome(alice, "independent", [to_bob, {"type": "credit", "user_id": alice.id, "amount": "1.00", "currency": "EUR"}])
    assert later["data"][0]["to_account_id"] == opened["id"]
    assert later["data"][1]["status"] == "completed"
    assert later["data"][0]["from_account_id"] == mine
    assert books() == set()


def test_one_of_a_batch_can_be_rolled_back(alice, bob, funded, outcome, post_all):
    mine, bobs = funded(alice), funded(bob, None)
    batch = outcome(alice, "atomic", [transfer(mine, bobs, "1.00"), transfer(mine, bobs, "2.00")])
    assert bob.post(f"/transactions/{batch['data'][1]['id']}/rollback", {"reason": "Returned"}).status_code == 202
    post_all()
    again = alice.get(f"/transactions/batch/{batch['id']}").json
    assert (again["status"], again["counts"]) == ("completed", {**NONE, "completed": 1, "rolled_back": 1})


def test_who_may_do_one_by_itself_may_do_it_in_a_batch_and_nobody_else(
    app, alice, bob, teller, auditor, admin, person, funded, outcome, monkeypatch
):
    mine, bobs = funded(alice), funded(bob)
    from_bob = transfer(bobs, mine, "1.00")
    assert submit(auditor, "atomic", [from_bob]).status_code == 403
    assert submit(alice, "atomic", [from_bob]).json["errors"] == [
        {"pointer": "/transactions/0/from_account_id", "message": "There is no such thing here"}
    ]
    assert outcome(admin, "atomic", [from_bob])["status"] == "completed"
    staff = person("colleague", "teller")
    colleagues = staff.open_account()["id"]
    credits = [{"type": "credit", "account_id": each, "amount": "1.00", "currency": "USD"} for each in (mine, colleagues)]
    assert submit(teller, "atomic", credits).json["errors"] == [
        {"pointer": "/transactions/1/account_id", "message": "There is no such thing here"}
    ]
    assert outcome(teller, "atomic", credits[:1])["status"] == "completed"
    monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], self_service_deposits=False))
    assert submit(alice, "atomic", credits[:1]).json["errors"] == [
        {"pointer": "/transactions/0", "message": "Only staff may credit an account."}
    ]


def test_one_audit_row_and_one_event_stand_for_the_batch(app, alice, bob, funded, post_all):
    mine, bobs = funded(alice), funded(bob, None)
    accepted = submit(alice, "independent", [transfer(mine, bobs, "1.00")] * 3)
    with app.app_context(), reader() as session:
        audited = session.execute(text("SELECT action, details FROM audit_logs WHERE entity_id = :id"), {"id": accepted.json["id"]}).all()
        told = session.execute(text("SELECT type, data FROM events WHERE stream_id = :id"), {"id": accepted.json["id"]}).all()
    assert audited == [("batch.submitted", {"mode": "independent", "items": 3})]
    assert told == [("BatchSubmitted", {"mode": "independent", "items": 3})]
    post_all()
