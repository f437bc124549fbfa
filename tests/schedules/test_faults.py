"""Two ticks at once, workers killed in the middle of one, schedulers twice and Redis empty: every run once, and none lost."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier

import pytest
import redis
from flask import Flask
from sqlalchemy import text

from bank import create_app
from bank.accounts.many import open_many
from bank.config import Config
from bank.db import db, unit_of_work
from bank.events.types import Origin
from bank.schedules import jobs, store
from bank.schedules.service import Policy, Wanted, create_many
from bank.schedules.timing import Timing
from bank.transactions.parties import Found, Party
from tests.faults.conftest import broken_books
from tests.processes import Bank, fresh_database, query, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCHEDULES, RUNS = 300, 40
OLDEST = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=RUNS + 1)


@pytest.fixture
def own(environ: Mapping[str, str], tmp_path: Path) -> Iterator[dict[str, str]]:
    """A database whose schedules have 40 runs each that are due since hours, and may overdraw for them."""
    with fresh_database(environ, tmp_path) as own:
        app = create_app(Config.from_env(own))
        with app.app_context(), unit_of_work() as session:
            user = session.execute(text("SELECT id::text FROM users")).scalar_one()
            origin = Origin(actor_id=user)
            ids = open_many(session, user, "USD", [f"n{n}" for n in range(SCHEDULES + 1)], origin, overdraft_limit=1_000_000)
            timing = Timing.recurring(f"FREQ=HOURLY;COUNT={RUNS}", "UTC", OLDEST, "last_day")
            target = Party(ids[f"n{SCHEDULES}"], user, "USD")
            wanted = [
                Wanted(Found(Party(ids[f"n{n}"], user, "USD"), target, 100, "USD"), timing, Policy("catch_up")) for n in range(SCHEDULES)
            ]
            create_many(session, wanted, OLDEST - timedelta(seconds=1), origin)
        yield own
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def recorded(own: Mapping[str, str]) -> int:
    return int(query(own, "SELECT count(*) FROM schedule_runs")[0][0])


def assert_each_run_once(own: Mapping[str, str]) -> None:
    """Forty runs a schedule at their hours, a transaction each, and no transaction besides."""
    runs = query(
        own, "SELECT schedule_id, count(*), min(due_at), max(due_at), count(DISTINCT transaction_id) FROM schedule_runs GROUP BY 1"
    )
    last = OLDEST + timedelta(hours=RUNS - 1)
    assert {row[1:] for row in runs} == {(RUNS, OLDEST, last, RUNS)} and len(runs) == SCHEDULES
    assert query(own, "SELECT count(*), count(DISTINCT request_id), count(schedule_id) FROM transactions") == [(SCHEDULES * RUNS,) * 3]
    assert query(own, "SELECT status, version, count(*) FROM schedules GROUP BY 1, 2") == [("finished", RUNS + 1, SCHEDULES)]


def test_ticks_at_once_share_what_is_due_and_run_each_once(own: dict[str, str]) -> None:
    app, start, took = create_app(Config.from_env(own)), Barrier(4), []

    def tick(_: int) -> None:
        with app.app_context():
            start.wait()
            while done := jobs.run_due():
                took.append(done)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(tick, range(4)))
    assert len(took) >= 2
    assert_each_run_once(own)
    assert broken_books(own) == []


def test_a_tick_that_dies_before_its_commit_leaves_nothing_and_the_next_does_it_all(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Nobody catches it, as nobody catches SIGKILL."""

    record = store.record

    def record_and_die(*arguments: object) -> None:
        record(*arguments)
        raise Killed

    app: Flask = create_app(Config.from_env(own))
    with app.app_context():
        with monkeypatch.context() as patched:
            patched.setattr(store, "record", record_and_die)
            with pytest.raises(Killed):
                jobs.run_due()
        assert recorded(own) == 0
        assert query(own, "SELECT count(*) FROM transactions") == [(0,)]
        while jobs.run_due():
            pass
    assert_each_run_once(own)


def test_workers_killed_two_schedulers_and_an_empty_redis_neither_pay_twice_nor_lose_a_run(own: dict[str, str], tmp_path: Path) -> None:
    slow = {**own, "BANK_BATCH_SIZE": "50"}
    with Bank(slow, tmp_path, web_workers=1, workers=2) as bank:
        second = bank.add("scheduler-2", "-m", "bank", "scheduler")
        seen = 0
        for _ in range(3):
            wait_until(lambda seen=seen: recorded(own) > seen, "a tick is in the middle", 60)
            for worker in bank.workers:
                worker.kill()
            seen = recorded(own)
            with redis.Redis.from_url(own["REDIS_URL"]) as client:
                client.flushdb()
            for worker in bank.workers:
                worker.restart()
        assert bank.scheduler is not None
        bank.scheduler.kill()
        wait_until(lambda: recorded(own) == SCHEDULES * RUNS, "every run is recorded", 120)
        final = "SELECT count(*) FROM transactions WHERE status = 'completed'"
        wait_until(lambda: query(own, final) == [(SCHEDULES * RUNS,)], "every run is posted", 120)
        assert second.child.poll() is None
    assert_each_run_once(own)
    assert broken_books(own) == []
    assert query(own, "SELECT sum(amount) FROM balances b JOIN accounts a ON a.id = b.account_id WHERE a.name = %s", f"n{SCHEDULES}") == [
        (100 * SCHEDULES * RUNS,)
    ]
