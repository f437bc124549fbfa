"""The same key and body again is the first answer again, and the money moves once."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import pytest
from sqlalchemy import text

from bank.db import reader, unit_of_work
from bank.processing.queue import bells
from bank.web.context import new_id


def body(who, amount="1.00", **more):
    return {"to_user_id": who.id, "amount": amount, "currency": "USD", **more}


def send(who, key, the_body, path="/transactions/transfer", **headers):
    return who.post(path, the_body, headers={"Idempotency-Key": key, **headers})


def same_bytes(first, again):
    assert again.status_code == first.status_code
    assert again.data == first.data
    assert again.mimetype == first.mimetype
    assert again.headers.get("Location") == first.headers.get("Location")
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"


def test_the_first_answer_comes_again_to_the_byte(alice, bob, funded, post_all, balance):
    account = funded(alice)
    first = send(alice, "order-1", body(bob))
    same_bytes(first, send(alice, "order-1", body(bob)))
    post_all()
    # It stays the first answer when the transaction is long final.
    same_bytes(first, send(alice, "order-1", body(bob)))
    post_all()
    assert balance(alice, account) == "99.00"


def test_fields_in_another_order_are_the_same_body(alice, bob, funded):
    funded(alice)
    first = send(alice, "order-1", body(bob, metadata={"a": "1", "b": "2"}))
    again = dict(reversed(body(bob, metadata={"b": "2", "a": "1"}).items()))
    same_bytes(first, send(alice, "order-1", again))


@pytest.mark.parametrize(
    "other", [{"amount": "1.01"}, {"currency": "EUR"}, {"description": "x"}, {"reference": "x"}, {"metadata": {"a": "b"}}]
)
def test_another_body_with_the_key_is_refused_and_moves_nothing(alice, bob, funded, post_all, balance, other):
    account = funded(alice)
    funded(alice, "10.00", "EUR")
    send(alice, "order-1", body(bob))
    response = send(alice, "order-1", {**body(bob), **other})
    assert (response.status_code, response.json["code"]) == (422, "idempotency_key_reused")
    post_all()
    assert balance(alice, account) == "99.00"


def test_a_key_belongs_to_one_user(alice, bob, carol, funded, post_all, balance):
    account, other = funded(alice), funded(bob)
    first = send(alice, "order-1", body(carol))
    second = send(bob, "order-1", body(carol))
    assert "Idempotent-Replayed" not in second.headers
    assert first.json["id"] != second.json["id"]
    post_all()
    assert (balance(alice, account), balance(bob, other)) == ("99.00", "99.00")


def test_a_key_belongs_to_one_route(alice, funded, post_all, balance):
    account = funded(alice)
    the_body = {"account_id": account, "amount": "1.00", "currency": "USD"}
    first = send(alice, "order-1", the_body, "/transactions/credit")
    second = send(alice, "order-1", the_body, "/transactions/debit")
    assert (first.status_code, second.status_code) == (202, 202)
    assert "Idempotent-Replayed" not in second.headers
    assert first.json["id"] != second.json["id"]


def test_a_rollback_is_kept_apart_from_that_of_another_transaction(alice, bob, funded, outcome):
    funded(alice)
    first, second = (outcome(alice, alice.post("/transactions/transfer", body(bob))) for _ in range(2))
    path = "/transactions/{}/rollback"
    answer = send(bob, "back-1", {"reason": "x"}, path.format(first["id"]))
    same_bytes(answer, send(bob, "back-1", {"reason": "x"}, path.format(first["id"])))
    other = send(bob, "back-1", {"reason": "x"}, path.format(second["id"]))
    assert other.json.get("reverses_id") != first["id"]
    assert other.status_code == 422 or other.json["reverses_id"] == second["id"]


def test_a_request_that_was_refused_leaves_its_key_free(alice, bob, funded, outcome):
    funded(alice)
    assert send(alice, "order-1", {**body(bob), "amount": "0"}).status_code == 422
    assert send(alice, "order-1", {**body(bob), "to_user_id": new_id()}).status_code == 404
    response = send(alice, "order-1", body(bob))
    assert "Idempotent-Replayed" not in response.headers
    assert outcome(alice, response)["status"] == "completed"


@pytest.mark.parametrize(
    "key",
    ["x", "x" * 255, " ", "order 4711: «no» ".replace("«", "<").replace("»", ">"), "'; DROP TABLE idempotency_keys; --", "~!@#$%^&*()"],
)
def test_any_printable_ascii_is_a_key(alice, bob, funded, key):
    funded(alice)
    first = send(alice, key, body(bob))
    assert first.status_code == 202
    same_bytes(first, send(alice, key, body(bob)))


def test_without_a_key_every_request_is_its_own(alice, bob, funded, post_all, balance):
    account = funded(alice)
    first, second = (alice.post("/transactions/transfer", body(bob)) for _ in range(2))
    assert first.json["id"] != second.json["id"]
    post_all()
    assert balance(alice, account) == "98.00"


def test_the_key_commits_with_the_effect_or_not_at_all(app, alice, bob, funded, monkeypatch):
    funded(alice)
    from bank.transactions import store

    whole = store.submit

    def broken(*args, **kwargs):
        whole(*args, **kwargs)
        raise RuntimeError("the process dies here")

    monkeypatch.setattr(store, "submit", broken)
    assert send(alice, "order-1", body(bob)).status_code == 500
    monkeypatch.setattr(store, "submit", whole)
    response = send(alice, "order-1", body(bob))
    assert response.status_code == 202
    assert "Idempotent-Replayed" not in response.headers


def test_50_clients_at_once_with_one_key_move_the_money_once(app, alice, bob, funded, post_all, balance):
    account = funded(alice)
    together = Barrier(50)

    def go(_):
        client = app.test_client()
        together.wait()
        headers = {"Authorization": f"Bearer {alice.token}", "Idempotency-Key": "order-1"}
        return client.post("/api/v1/transactions/transfer", json=body(bob), headers=headers)

    with ThreadPoolExecutor(50) as pool:
        responses = list(pool.map(go, range(50)))
    # Who finds no free connection in time is told so, and may ask again; nobody is told anything else.
    statuses = Counter(response.status_code for response in responses)
    assert statuses.keys() <= {202, 409, 503}, statuses
    accepted = [response for response in responses if response.status_code == 202]
    assert len({response.data for response in accepted}) == 1
    assert sum("Idempotent-Replayed" not in response.headers for response in accepted) == 1
    post_all()
    assert balance(alice, account) == "99.00"
    with app.app_context(), reader() as session:
        query = text("SELECT count(*) FROM transactions WHERE from_account_id = :id")
        assert session.execute(query, {"id": account}).scalar_one() == 1


def test_50_clients_at_once_open_one_account_for_one_who_has_none(app, alice, bob, funded, post_all):
    funded(alice)
    together = Barrier(10)

    def go(_):
        client = app.test_client()
        together.wait()
        return client.post("/api/v1/transactions/transfer", json=body(bob), headers={"Authorization": f"Bearer {alice.token}"})

    with ThreadPoolExecutor(10) as pool:
        assert {response.status_code for response in pool.map(go, range(10))} == {202}
    post_all()
    (account,) = bob.get("/accounts").json["data"]
    assert account["balance"] == "10.00"


WAIT = {"Prefer": "wait=20"}


@pytest.mark.parametrize(("amount", "status"), [("1.00", 201), ("100.01", 422)])
def test_the_answer_after_a_wait_comes_again_to_the_byte(alice, bob, funded, workers, amount, status):
    funded(alice)
    first = send(alice, "order-1", body(bob, amount), **WAIT)
    assert first.status_code == status
    same_bytes(first, send(alice, "order-1", body(bob, amount), **WAIT))
    # How long a client is willing to wait is no part of what it asked for.
    same_bytes(first, send(alice, "order-1", body(bob, amount)))


def test_while_the_first_request_waits_the_key_is_in_progress(app, alice, bob, funded, post_all, monkeypatch):
    funded(alice)
    submitted, answers = Event(), []
    monkeypatch.setattr(bells, "ring", lambda lane, **_: submitted.set())
    first = Thread(target=lambda: answers.append(send(alice, "order-1", body(bob), **WAIT)))
    first.start()
    assert submitted.wait(10)
    headers = {"Authorization": f"Bearer {alice.token}", "Idempotency-Key": "order-1"}
    for prefer in ({}, WAIT):
        response = app.test_client().post("/api/v1/transactions/transfer", json=body(bob), headers={**headers, **prefer})
        assert (response.status_code, response.json["code"]) == (409, "idempotency_in_progress")
    other = app.test_client().post("/api/v1/transactions/transfer", json=body(bob, "2.00"), headers=headers)
    assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")
    post_all()
    first.join(10)
    assert answers[0].status_code == 201
    same_bytes(answers[0], send(alice, "order-1", body(bob)))


def test_a_wait_that_ran_out_is_answered_202_for_ever(alice, bob, funded, post_all):
    funded(alice)
    first = send(alice, "order-1", body(bob), Prefer="wait=1")
    assert first.status_code == 202
    post_all()
    same_bytes(first, send(alice, "order-1", body(bob), Prefer="wait=1"))


def test_a_first_request_that_died_while_it_waited_is_answered_from_what_became_of_it(app, alice, bob, funded, post_all, balance):
    account = funded(alice)
    first = send(alice, "order-1", body(bob))
    with app.app_context(), unit_of_work() as session:
        # As it stands when the process is killed in its wait, and its time has passed since.
        session.execute(
            text(
                """UPDATE idempotency_keys SET response_status = NULL, response_body = NULL, answer_by = now() - interval '1 s'
                    WHERE transaction_id = :id"""
            ),
            {"id": first.json["id"]},
        )
    post_all()
    second = send(alice, "order-1", body(bob))
    assert (second.status_code, second.json["id"], second.json["status"]) == (201, first.json["id"], "completed")
    assert second.headers["Idempotent-Replayed"] == "true"
    assert send(alice, "order-1", body(bob)).data == second.data
    assert balance(alice, account) == "99.00"
