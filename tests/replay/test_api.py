"""`/admin/replays`: asked for, claimed by one, told of while it is at work, given back, and read by page."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bank.processing.queue import SLOW_QUEUE, queue
from bank.replay import jobs, run
from bank.replay.run import goal, replay
from bank.users.models import Role
from bank.web.fields import timestamp
from tests.conftest import Person
from tests.contract.problems import check_problem
from tests.replay.conftest import Books

NOBODY = "019b2f6e-8a00-7000-8000-000000000001"


@pytest.fixture(scope="module")
def account(books: Books) -> str:
    """An account with two dollars and a half, and two more in other currencies."""
    account_id, *_ = [str(books.admin.open_account(currency)["id"]) for currency in ("USD", "JPY", "BHD")]
    for amount in ("1.00", "1.50"):
        books.admin.post("/transactions/credit", {"account_id": account_id, "amount": amount, "currency": "USD"})
        books.post_all()
    return account_id


@pytest.fixture(autouse=True)
def _quiet(books: Books, within: None) -> Iterator[None]:
    """No replays and no bells of the tests before."""
    books.query("DELETE FROM replays")
    queue(SLOW_QUEUE).empty()
    yield
    jobs._stopping.clear()


def ask(who: Person, **body: Any) -> dict[str, Any]:
    answer = who.post("/admin/replays", body)
    assert answer.status_code == 202, answer.json
    assert answer.headers["Location"] == f"/api/v1/admin/replays/{answer.json['id']}"
    return dict(answer.json)


def read(books: Books, replay_id: str) -> dict[str, Any]:
    answer = books.admin.get(f"/admin/replays/{replay_id}")
    assert answer.status_code == 200
    return dict(answer.json)


def accounts(books: Books, replay_id: str) -> dict[str, dict[str, Any]]:
    answer = books.admin.get(f"/admin/replays/{replay_id}/accounts?limit=200")
    assert answer.status_code == 200, answer.json
    return {each["id"]: each for each in answer.json["data"]}


def bells() -> list[tuple[str, list[str]]]:
    return [(job.func_name, list(job.args)) for job in queue(SLOW_QUEUE).jobs]


def test_a_replay_is_queued_rung_for_and_finished(books: Books, account: str) -> None:
    asked = ask(books.admin)
    position = books.end()
    assert asked == {
        "id": asked["id"],
        "status": "queued",
        # What «now» means is written down.
        "until_position": position,
        "from_start": False,
        **dict.fromkeys(
            (
                "until_time",
                "account_id",
                "started_from",
                "position",
                "end_position",
                "users",
                "submitted",
                "completed",
                "failed",
                "open_holds",
                "voided",
                "error",
            )
        ),
        "progress": 0,
        "created_at": asked["created_at"],
        "finished_at": None,
    }
    assert bells() == [("bank.replay.jobs.run", [asked["id"]])]
    assert jobs.run(asked["id"])
    done = read(books, asked["id"])
    expected = {
        "status": "finished",
        "position": position,
        "end_position": position,
        "progress": 100,
        "users": 1,
        "submitted": 2,
        "completed": 2,
    }
    assert {name: done[name] for name in expected} == expected
    assert (done["failed"], done["error"]) == (0, None) and done["finished_at"] > done["created_at"]
    found = accounts(books, asked["id"])
    assert found[account]["balance"] == "2.50" and found[account]["overdraft_limit"] == "0.00" and found[account]["version"] == 2
    assert {each["balance"] for each in found.values() if each["currency"] == "BHD"} == {"0.000"}
    assert not jobs.run(asked["id"]), "a second bell finds nothing to do"


def test_a_replay_goes_up_to_a_position_or_a_time_and_of_one_account(books: Books, account: str) -> None:
    [(position, at)] = books.query("SELECT position, recorded_at FROM events WHERE type = 'TransactionCompleted' ORDER BY 1 LIMIT 1")
    for until in ({"until_position": position}, {"until_time": timestamp(at)}):
        asked = ask(books.admin, **until, account_id=account)
        assert {name: asked[name] for name in until} == until and asked["account_id"] == account
        assert jobs.run(asked["id"])
        assert {each: found["balance"] for each, found in accounts(books, asked["id"]).items()} == {account: "1.00"}


def test_what_is_replayed_is_written_down_and_audited(books: Books, account: str) -> None:
    auditor = books.person("auditor", Role.AUDITOR)
    asked = ask(auditor, until_position=3, account_id=account)
    [row] = books.admin.get(f"/audit-logs?entity_type=replay&entity_id={asked['id']}").json["data"]
    assert (row["action"], row["actor_id"]) == ("replay.started", auditor.id)
    assert row["details"] == {"until_position": 3, "until_time": None, "account_id": account, "from_start": False}


def test_replays_are_for_auditors_and_admins(books: Books) -> None:
    replay_id = ask(books.admin)["id"]
    for role, status in ((Role.CUSTOMER, 403), (Role.TELLER, 403), (Role.AUDITOR, 200)):
        person = books.person(f"a-{role.value}", role)
        assert person.get(f"/admin/replays/{replay_id}").status_code == status
        assert person.get(f"/admin/replays/{replay_id}/accounts").status_code == (409 if status == 200 else status)
        assert person.post("/admin/replays", {}).status_code == (202 if status == 200 else status)


def test_what_is_not_there_and_what_has_no_result_yet(books: Books, account: str) -> None:
    for path in (NOBODY, f"{NOBODY}/accounts"):
        check_problem(books.admin.get(f"/admin/replays/{path}"), 404)
    replay_id = ask(books.admin)["id"]
    problem = check_problem(books.admin.get(f"/admin/replays/{replay_id}/accounts"), 409)
    assert (problem["code"], problem["detail"]) == ("replay_not_finished", "It is queued.")


def test_a_moment_that_is_none_is_refused(books: Books) -> None:
    end = books.end()
    for body, pointer in (
        ({"until_position": end + 1}, "/until_position"),
        ({"until_position": 1, "until_time": "2026-01-31T12:00:00Z"}, "/until_time"),
        ({"until": 1}, "/until"),
    ):
        check_problem(books.admin.post("/admin/replays", body), 422, pointer)
    problem = books.admin.post("/admin/replays", {"until_position": end + 1}).json
    assert problem["detail"] == f"The log ends at position {end}."
    assert books.query("SELECT count(*) FROM replays") == [(0,)]


def test_three_may_be_open_and_a_fourth_waits_for_one_to_end(books: Books, account: str) -> None:
    first, *_ = [ask(books.admin)["id"] for _ in range(3)]
    problem = check_problem(books.admin.post("/admin/replays", {}), 409)
    assert problem["code"] == "too_many_replays"
    assert jobs.run(first)
    ask(books.admin)


def finished(books: Books) -> str:
    replay_id = str(ask(books.admin)["id"])
    assert jobs.run(replay_id)
    return replay_id


def kept(books: Books) -> dict[str, str]:
    return dict(books.query("SELECT id::text, status FROM replays"))


def with_accounts(books: Books) -> dict[str, int]:
    return dict(books.query("SELECT replay_id::text, count(*) FROM replayed_accounts GROUP BY 1"))


def test_what_is_older_than_a_week_is_forgotten_with_its_accounts(books: Books, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the sweeper, a set at a time: whoever asks for one waits for none of it. What is forgotten is shown no more, all at once."""
    monkeypatch.setattr(jobs, "_SET", 2)
    older, newer = finished(books), finished(books)
    waiting, failed = ask(books.admin)["id"], ask(books.admin)["id"]
    every = len(accounts(books, older))
    books.query(
        "UPDATE replays SET created_at = now() - interval '8 days' WHERE id IN (%(older)s, %(waiting)s)", older=older, waiting=waiting
    )
    books.query("UPDATE replays SET status = 'failed' WHERE id = %(failed)s", failed=failed)
    books.query(
        """INSERT INTO replayed_accounts (replay_id, account_id, currency, kind, status, balance, version)
           VALUES (%(failed)s, %(failed)s, 'USD', 'customer', 'active', 0, 0)""",
        failed=failed,
    )
    asked = ask(books.admin)["id"]
    assert kept(books).keys() == {older, newer, waiting, failed, asked} and with_accounts(books)[older] == every > 2
    monkeypatch.setattr(jobs, "_DROP_SECONDS", 0.0)
    jobs.sweep_replays()
    assert kept(books) == {older: "forgotten", newer: "finished", failed: "failed", asked: "queued"}
    assert every in with_accounts(books).values() and sum(with_accounts(books).values()) < 2 * every + 1
    for path in (older, f"{older}/accounts"):
        check_problem(books.admin.get(f"/admin/replays/{path}"), 404)
    assert not jobs.run(waiting)
    for _ in range(every):
        jobs.sweep_replays()
    assert kept(books) == {newer: "finished", failed: "failed", asked: "queued"}
    assert with_accounts(books) == {newer: every}


def test_twenty_results_are_kept(books: Books, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs._KEPT_RESULTS == 20
    monkeypatch.setattr(jobs, "_KEPT_RESULTS", 2)
    # The newest is the one that was finished last, whenever it was asked for.
    first, second, third = (ask(books.admin)["id"] for _ in range(3))
    for each in (second, third, first):
        assert jobs.run(each)
    jobs.sweep_replays()
    assert kept(books).keys() == {first, third} == with_accounts(books).keys()


def test_the_accounts_come_by_page_in_the_order_of_their_ids(books: Books, account: str) -> None:
    replay_id = ask(books.admin)["id"]
    jobs.run(replay_id)
    ids, path = [], f"/admin/replays/{replay_id}/accounts?limit=2"
    while path:
        page = books.admin.get(path).json
        ids += [each["id"] for each in page["data"]]
        assert page["has_more"] == (page["next_cursor"] is not None)
        path = f"/admin/replays/{replay_id}/accounts?limit=2&cursor={page['next_cursor']}" if page["has_more"] else ""
    assert ids == sorted(ids) == sorted(str(each) for (each,) in books.query("SELECT id::text FROM accounts"))


def test_a_lost_bell_is_rung_again_and_one_that_waits_is_not(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    replay_id = ask(books.admin)["id"]
    assert jobs.sweep_replays() == [], "it was asked for just now"
    monkeypatch.setattr(jobs, "_UNHEARD_SECONDS", 0.0)
    assert jobs.sweep_replays() == [], "its bell waits in the queue"
    queue(SLOW_QUEUE).empty()
    assert jobs.sweep_replays() == [replay_id]
    assert bells() == [("bank.replay.jobs.run", [replay_id])]
    assert jobs.run(replay_id)
    queue(SLOW_QUEUE).empty()
    assert jobs.sweep_replays() == []


def test_a_replay_that_is_at_work_is_nobody_elses_and_a_silent_one_is(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was silent wakes up, and writes nothing."""
    replay_id = ask(books.admin)["id"]
    results = []

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(jobs, "replay", replay)
        assert not jobs.run(replay_id)
        assert jobs.sweep_replays() == []
        books.query("UPDATE replays SET heard_at = now() - interval '31 s'")
        queue(SLOW_QUEUE).empty()
        assert jobs.sweep_replays() == [replay_id]
        results.append(jobs.run(replay_id))
        return replay(*args, **kwargs)

    monkeypatch.setattr(jobs, "replay", meanwhile)
    results.append(jobs.run(replay_id))
    assert results == [True, False]
    assert books.query("SELECT status, attempts FROM replays") == [("finished", 2)]


def test_accounts_are_written_a_commit_for_each_set_and_shown_when_all_are_there(
    books: Books, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that dies on the way, or is asked to stop, leaves what the next drops first."""
    monkeypatch.setattr(jobs, "_SET", 2)
    every = books.query("SELECT count(*) FROM accounts")[0][0]
    replay_id = ask(books.admin)["id"]
    books.query(
        "INSERT INTO replays (id, asked_by, until_position, from_start) VALUES (%(id)s, %(by)s, 0, true)", id=NOBODY, by=books.admin.id
    )
    books.query(
        """INSERT INTO replayed_accounts (replay_id, account_id, currency, kind, status, balance, version)
           SELECT %(id)s, id, 'USD', 'customer', 'active', 0, 0 FROM accounts""",
        id=NOBODY,
    )
    write, seen, ends = jobs._write_accounts, [], [None, _die, jobs.stop]

    def watched(connection: Any, *args: Any) -> None:
        seen.append(books.query("SELECT count(*) FROM replayed_accounts WHERE replay_id = %(id)s", id=replay_id)[0][0])
        [(heard,)] = connection.exec_driver_sql("SELECT heard_at = now() FROM replays WHERE id = %s", (replay_id,)).all()
        assert heard
        assert books.admin.get(f"/admin/replays/{replay_id}/accounts").status_code == 409
        if seen[-1] == 2 and (end := ends.pop()):
            end()
        write(connection, *args)

    monkeypatch.setattr(jobs, "_write_accounts", watched)
    assert not jobs.run(replay_id)
    jobs._stopping.clear()
    with pytest.raises(MemoryError):
        jobs.run(replay_id)
    books.query("UPDATE replays SET heard_at = now() - interval '31 s' WHERE id = %(id)s", id=replay_id)
    assert jobs.run(replay_id)
    assert seen == [0, 2, 0, 2, *range(0, every, 2)]
    assert len(accounts(books, replay_id)) == every
    assert books.query("SELECT count(*) FROM replayed_accounts WHERE replay_id = %(id)s", id=NOBODY) == [(every,)]


def _die() -> None:
    raise MemoryError


def test_who_loses_a_replay_while_its_accounts_are_written_writes_no_more(
    books: Books, account: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_SET", 2)
    replay_id = ask(books.admin)["id"]
    tell, results = jobs._Claim.write_position, []

    def silent(claim: Any, session: Any, position: int, end: int) -> None:
        if books.query("SELECT count(*) FROM replayed_accounts") == [(2,)]:
            monkeypatch.setattr(jobs._Claim, "write_position", tell)
            books.query("UPDATE replays SET heard_at = now() - interval '31 s'")
            results.append(_elsewhere(books, replay_id))
        tell(claim, session, position, end)

    monkeypatch.setattr(jobs._Claim, "write_position", silent)
    results.append(jobs.run(replay_id))
    assert results == [True, False]
    assert books.query("SELECT status, attempts FROM replays") == [("finished", 2)]
    assert len(accounts(books, replay_id)) == books.query("SELECT count(*) FROM accounts")[0][0]


def _elsewhere(books: Books, replay_id: str) -> bool:
    """Run it in another thread: a unit of work is open in this one."""

    def run() -> bool:
        with books.app.app_context():
            return jobs.run(replay_id)

    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run).result(60)


def test_it_tells_how_far_it_is(books: Books, account: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_PART", 1)
    monkeypatch.setattr(jobs, "_TELL_SECONDS", 0.0)
    replay_id = ask(books.admin, until_position=4)["id"]
    told = []

    def watched(end: Any, watch: Any, **kwargs: Any) -> Any:
        def look(position: int) -> None:
            watch(position)
            shown = read(books, replay_id)
            told.append((shown["status"], shown["position"], shown["end_position"], shown["progress"]))

        return replay(end, look, **kwargs)

    monkeypatch.setattr(jobs, "replay", watched)
    assert jobs.run(replay_id)
    # It is over when the accounts are written, and not before.
    assert told == [("running", position, 4, progress) for position, progress in enumerate((0, 25, 50, 75, 99))]


def test_what_takes_its_worker_down_is_given_up_after_three_times(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    replay_id = ask(books.admin)["id"]

    def dies(*args: Any, **kwargs: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(jobs, "replay", dies)
    for _ in range(3):
        with pytest.raises(MemoryError):
            jobs.run(replay_id)
        assert not jobs.run(replay_id), "not silent for long enough"
        books.query("UPDATE replays SET heard_at = now() - interval '31 s'")
    assert read(books, replay_id)["status"] == "running"
    assert not jobs.run(replay_id)
    given_up = read(books, replay_id)
    assert given_up["status"] == "failed" and "3 times" in given_up["error"] and given_up["finished_at"]
    problem = check_problem(books.admin.get(f"/admin/replays/{replay_id}/accounts"), 409)
    assert problem["detail"] == "It is failed."


def test_what_cannot_be_replayed_fails_at_once_and_says_why(books: Books, account: str) -> None:
    replay_id = ask(books.admin, account_id=NOBODY)["id"]
    assert jobs.run(replay_id)
    assert (read(books, replay_id)["status"], read(books, replay_id)["error"]) == ("failed", f"There was no account {NOBODY} then.")
    books.harm("""INSERT INTO events (stream_id, version, type, schema, data)
                  VALUES ('00000000-0000-7000-8000-00000000000f', 1, 'AccountOpened', 2, '{}')""")
    try:
        replay_id = ask(books.admin)["id"]
        assert jobs.run(replay_id)
        assert "a AccountOpened of version 2" in read(books, replay_id)["error"]
    finally:
        books.harm("DELETE FROM events WHERE type = 'AccountOpened' AND schema = 2")


def test_a_worker_that_is_asked_to_stop_gives_its_replay_back(books: Books) -> None:
    replay_id = ask(books.admin)["id"]
    queue(SLOW_QUEUE).empty()
    jobs.stop()
    assert not jobs.run(replay_id)
    assert books.query("SELECT status, attempts FROM replays") == [("queued", 0)]
    assert bells() == [("bank.replay.jobs.run", [replay_id])]
    jobs._stopping.clear()
    assert jobs.run(replay_id)


def test_now_is_settled_before_it_is_written_down(books: Books, account: str) -> None:
    assert ask(books.admin)["until_position"] == goal(None).position
