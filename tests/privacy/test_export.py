"""All that the bank holds of a user, and nothing of anybody else's."""

import json
from collections import Counter
from typing import Any

from tests.conftest import PASSWORD, Person
from tests.privacy.conftest import House


def exported(who: Person, user_id: str) -> list[dict[str, Any]]:
    answer = who.get(f"/users/{user_id}/export")
    assert answer.status_code == 200, answer.json
    assert answer.mimetype == "application/x-ndjson"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{user_id}.ndjson"'
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_export_holds_each_thing_as_the_api_shows_it(house: House, monkeypatch: Any) -> None:
    # So that each kind has more than a page.
    monkeypatch.setattr("bank.privacy.export.PAGE", 2)
    ada, bob = house.customer("ada"), house.customer("bob")
    accounts = [ada.open_account(name=f"Purse {number}")["id"] for number in range(3)]
    theirs = bob.open_account()["id"]
    for number in range(3):
        credit = {"account_id": accounts[0], "amount": "10.00", "currency": "USD", "reference": f"credit-{number}"}
        assert ada.post("/transactions/credit", credit).status_code == 202
    house.post()
    transfer = {"from_account_id": accounts[0], "to_account_id": theirs, "amount": "1.00", "currency": "USD"}
    assert ada.post("/transactions/transfer", transfer).status_code == 202
    assert bob.post("/transactions/credit", {"account_id": theirs, "amount": "5.00", "currency": "USD"}).status_code == 202
    house.post()
    planned = [ada.post("/schedules", {"transfer": transfer, "run_at": "2099-01-31T08:00:00Z"}).json["id"] for _ in range(3)]
    assert ada.request("DELETE", f"/schedules/{planned[0]}").status_code == 204
    assert ada.client.post("/api/v1/auth/login", json={"username": ada.username, "password": PASSWORD}).status_code == 200

    guessing = {"username": ada.username, "password": "not that one at all"}
    assert ada.client.post("/api/v1/auth/login", json=guessing, environ_base={"REMOTE_ADDR": "192.0.2.66"}).status_code == 401
    former = ada.get("/auth/me").json["email"]
    assert ada.request("PUT", f"/users/{ada.id}", json={"email": f"{ada.username}@example.org"}).status_code == 200

    lines = exported(ada, ada.id)
    kinds: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line["data"])
    assert Counter(line["kind"] for line in lines) == {
        "user": 1, "login": 2, "account": 3, "entry": 4, "transaction": 4, "schedule": 3, "event": 2, "act": len(kinds["act"])
    }  # fmt: skip
    assert kinds["user"] == [ada.get(f"/users/{ada.id}").json]
    assert kinds["account"] == ada.get("/accounts").json["data"]
    assert kinds["transaction"] == ada.get("/transactions/history").json["data"]
    own = ada.get(f"/accounts/{accounts[0]}/entries").json["data"]
    assert kinds["entry"] == [{"account_id": accounts[0], **entry} for entry in own]
    assert {row["id"] for row in kinds["schedule"]} == {*planned}
    assert {"transaction.credit", "account.opened", "schedule.deleted", "login.began"} & {row["action"] for row in kinds["act"]} == {
        "transaction.credit", "account.opened", "schedule.deleted", "login.began"
    }  # fmt: skip
    assert {row["actor_id"] for row in kinds["act"]} == {ada.id, None}
    assert "192.0.2.66" in {row["address"] for row in kinds["act"] if row["action"] == "login.failed"}
    assert [event["data"]["email"] for event in kinds["event"]] == [former, f"{ada.username}@example.org"]
    assert "argon2" not in str(lines) and bob.username not in str(lines)
    by_admin = exported(house.admin, ada.id)
    assert [line for line in by_admin if line["data"].get("action") != "user.exported"] == lines
    (noted,) = [line["data"] for line in by_admin if line["data"].get("action") == "user.exported"]
    assert (noted["actor_id"], noted["address"]) == (house.admin.id, None)


def test_what_was_erased_is_in_no_export(house: House) -> None:
    ada = house.customer("ada")
    ada.open_account(name="Ada's nest egg")
    assert house.admin.post(f"/users/{ada.id}/erasure", {"current_password": PASSWORD}).status_code == 204
    lines = exported(house.admin, ada.id)
    assert Counter(line["kind"] for line in lines) == {"user": 1, "account": 1, "event": 3, "act": len(lines) - 5}
    assert ada.username not in str(lines) and "nest egg" not in str(lines)
