"""What the ledger decided against, and what was taken back, is found in the audit log: a follower of the log puts it there."""

from typing import Any

import pytest

from bank.audit import outcomes
from bank.followers.runner import Inside, register, step
from tests.conftest import Person
from tests.proof.conftest import last_position


@pytest.fixture
def caught_up(app):
    """Let the follower take in everything that there is."""

    def catch_up() -> None:
        last = last_position(app)
        with app.app_context():
            position = register("audit")
            while position < last:
                position = step(Inside("audit", outcomes.take), last)

    return catch_up


def found(auditor: Person, transaction_id: str) -> list[dict[str, Any]]:
    return auditor.get(f"/audit-logs?entity_type=transaction&entity_id={transaction_id}").json["data"]


def test_a_refusal_and_a_rollback_are_recorded_once_with_their_request_and_time(
    alice, bob, admin, auditor, funded, post_all, caught_up, monkeypatch
) -> None:
    monkeypatch.setattr(outcomes, "_PART", 3)
    source, target = funded(alice, "10.00"), funded(bob, None)
    caught_up()
    body = {"from_account_id": source, "to_account_id": target, "currency": "USD"}
    refused = alice.post("/transactions/transfer", {**body, "amount": "10.01"}, headers={"X-Request-ID": "too-much"}).json["id"]
    moved = alice.post("/transactions/transfer", {**body, "amount": "4.00"}).json["id"]
    post_all()
    admin.post(f"/transactions/{moved}/rollback", {"reason": "by mistake", "amount": "1.00"}, headers={"X-Request-ID": "back"})
    post_all()
    for _ in range(2):
        caught_up()

    row, asked = found(auditor, refused)
    assert (row["action"], asked["action"]) == ("transaction.failed", "transaction.transfer")
    told = {"failure_code": "insufficient_funds", "checks": [["funds", None, "denied", 1000]]}
    assert (row["details"], row["actor_id"], row["request_id"]) == (told, None, "too-much")
    assert row["created_at"] == alice.get(f"/transactions/{refused}").json["completed_at"]

    row, _ = found(auditor, moved)
    assert (row["action"], row["request_id"]) == ("transaction.rolled_back", "back")
    assert (row["details"]["amount"], row["details"]["rolled_back_amount"]) == (100, 100)

    listed = auditor.get("/audit-logs?action=transaction.failed&limit=1").json["data"]
    assert [each["entity_id"] for each in listed] == [refused]
