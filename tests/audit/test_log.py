"""Every change of state leaves an event in its commit, and every act of a person an audit row."""

from collections.abc import Callable

import pytest

from tests.conftest import Person


def test_a_transfer_leaves_its_events_in_order(alice: Person, bob: Person, auditor: Person, post_all: Callable[[], None]) -> None:
    account = alice.open_account()
    alice.post("/transactions/credit", {"account_id": account["id"], "amount": "5.00", "currency": "USD"})
    transfer = alice.post(
        "/transactions/transfer",
        {"to_username": bob.username, "amount": "2.00", "currency": "USD"},
        headers={"X-Request-ID": "told-by-alice"},
    ).json
    post_all()
    events = auditor.get(f"/events?stream_id={transfer['id']}").json["data"]
    assert [(event["version"], event["type"]) for event in events] == [
        (1, "TransactionSubmitted"),
        (2, "TransactionCompleted"),
    ]
    assert events[0]["actor_id"] == alice.id
    assert {event["request_id"] for event in events} == {"told-by-alice"}
    assert [entry[2] for entry in events[1]["data"]["entries"]] == [-200, 200]


def test_a_rollback_leaves_events_on_both_streams(alice: Person, bob: Person, auditor: Person, post_all: Callable[[], None]) -> None:
    account = alice.open_account()
    alice.post("/transactions/credit", {"account_id": account["id"], "amount": "5.00", "currency": "USD"})
    transfer = alice.post("/transactions/transfer", {"to_username": bob.username, "amount": "2.00", "currency": "USD"}).json
    post_all()
    for amount in ("0.50", "1.50"):
        bob.post(f"/transactions/{transfer['id']}/rollback", {"amount": amount, "reason": "too much"})
    post_all()
    events = auditor.get(f"/events?stream_id={transfer['id']}").json["data"]
    marks = [event["data"]["rolled_back_amount"] for event in events if event["type"] == "TransactionRolledBack"]
    assert marks == [50, 200]
    assert [event["version"] for event in events] == [1, 2, 3, 4]


def test_an_act_leaves_an_audit_row_with_who_what_and_from_where(alice: Person, auditor: Person) -> None:
    account = alice.open_account()
    alice.patch(f"/accounts/{account['id']}", {"name": "Rent"}, headers={"X-Request-ID": "renaming"})
    rows = auditor.get(f"/audit-logs?entity_type=account&entity_id={account['id']}").json["data"]
    assert [row["action"] for row in rows] == ["account.changed", "account.opened"]
    assert rows[0]["details"] == {"name": "Rent"}
    assert {(row["actor_id"], row["address"]) for row in rows} == {(alice.id, "127.0.0.1")}
    assert rows[0]["request_id"] == "renaming"


@pytest.mark.parametrize("path", ["/events", "/audit-logs"])
def test_the_logs_are_for_auditors_and_admins(path: str, alice: Person, teller: Person, auditor: Person, admin: Person) -> None:
    assert [person.get(path).status_code for person in (alice, teller, auditor, admin)] == [403, 403, 200, 200]


@pytest.mark.parametrize("path", ["/events", "/audit-logs"])
def test_pages_of_the_logs_hang_together(path: str, auditor: Person, alice: Person) -> None:
    for _ in range(3):
        alice.open_account()
    first = auditor.get(f"{path}?limit=2").json
    second = auditor.get(f"{path}?limit=2&cursor={first['next_cursor']}").json
    whole = auditor.get(f"{path}?limit=4").json["data"]
    assert path == "/audit-logs" or first["data"] + second["data"] == whole
    key = "position" if path == "/events" else "id"
    seen = [row[key] for row in first["data"] + second["data"]]
    assert seen == sorted(seen, reverse=path == "/audit-logs") and len(set(seen)) == 4
