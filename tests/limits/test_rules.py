"""Rules at work: denied, held until somebody else approves, or marked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Thread
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.audit import outcomes
from bank.db import reader, unit_of_work
from bank.processing.counters import BankSeen, counters
from bank.processing.expiry import expire_holds
from bank.processing.queue import bells
from bank.processing.tasks import sweep
from bank.transactions import review
from bank.users.models import Role
from tests.conftest import Person
from tests.contract.problems import check_problem
from tests.limits.test_limits import failures
from tests.proof.conftest import last_position, seal_up_to

LARGE = "transaction.amount >= 50000"


@pytest.fixture
def held(set_rule, pay, alice: Person, accounts: tuple[str, str]) -> dict[str, Any]:
    """A transfer of Alice's that a rule has held."""
    set_rule(LARGE, "review", "Large transfers")
    return dict(pay(alice, *accounts, "600.00"))


@pytest.fixture
def balances(app: Flask) -> Callable[[str], tuple[int, int]]:
    """Amount and held of an account, in minor units."""

    def read(account_id: str) -> tuple[int, int]:
        with app.app_context(), reader() as session:
            row = session.execute(text("SELECT amount, held FROM balances WHERE account_id = CAST(:id AS uuid)"), {"id": account_id}).one()
            return row[0], row[1]

    return read


def refused(response: TestResponse, status: int, code: str) -> None:
    assert check_problem(response, status)["code"] == code


def rules_of(explanation: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in explanation["checks"] if check["check"] == "rule"]


def test_a_rule_denies_what_it_is_true_of(alice, accounts, set_rule, pay, explain):
    ours, theirs = accounts
    rule = set_rule('transaction.type == "debit" && transaction.amount > 1000', "deny", "No large debits")
    tried = [pay(alice, ours, target, amount) for target, amount in ((None, "10.01"), (None, "10.00"), (theirs, "10.01"))]
    assert failures(*tried) == ["rule_denied", None, None]
    told = {"check": "rule", "id": rule["id"], "version": 1, "name": "No large debits", "effect": "deny"}
    assert [rules_of(explain(alice, each)) for each in tried] == [[{**told, "outcome": each}] for each in ("denied", "passed", "passed")]


@pytest.mark.parametrize(
    "expression",
    [
        'transaction.description == "for rent" && transaction.reference == "R-1" && transaction.metadata.order == "7"',
        "transaction.hour >= 0 && transaction.hour <= 23 && transaction.weekday in [1, 2, 3, 4, 5, 6, 7] && transaction.amount == 100",
        "account.balance == 100000 && account.available == 100000 && account.held == 0 && account.overdraft_limit == 0",
        'user.role == "customer" && user.username.startsWith("alice-") && user.age_days == 0 && user.id != transaction.to_user_id',
        'transaction.currency == "USD" && transaction.hold == false && account.currency == "USD"',
        "account.id == transaction.from_account_id && account.id != transaction.to_account_id",
        "size(transaction.to_account_id) == 36 && size(transaction.to_user_id) == 36",
    ],
)
def test_a_rule_sees_the_transaction_the_account_and_the_user(alice, accounts, set_rule, pay, expression):
    set_rule(expression, "deny")
    told = {"description": "for rent", "reference": "R-1", "metadata": {"order": "7"}}
    assert failures(pay(alice, *accounts, "1.00", **told)) == ["rule_denied"]


def test_a_rule_that_comes_to_no_answer_is_taken_to_be_true_and_only_staff_read_why(alice, auditor, accounts, set_rule, pay, explain):
    set_rule('transaction.metadata.order == "7"', "deny")
    stopped = pay(alice, *accounts, "1.00")
    assert failures(stopped, pay(alice, *accounts, "1.00", metadata={"order": "8"})) == ["rule_denied", None]
    assert [rules_of(explain(who, stopped))[0].get("error") for who in (alice, auditor)] == [None, "KeyError: 'order'"]


def test_a_rule_that_this_version_cannot_read_stops_what_it_is_asked_about_and_no_lane(
    app, alice, auditor, accounts, set_rule, pay, explain
):
    rule = set_rule("transaction.amount > 100", "deny")
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE rules SET expression = 'transaction.mount > 100' WHERE id = CAST(:id AS uuid)"), {"id": rule["id"]})
    denied = pay(alice, *accounts, "1.00")
    assert failures(denied) == ["rule_denied"]
    assert "no `mount`" in rules_of(explain(auditor, denied))[0]["error"]


def test_the_sweeper_sees_how_long_the_oldest_review_waits(app, held) -> None:
    seen: list[object] = []
    counters.listen("reviews", seen.append)
    with app.app_context():
        with unit_of_work() as session:
            session.execute(
                text("UPDATE transactions SET created_at = created_at - interval '1 hour' WHERE id = CAST(:id AS uuid)"),
                {"id": held["id"]},
            )
        sweep()
    [bank] = [each for each in seen if isinstance(each, BankSeen)]
    assert bank.open_reviews >= 1 and bank.oldest_review_seconds >= 3600


def test_a_limit_comes_before_a_rule_and_funds_before_both(alice, accounts, set_limit, set_rule, pay):
    set_rule("true", "deny")
    assert failures(pay(alice, *accounts, "5000.00"), pay(alice, *accounts, "10.00")) == ["insufficient_funds", "rule_denied"]
    set_limit(account_id=accounts[0], kind="single", amount="5.00")
    assert failures(pay(alice, *accounts, "10.00")) == ["limit_exceeded"]


def test_a_rule_that_is_switched_off_is_not_asked(alice, chief, accounts, set_rule, pay):
    rule = set_rule("true", "deny")
    assert chief.patch(f"/rules/{rule['id']}", {"enabled": False}).json["version"] == 2
    assert failures(pay(alice, *accounts, "10.00")) == [None]


def test_what_a_rule_flags_goes_through_and_is_in_the_audit_log(app, alice, auditor, accounts, set_rule, pay, explain):
    rule = set_rule("transaction.amount > 100", "flag", "Watch")
    plain, flagged = pay(alice, *accounts, "1.00"), pay(alice, *accounts, "1.01")
    assert failures(plain, flagged) == [None, None]
    assert [rules_of(explain(alice, each))[0]["outcome"] for each in (plain, flagged)] == ["passed", "flagged"]
    with app.app_context(), unit_of_work() as session:
        last = session.execute(text("SELECT max(position) FROM events")).scalar_one()
        outcomes.take(session, last - 4, last)
    rows = auditor.get(f"/audit-logs?entity_type=transaction&entity_id={flagged['id']}&action=transaction.flagged").json["data"]
    assert [row["details"]["checks"] for row in rows] == [[[rule["id"], 1, "flagged", None]]]
    assert not auditor.get(f"/audit-logs?entity_type=transaction&entity_id={plain['id']}&action=transaction.flagged").json["data"]


def test_a_hold_that_a_rule_flags_is_in_the_audit_log_too(app, alice, auditor, accounts, set_rule, pay):
    rule = set_rule("transaction.amount > 100", "flag", "Watch")
    hold = pay(alice, *accounts, "1.01", hold=True)
    assert (hold["status"], hold["review"]) == ("held", None)
    with app.app_context(), unit_of_work() as session:
        last = session.execute(text("SELECT max(position) FROM events")).scalar_one()
        outcomes.take(session, last - 1, last)
    rows = auditor.get(f"/audit-logs?entity_type=transaction&entity_id={hold['id']}&action=transaction.flagged").json["data"]
    assert [row["details"]["checks"] for row in rows] == [[[rule["id"], 1, "flagged", None]]]


def test_what_is_to_be_reviewed_is_held_until_another_admin_approves(alice, bob, admin, accounts, held, balances, explain, pay):
    ours, theirs = accounts
    assert (held["status"], held["review"], held["held_amount"], held["completed_at"]) == ("held", "open", "600.00", None)
    assert balances(ours) == (100_000, 60_000)
    assert failures(pay(alice, ours, theirs, "400.01")) == ["insufficient_funds"]
    assert explain(alice, held)["review"] == {"status": "open", "decided_at": None, "decided_by": None}
    found = admin.get("/transactions/history?status=held&review=open").json["data"]
    # Those of others may wait as well.
    assert [each["id"] for each in found if each["from_account_id"] == ours] == [held["id"]]
    assert {(each["status"], each["review"]) for each in found} == {("held", "open")}
    approved = admin.post(f"/transactions/{held['id']}/approve", {"reason": "Called back"})
    assert (approved.status_code, approved.json["status"], approved.json["review"]) == (200, "completed", "approved")
    assert (balances(ours), balances(theirs)) == ((40_000, 0), (60_000, 0))
    assert approved.json == {name: value for name, value in alice.get(f"/transactions/{held['id']}").json.items() if name != "entries"}
    told = explain(admin, held)
    assert told["review"] == {"status": "approved", "decided_at": told["review"]["decided_at"], "decided_by": admin.id}
    assert rules_of(told)[0]["outcome"] == "review"
    # Who works at the bank is not the customer's to know.
    assert explain(alice, held)["review"]["decided_by"] is None
    # It is as any other from here on.
    assert bob.post(f"/transactions/{held['id']}/rollback?dry_run=true", {"reason": "back"}).json["status"] == "completed"


def test_an_exchange_is_approved_at_the_rate_that_it_was_asked_for_at(alice, admin, accounts, set_rule, pay, balances):
    def publish(rate: str) -> None:
        assert admin.post("/fx/rates", {"currency": "USD", "rate": rate}).status_code == 201

    publish("2.00")
    euros = alice.open_account("EUR")["id"]
    set_rule("transaction.amount > 100", "review")
    first, second = pay(alice, accounts[0], euros, "40.01", to_currency="EUR"), pay(alice, accounts[0], euros, "10.00", to_currency="EUR")
    assert (first["status"], first["review"], balances(accounts[0])) == ("held", "open", (100_000, 5_001))
    publish("4.00")
    approved = admin.post(f"/transactions/{first['id']}/approve", {})
    assert (approved.status_code, approved.json["status"], approved.json["to_amount"]) == (200, "completed", first["to_amount"])
    assert admin.post(f"/transactions/{second['id']}/reject", {}).json["status"] == "failed"
    assert (balances(accounts[0]), balances(euros)) == ((95_999, 0), (int(first["to_amount"].replace(".", "")), 0))
    entries = alice.get(f"/transactions/{first['id']}").json["entries"]
    assert sorted((entry["currency"], entry["amount"]) for entry in entries) == [
        ("EUR", f"-{first['to_amount']}"),
        ("EUR", first["to_amount"]),
        ("USD", "-40.01"),
        ("USD", "40.01"),
    ]


def test_what_is_rejected_fails_and_is_free(alice, admin, accounts, held, balances, pay):
    rejected = admin.post(f"/transactions/{held['id']}/reject", {})
    assert (rejected.json["status"], rejected.json["failure_code"], rejected.json["review"]) == ("failed", "rule_denied", "rejected")
    assert balances(accounts[0]) == (100_000, 0)
    for path in ("approve", "reject"):
        refused(admin.post(f"/transactions/{held['id']}/{path}", {}), 409, "not_under_review")


def test_the_same_key_gives_the_first_answer_again_and_a_dry_run_ends_nothing(alice, admin, person, accounts, held, balances):
    path, key = f"/transactions/{held['id']}/approve", {"headers": {"Idempotency-Key": "a-1"}}
    for way, status in (("approve", "completed"), ("reject", "failed")):
        assert admin.post(f"/transactions/{held['id']}/{way}?dry_run=true", {}).json["status"] == status
    assert balances(accounts[0]) == (100_000, 60_000)
    first = admin.post(path, {}, **key)
    again = admin.post(path, {}, **key)
    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")
    assert admin.post(path, {"reason": "another"}, **key).json["code"] == "idempotency_key_reused"
    refused(person("other", Role.ADMIN).post(path, {}, **key), 409, "not_under_review")
    assert balances(accounts[0]) == (40_000, 0)


def test_one_key_for_two_payments_at_once_ends_one_of_them(alice, bob, admin, funded, set_rule, pay, monkeypatch):
    set_rule(LARGE, "review")
    # They have no account in common, so neither waits for the other's locks.
    both = [pay(alice, funded(alice, "1000.00"), funded(bob, None), "600.00") for _ in range(2)]
    at_once, end = Barrier(2), review._end

    def together(*arguments: Any) -> None:
        at_once.wait(timeout=20)
        end(*arguments)

    monkeypatch.setattr(review, "_end", together)

    def approve(held: dict[str, Any]) -> TestResponse:
        return admin.post(f"/transactions/{held['id']}/approve", {}, headers={"Idempotency-Key": "a-2"})

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(approve, both), key=lambda answer: answer.status_code)
    assert answers[0].status_code == 200
    assert (answers[1].status_code, answers[1].json["code"]) == (422, "idempotency_key_reused")


def test_a_receipt_keeps_closed_what_the_payer_had_used(alice, bob, auditor, accounts, set_limit, pay, app):
    set_limit(account_id=accounts[0], kind="sum", window="day", amount="10.00")
    stopped = pay(alice, *accounts, "10.01")
    seal_up_to(app, last_position(app))
    for who, shown in ((bob, False), (auditor, True)):
        events = who.get(f"/transactions/{stopped['id']}/receipt").json["events"]
        assert [event["data"] is not None for event in events] == [True, shown]


def test_a_debit_is_reviewed_as_a_transfer_is(alice, admin, accounts, set_rule, pay, balances):
    set_rule(LARGE, "review")
    held = pay(alice, accounts[0], None, "600.00")
    assert (held["status"], balances(accounts[0])) == ("held", (100_000, 60_000))
    assert admin.post(f"/transactions/{held['id']}/approve", {}).json["status"] == "completed"
    assert balances(accounts[0]) == (40_000, 0)


def test_who_asked_and_who_pays_or_receives_does_not_approve(person, funded, accounts, set_rule, pay, bob, admin):
    maker, payer = person("maker", Role.ADMIN), person("payer", Role.ADMIN)
    source = funded(payer, "1000.00")
    set_rule(LARGE, "review")
    held = pay(maker, source, accounts[1], "600.00")
    assert held["status"] == "held"
    for who in (maker, payer):
        for path in ("approve", "reject"):
            refused(who.post(f"/transactions/{held['id']}/{path}", {}), 403, "same_person")
    refused(bob.post(f"/transactions/{held['id']}/approve", {}), 403, "forbidden")
    assert admin.post(f"/transactions/{held['id']}/approve", {}).status_code == 200


def test_what_no_rule_had_held_cannot_be_approved(alice, bob, admin, accounts, pay):
    hold, paid = pay(alice, *accounts, "1.00", hold=True), pay(alice, *accounts, "1.00")
    for transaction_id in (hold["id"], paid["id"]):
        refused(admin.post(f"/transactions/{transaction_id}/approve", {}), 409, "not_under_review")
    refused(admin.post("/transactions/019b2f6e-8a00-7000-8000-000000000001/approve", {}), 404, "not_found")


def test_what_the_ledger_would_refuse_stays_under_review(alice, admin, accounts, held, balances):
    assert admin.patch(f"/accounts/{accounts[1]}", {"status": "frozen"}).status_code == 200
    refused(admin.post(f"/transactions/{held['id']}/approve", {}), 409, "not_approvable")
    assert alice.get(f"/transactions/{held['id']}").json["review"] == "open"
    assert balances(accounts[0]) == (100_000, 60_000)
    assert admin.patch(f"/accounts/{accounts[1]}", {"status": "active"}).status_code == 200
    assert admin.post(f"/transactions/{held['id']}/approve", {}).status_code == 200


def test_an_approved_hold_is_a_hold_and_before_that_is_neither_taken_nor_let_go(
    alice, bob, admin, accounts, set_rule, pay, post_all, balances
):
    set_rule(LARGE, "review")
    hold = pay(alice, *accounts, "600.00", hold=True)
    assert (hold["status"], hold["review"]) == ("held", "open")
    for path in ("capture", "void"):
        refused(bob.post(f"/transactions/{hold['id']}/{path}", {}), 409, "not_held")
    approved = admin.post(f"/transactions/{hold['id']}/approve", {})
    assert (approved.json["status"], approved.json["review"], approved.json["held_amount"]) == ("held", "approved", "600.00")
    bob.post(f"/transactions/{hold['id']}/capture", {"amount": "100.00"})
    post_all()
    assert (balances(accounts[0]), balances(accounts[1])) == ((90_000, 50_000), (10_000, 0))


def test_a_hold_under_review_ends_with_its_time_and_a_payment_under_review_never(
    app, alice, admin, accounts, set_rule, pay, balances, funded
):
    set_rule(LARGE, "review")
    other = funded(alice, "1000.00")
    soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    hold = pay(alice, other, accounts[1], "600.00", hold=True, expires_at=soon)
    payment = pay(alice, *accounts, "600.00")
    with app.app_context():
        while datetime.now(UTC) <= datetime.fromisoformat(soon) or not expire_holds():
            pass
    assert alice.get(f"/transactions/{hold['id']}").json["status"] == "voided"
    refused(admin.post(f"/transactions/{hold['id']}/approve", {}), 409, "not_under_review")
    assert (balances(other), balances(accounts[0])) == ((100_000, 0), (100_000, 60_000))
    assert admin.post(f"/transactions/{payment['id']}/reject", {}).status_code == 200


def test_what_would_have_to_be_reviewed_takes_an_atomic_batch_with_it(alice, accounts, set_rule, post_all):
    set_rule(LARGE, "review")
    ours, theirs = accounts
    items = [
        {"type": "transfer", "from_account_id": ours, "to_account_id": theirs, "amount": amount, "currency": "USD"}
        for amount in ("1.00", "500.00")
    ]
    for mode, expected in (
        ("atomic", [("failed", "batch_refused"), ("failed", "rule_denied")]),
        ("independent", [("completed", None), ("held", None)]),
    ):
        batch = alice.post("/transactions/batch", {"mode": mode, "transactions": items}).json
        post_all()
        found = alice.get(f"/transactions/batch/{batch['id']}").json["data"]
        assert [(each["status"], each["failure_code"]) for each in found] == expected


def test_who_waits_hears_that_it_is_not_final(app, alice, accounts, set_rule, post_all, monkeypatch):
    monkeypatch.setattr(bells, "ring", lambda lane, **_: Thread(target=post_all).start() or True)
    set_rule(LARGE, "review")
    body = {"from_account_id": accounts[0], "to_account_id": accounts[1], "amount": "600.00", "currency": "USD"}
    answer = alice.post("/transactions/transfer", body, headers={"Prefer": "wait=20"})
    assert (answer.status_code, answer.json["status"], answer.json["review"]) == (202, "held", "open")


@pytest.mark.parametrize("ways", [("approve", "approve"), ("approve", "reject"), ("reject", "reject")])
def test_of_two_who_decide_at_once_one_does(app, person, accounts, held, balances, ways):
    admins = [person("judge", Role.ADMIN) for _ in range(4)]

    def decide(number: int) -> Any:
        return admins[number].post(f"/transactions/{held['id']}/{ways[number % 2]}", {})

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(decide, range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    won = next(answer.json for answer in answers if answer.status_code == 200)
    assert balances(accounts[0]) == ((40_000, 0) if won["status"] == "completed" else (100_000, 0))
    with app.app_context(), reader() as session:
        versions = session.execute(
            text("SELECT version, type FROM events WHERE stream_id = CAST(:id AS uuid) ORDER BY 1"), {"id": held["id"]}
        )
        types = [row.type for row in versions]
    end = ["TransactionApproved", "TransactionCompleted"] if won["status"] == "completed" else ["TransactionRejected", "TransactionFailed"]
    assert types == ["TransactionSubmitted", "TransactionHeld", *end]
