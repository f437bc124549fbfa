"""Every kind of limit, for whom it is, and what counts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bank.db import unit_of_work
from bank.events.types import Origin, TransactionSubmitted
from bank.ledger.system import lane_of
from bank.transactions.many import submit_many
from bank.web.context import new_id
from tests.limits.conftest import plain


def failures(*transactions: dict[str, Any]) -> list[str | None]:
    return [each["failure_code"] for each in transactions]


def limits_of(explanation: dict[str, Any]) -> list[dict[str, Any]]:
    return [check for check in explanation["checks"] if check["check"] == "limit"]


def test_a_single_payment_may_be_as_large_as_its_limit_and_not_a_cent_larger(alice, accounts, set_limit, pay, explain):
    ours, theirs = accounts
    limit = set_limit(account_id=ours, kind="single", amount="100.00")
    paid = pay(alice, ours, theirs, "100.00")
    refused = pay(alice, ours, theirs, "100.01")
    assert failures(paid, refused) == [None, "limit_exceeded"]
    told = {"check": "limit", "id": limit["id"], "version": 1, "scope": "account", "kind": "single", "limit": "100.00"}
    assert limits_of(explain(alice, paid)) == [{**told, "outcome": "passed"}]
    assert explain(alice, refused) == {
        "transaction_id": refused["id"],
        "status": "failed",
        "failure_code": "limit_exceeded",
        "decided_at": refused["completed_at"],
        "checks": [
            *({"check": name, "outcome": "passed"} for name in ("request", "status", "funds", "range")),
            {**told, "outcome": "denied"},
        ],
        "review": None,
    }


def test_the_sum_over_a_window_tells_what_was_used_before_and_money_to_the_outside_counts(alice, accounts, set_limit, pay, explain):
    ours, theirs = accounts
    before = pay(alice, ours, theirs, "20.00")
    set_limit(account_id=ours, kind="sum", window="day", amount="100.00")
    out = pay(alice, ours, None, "50.00")
    refused = pay(alice, ours, theirs, "30.01")
    fits = pay(alice, ours, theirs, "30.00")
    assert failures(before, out, refused, fits) == [None, None, "limit_exceeded", None]
    assert [limits_of(explain(alice, each)) for each in (before,)] == [[]]
    used = [limits_of(explain(alice, each))[0] for each in (out, refused, fits)]
    assert [(each["used"], each["limit"], each["window"], each["outcome"]) for each in used] == [
        ("20.00", "100.00", "day", "passed"),
        ("70.00", "100.00", "day", "denied"),
        ("70.00", "100.00", "day", "passed"),
    ]


def test_a_count_is_of_payments_and_refused_ones_are_none(alice, accounts, set_limit, pay, explain):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="count", window="week", count=2)
    paid = pay(alice, ours, theirs, "1.00")
    too_much = pay(alice, ours, theirs, "5000.00")
    also = pay(alice, ours, None, "1.00")
    refused = pay(alice, ours, theirs, "1.00")
    assert failures(paid, too_much, also, refused) == [None, "insufficient_funds", None, "limit_exceeded"]
    assert (limits_of(explain(alice, refused))[0]["used"], limits_of(explain(alice, refused))[0]["limit"]) == ("2", "2")


def test_a_minimum_balance_must_be_left_beside_holds_and_without_the_overdraft(alice, admin, accounts, set_limit, pay, explain):
    ours, theirs = accounts
    assert admin.patch(f"/accounts/{ours}", {"overdraft_limit": "500.00"}).status_code == 200
    set_limit(account_id=ours, kind="minimum_balance", amount="100.00")
    held = pay(alice, ours, theirs, "300.00", hold=True)
    refused = pay(alice, ours, theirs, "600.01")
    fits = pay(alice, ours, theirs, "600.00")
    assert (held["status"], *failures(refused, fits)) == ("held", "limit_exceeded", None)
    assert (limits_of(explain(alice, refused))[0]["balance"], limits_of(explain(alice, refused))[0]["limit"]) == ("700.00", "100.00")


def test_only_allowed_counterparties_may_be_paid_and_ones_own_accounts_always(alice, bob, carol, accounts, funded, set_limit, pay):
    ours, theirs = accounts
    other, carols = funded(alice, None), funded(carol, None)
    limit = set_limit(user_id=alice.id, kind="counterparties", counterparties=[bob.id])
    tried = [pay(alice, ours, target, "1.00") for target in (theirs, other, carols, None)]
    assert failures(*tried) == [None, None, "limit_exceeded", "limit_exceeded"]
    assert limit["counterparties"] == [bob.id]
    set_limit(user_id=alice.id, kind="counterparties", counterparties=["outside", bob.id, carol.id])
    # All that apply must hold.
    assert failures(*(pay(alice, ours, target, "1.00") for target in (theirs, None))) == [None, "limit_exceeded"]


@pytest.mark.parametrize(
    ("opens", "closes", "open_now"),
    [(-60, 60, True), (60, 120, False), (-120, -60, False), (60, -60, False), (1, 0, True)],
)
def test_hours_are_those_of_the_zone_and_may_lie_around_midnight(alice, accounts, set_limit, pay, opens, closes, open_now):
    ours, theirs = accounts
    now = datetime.now(UTC) + timedelta(hours=9)
    clock = [f"{now + timedelta(minutes=minutes):%H:%M}" for minutes in (opens, closes)]
    if (opens, closes) == (1, 0):
        # Closed for the minute that lies twelve hours away.
        clock = [f"{now + timedelta(minutes=721):%H:%M}", f"{now + timedelta(minutes=720):%H:%M}"]
    hours = {"opens": clock[0], "closes": clock[1], "time_zone": "Asia/Tokyo"}
    assert set_limit(account_id=ours, kind="hours", hours=hours)["hours"] == hours
    assert failures(pay(alice, ours, theirs, "1.00")) == [None if open_now else "limit_exceeded"]


def test_a_users_accounts_count_together_and_an_accounts_limit_is_its_own(alice, accounts, funded, set_limit, pay, explain):
    ours, theirs = accounts
    second = funded(alice, "1000.00")
    euros = funded(alice, "1000.00", "EUR")
    set_limit(user_id=alice.id, kind="sum", window="day", amount="100.00")
    set_limit(account_id=second, kind="count", window="day", count=1)
    first = pay(alice, ours, theirs, "60.00")
    over = pay(alice, second, theirs, "40.01")
    fits = pay(alice, second, theirs, "40.00")
    counted = pay(alice, second, theirs, "0.01")
    in_euros = pay(alice, euros, None, "500.00", currency="EUR")
    assert failures(first, over, fits, counted, in_euros) == [None, "limit_exceeded", None, "limit_exceeded", None]
    assert [check["outcome"] for check in limits_of(explain(alice, over))] == ["denied", "passed"]
    assert [check["outcome"] for check in limits_of(explain(alice, counted))] == ["denied", "denied"]


def test_a_roles_limit_is_for_each_of_its_users(alice, bob, accounts, funded, set_limit, pay):
    ours, theirs = accounts
    bobs = funded(bob, "1000.00")
    set_limit(role="customer", kind="sum", window="month", amount="100.00")
    tried = [
        pay(alice, ours, theirs, "100.00"),
        pay(alice, ours, theirs, "0.01"),
        pay(bob, bobs, ours, "100.00"),
        pay(bob, bobs, ours, "0.01"),
    ]
    assert failures(*tried) == [None, "limit_exceeded", None, "limit_exceeded"]


def test_what_a_teller_pays_out_for_a_customer_counts_as_the_customers(alice, teller, accounts, set_limit, pay, post_all):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window="hour", amount="100.00")
    answer = teller.post("/transactions/debit", {"account_id": ours, "amount": "90.00", "currency": "USD"})
    post_all()
    assert alice.get(f"/transactions/{answer.json['id']}").json["status"] == "completed"
    assert failures(pay(alice, ours, theirs, "10.01")) == ["limit_exceeded"]


def test_a_credit_and_a_rollback_are_no_payments(alice, bob, admin, accounts, funded, set_limit, pay, post_all):
    ours, theirs = accounts
    paid = pay(alice, ours, theirs, "100.00")
    set_limit(user_id=bob.id, kind="single", amount="0.01")
    set_limit(user_id=bob.id, kind="sum", window="day", amount="50.00")
    back = bob.post(f"/transactions/{paid['id']}/rollback", {"reason": "wrong"})
    post_all()
    assert bob.get(f"/transactions/{back.json['id']}").json["status"] == "completed"
    funded(bob, "500.00")
    assert failures(pay(bob, theirs, ours, "0.01")) == ["insufficient_funds"]


def test_a_hold_is_used_as_long_as_it_is_held_and_what_is_captured_from_then_on(alice, bob, accounts, set_limit, pay, post_all, explain):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window="day", amount="100.00")
    set_limit(account_id=ours, kind="count", window="day", count=10)
    hold = pay(alice, ours, theirs, "80.00", hold=True)
    assert (hold["status"], *failures(pay(alice, ours, theirs, "20.01"))) == ("held", "limit_exceeded")
    capture = bob.post(f"/transactions/{hold['id']}/capture", {"amount": "30.00"})
    post_all()
    assert bob.get(f"/transactions/{capture.json['id']}").json["status"] == "completed"
    # Thirty are paid and fifty are held.
    assert failures(pay(alice, ours, theirs, "20.01")) == ["limit_exceeded"]
    void = bob.post(f"/transactions/{hold['id']}/void", {})
    post_all()
    assert bob.get(f"/transactions/{void.json['id']}").json["status"] == "voided"
    fits = pay(alice, ours, theirs, "70.00")
    assert failures(fits, pay(alice, ours, theirs, "0.01")) == [None, "limit_exceeded"]
    assert [(check["kind"], check["used"]) for check in limits_of(explain(alice, fits))] == [("sum", "30.00"), ("count", "1")]


def test_payments_that_are_decided_together_see_each_other(alice, accounts, set_limit, post_all, app):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window="day", amount="35.00")
    body = {"from_account_id": ours, "to_account_id": theirs, "amount": "10.00", "currency": "USD"}
    made = [alice.post("/transactions/transfer", body).json["id"] for _ in range(5)]
    held = alice.post("/transactions/transfer", {**body, "hold": True, "amount": "5.00"}).json["id"]
    post_all()
    found = [alice.get(f"/transactions/{each}").json for each in made]
    assert failures(*found) == [None, None, None, "limit_exceeded", "limit_exceeded"]
    assert alice.get(f"/transactions/{held}").json["status"] == "held"


def test_a_limit_that_is_changed_or_removed_counts_so_for_what_is_decided_next(alice, chief, accounts, set_limit, pay, explain):
    ours, theirs = accounts
    limit = set_limit(account_id=ours, kind="single", amount="10.00")
    assert failures(pay(alice, ours, theirs, "20.00")) == ["limit_exceeded"]
    changed = chief.patch(f"/limits/{limit['id']}", {"amount": "20.00"})
    assert (changed.status_code, changed.json["version"]) == (200, 2)
    paid = pay(alice, ours, theirs, "20.00")
    assert failures(paid) == [None]
    assert limits_of(explain(alice, paid))[0]["version"] == 2
    assert chief.request("DELETE", f"/limits/{limit['id']}").status_code == 204
    last = pay(alice, ours, theirs, "20.01")
    assert (failures(last), limits_of(explain(alice, last))) == ([None], [])


def test_a_dry_run_shows_the_same_checks_and_uses_nothing(alice, accounts, set_limit, pay, explain):
    ours, theirs = accounts
    set_limit(user_id=alice.id, kind="sum", window="day", amount="50.00")
    pay(alice, ours, theirs, "20.00")
    body = {"from_account_id": ours, "to_account_id": theirs, "amount": "30.01", "currency": "USD"}
    for amount, status in (("30.01", "failed"), ("30.00", "completed")):
        preview = alice.post("/transactions/transfer?dry_run=true", {**body, "amount": amount}).json
        real = pay(alice, ours, theirs, amount)
        assert (preview["status"], real["status"]) == (status, status)
        told = explain(alice, real)["checks"]
        assert [{**check, "balance": None, "account_version": None} for check in plain(preview["checks"])] == [
            {**check, "balance": None, "account_version": None} for check in told
        ]


def test_each_item_of_a_batch_counts_and_an_atomic_one_falls_by_it(alice, accounts, set_limit, post_all, explain):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window="day", amount="25.00")
    item = {"type": "transfer", "from_account_id": ours, "to_account_id": theirs, "amount": "10.00", "currency": "USD"}
    for mode, expected in (
        ("atomic", ["batch_refused", "batch_refused", "limit_exceeded"]),
        ("independent", [None, None, "limit_exceeded"]),
    ):
        body = {"mode": mode, "transactions": [item] * 3}
        preview = alice.post("/transactions/batch?dry_run=true", body).json
        answer = alice.post("/transactions/batch", body)
        assert answer.status_code == 202, answer.json
        post_all()
        items = alice.get(f"/transactions/batch/{answer.json['id']}").json["data"]
        assert failures(*items) == failures(*preview["data"]) == expected


def test_the_explanation_tells_what_there_was_to_spend_and_the_balance_before(alice, bob, auditor, accounts, pay, explain):
    ours, theirs = accounts
    paid = pay(alice, ours, theirs, "400.00")
    refused = pay(alice, ours, theirs, "600.01")
    funds = [next(check for check in explain(alice, each)["checks"] if check["check"] == "funds") for each in (paid, refused)]
    assert funds == [
        {"check": "funds", "balance": "1000.00", "account_version": 1, "outcome": "passed"},
        {"check": "funds", "available": "600.00", "outcome": "denied"},
    ]
    assert explain(auditor, refused) == explain(alice, refused)
    # Who receives it has no business with the payer's account.
    assert bob.get(f"/transactions/{paid['id']}/explanation").status_code == 404


def test_what_is_not_decided_has_no_checks_yet_and_a_frozen_account_is_told_of(alice, admin, accounts, explain, pay):
    ours, theirs = accounts
    body = {"from_account_id": ours, "to_account_id": theirs, "amount": "1.00", "currency": "USD"}
    pending = alice.post("/transactions/transfer", body).json
    told = explain(alice, pending)
    assert (told["status"], told["decided_at"], told["checks"]) == ("pending", None, [])
    assert admin.patch(f"/accounts/{theirs}", {"status": "frozen"}).status_code == 200
    refused = pay(alice, ours, theirs, "1.00")
    assert explain(alice, refused)["checks"] == [{"check": "request", "outcome": "passed"}, {"check": "status", "outcome": "denied"}]


def test_what_the_operator_brings_in_is_no_payment(app, alice, accounts, set_limit, pay, post_all):
    """An import of what another bank has posted neither falls by a limit nor uses it."""
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window="month", amount="10.00")
    event = TransactionSubmitted(
        lane=lane_of(ours, app.config["BANK"].lanes),
        type="debit",
        from_user_id=alice.id,
        to_user_id=None,
        from_account_id=ours,
        to_account_id=None,
        amount=50_000,
        currency="USD",
        to_amount=50_000,
        to_currency="USD",
        rate=None,
        description=None,
        reference=None,
        metadata=None,
        reverses_id=None,
        awaited=False,
        effective_at=None,
    )
    imported = new_id()
    with app.app_context(), unit_of_work() as session:
        submit_many(session.connection(), [(imported, event)], Origin())
    post_all()
    assert alice.get(f"/transactions/{imported}").json["status"] == "completed"
    assert failures(pay(alice, ours, theirs, "10.00"), pay(alice, ours, theirs, "0.01")) == [None, "limit_exceeded"]
