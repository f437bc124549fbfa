"""The faults: each a row of docs/faults.md. A fault is done to the stage while the load runs, and is healed when its function returns.

What a fault promises besides the invariants it says by raising AssertionError.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg2
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue
from rq.serializers import JSONSerializer

from bank.embedded import Server
from bank.processing.queue import QUEUE
from tests.faultsuite import machine
from tests.faultsuite.load import send_half_a_body
from tests.faultsuite.stage import FINAL_SECONDS, Stage
from tests.processes import Process, query, wait_until
from tests.replica import ask_as_superuser, signal_all

# What takes longer than all of the bank's own time-outs. faults.md says 95 seconds, which --full takes.
stopped_seconds = 25.0

_CUT_SECONDS = 8.0
_SLOW_SECONDS = 0.2
_END_SECONDS = 10.0


@dataclass(frozen=True)
class Row:
    """A fault: the part, what happens to it, and what does it."""

    part: str
    fault: str
    strike: Callable[[Stage], None]
    # Without the load, whose rings would wake whatever sleeps.
    quiet: bool = False
    # Why it cannot be done on this machine; empty where it can.
    hindrance: Callable[[], str] = str
    # On a bank whose PostgreSQL and Redis have small disks.
    small: bool = False

    @property
    def name(self) -> str:
        """As `--only` takes it."""
        return f"{self.part}: {self.fault}"


def _first(stage: Stage, part: str) -> Process:
    return stage.parts[part][0]


def _kill(part: str) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        with stage.supervised:
            for process in stage.parts[part]:
                process.kill()
                process.restart()

    return strike


def _terminate(part: str) -> Callable[[Stage], None]:
    """SIGTERM at work; it ends within ten seconds."""

    def strike(stage: Stage) -> None:
        for process in stage.parts[part]:
            with stage.supervised:
                began = time.monotonic()
                process.signal(signal.SIGTERM)
                process.child.wait(60)
                took = time.monotonic() - began
                process.restart()
            assert took < _END_SECONDS, f"{process.name} took {took:.1f} s to end"

    return strike


def _stop(part: str) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        with _paused(lambda number: _first(stage, part).signal(number)):
            time.sleep(stopped_seconds)

    return strike


@contextmanager
def _paused(send: Callable[[signal.Signals], None]) -> Iterator[None]:
    send(signal.SIGSTOP)
    try:
        yield
    finally:
        # gunicorn replaces one that has not been heard of for long.
        with suppress(ProcessLookupError):
            send(signal.SIGCONT)


def _cut(*lines: str) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        with ExitStack() as ends:
            for line in lines:
                ends.enter_context(stage.lines[line].silent())
            time.sleep(_CUT_SECONDS)

    return strike


def _slow(*lines: str) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        with ExitStack() as ends:
            for line in lines:
                ends.enter_context(stage.lines[line].slow(_SLOW_SECONDS))
            time.sleep(_CUT_SECONDS)

    return strike


def _drop(*lines: str) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        with ExitStack() as ends:
            for line in lines:
                ends.enter_context(machine.dropped(stage.lines[line].port))
            time.sleep(_CUT_SECONDS)

    return strike


def _primary_noticed(stage: Stage) -> bool:
    try:
        ask_as_superuser(stage.primary, "CREATE TABLE too_much AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)")
    except psycopg2.OperationalError as error:
        # It says so, or it has ended of it.
        return error.pgcode in ("53100", None)
    return False


def _redis_noticed(stage: Stage) -> bool:
    try:
        with Redis.from_url(stage.redis.url) as connection:
            return connection.info("persistence")["aof_last_write_status"] == "err"
    except RedisConnectionError:
        return True


_NOTICED = {"primary": _primary_noticed, "redis": _redis_noticed}


def _fill(part: str) -> Callable[[Stage], None]:
    def strike(stage: Stage) -> None:
        server: Server = getattr(stage, part)
        with machine.full(server.home):
            time.sleep(_CUT_SECONDS)
            assert _NOTICED[part](stage), f"{part} did not notice that its disk is full"
        if server.process.poll() is not None:
            server.stop()
            server.start()

    return strike


def _set_clock(seconds: int) -> Callable[[Stage], None]:
    """The workers' clocks are off by so many seconds."""

    def strike(stage: Stage) -> None:
        names = [process.name for process in stage.parts["worker"]]
        stage.before.update(dict.fromkeys(names, machine.clock_off(seconds)))
        try:
            _terminate("worker")(stage)
            time.sleep(_CUT_SECONDS)
        finally:
            for name in names:
                del stage.before[name]
        _terminate("worker")(stage)

    return strike


# The API.


def _kill_api_worker(stage: Stage) -> None:
    process = _first(stage, "api")
    [victim, *_] = process.children()
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(process.children()) == 2 and victim not in process.children(), "another takes its place", 30)


def _stop_api_worker(stage: Stage) -> None:
    [victim, *_] = _first(stage, "api").children()
    with _paused(lambda number: os.kill(victim, number)):
        time.sleep(stopped_seconds)


def ring_twice(stage: Stage) -> None:
    """Every lane's bell is in the queue twice, again and again: as after a client's retry that Redis did twice."""
    with Redis.from_url(stage.redis.url) as connection:
        queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
        until = time.monotonic() + _CUT_SECONDS
        while time.monotonic() < until:
            if len(queue) < 8:
                for lane in (0, 0, 1, 1):
                    queue.enqueue("bank.processing.tasks.drain", lane, result_ttl=0)
            time.sleep(0.01)


def _reload(stage: Stage) -> None:
    """SIGHUP: gunicorn replaces its workers."""
    process = _first(stage, "api")
    before = {*process.children()}
    process.signal(signal.SIGHUP)
    wait_until(lambda: len(after := {*process.children()}) == 2 and not after & before, "both are new", 30)


def _hang_up(stage: Stage) -> None:
    for _ in range(50):
        send_half_a_body(stage.port, stage.token)


# Schedules that come due while the scheduler suffers.


def _on_schedule(strike: Callable[[Stage], None]) -> Callable[[Stage], None]:
    """Five transfers come due meanwhile, and each is made once."""

    def both(stage: Stage) -> None:
        client = stage.client()
        made = []
        for number in range(5):
            at = datetime.now(UTC) + timedelta(seconds=3 + number)
            body = {
                "transfer": {
                    "from_account_id": stage.accounts[0],
                    "to_account_id": stage.accounts[1],
                    "amount": "0.01",
                    "currency": "USD",
                },
                "run_at": at.isoformat(),
            }
            answer = client.post("/schedules", body)
            assert answer.status == 201, answer.body
            made.append(answer.json["id"])
        client.close()
        strike(stage)

        def runs() -> list[int]:
            rows = query(
                stage.environ,
                """SELECT (SELECT count(*) FROM transactions t WHERE t.schedule_id = s.id AND t.status = 'completed')
                     FROM schedules s WHERE s.id = ANY(%s::uuid[])""",
                made,
            )
            return [count for (count,) in rows]

        wait_until(lambda: min(runs()) >= 1, "each has run", 40)
        assert runs() == [1] * 5, f"runs of each: {runs()}"

    return both


def _two_schedulers(stage: Stage) -> None:
    first = _first(stage, "scheduler")
    second = Process("scheduler-2", stage.directory / "scheduler-2.log", first.start)
    try:
        with _paused(first.signal):
            time.sleep(stopped_seconds)
        time.sleep(2)
    finally:
        second.signal(signal.SIGTERM)
        second.child.wait(10)


# Redis.


def _kill_redis(stage: Stage) -> None:
    stage.redis.process.kill()
    stage.redis.stop()
    time.sleep(3)
    stage.redis.start()


def _terminate_redis(stage: Stage) -> None:
    stage.redis.stop()
    time.sleep(3)
    stage.redis.start()


def _lose_redis(stage: Stage) -> None:
    stage.redis.process.kill()
    stage.redis.stop()
    for file in (stage.redis.home / "appendonlydir").glob("*"):
        file.unlink()
    stage.redis.start()


def lose_bells(stage: Stage) -> None:
    """Transactions are accepted whose bells get lost with Redis, and nobody rings after them."""
    with stage.supervised:
        _strand(stage)
    wait_until(lambda: stage.pending() == 0, "everything is final", FINAL_SECONDS)


def _strand(stage: Stage) -> None:
    for process in stage.parts["worker"]:
        process.kill()
    client = stage.client()
    for number in range(10):
        body = {
            "from_account_id": stage.accounts[number],
            "to_account_id": stage.accounts[number + 1],
            "amount": "0.01",
            "currency": "USD",
        }
        assert client.post("/transactions/transfer", body).status == 202
    client.close()
    _lose_redis(stage)
    for process in stage.parts["worker"]:
        process.restart()


def _stop_redis(stage: Stage) -> None:
    with _paused(stage.redis.process.send_signal):
        time.sleep(stopped_seconds)


# PostgreSQL.


def _kill_primary(stage: Stage) -> None:
    signal_all(stage.primary, signal.SIGKILL)
    stage.primary.stop()
    time.sleep(3)
    stage.primary.start()


def _restart_primary(stage: Stage) -> None:
    stage.primary.stop()
    time.sleep(3)
    stage.primary.start()


def _stop_primary(stage: Stage) -> None:
    with _paused(lambda number: signal_all(stage.primary, number)):
        time.sleep(stopped_seconds)


def _lose_commits(stage: Stage) -> None:
    for name in ("api to primary", "workers to primary"):
        stage.lines[name].lose_commits(15)
        wait_until(lambda name=name: stage.lines[name].commits_to_lose == 0, "fifteen are lost", 60)


# The replica.


def _kill_replica(stage: Stage) -> None:
    signal_all(stage.replica, signal.SIGKILL)
    stage.replica.stop()
    time.sleep(3)
    stage.replica.start()


def _terminate_replica(stage: Stage) -> None:
    stage.replica.stop()
    time.sleep(3)
    stage.replica.start()


def _stop_replica(stage: Stage) -> None:
    with _paused(lambda number: signal_all(stage.replica, number)):
        time.sleep(stopped_seconds)


def _rebuild_replica(stage: Stage) -> None:
    stage.replica.stop()
    shutil.rmtree(stage.replica.home / "data")
    stage.replica.start()


def _wait_for_replica(stage: Stage) -> None:
    """Each commit waits for the replica, which is away."""
    _set_synchronous(stage, "*")
    try:
        with _paused(lambda number: signal_all(stage.replica, number)):
            time.sleep(stopped_seconds)
    finally:
        _set_synchronous(stage, "")


def _set_synchronous(stage: Stage, names: str) -> None:
    ask_as_superuser(stage.primary, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    ask_as_superuser(stage.primary, "SELECT pg_reload_conf()")


# Nothing, and everything.


def work(stage: Stage) -> None:
    """Nothing happens but the load."""
    time.sleep(_CUT_SECONDS)


def _roll(stage: Stage) -> None:
    """Replace every part, one after the other, as a deploy does: workers first, the API last."""
    parts = ("worker", "batch worker", "slow worker", "follower", "scheduler", "api")
    for part in parts:
        _terminate(part)(stage)
        wait_until(stage.api_answers, "the API answers", 30)


_API, _WORK, _REPLICA, _REDIS = "api to primary", "workers to primary", "api to replica", "all to redis"

ROWS = (
    Row("gunicorn worker", "SIGKILL", _kill_api_worker),
    Row("gunicorn", "SIGTERM at work", _terminate("api")),
    Row("gunicorn", "SIGHUP at work", _reload),
    Row("gunicorn worker", "SIGSTOP", _stop_api_worker),
    Row("gunicorn", "slow line to PostgreSQL", _slow(_API)),
    Row("gunicorn", "cut off from PostgreSQL", _cut(_API)),
    Row("gunicorn", "packets to PostgreSQL lost", _drop(_API), hindrance=machine.no_network),
    Row("RQ worker", "SIGKILL", _kill("worker")),
    Row("RQ worker", "SIGTERM at work", _terminate("worker")),
    Row("RQ worker", "SIGSTOP", _stop("worker")),
    Row("RQ worker", "slow line to PostgreSQL", _slow(_WORK)),
    Row("RQ worker", "cut off from PostgreSQL", _cut(_WORK)),
    Row("RQ worker", "packets to PostgreSQL lost", _drop(_WORK), hindrance=machine.no_network),
    Row("RQ worker", "clocks five minutes ahead", _set_clock(300)),
    Row("RQ worker", "clocks five minutes behind", _set_clock(-300)),
    Row("scheduler", "SIGKILL", _on_schedule(_kill("scheduler"))),
    Row("scheduler", "SIGTERM at work", _on_schedule(_terminate("scheduler"))),
    Row("scheduler", "SIGSTOP, with a second one", _on_schedule(_two_schedulers)),
    Row("scheduler", "slow line to PostgreSQL and Redis", _on_schedule(_slow(_WORK, _REDIS))),
    Row("scheduler", "cut off from Redis", _on_schedule(_cut(_REDIS))),
    Row("follower", "SIGKILL", _kill("follower")),
    Row("follower", "SIGTERM at work", _terminate("follower")),
    Row("Redis", "SIGKILL", _kill_redis),
    Row("Redis", "SIGTERM at work", _terminate_redis),
    Row("Redis", "SIGSTOP", _stop_redis),
    Row("Redis", "restart with data lost", _on_schedule(_lose_redis)),
    Row("Redis", "bells lost, and nobody rings again", lose_bells, quiet=True),
    Row("Redis", "every bell rings twice", ring_twice),
    Row("Redis", "slow", _slow(_REDIS)),
    Row("Redis", "cut off", _cut(_REDIS)),
    Row("Redis", "packets lost", _drop(_REDIS), hindrance=machine.no_network),
    Row("primary", "SIGKILL", _kill_primary),
    Row("primary", "restart", _restart_primary),
    Row("primary", "SIGSTOP", _stop_primary),
    Row("primary", "slow", _slow(_API, _WORK)),
    Row("primary", "cut off", _cut(_API, _WORK)),
    Row("primary", "packets lost", _drop(_API, _WORK), hindrance=machine.no_network),
    Row("primary", "answers to COMMIT lost", _lose_commits),
    Row("replica", "SIGKILL", _kill_replica),
    Row("replica", "restart", _terminate_replica),
    Row("replica", "SIGSTOP", _stop_replica),
    Row("replica", "SIGSTOP, and each commit waits for it", _wait_for_replica),
    Row("replica", "rebuilt", _rebuild_replica),
    Row("replica", "slow", _slow(_REPLICA)),
    Row("replica", "cut off", _cut(_REPLICA)),
    Row("primary and Redis", "cut off", _cut(_API, _WORK, _REDIS)),
    Row("a client", "hangs up in the middle of a body", _hang_up),
    Row("everything", "replaced, one after the other", _roll),
    Row("primary", "disk full", _fill("primary"), hindrance=machine.no_small_disk, small=True),
    Row("Redis", "disk full", _fill("redis"), hindrance=machine.no_small_disk, small=True),
)
