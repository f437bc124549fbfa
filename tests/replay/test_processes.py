"""Replays by real workers, one of which dies."""

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import redis

from tests.bench.log import fill_log
from tests.processes import Bank, fresh_database, query, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ACCOUNTS, TRANSACTIONS = 2_000, 200_000


@pytest.fixture(scope="module")
def environ_of_many(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """A bank whose log takes seconds to read."""
    with fresh_database(environ, tmp_path_factory.mktemp("many")) as own:
        fill_log(own, ACCOUNTS, TRANSACTIONS)
        yield own


def test_a_killed_workers_replay_is_finished_by_another(environ_of_many: Mapping[str, str], tmp_path: Path) -> None:
    with Bank(environ_of_many, tmp_path, web_workers=1, workers=1, slow_worker=True) as bank:
        client = bank.client(bank.log_in())
        asked = client.post("/admin/replays", {})
        assert asked.status == 202, asked.body
        path = f"/admin/replays/{asked.json['id']}"
        wait_until(lambda: (client.get(path).json["position"] or 0) > 0, "it is in the middle")
        assert bank.slow_worker is not None
        bank.slow_worker.kill()
        [(status, attempts)] = query(bank.environ, "SELECT status, attempts FROM replays")
        assert (status, attempts) == ("running", 1)
        assert 0 < client.get(path).json["progress"] < 100
        # Half a minute passes.
        query(bank.environ, "UPDATE replays SET heard_at = heard_at - interval '30 s'")
        bank.slow_worker.restart()
        wait_until(lambda: client.get(path).json["status"] == "finished", "another finishes it", 60)
        done = client.get(path).json
        assert (done["submitted"], done["completed"], done["failed"]) == (TRANSACTIONS, TRANSACTIONS, 0)
        assert query(bank.environ, "SELECT attempts FROM replays") == [(2,)]
        found = query(bank.environ, "SELECT kind, count(*), sum(balance)::bigint FROM replayed_accounts GROUP BY 1 ORDER BY 1")
        assert found == [("customer", ACCOUNTS, TRANSACTIONS), ("outside", 1, -TRANSACTIONS)]


def test_a_worker_that_is_told_to_stop_gives_its_replay_back_at_once(environ_of_many: Mapping[str, str], tmp_path: Path) -> None:
    query(environ_of_many, "DELETE FROM snapshots")
    with Bank(environ_of_many, tmp_path, web_workers=1, workers=0, slow_worker=True, scheduler=False) as bank:
        client = bank.client(bank.log_in())
        replay_id = client.post("/admin/replays", {}).json["id"]
        path = f"/admin/replays/{replay_id}"
        wait_until(lambda: client.get(path).json["status"] == "running", "it is begun")
        assert bank.slow_worker is not None
        bank.slow_worker.signal(signal.SIGTERM)
        assert bank.slow_worker.child.wait(10) == 0
        assert query(bank.environ, "SELECT status, attempts FROM replays WHERE id = %(id)s", id=replay_id) == [("queued", 0)]
        # Its bell waits, without any sweeper.
        bank.slow_worker.restart()
        wait_until(lambda: client.get(path).json["status"] == "finished", "another finishes it", 60)


def test_a_replay_whose_bell_is_lost_with_redis_is_rung_for_again_and_keeps_nobody_from_posting(
    environ_of_many: Mapping[str, str], tmp_path: Path
) -> None:
    with Bank(environ_of_many, tmp_path, web_workers=1, workers=1) as bank:
        client = bank.client(bank.log_in())
        path = f"/admin/replays/{client.post('/admin/replays', {}).json['id']}"
        with redis.Redis.from_url(bank.environ["REDIS_URL"]) as connection:
            connection.flushdb()
        slow = bank.add("worker-slow", "worker.py", "slow")
        wait_until(lambda: client.get(path).json["status"] == "running", "it is heard of", 60)
        account_id = client.post("/accounts", {"currency": "USD"}).json["id"]
        credited = client.post("/transactions/credit", {"account_id": account_id, "amount": "1", "currency": "USD"}, Prefer="wait=10")
        assert credited.status == 201, credited.body
        wait_until(lambda: client.get(path).json["status"] == "finished", "it is finished", 60)
        assert slow.child.poll() is None


def test_a_worker_takes_no_other_word(environ: Mapping[str, str], tmp_path: Path) -> None:
    with Bank(environ, tmp_path, web_workers=1, workers=0, scheduler=False) as bank:
        wrong = bank.add("worker-wrong", "worker.py", "fast")
        assert wrong.child.wait(30) == 1
        assert "worker.py [batch | slow]" in wrong.log.read_text()
