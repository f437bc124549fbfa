"""What a tick makes of what is due: each run once, in order, with its history."""

import pytest

from tests.schedules.conftest import create, history, monthly


def balance(who, account_id):
    return who.get(f"/accounts/{account_id}").json["balance"]


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
