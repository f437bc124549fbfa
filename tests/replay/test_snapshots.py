"""Where a replay may start from, and where it must not."""

import zlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import orjson
import pytest
from structlog.testing import capture_logs

from bank.errors import Unavailable
from bank.replay import jobs, run
from bank.replay.run import Until, goal, replay
from bank.replay.state import State, code
from tests.replay.conftest import Books
from tests.replay.test_state import told

OTHER = "0" * 64


@pytest.fixture(scope="module", autouse=True)
def account(books: Books) -> str:
    """An account with forty deposits of a dollar."""
    account_id = str(books.admin.open_account()["id"])
    for _ in range(40):
        books.admin.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
    books.post_all()
    return account_id


@pytest.fixture(autouse=True)
def _few(books: Books, within: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Snapshots every ten positions, and none at the beginning."""
    monkeypatch.setattr(run, "_PART", 5)
    monkeypatch.setattr(run, "_SNAPSHOT_EVERY", 10)
    books.query("DELETE FROM snapshots")
    yield
    books.query("DELETE FROM snapshots")


def replayed(until: Until = None, *, from_start: bool = False) -> tuple[State, list[int]]:
    """The state, and the positions that the replay was at."""
    steps: list[int] = []
    return replay(goal(until), steps.append, from_start=from_start), steps


def kept(books: Books, made_by: str) -> list[int]:
    return [position for (position,) in books.query("SELECT position FROM snapshots WHERE code = %(code)s ORDER BY 1", code=made_by)]


def test_a_replay_that_starts_from_a_snapshot_comes_to_the_same(books: Books) -> None:
    whole, steps = replayed()
    assert steps[0] == 0 and len(steps) > 10
    positions = kept(books, code())
    assert len(positions) == 8
    assert positions == list(range(positions[0], positions[-1] + 1, 10))
    again, steps = replayed()
    assert told(again) == told(whole)
    assert steps[0] == positions[-1]
    for until in range(books.end() + 1):
        state, steps = replayed(until)
        assert steps[0] == max([0, *(position for position in positions if position <= until)])
        assert told(state) == told(replayed(until, from_start=True)[0])


def test_only_the_newest_ten_are_kept_and_those_of_older_code_go(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    for made_by, age in ((OTHER, timedelta(hours=1)), ("f" * 64, -timedelta(hours=1))):
        books.query(
            "INSERT INTO snapshots VALUES (7, %(code)s, '1999-01-01Z', '', now() - %(age)s)", code=made_by, age=age
        )  # fmt: skip
    monkeypatch.setattr(run, "_SNAPSHOT_EVERY", 5)
    replayed()
    positions = kept(books, code())
    assert len(positions) == 10 and positions[0] > books.end() - 60
    assert kept(books, OTHER) == []
    # Of a newer bank, which is just coming.
    assert kept(books, "f" * 64) == [7]


def test_what_other_code_made_is_not_used(books: Books) -> None:
    whole, _ = replayed()
    books.query("UPDATE snapshots SET code = %(code)s, state = ''", code=OTHER)
    state, steps = replayed()
    assert steps[0] == 0
    assert told(state) == told(whole)


DAMAGED = [
    b"",
    b"garbage",
    State().dump()[:-1],
    *(zlib.compress(each) for each in (
        b"", b"\xff", b"{}", b"5", b"[[0, 0, 0, 0]]", b"[[0, 0, 0], {}]", b"[[0, 0, 0, 0], []]", b"[5, {}]",
        b'[["0", 0, 0, 0], {}]', b'[[0, 0, 0, 0], {"a": 5}]', b'[[0, 0, 0, 0], {"a": {}}]',
        b'[[0, 0, 0, 0], {"a": {"user_id": "u", "currency": "USD", "kind": "customer", "name": null, "status": "active",'
        b' "overdraft_limit": 0, "balance": "1", "version": 1}}]',
    )),
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_snapshot_is_passed_over_and_replaced(books: Books, damaged: bytes) -> None:
    whole, _ = replayed()
    *_, older, newest = kept(books, code())
    books.query("UPDATE snapshots SET state = %(damaged)s WHERE position = %(newest)s", damaged=damaged, newest=newest)
    with capture_logs() as logs:
        state, steps = replayed()
    assert (told(state), steps[0]) == (told(whole), older)
    assert [(entry["event"], entry["position"]) for entry in logs] == [("snapshot_damaged", newest)]
    state, steps = replayed()
    assert (told(state), steps[0]) == (told(whole), newest)


def test_where_all_snapshots_are_damaged_the_whole_log_is_read(books: Books) -> None:
    whole, _ = replayed()
    books.query("UPDATE snapshots SET state = 'garbage'")
    state, steps = replayed()
    assert (told(state), steps[0]) == (told(whole), 0)


def times(books: Books) -> list[datetime]:
    return [at for (at,) in books.query("SELECT recorded_at FROM events ORDER BY position")]


def test_up_to_a_time_only_what_was_recorded_by_then_is_started_from(books: Books) -> None:
    replayed()
    snapshots = dict(books.query("SELECT position, recorded_until FROM snapshots"))
    for at in set(times(books)):
        for until in (at, at - timedelta(microseconds=1)):
            state, steps = replayed(until)
            assert steps[0] == max([0, *(position for position, latest in snapshots.items() if latest <= until)])
            assert told(state) == told(replayed(until, from_start=True)[0])


def test_what_is_no_whole_prefix_is_not_kept(books: Books) -> None:
    """Up to a time, the first event that was recorded later ends it, although others behind it were not."""
    middle = 30
    late = times(books)[middle]
    [(position,)] = books.query("SELECT position FROM events ORDER BY position LIMIT 1 OFFSET %(middle)s", middle=middle)
    books.harm(f"UPDATE events SET recorded_at = now() WHERE position = {position}")
    try:
        latest = times(books)[-1]
        state, _ = replayed(latest)
        assert kept(books, code()) == [each for each in range(10, books.end(), 10) if each < position]
        assert state.submitted + state.completed == 79
        assert told(replayed(latest)[0]) == told(state) == told(replayed(latest, from_start=True)[0])
    finally:
        books.harm(f"UPDATE events SET recorded_at = '{late.isoformat()}' WHERE position = {position}")


def test_a_snapshot_that_cannot_be_written_harms_nobody(books: Books, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = replayed(from_start=True)
    books.query("DELETE FROM snapshots")

    def away() -> None:
        raise Unavailable

    monkeypatch.setattr(run, "unit_of_work", away)
    with capture_logs() as logs:
        state, _ = replayed()
    assert told(state) == told(whole)
    assert {entry["event"] for entry in logs} == {"snapshot_not_kept"}
    assert kept(books, code()) == []


def test_a_lying_snapshot_deceives_a_replay_and_no_check_of_the_tables(books: Books, account: str) -> None:
    lie, _ = replayed()
    lie.accounts[account].balance += 1_000_000
    books.query("DELETE FROM snapshots")
    books.query(
        "INSERT INTO snapshots (position, code, recorded_until, state) VALUES (%(end)s, %(code)s, now(), %(state)s)",
        end=books.end(),
        code=code(),
        state=lie.dump(),
    )

    def by_command(*options: str) -> tuple[str, int]:
        told = orjson.loads(books.run("replay", "--account", account, "--format", "json", *options).stdout)
        return told["accounts"][0]["balance"], told["started_from"]

    def by_api(**body: bool) -> tuple[str, int, bool]:
        asked = books.admin.post("/admin/replays", {"account_id": account, **body}).json
        assert asked["started_from"] is None and jobs.run(asked["id"])
        done = books.admin.get(f"/admin/replays/{asked['id']}").json
        [shown] = books.admin.get(f"/admin/replays/{asked['id']}/accounts").json["data"]
        return shown["balance"], done["started_from"], done["from_start"]

    assert by_command() == ("10040.00", books.end())
    assert by_command("--from-start") == ("40.00", 0)
    for body in ({}, {"from_start": False}):
        assert by_api(**body) == ("10040.00", books.end(), False)
    assert by_api(from_start=True) == ("40.00", 0, True)
    table = books.run("replay").stdout.splitlines()
    assert f"started_from {books.end()}" in table
    assert books.run("rebuild", "--check").exit_code == 0
    books.harm(f"UPDATE balances SET amount = amount + 1000000 WHERE account_id = '{account}'")
    try:
        result = books.run("rebuild", "--check")
        assert result.exit_code == 1 and f"balances {account}: amount" in result.output
    finally:
        books.harm(f"UPDATE balances SET amount = amount - 1000000 WHERE account_id = '{account}'")
