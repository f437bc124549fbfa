"""Opening, reading, changing and closing accounts."""

import pytest
from sqlalchemy import text

from bank.db import reader

OWNER_CHANGES = {"name": "Household"}
STAFF_CHANGES = [{"status": "frozen"}, {"overdraft_limit": "50.00"}, {"name": "x", "status": "closed"}]


def test_a_new_account_is_empty_and_active(alice):
    response = alice.post("/accounts", {"currency": "USD", "name": "Household"})
    assert response.status_code == 201
    account = response.json
    assert response.headers["Location"] == f"/api/v1/accounts/{account['id']}"
    assert {name: value for name, value in account.items() if name not in ("id", "created_at")} == {
        "user_id": alice.id,
        "currency": "USD",
        "name": "Household",
        "status": "active",
        "balance": "0.00",
        "available": "0.00",
        "held": "0.00",
        "overdraft_limit": "0.00",
        "version": 0,
    }
    assert alice.get(f"/accounts/{account['id']}").json == account


@pytest.mark.parametrize(("currency", "zero"), [("JPY", "0"), ("USD", "0.00"), ("BHD", "0.000")])
def test_amounts_have_all_decimals_of_the_currency(alice, currency, zero):
    account = alice.open_account(currency)
    assert {account[name] for name in ("balance", "available", "held", "overdraft_limit")} == {zero}


def test_the_first_account_in_a_currency_is_the_default_of_that_currency(alice, bob, funded, outcome_of):
    first, _, euros = alice.open_account(), alice.open_account(), alice.open_account("EUR")
    funded(bob)
    funded(bob, "100.00", "EUR")
    for currency, default in (("USD", first), ("EUR", euros)):
        found = outcome_of(bob, bob.post("/transactions/transfer", {"to_user_id": alice.id, "amount": "1.00", "currency": currency}))
        assert found["to_account_id"] == default["id"]


def test_when_the_default_is_closed_money_opens_another(alice, bob, teller, funded, outcome_of):
    default = alice.open_account()
    assert teller.patch(f"/accounts/{default['id']}", {"status": "closed"}).status_code == 200
    funded(bob)
    found = outcome_of(bob, bob.post("/transactions/transfer", {"to_user_id": alice.id, "amount": "1.00", "currency": "USD"}))
    assert found["status"] == "completed"
    assert found["to_account_id"] != default["id"]


def test_lists_hold_every_account_once_oldest_first(alice):
    accounts = [alice.open_account(currency)["id"] for currency in ("USD", "EUR", "USD", "CHF", "USD")]
    seen, cursor = [], ""
    while True:
        response = alice.get(f"/accounts?limit=2{cursor}").json
        seen += [row["id"] for row in response["data"]]
        if not response["has_more"]:
            break
        cursor = f"&cursor={response['next_cursor']}"
        # One that is opened meanwhile comes last and moves none.
        if len(accounts) == 5:
            accounts.append(alice.open_account("GBP")["id"])
    assert seen == accounts
    assert [row["id"] for row in alice.get("/accounts?currency=USD").json["data"]] == [accounts[0], accounts[2], accounts[4]]


def test_lists_can_be_narrowed_by_status(alice, teller):
    first, second = alice.open_account()["id"], alice.open_account()["id"]
    teller.patch(f"/accounts/{second}", {"status": "frozen"})
    assert [row["id"] for row in alice.get("/accounts?status=frozen").json["data"]] == [second]
    assert [row["id"] for row in alice.get("/accounts?status=active").json["data"]] == [first]
    assert alice.get("/accounts?status=closed").json["data"] == []


def test_a_name_can_be_given_and_taken_away(alice):
    account = alice.open_account()["id"]
    assert alice.patch(f"/accounts/{account}", {"name": "Zu\u0308rich"}).json["name"] == "Z\u00fcrich"
    assert alice.patch(f"/accounts/{account}", {"name": None}).json["name"] is None


def test_a_change_is_an_event_and_an_audit_row_and_no_change_is_none(app, alice, teller):
    account = alice.open_account()["id"]

    def written():
        with app.app_context(), reader() as session:
            events = session.execute(
                text("SELECT version, type, data, actor_id::text FROM events WHERE stream_id = :id ORDER BY version"), {"id": account}
            ).all()
            audit = session.execute(
                text("SELECT action, actor_id::text, details FROM audit_logs WHERE entity_id = :id ORDER BY id"), {"id": account}
            ).all()
        return events, audit

    teller.patch(f"/accounts/{account}", {"overdraft_limit": "50.00", "status": "frozen"})
    teller.patch(f"/accounts/{account}", {"overdraft_limit": "50.00", "status": "frozen"})
    events, audit = written()
    assert [(event.version, event.type, event.actor_id) for event in events] == [
        (1, "AccountOpened", alice.id),
        (2, "AccountChanged", teller.id),
    ]
    assert events[1].data == {"name": None, "status": "frozen", "overdraft_limit": 5000}
    assert [(row.action, row.actor_id) for row in audit] == [("account.opened", alice.id), ("account.changed", teller.id)]
    assert audit[1].details == {"overdraft_limit": 5000, "status": "frozen"}


def test_the_overdraft_adds_to_what_can_be_spent(alice, teller, funded):
    account = funded(alice, "10.00")
    changed = teller.patch(f"/accounts/{account}", {"overdraft_limit": "50.00"}).json
    assert (changed["overdraft_limit"], changed["balance"], changed["available"]) == ("50.00", "10.00", "60.00")
    assert teller.patch(f"/accounts/{account}", {"overdraft_limit": 0}).json["available"] == "10.00"


def test_a_limit_cannot_be_set_under_what_is_owed(alice, teller, funded, outcome_of):
    account = funded(alice, None)
    teller.patch(f"/accounts/{account}", {"overdraft_limit": "50.00"})
    outcome_of(alice, alice.post("/transactions/debit", {"account_id": account, "amount": "30.00", "currency": "USD"}))
    response = teller.patch(f"/accounts/{account}", {"overdraft_limit": "29.99"})
    assert (response.status_code, response.json["code"]) == (409, "balance_below_limit")
    assert teller.patch(f"/accounts/{account}", {"overdraft_limit": "30.00"}).json["available"] == "0.00"


@pytest.mark.parametrize("amount", ["1.00", "-1.00"])
def test_an_account_that_holds_money_or_owes_it_cannot_be_closed(alice, teller, funded, outcome_of, amount):
    account = funded(alice, "1.00")
    if amount.startswith("-"):
        teller.patch(f"/accounts/{account}", {"overdraft_limit": "5.00"})
        outcome_of(alice, alice.post("/transactions/debit", {"account_id": account, "amount": "2.00", "currency": "USD"}))
    response = teller.patch(f"/accounts/{account}", {"status": "closed"})
    assert (response.status_code, response.json["code"]) == (409, "balance_not_zero")
    assert alice.get(f"/accounts/{account}").json["status"] == "active"


def test_a_closed_account_stays_as_it_is(alice, teller):
    account = alice.open_account()["id"]
    assert teller.patch(f"/accounts/{account}", {"status": "closed"}).json["status"] == "closed"
    for change in ({"status": "active"}, {"status": "frozen"}, {"overdraft_limit": "1.00"}, {"name": "x"}):
        response = teller.patch(f"/accounts/{account}", change)
        assert (response.status_code, response.json["code"]) == (409, "account_closed")
    assert teller.patch(f"/accounts/{account}", {"status": "closed"}).status_code == 200
    assert alice.get(f"/accounts/{account}").json["status"] == "closed"


def test_a_change_asked_for_by_the_etag_that_was_read_is_made_once(alice):
    account = alice.open_account()["id"]
    etag = alice.get(f"/accounts/{account}").headers["ETag"]
    first = alice.patch(f"/accounts/{account}", {"name": "first"}, headers={"If-Match": etag})
    assert first.status_code == 200
    assert first.headers["ETag"] not in ("", etag)
    stale = alice.patch(f"/accounts/{account}", {"name": "second"}, headers={"If-Match": etag})
    assert (stale.status_code, stale.json["code"]) == (412, "precondition_failed")
    assert alice.get(f"/accounts/{account}").json["name"] == "first"
    assert alice.patch(f"/accounts/{account}", {"name": "third"}, headers={"If-Match": f'"x", {first.headers["ETag"]}'}).status_code == 200
    assert alice.patch(f"/accounts/{account}", {"name": "fourth"}, headers={"If-Match": "*"}).status_code == 200


@pytest.mark.parametrize("if_match", ['"x"', 'W/"1-0"', "x", '"', ",", '""', "W/", ""])
def test_an_if_match_that_names_no_version_of_it_never_lets_a_change_through(alice, if_match):
    account = alice.open_account()["id"]
    response = alice.patch(f"/accounts/{account}", {"name": "x"}, headers={"If-Match": if_match})
    assert response.status_code == 412, if_match
    assert alice.get(f"/accounts/{account}").json["name"] is None


def test_a_posting_changes_the_etag_too(alice, funded, post_all):
    account = funded(alice)
    etag = alice.get(f"/accounts/{account}").headers["ETag"]
    assert alice.get(f"/accounts/{account}", headers={"If-None-Match": etag}).status_code == 304
    alice.post("/transactions/credit", {"account_id": account, "amount": "1.00", "currency": "USD"})
    post_all()
    assert alice.get(f"/accounts/{account}", headers={"If-None-Match": etag}).status_code == 200
    assert alice.patch(f"/accounts/{account}", {"name": "x"}, headers={"If-Match": etag}).status_code == 412


@pytest.mark.parametrize(
    ("who", "opens", "reads", "renames", "rules"),
    [
        ("alice", 201, 200, 200, 403),
        ("bob", 404, 404, 404, 404),
        ("teller", 201, 200, 200, 200),
        ("auditor", 403, 200, 403, 403),
        ("admin", 201, 200, 200, 200),
    ],
)
def test_who_may_open_read_rename_and_rule_an_account_of_alice(alice, request, who, opens, reads, renames, rules):
    account = alice.open_account()["id"]
    caller = request.getfixturevalue(who)
    opened = caller.post("/accounts", {"currency": "EUR", "user_id": alice.id})
    assert opened.status_code == opens
    if opens == 201:
        assert opened.json["user_id"] == alice.id
    assert caller.get(f"/accounts/{account}").status_code == reads
    assert caller.get(f"/accounts/{account}/entries").status_code == reads
    assert caller.patch(f"/accounts/{account}", OWNER_CHANGES).status_code == renames
    for change in STAFF_CHANGES:
        assert caller.patch(f"/accounts/{account}", change).status_code == rules, change
    listed = caller.get(f"/accounts?user_id={alice.id}")
    assert listed.status_code == (403 if who == "bob" else 200)
    assert who != "alice" or listed.json == caller.get("/accounts").json


@pytest.mark.parametrize("change", STAFF_CHANGES)
def test_what_a_customer_may_not_change_stays_as_it_was(alice, change):
    account = alice.open_account()
    assert alice.patch(f"/accounts/{account['id']}", change).status_code == 403
    assert alice.get(f"/accounts/{account['id']}").json == account


def test_a_customer_names_no_other_user(alice, bob):
    assert alice.get(f"/accounts?user_id={bob.id}").status_code == 403
    assert alice.post("/accounts", {"currency": "USD", "user_id": bob.id}).status_code == 404
    assert bob.get("/accounts").json["data"] == []


def test_no_account_is_opened_for_a_deleted_user(bob, teller, admin):
    assert admin.request("DELETE", f"/users/{bob.id}").status_code == 204
    assert teller.post("/accounts", {"currency": "USD", "user_id": bob.id}).status_code == 404


def test_a_role_that_was_taken_away_holds_from_the_next_request_on(alice, teller, admin):
    account = alice.open_account()["id"]
    assert teller.get(f"/accounts/{account}").status_code == 200
    assert admin.request("PUT", f"/users/{teller.id}", json={"role": "customer"}).status_code == 200
    assert teller.get(f"/accounts/{account}").status_code == 404
