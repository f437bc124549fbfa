"""`Prefer: wait=N` holds the answer until the transaction is final."""

import time
from contextlib import ExitStack
from statistics import median
from threading import Event, Thread

import pytest

from bank.processing.queue import bells
from bank.transactions.waiting import waiters
from bank.web.context import new_id


def body(who, amount="1.00"):
    return {"to_user_id": who.id, "amount": amount, "currency": "USD"}


WAIT = {"Prefer": "wait=20"}


def test_a_posted_transaction_is_answered_201(alice, bob, funded, workers, document):
    funded(alice)
    started = time.monotonic()
    response = alice.post("/transactions/transfer", body(bob), headers=WAIT)
    assert time.monotonic() - started < 5
    assert (response.status_code, response.json["status"]) == (201, "completed")
    assert response.headers["Preference-Applied"] == "wait=20"
    assert response.headers["Location"] == f"/api/v1/transactions/{response.json['id']}"
    found = alice.get(f"/transactions/{response.json['id']}").json
    assert {**response.json, "entries": found["entries"]} == found
    operation = document.root["paths"]["/api/v1/transactions/transfer"]["post"]
    (content,) = document.answer(operation, 201)["content"].values()
    assert document.objections(content["schema"], response.json) == []


def test_a_refused_transaction_is_a_problem_that_carries_it(alice, bob, funded, workers, document):
    funded(alice)
    response = alice.post("/transactions/transfer", body(bob, "100.01"), headers=WAIT)
    assert (response.status_code, response.mimetype) == (422, "application/problem+json")
    assert response.json["code"] == "insufficient_funds"
    assert response.json["type"] == "/problems/insufficient-funds"
    assert response.json["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Preference-Applied"] == "wait=20"
    transaction = response.json["transaction"]
    assert (transaction["status"], transaction["failure_code"], transaction["amount"]) == ("failed", "insufficient_funds", "100.01")
    assert alice.get(f"/transactions/{transaction['id']}").json["status"] == "failed"
    operation = document.root["paths"]["/api/v1/transactions/transfer"]["post"]
    (content,) = document.answer(operation, 422)["content"].values()
    assert document.objections(content["schema"], response.json) == []


@pytest.mark.parametrize("route", ["credit", "debit", "rollback"])
def test_every_route_that_moves_money_waits(alice, bob, funded, outcome, workers, route):
    account = funded(alice)
    paid = alice.post("/transactions/transfer", body(bob), headers=WAIT).json
    response = {
        "credit": lambda: alice.post("/transactions/credit", {"account_id": account, "amount": 1, "currency": "USD"}, headers=WAIT),
        "debit": lambda: alice.post("/transactions/debit", {"account_id": account, "amount": 1, "currency": "USD"}, headers=WAIT),
        "rollback": lambda: bob.post(f"/transactions/{paid['id']}/rollback", {"reason": "x"}, headers=WAIT),
    }[route]()
    assert (response.status_code, response.json["status"]) == (201, "completed")


def test_when_the_time_runs_out_the_answer_is_202(alice, bob, funded, outcome):
    funded(alice)
    started = time.monotonic()
    response = alice.post("/transactions/transfer", body(bob), headers={"Prefer": "wait=1"})
    assert 0.9 < time.monotonic() - started < 3
    assert response.headers["Preference-Applied"] == "wait=1"
    assert outcome(alice, response)["status"] == "completed"


@pytest.mark.parametrize("prefer", ["wait=20", "WAIT = 20", "respond-async, wait=20", "wait=20, respond-async", "wait=20; x=y"])
def test_the_preference_is_read_as_the_rfc_writes_it(alice, bob, funded, workers, prefer):
    funded(alice)
    response = alice.post("/transactions/transfer", body(bob), headers={"Prefer": prefer})
    assert (response.status_code, response.headers["Preference-Applied"]) == (201, "wait=20")


def test_who_finds_no_place_to_wait_is_answered_202_at_once(app, alice, bob, funded, outcome):
    funded(alice)
    with ExitStack() as places, app.app_context():
        for _ in range(app.config["BANK"].web_threads):
            taken = places.enter_context(waiters.expect(new_id()))
        assert taken is None
        started = time.monotonic()
        response = alice.post("/transactions/transfer", body(bob), headers=WAIT)
        assert time.monotonic() - started < 2
        assert "Preference-Applied" not in response.headers
    assert outcome(alice, response)["status"] == "completed"


def test_the_outcome_reaches_who_waits_within_50_ms_of_its_posting(app, alice, bob, funded, post_all, monkeypatch):
    funded(alice)
    posted_at, posted = [], Event()

    def work(lane, **_):
        def drain():
            post_all()
            posted_at.append(time.monotonic())
            posted.set()

        Thread(target=drain).start()
        return True

    monkeypatch.setattr(bells, "ring", work)
    late = []
    for _ in range(11):
        posted.clear()
        assert alice.post("/transactions/transfer", body(bob), headers=WAIT).status_code == 201
        answered = time.monotonic()
        assert posted.wait(5)
        late.append(answered - posted_at[-1])
    assert median(late) < 0.05
