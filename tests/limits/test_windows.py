"""Windows end now and move with it, whatever was added up before."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from bank.db import reader, unit_of_work
from bank.ledger.decide import AccountState
from bank.ledger.store import States
from bank.limits import store
from bank.limits.checks import Limit, LimitKind, Scope, Window
from tests.conftest import open_transaction
from tests.limits.test_limits import failures, limits_of

# A window, what lies just in it, and by how much more it moves past that.
EDGES = [
    ("hour", "59 minutes", "1 minute"),
    ("day", "23 hours 59 minutes", "1 minute"),
    ("week", "6 days 23 hours 59 minutes", "1 minute"),
    # A month is a day of the month before, so at least 28 days and at most 31.
    ("month", "27 days 23 hours", "4 days"),
]


@pytest.mark.parametrize(("window", "inside", "further"), EDGES)
def test_what_was_paid_leaves_the_window_when_its_time_has_come(
    alice, accounts, set_limit, pay, explain, move_back, window, inside, further
):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window=window, amount="100.00")
    assert failures(pay(alice, ours, theirs, "60.00")) == [None]
    move_back(ours, inside)
    refused = pay(alice, ours, theirs, "40.01")
    assert failures(refused) == ["limit_exceeded"]
    move_back(ours, further)
    fits = pay(alice, ours, theirs, "100.00")
    assert failures(fits, pay(alice, ours, theirs, "0.01")) == [None, "limit_exceeded"]
    assert [limits_of(explain(alice, each))[0]["used"] for each in (refused, fits)] == ["60.00", "0.00"]


def test_a_count_forgets_payment_by_payment(alice, accounts, set_limit, pay, move_back):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="count", window="hour", count=2)
    for _ in range(2):
        assert failures(pay(alice, ours, theirs, "1.00")) == [None]
        move_back(ours, "25 minutes")
    assert failures(pay(alice, ours, theirs, "1.00")) == ["limit_exceeded"]
    move_back(ours, "11 minutes")
    # The first is over an hour old.
    assert failures(pay(alice, ours, theirs, "1.00"), pay(alice, ours, theirs, "1.00")) == [None, "limit_exceeded"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, app: Flask) -> Iterator[None]:
    """What was added up is written each time."""
    monkeypatch.setattr(store, "_MANY", 0)
    yield
    with app.app_context(), unit_of_work() as session:
        session.execute(text("DELETE FROM usages"))


# The plain sum that what is kept must agree with.
PLAIN = """
    SELECT COALESCE(-sum(e.amount), 0), count(*) FROM entries e JOIN transactions t ON t.id = e.transaction_id
     WHERE e.account_id = CAST(:account AS uuid) AND e.amount < 0 AND t.reverses_id IS NULL
       AND e.posted_at > clock_timestamp() - CAST(:width AS interval)
"""


@pytest.mark.usefixtures("few")
def test_what_is_kept_of_a_busy_account_is_always_the_plain_sum(
    alice, bob, accounts, funded, set_limit, pay, explain, move_back, app, post_all
):
    ours, theirs = accounts
    for window in Window:
        set_limit(account_id=ours, kind="sum", window=window.value, amount="1000000.00")
    for step, back in enumerate(["10 minutes", "55 minutes", "3 hours", "22 hours", "4 days", "20 days", "1 minute"]):
        made = [pay(alice, ours, theirs, f"{step + 1}.0{number}") for number in range(2)]
        # Money comes in between, and goes back: neither is a payment of hers.
        funded(alice, "1.00")
        pay(bob, theirs, ours, "1.00")
        received = pay(bob, theirs, ours, "0.50")
        alice.post(f"/transactions/{received['id']}/rollback", {"reason": "back"})
        post_all()
        preview: dict[str, Any] = alice.post(
            "/transactions/transfer?dry_run=true", {"from_account_id": ours, "to_account_id": theirs, "amount": "1.00", "currency": "USD"}
        ).json
        with app.app_context(), reader() as session:
            for check, width in zip(limits_of(preview), ("1 hour", "1 day", "7 days", "1 month"), strict=True):
                amount, _ = session.execute(text(PLAIN), {"account": ours, "width": width}).one()
                assert check["used"] == f"{amount // 100}.{amount % 100:02}", (back, check)
            assert session.execute(text("SELECT count(*) FROM usages WHERE account_id = CAST(:id AS uuid)"), {"id": ours}).scalar_one() == 4
        assert failures(*made) == [None, None]
        move_back(ours, back)


@pytest.mark.usefixtures("few")
def test_who_asks_what_would_be_waits_for_no_drain(alice, accounts, set_limit, pay, app):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="sum", window="day", amount="100.00")
    pay(alice, ours, theirs, "1.00")
    pay(alice, ours, theirs, "1.00")
    body = {"from_account_id": ours, "to_account_id": theirs, "amount": "1.00", "currency": "USD"}
    with app.app_context(), open_transaction() as drain:
        assert drain.execute(text("SELECT FROM usages WHERE account_id = CAST(:id AS uuid) FOR UPDATE"), {"id": ours}).all()
        answer = alice.post("/transactions/transfer?dry_run=true", body)
    assert (answer.status_code, limits_of(answer.json)[0]["used"]) == (200, "2.00")


def test_few_payments_are_added_up_each_time_and_many_are_kept(alice, accounts, set_limit, pay, app, post_all: Callable[[], None]) -> None:
    ours, theirs = accounts
    set_limit(account_id=ours, kind="count", window="day", count=100)
    kept = text("SELECT last_version - first_version, count FROM usages WHERE account_id = CAST(:id AS uuid)")

    def usage() -> list[tuple[int, int]]:
        with app.app_context(), reader() as session:
            return [tuple(row) for row in session.execute(kept, {"id": ours})]

    item = {"type": "transfer", "from_account_id": ours, "to_account_id": theirs, "amount": "0.01", "currency": "USD"}
    alice.post("/transactions/batch", {"mode": "independent", "transactions": [item] * 99})
    post_all()
    assert usage() == []
    pay(alice, ours, theirs, "0.01")
    assert usage() == [(100, 99)]
    assert failures(pay(alice, ours, theirs, "0.01")) == ["limit_exceeded"]
    assert usage() == [(100, 99)]


@pytest.mark.usefixtures("few")
def test_a_month_that_begins_earlier_than_it_did_takes_back_what_had_left_it(alice, accounts, pay, move_back, app):
    ours, theirs = accounts
    paid = pay(alice, ours, theirs, "1.00")
    early = datetime.fromisoformat(paid["completed_at"]) - datetime(2026, 2, 28, 12, tzinfo=UTC)
    move_back(ours, f"{early.total_seconds()} seconds")
    limit = Limit("", 1, Scope.ACCOUNT, LimitKind.SUM, amount=1, window=Window.MONTH.value)
    found = store.Applicable({}, (), {ours: [limit]}, {})
    used = []
    # A month before each of them is the last day of February: in the morning, in the evening, and in the morning again.
    for day, hour in ((28, 9), (30, 23), (31, 9)):
        state = AccountState(ours, "USD", "active", 0, amount=99_900, held=0, version=2)
        states = States({ours: state}, {}, datetime(2026, 3, day, hour, tzinfo=UTC))
        with app.app_context(), unit_of_work() as session:
            used.append(store.policy(session.connection(), found, states).used[ours]["month"].amount)
    assert used == [100, 0, 100]
