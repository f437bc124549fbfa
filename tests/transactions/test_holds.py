"""Money that is reserved, and taken or let go later."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from threading import Barrier, Event

import pytest
from sqlalchemy import text

from bank.audit import outcomes
from bank.db import reader, unit_of_work
from bank.ledger import store
from bank.ledger.decide import Command
from bank.ledger.invariants import CHECKS, Window
from bank.processing import expiry
from bank.processing.expiry import expire_holds
from bank.users.models import Role
from tests.processes import wait_until


@pytest.fixture
def parties(alice, bob, funded):
    """The accounts of Alice, who has 100 dollars, and of Bob, who has nothing."""
    return funded(alice), funded(bob, None)


def hold(who, parties, amount="40.00", **fields):
    source, target = parties
    body = {"from_account_id": source, "to_account_id": target, "amount": amount, "currency": "USD", "hold": True, **fields}
    return who.post("/transactions/transfer", body)


@pytest.fixture
def held(alice, parties, outcome):
    """Alice has 40 of her 100 dollars held for Bob."""
    return outcome(alice, hold(alice, parties))


def capture(who, held, amount=None, **kwargs):
    return who.post(f"/transactions/{held['id']}/capture", {} if amount is None else {"amount": amount}, **kwargs)


def void(who, held, **kwargs):
    return who.post(f"/transactions/{held['id']}/void", {}, **kwargs)


@pytest.fixture
def money(alice, bob, parties):
    """What Alice has, what of that is held, what she can spend, and what Bob has."""

    def read():
        mine, his = alice.get(f"/accounts/{parties[0]}").json, bob.get(f"/accounts/{parties[1]}").json
        return mine["balance"], mine["held"], mine["available"], his["balance"]

    return read


@pytest.fixture
def expire(app):
    """Let the time of a hold be over, as far as the database knows, and do not tell anybody."""

    def end(held, at=None):
        with app.app_context(), unit_of_work() as session:
            over = text("UPDATE transactions SET expires_at = COALESCE(CAST(:at AS timestamptz), now()) WHERE id = :id")
            session.execute(over, {"id": held["id"], "at": at})

    return end


def read(who, transaction):
    return who.get(f"/transactions/{transaction['id']}").json


def parts(transaction):
    return tuple(transaction[name] for name in ("status", "amount", "held_amount", "captured_amount"))


def test_a_hold_reserves_and_moves_nothing(alice, held, money):
    assert parts(held) == ("held", "40.00", "40.00", "0.00")
    assert (held["type"], held["completed_at"], held["failure_code"], held["entries"]) == ("transfer", None, None, [])
    assert money() == ("100.00", "40.00", "60.00", "0.00")
    kept = datetime.fromisoformat(held["expires_at"]) - datetime.fromisoformat(held["created_at"])
    assert kept == timedelta(days=7)


def test_a_capture_takes_it_all(alice, bob, held, outcome, money):
    taken = outcome(bob, capture(bob, held))
    assert (taken["type"], taken["status"], taken["amount"], taken["captures_id"]) == ("transfer", "completed", "40.00", held["id"])
    assert [entry["amount"] for entry in taken["entries"]] == ["-40.00", "40.00"]
    assert money() == ("60.00", "0.00", "60.00", "40.00")
    after = read(alice, held)
    assert parts(after) == ("completed", "40.00", "0.00", "40.00")
    assert (after["completed_at"], after["entries"]) == (taken["completed_at"], [])


def test_a_void_lets_it_all_go(alice, bob, held, outcome, money):
    gone = outcome(bob, void(bob, held))
    assert (gone["type"], gone["status"], gone["voids_id"], gone["entries"]) == ("transfer", "voided", held["id"], [])
    assert money() == ("100.00", "0.00", "100.00", "0.00")
    after = read(alice, held)
    assert parts(after) == ("voided", "40.00", "0.00", "0.00")
    assert after["completed_at"] == gone["completed_at"]


def test_its_end_lets_it_go(alice, held, expire, money, context):
    expire(held)
    assert money()[1] == "40.00"
    assert expire_holds() == 1
    assert money() == ("100.00", "0.00", "100.00", "0.00")
    assert parts(read(alice, held)) == ("voided", "40.00", "0.00", "0.00")
    assert expire_holds() == 0


def test_a_worker_that_knows_no_holds_moves_nothing(alice, bob, parties, held, post_all, money, monkeypatch):
    def knows_no_holds(*points_at):
        return Command(*points_at[:7])

    first, second = hold(alice, parties, "1.00").json, void(bob, held).json
    with monkeypatch.context() as patched:
        patched.setattr(store, "Command", knows_no_holds)
        post_all()
    assert [(each["status"], each["failure_code"]) for each in (read(alice, first), read(bob, second))] == [
        ("failed", "internal_error")
    ] * 2
    assert money() == ("100.00", "40.00", "60.00", "0.00")


def test_what_is_held_cannot_be_spent_and_the_rest_can(alice, bob, held, parties, outcome, money):
    spend = {"account_id": parties[0], "currency": "USD"}
    assert outcome(alice, alice.post("/transactions/debit", {**spend, "amount": "60.01"}))["failure_code"] == "insufficient_funds"
    assert outcome(alice, hold(alice, parties, "60.01"))["failure_code"] == "insufficient_funds"
    assert outcome(alice, alice.post("/transactions/debit", {**spend, "amount": "60.00"}))["status"] == "completed"
    assert money() == ("40.00", "40.00", "0.00", "0.00")
    # What was held is there, whatever else was spent.
    assert outcome(bob, capture(bob, held))["status"] == "completed"
    assert money() == ("0.00", "0.00", "0.00", "40.00")


def test_a_hold_may_use_the_overdraft(alice, bob, teller, parties, outcome, money):
    teller.patch(f"/accounts/{parties[0]}", {"overdraft_limit": "50.00"})
    assert outcome(alice, hold(alice, parties, "150.01"))["failure_code"] == "insufficient_funds"
    held = outcome(alice, hold(alice, parties, "150.00"))
    assert held["status"] == "held"
    assert money() == ("100.00", "150.00", "0.00", "0.00")
    refused = teller.patch(f"/accounts/{parties[0]}", {"overdraft_limit": "49.99"})
    assert (refused.status_code, refused.json["code"]) == (409, "balance_below_limit")
    outcome(bob, capture(bob, held))
    assert money() == ("-50.00", "0.00", "0.00", "150.00")


def test_parts_are_taken_until_nothing_is_left(alice, bob, held, outcome, money):
    for part, after in (
        ("15.00", ("held", "40.00", "25.00", "15.00")),
        ("0.01", ("held", "40.00", "24.99", "15.01")),
        (None, ("completed", "40.00", "0.00", "40.00")),
    ):
        assert outcome(bob, capture(bob, held, part))["status"] == "completed"
        assert parts(read(alice, held)) == after
    assert money() == ("60.00", "0.00", "60.00", "40.00")
    assert outcome(bob, capture(bob, held, "0.01"))["failure_code"] == "hold_closed"
    assert outcome(bob, void(bob, held))["failure_code"] == "hold_closed"
    page = alice.get(f"/transactions/history?hold_id={held['id']}").json["data"]
    assert [(each["status"], each["amount"]) for each in page] == [
        ("failed", "40.00"),
        ("failed", "0.01"),
        ("completed", "24.99"),
        ("completed", "0.01"),
        ("completed", "15.00"),
    ]


def test_more_than_is_left_is_refused(bob, held, outcome, money):
    assert outcome(bob, capture(bob, held, "40.01"))["failure_code"] == "amount_exceeds_original"
    outcome(bob, capture(bob, held, "10.00"))
    assert outcome(bob, capture(bob, held, "30.01"))["failure_code"] == "amount_exceeds_original"
    assert money() == ("90.00", "30.00", "60.00", "10.00")


def test_a_part_is_taken_and_the_rest_let_go(alice, bob, held, outcome, money):
    outcome(bob, capture(bob, held, "10.00"))
    outcome(bob, void(bob, held))
    assert parts(read(alice, held)) == ("completed", "40.00", "0.00", "10.00")
    assert money() == ("90.00", "0.00", "90.00", "10.00")


def test_requests_that_wait_at_once_are_decided_in_their_order(alice, bob, held, post_all, money):
    accepted = [capture(bob, held, "15.00"), capture(bob, held, "15.00"), capture(bob, held, "15.00"), void(bob, held), capture(bob, held)]
    post_all()
    after = [read(bob, response.json) for response in accepted]
    assert [(each["status"], each["failure_code"]) for each in after] == [
        ("completed", None),
        ("completed", None),
        ("failed", "amount_exceeds_original"),
        ("voided", None),
        ("failed", "hold_closed"),
    ]
    assert parts(read(alice, held)) == ("completed", "40.00", "0.00", "30.00")
    assert money() == ("70.00", "0.00", "70.00", "30.00")


def test_a_batch_in_which_all_happens_at_once_is_written(alice, bob, held, parties, funded, post_all, money):
    """What is held more and less on one account, and what moves on it, are of one commit; on the way no limit is broken."""
    spend = {"account_id": parties[0], "currency": "USD"}
    alice.post("/transactions/debit", {**spend, "amount": "60.00"})
    capture(bob, held, "30.00")
    void(bob, held)
    other = hold(alice, parties, "10.00")
    alice.post("/transactions/credit", {**spend, "amount": "5.00"})
    third = hold(alice, parties, "5.00")
    post_all()
    assert money() == ("15.00", "15.00", "0.00", "30.00")
    assert [read(alice, response.json)["status"] for response in (other, third)] == ["held", "held"]


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("ticked", [False, True])
def test_what_has_expired_cannot_be_taken_nor_let_go(alice, bob, held, expire, outcome, money, ticked):
    outcome(bob, capture(bob, held, "10.00"))
    expire(held)
    if ticked:
        expire_holds()
    assert outcome(bob, capture(bob, held))["failure_code"] == "hold_expired"
    assert outcome(bob, void(bob, held))["failure_code"] == "hold_expired"
    expire_holds()
    assert parts(read(alice, held)) == ("completed", "40.00", "0.00", "10.00")
    assert money() == ("90.00", "0.00", "90.00", "10.00")


@pytest.mark.usefixtures("context")
def test_the_ends_of_many_holds_are_written_together_and_in_rounds(alice, parties, expire, post_all, money, monkeypatch):
    monkeypatch.setattr(expiry, "_AT_ONCE", 2)
    monkeypatch.setattr(expiry, "_ROUNDS", 2)
    made = [hold(alice, parties, "1.00").json for _ in range(5)]
    post_all()
    for each in made:
        expire(each)
    assert expire_holds() == 4
    assert money()[1] == "1.00"
    assert expire_holds() == 1
    assert money()[1] == "0.00"


@pytest.mark.usefixtures("context")
def test_a_hold_that_the_database_refuses_to_end_keeps_no_other_from_ending(alice, carol, funded, parties, outcome, expire, money):
    broken, whole = outcome(carol, hold(carol, (funded(carol), parties[1]))), outcome(alice, hold(alice, parties))

    def hold_less(amount):
        # Past the bank: there is less held on the account than its holds add up to.
        with unit_of_work() as session:
            statement = text("UPDATE balances SET held = held - :amount WHERE account_id = :id")
            session.execute(statement, {"amount": amount, "id": broken["from_account_id"]})

    hold_less(1)
    expire(broken)
    expire(whole)
    assert expire_holds() == 1
    assert (money()[1], read(carol, broken)["status"]) == ("0.00", "held")
    hold_less(-1)
    assert expire_holds() == 1
    assert read(carol, broken)["status"] == "voided"


def test_a_hold_can_be_kept_for_31_days_and_not_longer(alice, parties):
    def until(**ahead):
        return hold(alice, parties, "1.00", expires_at=(datetime.now(UTC) + timedelta(**ahead)).isoformat())

    assert until(days=31, seconds=-60).status_code == until(seconds=60).status_code == 202
    for ahead in ({"days": 31, "seconds": 60}, {"seconds": -1}):
        refused = until(**ahead)
        assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/expires_at")
    body = {"to_account_id": parties[1], "amount": "1.00", "currency": "USD", "expires_at": "2999-01-01T00:00:00Z"}
    for more in ({}, {"hold": False}):
        refused = alice.post("/transactions/transfer", {**body, **more})
        assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "/expires_at")


def test_who_receives_the_money_and_staff_may_take_it_or_let_it_go(alice, bob, carol, teller, auditor, admin, parties, held, outcome):
    for act in (capture, void):
        refused = act(alice, held)
        assert (refused.status_code, refused.json["code"]) == (403, "forbidden")
        assert act(carol, held).status_code == 404
        assert act(auditor, held).status_code == 403
    for who in (bob, teller, admin):
        assert outcome(who, capture(who, held, "1.00"))["status"] == "completed"
        assert outcome(who, void(who, outcome(alice, hold(alice, parties, "1.00"))))["status"] == "voided"


def test_a_teller_keeps_off_the_holds_of_colleagues(alice, teller, person, funded, outcome):
    colleague = person("teller", Role.TELLER)
    held = outcome(alice, hold(alice, (funded(alice), colleague.open_account()["id"]), "1.00"))
    assert capture(teller, held).status_code == void(teller, held).status_code == 403


def test_only_a_hold_can_be_taken_or_let_go(alice, bob, teller, parties, held, outcome, post_all):
    paid = outcome(alice, alice.post("/transactions/transfer", {"to_account_id": parties[1], "amount": "1.00", "currency": "USD"}))
    taken, gone = outcome(bob, capture(bob, held, "1.00")), outcome(bob, void(bob, outcome(alice, hold(alice, parties, "1.00"))))
    failed = outcome(alice, hold(alice, parties, "1000.00"))
    pending = hold(alice, parties, "1.00").json
    for transaction in (paid, taken, gone, failed, pending):
        for act in (capture, void):
            for query in ("", "?dry_run=true"):
                refused = teller.post(f"/transactions/{transaction['id']}/{act.__name__}{query}", {})
                assert (refused.status_code, refused.json["code"]) == (409, "not_held")
    post_all()


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("side", [0, 1])
def test_of_a_frozen_account_nothing_is_taken_and_the_hold_stays_until_its_end(
    alice, bob, teller, parties, held, outcome, money, expire, side
):
    assert teller.patch(f"/accounts/{parties[side]}", {"status": "frozen"}).status_code == 200
    assert outcome(bob, capture(bob, held))["failure_code"] == "account_frozen"
    assert outcome(alice, hold(alice, parties, "1.00"))["failure_code"] == "account_frozen"
    assert money()[1] == "40.00"
    expire(held)
    expire_holds()
    assert money()[1] == "0.00"


def test_a_hold_on_a_frozen_account_can_be_let_go(bob, teller, parties, held, outcome, money):
    teller.patch(f"/accounts/{parties[0]}", {"status": "frozen"})
    assert outcome(bob, void(bob, held))["status"] == "voided"
    assert money()[1] == "0.00"


def test_an_account_with_held_money_is_not_closed_and_one_that_waits_for_it_may_be(alice, bob, held, parties, outcome):
    alice.post("/transactions/debit", {"account_id": parties[0], "amount": "60.00", "currency": "USD"})
    refused = alice.request("DELETE", f"/users/{alice.id}")
    assert (refused.status_code, refused.json["code"]) == (409, "balance_not_zero")
    outcome(bob, void(bob, held))


def test_to_a_closed_account_nothing_is_taken(bob, teller, parties, held, outcome):
    assert teller.patch(f"/accounts/{parties[1]}", {"status": "closed"}).status_code == 200
    assert outcome(bob, capture(bob, held))["failure_code"] == "account_closed"
    assert outcome(bob, void(bob, held))["status"] == "voided"


def test_the_etag_of_an_account_tells_that_something_is_held(alice, parties, outcome):
    def etag():
        return alice.get(f"/accounts/{parties[0]}").headers["ETag"]

    before = etag()
    outcome(alice, hold(alice, parties))
    assert etag() != before


def test_a_capture_goes_back_in_parts_and_its_hold_does_not(alice, bob, held, outcome, money):
    taken = outcome(bob, capture(bob, held, "30.00"))
    refused = bob.post(f"/transactions/{held['id']}/rollback", {"reason": "x"})
    assert (refused.status_code, refused.json["code"]) == (409, "not_reversible")
    path = f"/transactions/{taken['id']}/rollback"
    assert outcome(bob, bob.post(path, {"reason": "x", "amount": "12.00"}))["status"] == "completed"
    assert outcome(bob, bob.post(path, {"reason": "x", "amount": "18.01"}))["failure_code"] == "amount_exceeds_original"
    assert outcome(bob, bob.post(path, {"reason": "x"}))["amount"] == "18.00"
    assert read(bob, taken)["status"] == "rolled_back"
    # It went back to be spent, and not to be taken once more.
    assert parts(read(alice, held)) == ("held", "40.00", "10.00", "30.00")
    assert money() == ("100.00", "10.00", "90.00", "0.00")
    assert outcome(bob, capture(bob, held, "10.01"))["failure_code"] == "amount_exceeds_original"
    gone = outcome(bob, void(bob, held))
    assert bob.post(f"/transactions/{gone['id']}/rollback", {"reason": "x"}).status_code == 409


def test_the_same_key_takes_once(bob, held, outcome, post_all, money):
    key = {"Idempotency-Key": "order-1"}
    first = capture(bob, held, "10.00", headers=key)
    post_all()
    again = capture(bob, held, "10.00", headers=key)
    assert (again.data, again.headers["Idempotent-Replayed"]) == (first.data, "true")
    assert capture(bob, held, "11.00", headers=key).json["code"] == "idempotency_key_reused"
    # Another operation's key is another key.
    assert outcome(bob, void(bob, held, headers=key))["status"] == "voided"
    assert void(bob, held, headers=key).headers["Idempotent-Replayed"] == "true"
    assert money() == ("90.00", "0.00", "90.00", "10.00")


def test_each_can_be_waited_for(alice, bob, parties, workers, document):
    wait = {"Prefer": "wait=20"}
    body = {"from_account_id": parties[0], "to_account_id": parties[1], "amount": "4.00", "currency": "USD", "hold": True}
    held = alice.post("/transactions/transfer", body, headers=wait)
    assert (held.status_code, held.json["status"]) == (201, "held")
    for answer, act, status in (
        (capture(bob, held.json, "1.00", headers=wait), "capture", "completed"),
        (void(bob, held.json, headers=wait), "void", "voided"),
    ):
        assert (answer.status_code, answer.json["status"], answer.headers["Preference-Applied"]) == (201, status, "wait=20")
        operation = document.root["paths"][f"/api/v1/transactions/{{transaction_id}}/{act}"]["post"]
        (content,) = document.answer(operation, 201)["content"].values()
        assert document.objections(content["schema"], answer.json) == []
    refused = capture(bob, held.json, headers=wait)
    assert (refused.status_code, refused.json["code"]) == (422, "hold_closed")


def test_each_is_shown_before_it_happens(alice, bob, parties, outcome, changes_nothing, check_it_comes_true):
    body = {"from_account_id": parties[0], "to_account_id": parties[1], "amount": "4.00", "currency": "USD", "hold": True,
            "expires_at": (datetime.now(UTC) + timedelta(1)).isoformat()}  # fmt: skip
    shown = changes_nothing(alice, "/transactions/transfer", body)
    held = outcome(alice, alice.post("/transactions/transfer", body))
    check_it_comes_true(shown.json, held)
    for act, asked in (("capture", {"amount": "1.00"}), ("capture", {"amount": "5.00"}), ("void", {"reason": "Enough"}), ("capture", {})):
        path = f"/transactions/{held['id']}/{act}"
        shown = changes_nothing(bob, path, asked)
        check_it_comes_true(shown.json, outcome(bob, bob.post(path, asked)))


def test_all_of_it_is_told_by_events_and_by_the_audit_log(app, alice, bob, admin, held, outcome):
    taken, gone = outcome(bob, capture(bob, held, "10.00")), outcome(bob, void(bob, held))
    with app.app_context(), reader() as session:
        told = text("SELECT type, data FROM events WHERE stream_id = :id ORDER BY version")
        events = {each["id"]: session.execute(told, {"id": each["id"]}).all()[1:] for each in (held, taken, gone)}
    account = held["from_account_id"]
    assert events[held["id"]] == [
        ("TransactionHeld", {"account_id": account, "amount": 4000}),
        ("HoldCaptured", {"capture_id": taken["id"], "account_id": account, "amount": 1000, "captured_amount": 1000, "held_amount": 3000}),
        ("HoldVoided", {"void_id": gone["id"], "account_id": account, "amount": 3000, "captured_amount": 1000}),
    ]
    assert [event.type for event in events[taken["id"]]] == ["TransactionCompleted"]
    assert events[gone["id"]] == [("TransactionVoided", {})]
    for each, action in ((held, "transfer"), (taken, "capture"), (gone, "void")):
        (row,) = admin.get(f"/audit-logs?entity_type=transaction&entity_id={each['id']}").json["data"]
        assert row["action"] == f"transaction.{action}"


@pytest.mark.usefixtures("context")
def test_an_end_is_told_by_an_event_and_gets_into_the_audit_log(alice, held, expire):
    expire(held)
    expire_holds()
    with unit_of_work() as session:
        (told,) = session.execute(text("SELECT position, data FROM events WHERE stream_id = :id AND version = 3"), {"id": held["id"]}).all()
        assert told.data == {"account_id": held["from_account_id"], "amount": 4000, "captured_amount": 0}
        outcomes.take(session, told.position - 1, told.position)
        recorded = text("SELECT action, details FROM audit_logs WHERE entity_id = :id ORDER BY id DESC LIMIT 1")
        assert session.execute(recorded, {"id": held["id"]}).one() == ("transaction.hold_expired", told.data)
        session.rollback()


def test_two_ticks_that_find_the_same_hold_end_it_once(app, alice, held, expire, money, monkeypatch):
    expire(held)
    load_states, ended = store.load_states, []

    def let_another_be_first(*args):
        monkeypatch.setattr(store, "load_states", load_states)
        with ThreadPoolExecutor(1) as other:
            ended.append(other.submit(tick).result())
        return load_states(*args)

    def tick():
        with app.app_context():
            return expire_holds()

    monkeypatch.setattr(store, "load_states", let_another_be_first)
    assert (tick(), ended) == (0, [1])
    assert money() == ("100.00", "0.00", "100.00", "0.00")
    with app.app_context(), reader() as session:
        told = text("SELECT count(*) FROM events WHERE stream_id = :id AND type = 'HoldExpired'")
        assert session.execute(told, {"id": held["id"]}).scalar_one() == 1


def test_a_tick_waits_for_the_drain_that_takes_a_hold_in_its_last_moment(app, alice, bob, held, expire, post_all, money, monkeypatch):
    write, written, commit = store.write, Event(), Event()
    capture(bob, held)
    expire(held, datetime.now(UTC) + timedelta(seconds=3))

    def write_and_linger(*args):
        write(*args)
        written.set()
        assert commit.wait(30)

    def seen(question):
        with app.app_context(), reader() as session:
            return session.execute(text(question), {"id": held["id"]}).scalar_one()

    def tick():
        with app.app_context():
            return expire_holds()

    monkeypatch.setattr(store, "write", write_and_linger)
    with ThreadPoolExecutor(2) as threads:
        drained = threads.submit(post_all)
        assert written.wait(30)
        wait_until(lambda: seen("SELECT expires_at < now() FROM transactions WHERE id = :id"), "its time is over")
        ticked = threads.submit(tick)
        waiting = "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: ticked.done() or seen(waiting), "the tick waits")
        commit.set()
        drained.result()
        assert ticked.result() == 0
    assert parts(read(alice, held)) == ("completed", "40.00", "0.00", "40.00")
    assert money() == ("60.00", "0.00", "60.00", "40.00")


def at_once(*rivals):
    """Let them all begin at once, each in a thread of its own."""
    start = Barrier(len(rivals))

    def run(rival):
        start.wait()
        return rival()

    with ThreadPoolExecutor(len(rivals)) as threads:
        return list(threads.map(run, rivals))


@pytest.mark.parametrize("round_", range(5))
def test_of_all_that_race_for_a_hold_it_is_over_once(app, alice, bob, teller, parties, held, expire, post_all, money, round_):
    """Captures, voids, the end of its time, a rollback of what was taken and a freeze: whatever comes first."""
    taken = capture(bob, held, "10.00").json
    post_all()

    def tick():
        expire(held)
        with app.app_context():
            return expire_holds()

    at_once(
        *[lambda: (capture(bob, held, "7.00"), post_all()) for _ in range(4)],
        lambda: (void(bob, held), post_all()),
        lambda: (bob.post(f"/transactions/{taken['id']}/rollback", {"reason": "x"}), post_all()),
        *([tick, tick] if round_ % 2 else []),
        *([lambda: teller.patch(f"/accounts/{parties[1]}", {"status": "frozen"})] if round_ > 2 else []),
    )
    post_all()
    teller.patch(f"/accounts/{parties[1]}", {"status": "active"})
    if read(alice, held)["status"] == "held":
        expire(held)
        with app.app_context():
            expire_holds()
    after = read(alice, held)
    assert (after["status"], after["held_amount"]) == ("completed", "0.00")
    about = alice.get(f"/transactions/history?hold_id={held['id']}").json["data"]
    captured = sum(Decimal(each["amount"]) for each in about if each["captures_id"] and each["status"] == "completed")
    captured += sum(Decimal(each["amount"]) for each in about if each["captures_id"] and each["status"] == "rolled_back")
    assert Decimal(after["captured_amount"]) == captured <= 40
    assert sum(each["status"] == "voided" for each in about) <= 1
    back = Decimal(read(bob, taken)["rolled_back_amount"])
    assert money() == (f"{100 - captured + back:.2f}", "0.00", f"{100 - captured + back:.2f}", f"{captured - back:.2f}")
    # Now that it is over, its row is to be what its events say.
    expire(held, held["expires_at"])
    with app.app_context(), reader() as session:
        seq = session.execute(text("SELECT seq FROM transactions WHERE id = :id"), {"id": held["id"]}).scalar_one()
        window = Window(min(parties), max(parties), seq, seq + 1_000)
        assert {check.name: found for check in CHECKS if check.by_window and (found := check.find(session.connection(), window))} == {}
    # It stays over.
    for act in (capture, void):
        assert act(bob, held).status_code == 202
    post_all()
    assert parts(read(alice, held)) == parts(after)
