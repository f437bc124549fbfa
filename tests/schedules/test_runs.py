"""What a tick makes of what is due: each run once, in order, with its history."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from bank.db import unit_of_work
from bank.schedules import jobs, store
from bank.users.models import Role
from tests.processes import wait_until
from tests.schedules.conftest import create, history, moment, monthly


def balance(who, account_id):
    return who.get(f"/accounts/{account_id}").json["balance"]


def tick_at(app, now):
    with app.app_context():
        return jobs.run_due(moment(now))


@pytest.fixture
def accounts(alice, bob, funded):
    return funded(alice, "1000.00"), funded(bob, None)


def test_a_year_of_a_monthly_schedule_is_twelve_transfers_on_the_last_days(alice, bob, accounts, run, rows):
    ours, theirs = accounts
    schedule = create(alice, monthly(theirs, name="Rent"))
    assert [each["local"] for each in schedule["next_runs"]] == [
        "2030-01-31T09:00:00+01:00", "2030-02-28T09:00:00+01:00", "2030-03-31T09:00:00+02:00",
        "2030-04-30T09:00:00+02:00", "2030-05-31T09:00:00+02:00",
    ]  # fmt: skip
    assert run("2030-01-31T07:59:59Z") == 0
    assert run("2030-12-31T23:00:00Z") > 0
    found = history(alice, schedule)
    assert [each["due_at"][:10] for each in found] == [
        "2030-01-31", "2030-02-28", "2030-03-31", "2030-04-30", "2030-05-31", "2030-06-30",
        "2030-07-31", "2030-08-31", "2030-09-30", "2030-10-31", "2030-11-30", "2030-12-31",
    ]  # fmt: skip
    assert {(each["status"], each["attempts"]) for each in found} == {("completed", 1)}
    assert (balance(alice, ours), balance(bob, theirs)) == ("880.00", "120.00")
    after = alice.get(f"/schedules/{schedule['id']}").json
    assert (after["status"], after["next_run_at"], after["version"]) == ("active", "2031-01-31T08:00:00.000000Z", 13)

    one = alice.get(f"/transactions/{found[0]['transaction_id']}").json
    assert (one["schedule_id"], one["type"], one["amount"], one["status"]) == (schedule["id"], "transfer", "10.00", "completed")
    listed = alice.get(f"/transactions/history?schedule_id={schedule['id']}").json["data"]
    assert [each["id"] for each in listed] == [each["transaction_id"] for each in found[::-1]]
    [(actor, request)] = rows("SELECT actor_id::text, request_id FROM transactions WHERE id = CAST(:id AS uuid)", id=one["id"])
    assert (actor, request) == (alice.id, f"schedule/{schedule['id']}/2030-01-31T08:00:00.000000Z/1")


def test_a_single_run_finishes_its_schedule(alice, bob, accounts, run):
    ours, _ = accounts
    body = {
        "transfer": {"from_account_id": ours, "to_username": bob.username, "amount": "5", "currency": "USD"},
        "run_at": "2031-05-05T05:05:05Z",
    }
    schedule = create(alice, body)
    assert (schedule["recurrence"], schedule["next_runs"]) == (
        None,
        [{"at": "2031-05-05T05:05:05.000000Z", "local": "2031-05-05T05:05:05+00:00"}],
    )
    assert run("2031-05-05T05:05:05Z") > 0
    assert [each["status"] for each in history(alice, schedule)] == ["completed"]
    after = alice.get(f"/schedules/{schedule['id']}").json
    assert (after["status"], after["next_run_at"], after["next_runs"]) == ("finished", None, [])
    assert run("2099-01-01T00:00:00Z") == 0


def test_count_and_until_end_a_schedule_after_their_last_run(alice, accounts, run):
    counted = create(alice, monthly(accounts[1], rrule="FREQ=DAILY;COUNT=3"))
    limited = create(alice, monthly(accounts[1], rrule="FREQ=DAILY;UNTIL=20300201T080000Z"))
    run("2031-01-01T00:00:00Z")
    assert [each["due_at"][:10] for each in history(alice, counted)] == ["2030-01-31", "2030-02-01", "2030-02-02"]
    assert [each["due_at"][:10] for each in history(alice, limited)] == ["2030-01-31", "2030-02-01"]
    assert {alice.get(f"/schedules/{each['id']}").json["status"] for each in (counted, limited)} == {"finished"}


def test_missed_runs_are_each_made_up_for_or_each_skipped(alice, accounts, run):
    caught_up = create(alice, monthly(accounts[1], rrule="FREQ=DAILY", amount="1.00"))
    skipped = create(alice, monthly(accounts[1], rrule="FREQ=DAILY", amount="1.00", misfire="skip"))
    # Five minutes late is what a restart takes.
    run("2030-02-24T08:05:00Z")
    assert [(each["status"], each["attempts"]) for each in history(alice, caught_up)] == [("completed", 1)] * 25
    late = history(alice, skipped)
    assert [(each["status"], each["attempts"], each["transaction_id"]) for each in late[:24]] == [("skipped", 0, None)] * 24
    assert late[24]["status"] == "completed"
    run("2030-02-25T08:05:01Z")
    assert [each["status"] for each in history(alice, skipped)][24:] == ["completed", "skipped"]
    assert history(alice, caught_up)[25]["status"] == "completed"


def test_what_lies_in_a_pause_is_never_run(alice, accounts, run):
    schedule = create(alice, monthly(accounts[1]))
    path = f"/schedules/{schedule['id']}"
    paused = alice.patch(path, {"status": "paused"})
    assert (paused.json["status"], paused.json["next_run_at"], paused.json["next_runs"]) == ("paused", None, [])
    assert run("2030-04-01T00:00:00Z") == 0
    resumed = alice.patch(path, {"status": "active"}).json
    # By the database's clock, which is not so far yet.
    assert (resumed["status"], resumed["next_run_at"]) == ("active", "2030-01-31T08:00:00.000000Z")


def test_a_clock_that_was_set_back_runs_nothing_twice(alice, accounts, run):
    schedule = create(alice, monthly(accounts[1], rrule="FREQ=DAILY"))
    run("2030-02-03T08:00:00Z")
    changed = alice.patch(f"/schedules/{schedule['id']}", {"recurrence": monthly("", rrule="FREQ=DAILY;INTERVAL=2")["recurrence"]}).json
    assert changed["next_run_at"] == "2030-02-04T08:00:00.000000Z"
    run("2030-02-06T08:00:00Z")
    assert [each["due_at"][8:10] for each in history(alice, schedule)] == ["31", "01", "02", "03", "04", "06"]


def test_a_failed_run_is_tried_again_until_it_does_or_its_tries_are_used_up(alice, bob, funded, run):
    ours, theirs = funded(alice, "15.00"), funded(bob, None)
    retry = {"attempts": 3, "delay_seconds": 3600}
    schedule = create(alice, monthly(theirs, retry=retry))
    run("2030-01-31T08:00:00Z")
    run("2030-02-28T08:00:00Z")
    first, second = history(alice, schedule)
    assert (first["status"], second["status"], second["failure_code"]) == ("completed", "retrying", "insufficient_funds")
    assert (second["attempts"], second["next_attempt_at"]) == (1, "2030-02-28T09:00:00.000000Z")
    assert run("2030-02-28T08:59:59Z") == 0
    run("2030-02-28T09:00:00Z")
    again = history(alice, schedule)[1]
    assert (again["status"], again["attempts"], again["next_attempt_at"]) == ("retrying", 2, "2030-02-28T10:00:00.000000Z")
    assert again["transaction_id"] != second["transaction_id"]
    alice.post("/transactions/credit", {"account_id": ours, "amount": "10.00", "currency": "USD"})
    run("2030-02-28T10:00:00Z")
    done = history(alice, schedule)[1]
    assert (done["status"], done["attempts"], done["failure_code"], done["next_attempt_at"]) == ("completed", 3, None, None)
    assert balance(bob, theirs) == "20.00"
    # Three transactions for this run, of which one was posted.
    found = alice.get(f"/transactions/history?schedule_id={schedule['id']}").json["data"]
    assert [each["status"] for each in found] == ["completed", "failed", "failed", "completed"]

    for at in ("2030-03-31T07:00:00Z", "2030-03-31T08:00:00Z", "2030-03-31T09:00:00Z", "2030-03-31T10:00:00Z"):
        run(at)
    last = history(alice, schedule)[2]
    assert (last["status"], last["attempts"], last["failure_code"]) == ("failed", 3, "insufficient_funds")


def test_a_run_that_another_tick_tries_again_at_the_same_moment_is_tried_once(app, alice, bob, funded, run, rows, post_all, monkeypatch):
    ours, theirs = funded(alice, None), funded(bob, None)
    schedule = create(alice, monthly(theirs, retry={"attempts": 5, "delay_seconds": 1}))
    run("2030-01-31T08:00:00Z")
    alice.post("/transactions/credit", {"account_id": ours, "amount": "100.00", "currency": "USD"})
    # The statement has begun when the other tick commits, and comes to the row afterwards.
    late = store._CLAIM_RETRIES.replace("WHERE r.look_at", "WHERE (SELECT pg_sleep(2)) IS NOT NULL AND r.look_at")
    with monkeypatch.context() as patched, ThreadPoolExecutor(1) as pool:
        patched.setattr(store, "_CLAIM_RETRIES", late)
        second = pool.submit(tick_at, app, "2030-01-31T09:00:00Z")
        sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        wait_until(lambda: rows(sleeping) == [(1,)], "the second tick has begun", 10)
        patched.undo()
        tick_at(app, "2030-01-31T08:00:01Z")
        second.result()
    post_all()
    assert [(each["status"], each["attempts"]) for each in history(alice, schedule)] == [("completed", 2)]
    assert balance(bob, theirs) == "10.00"


def test_runs_that_failed_in_one_tick_are_tried_again_the_longest_due_first(alice, bob, funded, run):
    funded(alice, None)
    theirs = funded(bob, None)
    retry = {"attempts": 2, "delay_seconds": 60}
    # What was made last is due first.
    starts = ("2030-01-31T09:00:00Z", "2030-01-31T08:00:00Z", "2030-01-31T07:00:00Z")
    schedules = [create(alice, monthly(theirs, rrule="FREQ=DAILY;COUNT=3", start=start, retry=retry)) for start in starts]
    run("2030-02-02T12:00:00Z")
    run("2030-02-02T12:01:00Z")
    runs = [(each["due_at"], each["transaction_id"]) for schedule in schedules for each in history(alice, schedule)]
    assert len(runs) == 9
    # Ids of transactions are in the order in which they were made.
    assert [transaction_id for _, transaction_id in sorted(runs)] == sorted(transaction_id for _, transaction_id in runs)


def test_a_stopped_schedule_tries_no_failed_run_again(alice, bob, funded, run):
    funded(alice, None)
    body = monthly(funded(bob, None), retry={"attempts": 5, "delay_seconds": 60})
    # The other one is tried again beside it.
    schedule, _ = create(alice, body), create(alice, body)
    run("2030-01-31T08:00:00Z")
    assert history(alice, schedule)[0]["status"] == "retrying"
    assert alice.request("DELETE", f"/schedules/{schedule['id']}").status_code == 204
    deleted = alice.get(f"/schedules/{schedule['id']}").json
    run("2030-01-31T09:00:00Z")
    assert [(each["status"], each["attempts"]) for each in history(alice, schedule)] == [("failed", 1)]
    # That nothing was done is no change: no event would tell of it.
    assert alice.get(f"/schedules/{schedule['id']}").json == deleted
    assert deleted["status"] == "deleted"


def test_an_account_is_not_paid_from_itself(alice, accounts):
    for query in ("", "?dry_run=true"):
        answer = alice.post(f"/schedules{query}", monthly(accounts[0]))
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/transfer/to_account_id")


def test_a_schedule_that_nobody_understands_any_more_keeps_no_other_from_running(app, alice, accounts, run):
    broken, whole = create(alice, monthly(accounts[1])), create(alice, monthly(accounts[1]))
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE schedules SET time_zone = 'Gone/Away' WHERE id = :id"), {"id": broken["id"]})
    assert run("2030-01-31T08:00:00Z") > 0
    assert [each["status"] for each in history(alice, whole)] == ["completed"]
    assert history(alice, broken) == []


def test_rules_that_take_long_to_look_through_are_left_to_the_next_unit_of_work(alice, accounts, run, monkeypatch):
    schedules = [create(alice, monthly(accounts[1])) for _ in range(3)]
    clock, recorded = iter(range(1_000)), []
    # Each look at the clock is a second later.
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    record = store.record
    monkeypatch.setattr(store, "record", lambda connection, due, *rest: (recorded.append(len(due)), record(connection, due, *rest)))
    run("2030-01-31T08:00:00Z")
    assert recorded == [1, 1, 1]
    assert [each["status"] for schedule in schedules for each in history(alice, schedule)] == ["completed"] * 3


def test_accounts_that_were_closed_or_frozen_since_fail_the_run(alice, teller, accounts, run):
    schedule = create(alice, monthly(accounts[1]))
    assert teller.patch(f"/accounts/{accounts[1]}", {"status": "frozen"}).status_code == 200
    run("2030-01-31T08:00:00Z")
    assert teller.patch(f"/accounts/{accounts[1]}", {"status": "closed"}).status_code == 200
    run("2030-02-28T08:00:00Z")
    assert [(each["status"], each["failure_code"]) for each in history(alice, schedule)] == [
        ("failed", "account_frozen"),
        ("failed", "account_closed"),
    ]


def test_who_may_not_any_more_fails_the_run_without_a_transaction(alice, carol, admin, person, accounts, run):
    theirs = accounts[1]
    second_admin = person("admin", Role.ADMIN)
    of_alice = create(alice, monthly(theirs))
    for_alice = create(
        second_admin, monthly(theirs, amount="1.00") | {"transfer": {"from_account_id": accounts[0], **monthly(theirs)["transfer"]}}
    )
    assert (for_alice["user_id"], for_alice["created_by"]) == (alice.id, second_admin.id)

    def now(who, **changes):
        assert admin.request("PUT", f"/users/{who.id}", json=changes).status_code == 200

    now(second_admin, role="teller")
    run("2030-01-31T08:00:00Z")
    now(alice, status="frozen")
    run("2030-02-28T08:00:00Z")
    now(alice, status="active")
    now(second_admin, role="admin")
    run("2030-03-31T08:00:00Z")
    now(second_admin, role="auditor")
    run("2030-04-30T08:00:00Z")

    def told(schedule):
        return [(each["status"], each["failure_code"], each["transaction_id"] is None) for each in history(admin, schedule)]

    paid, frozen, forbidden = ("completed", None, False), ("failed", "user_frozen", True), ("failed", "forbidden", True)
    assert told(of_alice) == [paid, frozen, paid, paid]
    assert told(for_alice) == [forbidden, frozen, paid, forbidden]


def test_every_run_and_change_leaves_its_events_and_audit_rows(alice, auditor, accounts, run):
    schedule = create(alice, monthly(accounts[1], misfire="skip"))
    run("2030-01-31T08:00:00Z")
    alice.patch(f"/schedules/{schedule['id']}", {"amount": "12.00"})
    run("2030-03-01T08:00:00Z")
    alice.request("DELETE", f"/schedules/{schedule['id']}")
    events = auditor.get(f"/events?stream_id={schedule['id']}").json["data"]
    assert [(each["version"], each["type"]) for each in events] == [
        (1, "ScheduleCreated"), (2, "ScheduleRan"), (3, "ScheduleChanged"), (4, "ScheduleSkipped"), (5, "ScheduleChanged"),
    ]  # fmt: skip
    assert [each["data"]["next_run_at"] and each["data"]["next_run_at"][:10] for each in events] == [
        "2030-01-31", "2030-02-28", "2030-02-28", "2030-03-31", None,
    ]  # fmt: skip
    audited = auditor.get(f"/audit-logs?entity_type=schedule&entity_id={schedule['id']}").json["data"]
    assert [(each["action"], each["details"]) for each in audited] == [
        ("schedule.deleted", {"status": "deleted", "next_run_at": None}),
        ("schedule.changed", {"amount": 1200}),
        ("schedule.created", {"amount": 1000, "currency": "USD", "rrule": "FREQ=MONTHLY"}),
    ]
    paid = events[1]["data"]["transaction_id"]
    [row] = auditor.get(f"/audit-logs?entity_type=transaction&entity_id={paid}").json["data"]
    assert (row["action"], row["actor_id"], row["details"]) == ("transaction.transfer", alice.id, {"amount": 1000, "currency": "USD"})
