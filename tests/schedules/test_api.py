"""`/schedules`: made, read, changed and ended, each by whom it may be."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from bank.users.models import Role
from tests.contract.problems import check_problem
from tests.schedules.conftest import create, history, monthly

NOBODY = "019b2f6e-8a00-7000-8000-000000000001"


@pytest.fixture
def accounts(alice, bob, funded):
    return funded(alice, "1000.00"), funded(bob, None)


def test_a_schedule_is_told_of_as_it_was_asked_for(alice, bob, accounts):
    ours, theirs = accounts
    body = monthly(theirs, name="Rent", misfire="skip", retry={"attempts": 3, "delay_seconds": 60})
    body["transfer"] |= {"description": "For May", "reference": "R-1", "metadata": {"flat": "7"}}
    answer = alice.post("/schedules", body)
    schedule = answer.json
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/schedules/{schedule['id']}"
    assert schedule == {
        "id": schedule["id"],
        "status": "active",
        "user_id": alice.id,
        "created_by": alice.id,
        "name": "Rent",
        "transfer": {
            "from_user_id": alice.id,
            "to_user_id": bob.id,
            "from_account_id": ours,
            "to_account_id": theirs,
            "amount": "10.00",
            "currency": "USD",
            "to_currency": "USD",
            "description": "For May",
            "reference": "R-1",
            "metadata": {"flat": "7"},
        },
        "run_at": None,
        "recurrence": {
            "rrule": "FREQ=MONTHLY",
            "time_zone": "Europe/Prague",
            "start": "2030-01-31T08:00:00.000000Z",
            "month_end": "last_day",
        },
        "misfire": "skip",
        "retry": {"attempts": 3, "delay_seconds": 60},
        "next_run_at": "2030-01-31T08:00:00.000000Z",
        "next_runs": schedule["next_runs"],
        "version": 1,
        "created_at": schedule["created_at"],
        "updated_at": schedule["created_at"],
    }
    read = alice.get(f"/schedules/{schedule['id']}")
    assert read.json == schedule and read.headers["ETag"] == answer.headers["ETag"] == '"1"'
    plain = create(alice, monthly(theirs))
    assert (plain["misfire"], plain["retry"]["attempts"], plain["name"]) == ("catch_up", 1, None)


def test_a_start_in_the_past_is_where_counting_begins_and_nothing_is_caught_up(alice, accounts, run):
    schedule = create(alice, monthly(accounts[1], start="2020-01-31T08:00:00Z", rrule="FREQ=MONTHLY;COUNT=500"))
    assert schedule["next_run_at"] > schedule["created_at"]
    assert history(alice, schedule) == []


def test_a_dry_run_shows_the_schedule_and_makes_none(alice, accounts, rows):
    count = "SELECT (SELECT count(*) FROM schedules) + (SELECT count(*) FROM events) + (SELECT count(*) FROM audit_logs)"
    before = rows(count)
    shown = alice.post("/schedules?dry_run=true", monthly(accounts[1]))
    assert shown.status_code == 200 and shown.json["id"] is None and len(shown.json["next_runs"]) == 5
    assert rows(count) == before


def test_the_same_key_makes_one_schedule(alice, bob, accounts):
    body, key = monthly(accounts[1]), {"Idempotency-Key": "rent"}
    first, second = (alice.post("/schedules", body, headers=key) for _ in range(2))
    assert first.status_code == second.status_code == 201 and first.data == second.data
    assert "Idempotent-Replayed" not in first.headers and second.headers["Idempotent-Replayed"] == "true"
    for header in ("Location", "ETag"):
        assert first.headers[header] == second.headers[header]
    assert len(alice.get("/schedules").json["data"]) == 1
    reused = alice.post("/schedules", monthly(accounts[1], amount="11.00"), headers=key)
    assert (reused.status_code, reused.json["code"]) == (422, "idempotency_key_reused")
    # The key is the user's, for this operation.
    assert "Idempotent-Replayed" not in bob.post("/schedules", monthly(accounts[0]), headers=key).headers


def test_fifty_at_once_with_one_key_make_one_schedule(alice, accounts, app):
    def ask(_):
        headers = {"Authorization": f"Bearer {alice.token}", "Idempotency-Key": "at once"}
        return app.test_client().post("/api/v1/schedules", json=monthly(accounts[1]), headers=headers)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(50)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.data for answer in answers if answer.status_code == 201}) == 1
    assert len(alice.get("/schedules").json["data"]) == 1


def test_customers_schedule_from_their_own_accounts_and_see_their_own(alice, bob, carol, teller, auditor, admin, accounts):
    ours, theirs = accounts
    schedule = create(alice, monthly(theirs))
    path = f"/schedules/{schedule['id']}"
    for stranger in (bob, carol):
        for answer in (
            stranger.get(path),
            stranger.get(f"{path}/runs"),
            stranger.patch(path, {"status": "paused"}),
            stranger.request("DELETE", path),
        ):
            check_problem(answer, 404)
        assert stranger.get("/schedules").json["data"] == []
    from_alice = monthly(theirs) | {"transfer": {**monthly(theirs)["transfer"], "from_account_id": ours}}
    for other in (bob, teller):
        check_problem(other.post("/schedules", from_alice), 404)
    check_problem(auditor.post("/schedules", from_alice), 403)
    check_problem(bob.get(f"/schedules?user_id={alice.id}"), 403)
    for staff in (teller, auditor, admin):
        assert staff.get(path).status_code == staff.get(f"{path}/runs").status_code == 200
        assert [each["id"] for each in staff.get(f"/schedules?user_id={alice.id}").json["data"]] == [schedule["id"]]
    check_problem(teller.patch(path, {"status": "paused"}), 404)
    check_problem(auditor.patch(path, {"status": "paused"}), 403)
    by_admin = create(admin, from_alice)
    assert [each["id"] for each in alice.get("/schedules").json["data"]] == [by_admin["id"], schedule["id"]]
    assert admin.patch(path, {"status": "paused"}).status_code == 200
    assert admin.request("DELETE", path).status_code == 204


def test_the_list_goes_by_page_and_by_status(alice, accounts):
    made = [create(alice, monthly(accounts[1], name=f"n{n}"))["id"] for n in range(5)]
    alice.patch(f"/schedules/{made[1]}", {"status": "paused"})
    alice.request("DELETE", f"/schedules/{made[3]}")
    seen, cursor = [], ""
    while cursor is not None:
        page = alice.get(f"/schedules?limit=2{cursor and '&cursor=' + cursor}").json
        seen += [each["id"] for each in page["data"]]
        cursor = page["next_cursor"]
    assert seen == [made[4], made[2], made[1], made[0]]
    for status, found in (("paused", [made[1]]), ("deleted", [made[3]]), ("finished", []), ("active", [made[4], made[2], made[0]])):
        assert [each["id"] for each in alice.get(f"/schedules?status={status}").json["data"]] == found


def test_the_runs_go_by_page(alice, accounts, run):
    schedule = create(alice, monthly(accounts[1], rrule="FREQ=DAILY", amount="1"))
    run("2030-02-04T08:00:00Z")
    seen, cursor = [], ""
    while cursor is not None:
        page = alice.get(f"/schedules/{schedule['id']}/runs?limit=2{cursor and '&cursor=' + cursor}").json
        seen += [each["due_at"][5:10] for each in page["data"]]
        cursor = page["next_cursor"]
    assert seen == ["02-04", "02-03", "02-02", "02-01", "01-31"]


def test_a_change_is_taken_with_the_version_that_was_read(alice, accounts, run):
    schedule = create(alice, monthly(accounts[1]))
    path = f"/schedules/{schedule['id']}"
    changes = {"amount": "12.50", "description": "More", "name": "Rent 2", "misfire": "skip", "retry": {"attempts": 2, "delay_seconds": 5}}
    changed = alice.patch(path, changes, headers={"If-Match": '"1"'})
    assert changed.status_code == 200 and changed.headers["ETag"] == '"2"'
    told = changed.json
    assert (told["transfer"]["amount"], told["transfer"]["description"], told["name"], told["misfire"], told["retry"]) == (
        "12.50", "More", "Rent 2", "skip", {"attempts": 2, "delay_seconds": 5},
    )  # fmt: skip
    assert told["next_run_at"] == schedule["next_run_at"]
    for answer in (
        alice.patch(path, {"amount": "1.00"}, headers={"If-Match": '"1"'}),
        alice.request("DELETE", path, headers={"If-Match": '"1"'}),
    ):
        check_problem(answer, 412)
    # A change to what it is already is none.
    assert alice.patch(path, {"amount": "12.50"}).headers["ETag"] == '"2"'
    check_problem(alice.patch(path, {"amount": "12.505"}), 422, "/amount")
    run("2030-01-31T08:00:00Z")
    assert alice.get(path).headers["ETag"] == '"3"'
    assert alice.request("DELETE", path, headers={"If-Match": '"3"'}).status_code == 204


def test_a_new_timing_takes_the_place_of_the_old(alice, accounts, run):
    schedule = create(alice, monthly(accounts[1]))
    path = f"/schedules/{schedule['id']}"
    weekly = alice.patch(path, {"recurrence": monthly("", rrule="FREQ=WEEKLY", time_zone="UTC", month_end="skip")["recurrence"]}).json
    assert weekly["recurrence"]["rrule"] == "FREQ=WEEKLY" and weekly["next_runs"][1]["at"] == "2030-02-07T08:00:00.000000Z"
    once = alice.patch(path, {"run_at": "2030-03-03T03:03:03Z"}).json
    assert once["recurrence"] is None and once["run_at"] == once["next_run_at"] == "2030-03-03T03:03:03.000000Z"
    run("2030-03-03T03:03:03Z")
    for late in ({"status": "active"}, {"status": "paused"}):
        assert check_problem(alice.patch(path, late), 409)["code"] == "schedule_over"
    again = alice.patch(path, {"run_at": "2030-04-03T03:03:03Z"}).json
    assert (again["status"], again["next_run_at"]) == ("active", "2030-04-03T03:03:03.000000Z")
    run("2030-04-03T03:03:03Z")
    assert [each["status"] for each in history(alice, schedule)] == ["completed", "completed"]
    assert alice.request("DELETE", path).status_code == 204
    check_problem(alice.patch(path, {"run_at": "2031-01-01T00:00:00Z"}), 409)
    assert alice.request("DELETE", path).status_code == 204, "a second time nothing happens"
    assert len(history(alice, schedule)) == 2


def test_no_run_to_come_is_refused(alice, accounts, rows):
    check_problem(
        alice.post("/schedules", monthly(accounts[1], start="2020-01-01T00:00:00Z", rrule="FREQ=DAILY;COUNT=3")), 422, "/recurrence/rrule"
    )
    check_problem(
        alice.post("/schedules", {"transfer": monthly(accounts[1])["transfer"], "run_at": "2020-01-01T00:00:00Z"}), 422, "/run_at"
    )
    both = {**monthly(accounts[1]), "run_at": "2030-01-01T00:00:00Z"}
    check_problem(alice.post("/schedules", both), 422, "/run_at")
    assert alice.get("/schedules").json["data"] == []


def test_money_for_who_has_no_account_opens_one_when_it_is_scheduled(alice, carol, accounts, person):
    body = {"transfer": {"to_user_id": carol.id, "amount": "1", "currency": "USD"}, "run_at": "2030-01-01T00:00:00Z"}
    schedule = create(alice, body)
    assert [each["id"] for each in carol.get("/accounts").json["data"]] == [schedule["transfer"]["to_account_id"]]
    assert person("nobody", Role.CUSTOMER).post("/schedules", body).status_code == 404, "who has no account schedules nothing"
