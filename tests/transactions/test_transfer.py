"""Money from one account to another."""

import pytest


def body(**parties):
    return {"amount": "12.34", "currency": "USD", **parties}


def test_a_deposit_and_a_transfer_are_posted_with_two_sides(alice, bob, post_all):
    account = alice.open_account()
    response = alice.post("/transactions/credit", {"account_id": account["id"], "amount": "100.00", "currency": "USD"})
    assert response.status_code == 202, response.json
    assert response.json["status"] == "pending"
    post_all()
    response = alice.post("/transactions/transfer", {"to_username": bob.username, "amount": "12.34", "currency": "USD"})
    assert response.status_code == 202, response.json
    post_all()
    found = alice.get(response.headers["Location"].removeprefix("/api/v1")).json
    assert found["status"] == "completed"
    assert [entry["amount"] for entry in found["entries"]] == ["-12.34", "12.34"]
    assert alice.get("/balances/current").json["data"][0]["amount"] == "87.66"
    assert bob.get("/balances/current").json["data"][0]["amount"] == "12.34"


def test_each_side_sees_its_own_balance_and_not_the_others(alice, bob, teller, funded, outcome):
    account, other = funded(alice), funded(bob)
    found = outcome(alice, alice.post("/transactions/transfer", body(from_account_id=account, to_account_id=other)))
    assert [entry["balance"] for entry in found["entries"]] == ["87.66", None]
    assert [entry["balance"] for entry in bob.get(f"/transactions/{found['id']}").json["entries"]] == [None, "112.34"]
    assert [entry["balance"] for entry in teller.get(f"/transactions/{found['id']}").json["entries"]] == ["87.66", "112.34"]


@pytest.mark.parametrize("way", ["to_user_id", "to_username", "to_account_id"])
def test_money_reaches_an_account_a_user_and_a_name(alice, bob, funded, outcome, balance, way):
    funded(alice)
    other = funded(bob, None)
    target = {"to_user_id": bob.id, "to_username": bob.username.upper(), "to_account_id": other}[way]
    found = outcome(alice, alice.post("/transactions/transfer", body(**{way: target})))
    assert (found["status"], found["to_account_id"], found["to_user_id"]) == ("completed", other, bob.id)
    assert balance(bob, other) == "12.34"


def test_money_to_a_user_without_an_account_opens_one_and_it_becomes_the_default(alice, bob, funded, outcome):
    funded(alice)
    funded(bob, "1.00", "EUR")
    first = outcome(alice, alice.post("/transactions/transfer", body(to_user_id=bob.id)))
    second = outcome(alice, alice.post("/transactions/transfer", body(to_username=bob.username)))
    assert first["to_account_id"] == second["to_account_id"]
    (account,) = bob.get("/accounts?currency=USD").json["data"]
    assert (account["id"], account["balance"]) == (first["to_account_id"], "24.68")


def test_an_account_is_opened_for_money_even_when_the_money_then_does_not_come(alice, bob, funded, outcome):
    funded(alice, "1.00")
    assert outcome(alice, alice.post("/transactions/transfer", body(to_user_id=bob.id)))["failure_code"] == "insufficient_funds"
    (account,) = bob.get("/accounts").json["data"]
    assert account["balance"] == "0.00"


def test_without_a_source_the_callers_default_account_in_the_currency_pays(alice, bob, funded, outcome):
    default, second, other = funded(alice), funded(alice), funded(bob)
    assert outcome(alice, alice.post("/transactions/transfer", body(to_account_id=other)))["from_account_id"] == default
    paid = outcome(alice, alice.post("/transactions/transfer", body(from_account_id=second, to_account_id=other)))
    assert paid["from_account_id"] == second


def test_a_customer_moves_money_between_their_own_accounts(alice, funded, outcome, balance):
    first, second = funded(alice), funded(alice, None)
    found = outcome(alice, alice.post("/transactions/transfer", body(from_account_id=first, to_account_id=second)))
    assert [entry["balance"] for entry in found["entries"]] == ["87.66", "12.34"]
    assert (balance(alice, first), balance(alice, second)) == ("87.66", "12.34")


def test_a_transfer_to_the_same_account_is_refused(alice, funded, outcome, balance):
    account = funded(alice)
    for target in ({"to_account_id": account}, {"to_user_id": alice.id}, {"to_username": alice.username}):
        found = outcome(alice, alice.post("/transactions/transfer", body(**target)))
        assert (found["status"], found["failure_code"]) == ("failed", "same_account")
    assert balance(alice, account) == "100.00"


@pytest.mark.parametrize(("ours", "theirs"), [("EUR", "USD"), ("USD", "EUR")])
def test_accounts_of_another_currency_are_refused(alice, bob, funded, outcome, balance, ours, theirs):
    account, other = funded(alice, "100.00", ours), funded(bob, None, theirs)
    found = outcome(alice, alice.post("/transactions/transfer", body(from_account_id=account, to_account_id=other)))
    assert (found["status"], found["failure_code"]) == ("failed", "currency_mismatch")
    assert (balance(alice, account), balance(bob, other)) == ("100.00", "0.00")


@pytest.mark.parametrize("side", ["from", "to"])
@pytest.mark.parametrize("status", ["frozen", "closed"])
def test_a_frozen_or_closed_account_refuses_on_either_side(alice, bob, teller, funded, outcome, balance, side, status):
    account, other = funded(alice, "100.00" if side == "to" else None), funded(bob, None)
    frozen = account if side == "from" else other
    assert teller.patch(f"/accounts/{frozen}", {"status": status}).status_code == 200
    found = outcome(alice, alice.post("/transactions/transfer", body(from_account_id=account, to_account_id=other)))
    assert (found["status"], found["failure_code"]) == ("failed", f"account_{status}")
    assert balance(bob, other) == "0.00"


def test_overdrawing_is_refused_and_what_came_before_stays(alice, bob, funded, outcome, balance, post_all):
    account, other = funded(alice, "20.00"), funded(bob, None)
    accepted = [alice.post("/transactions/transfer", body(to_account_id=other)) for _ in range(3)]
    post_all()
    found = [alice.get(f"/transactions/{response.json['id']}").json for response in accepted]
    assert [transaction["failure_code"] for transaction in found] == [None, "insufficient_funds", "insufficient_funds"]
    assert (balance(alice, account), balance(bob, other)) == ("7.66", "12.34")


def test_nobody_pays_from_anothers_account_but_an_admin(alice, bob, teller, auditor, admin, funded, outcome):
    account, other = funded(alice), funded(bob)
    moved = body(from_account_id=account, to_account_id=other)
    assert bob.post("/transactions/transfer", moved).status_code == 404
    assert teller.post("/transactions/transfer", moved).status_code == 404
    assert auditor.post("/transactions/transfer", moved).status_code == 403
    assert outcome(admin, admin.post("/transactions/transfer", moved))["status"] == "completed"


def test_money_for_a_deleted_user_is_not_found(alice, bob, admin, funded):
    funded(alice)
    assert admin.request("DELETE", f"/users/{bob.id}").status_code == 204
    for target in ({"to_user_id": bob.id}, {"to_username": bob.username}):
        assert alice.post("/transactions/transfer", body(**target)).status_code == 404


def test_what_the_client_tells_comes_back_as_it_was(alice, bob, funded, outcome):
    funded(alice)
    told = {
        "description": "Miete für Mai\n(2. Rate) 🏠",
        "reference": "INV-2026/05 #2",
        "metadata": {"order": "4711", "note": "Zürich\t«ok»"},
    }
    found = outcome(alice, alice.post("/transactions/transfer", body(to_user_id=bob.id, **told)))
    assert {name: found[name] for name in told} == told


def test_text_is_kept_in_one_form_of_unicode(alice, bob, funded, outcome):
    funded(alice)
    found = outcome(alice, alice.post("/transactions/transfer", body(to_user_id=bob.id, description="Zu\u0308rich")))
    assert found["description"] == "Z\u00fcrich"


def test_every_step_leaves_its_event_and_the_act_its_audit_row(app, alice, bob, funded, outcome):
    from sqlalchemy import text

    from bank.db import reader

    funded(alice)
    found = outcome(alice, alice.post("/transactions/transfer", body(to_user_id=bob.id), headers={"X-Request-ID": "order-4711"}))
    with app.app_context(), reader() as session:
        events = session.execute(
            text("SELECT version, type, actor_id::text, request_id, data FROM events WHERE stream_id = :id ORDER BY version"),
            {"id": found["id"]},
        ).all()
        audit = session.execute(
            text("SELECT action, actor_id::text, request_id, address, details FROM audit_logs WHERE entity_id = :id"), {"id": found["id"]}
        ).all()
    assert [(event.version, event.type, event.request_id) for event in events] == [
        (1, "TransactionSubmitted", "order-4711"),
        (2, "TransactionCompleted", "order-4711"),
    ]
    assert events[0].actor_id == alice.id
    assert events[0].data["amount"] == 1234
    entries = [(entry["account_id"], entry["version"], int(entry["amount"].replace(".", ""))) for entry in found["entries"]]
    assert sorted(tuple(entry[:3]) for entry in events[1].data["entries"]) == sorted(entries)
    assert audit == [("transaction.transfer", alice.id, "order-4711", "127.0.0.1", {"amount": 1234, "currency": "USD"})]


def test_the_trace_of_the_request_is_on_every_event_that_comes_of_it(app, alice, bob, funded, outcome):
    from sqlalchemy import text

    from bank.db import reader

    funded(alice)

    def traced(who, path, trace, body):
        headers = {"traceparent": f"00-{trace * 32}-{'1' * 16}-01"}
        return outcome(who, who.post(f"/transactions/{path}", body, headers=headers))

    def traces(found):
        with app.app_context(), reader() as session:
            query = text("SELECT type, trace_id FROM events WHERE stream_id = :id ORDER BY version")
            return [tuple(row) for row in session.execute(query, {"id": found["id"]})]

    posted = traced(alice, "transfer", "a", body(to_user_id=bob.id))
    refused = traced(alice, "transfer", "b", body(to_user_id=bob.id, amount="1000000.00"))
    assert refused["status"] == "failed"
    assert traces(refused) == [("TransactionSubmitted", "b" * 32), ("TransactionFailed", "b" * 32)]
    back = traced(bob, f"{posted['id']}/rollback", "c", {"reason": "by mistake"})
    assert traces(back) == [("TransactionSubmitted", "c" * 32), ("TransactionCompleted", "c" * 32)]
    # What became of it later was asked for by another request.
    assert traces(posted) == [
        ("TransactionSubmitted", "a" * 32),
        ("TransactionCompleted", "a" * 32),
        ("TransactionRolledBack", "c" * 32),
    ]
