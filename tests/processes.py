"""A whole bank of real processes for tests: gunicorn, workers and a scheduler on a database of their own.

Tests of a killed or paused process need one to kill or pause, and tests of a whole history need
exact totals, so nothing here is shared with the rest of the suite but the two servers.
"""

import http.client
import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg2
import redis

from bank.processes import spawn, terminate

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
ADMIN_PASSWORD = "correct horse battery staple"

# Redis has sixteen databases, the first is the suite's own.
_redis_databases = itertools.cycle(range(1, 16))


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Ask every few milliseconds until `condition` is true; its value. Fails naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.005)
    return value


def query(environ: Mapping[str, str], statement: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
    """The rows of one statement on the database that `environ` names, in a transaction of its own."""
    connection = psycopg2.connect(_libpq(environ["DATABASE_URL"]))
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement, named or parameters or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg2://", "postgresql://", 1)


def python(arguments: Sequence[str | Path], environ: Mapping[str, str], log: Path, cwd: Path = ROOT) -> subprocess.Popen[bytes]:
    """Start this Python in the root of the repository, or of a copy of it; its output goes to `log`. It ends with the test run."""
    return spawn([sys.executable, *arguments], env={**_plain(), **environ}, log=log, cwd=cwd, death_signal=signal.SIGKILL)


def _plain() -> dict[str, str]:
    # What a setting of the person at the terminal could change stays outside.
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def fresh_database(environ: Mapping[str, str], directory: Path) -> Iterator[dict[str, str]]:
    """An empty, migrated database with the administrator `admin`, and an empty Redis database.

    `environ` is that of the suite; yields a copy that names the new ones. `directory` takes the log.
    """
    server, _, _ = environ["DATABASE_URL"].rpartition("/")
    name = f"fresh_{secrets.token_hex(6)}"
    own = {**environ, "DATABASE_URL": f"{server}/{name}", "REDIS_URL": empty_redis(environ)}
    administer(environ, f"CREATE DATABASE {name}")
    try:
        migrate = python(["-m", "bank", "migrate"], {**own, "BANK_ADMIN_PASSWORD": ADMIN_PASSWORD}, directory / "migrate.log")
        assert migrate.wait(60) == 0, (directory / "migrate.log").read_text()
        yield own
    finally:
        # Not WITH (FORCE), which fails when it meets a vacuum: that one belongs to the server, and DROP alone ends it.
        administer(environ, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND usename = current_user")
        administer(environ, f"DROP DATABASE {name}")


def empty_redis(environ: Mapping[str, str]) -> str:
    """The URL of a Redis database of one's own, emptied: whoever had it before may have left ticks and bells in it."""
    url = environ["REDIS_URL"].rpartition("/")[0] + f"/{next(_redis_databases)}"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


def administer(environ: Mapping[str, str], statement: str) -> None:
    """Run a statement that takes no transaction around it, as of making a database."""
    connection = psycopg2.connect(_libpq(environ["DATABASE_URL"]))
    try:
        connection.autocommit = True  # a database is made outside of any transaction
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Calls the API over one kept-alive connection; for one thread. Network errors are the caller's to see."""

    def __init__(self, port: int, token: str | None = None, timeout_s: float = 35.0) -> None:
        self.token = token
        self._connection = http.client.HTTPConnection(HOST, port, timeout=timeout_s)

    def request(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Answer:
        """Call `path`; a `body` is sent as JSON, `data` as it is. Raises OSError or HTTPException, and connects anew at the next call."""
        sent = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        try:
            self._connection.request(method, path, data, {**sent, **(headers or {})})
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise

    def get(self, path: str) -> Answer:
        """GET `/api/v1` + path."""
        return self.request("GET", f"/api/v1{path}")

    def post(self, path: str, body: Any, key: str | None = None, **headers: str) -> Answer:
        """POST to `/api/v1` + path, with `key` as the idempotency key."""
        return self.request("POST", f"/api/v1{path}", body, {**headers, **({"Idempotency-Key": key} if key else {})})

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass
class Process:
    """One process of the bank, which can be killed, paused and started again."""

    name: str
    log: Path
    start: Callable[[], subprocess.Popen[bytes]]
    child: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.child = self.start()

    @property
    def pid(self) -> int:
        return self.child.pid

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal (SIGSTOP, SIGCONT, SIGTERM, …)."""
        self.child.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.child.kill()
        self.child.wait()

    def restart(self) -> None:
        """Start it again after it ended."""
        assert self.child.poll() is not None, f"{self.name} still runs"
        self.child = self.start()

    def children(self) -> list[int]:
        """The ids of its child processes: gunicorn's workers. Linux only."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


class Bank:
    """A running bank on the database and Redis that `environ` names; a context manager, which stops it all.

    `web` is gunicorn, on APPLICATION, with `web_workers` processes, `workers` are RQ workers, `batch_worker` is the one for
    batches, `slow_worker` the one for what takes minutes, `scheduler` rings the sweeper. Logs go to `directory`.
    """

    APPLICATION = "wsgi:app"

    def __init__(
        self,
        environ: Mapping[str, str],
        directory: Path,
        *,
        web_workers: int = 2,
        workers: int = 1,
        batch_worker: bool = False,
        slow_worker: bool = False,
        scheduler: bool = True,
    ) -> None:
        self.port = free_port()
        (directory / "metrics").mkdir(exist_ok=True)
        own = {"PORT": str(self.port), "BANK_WEB_WORKERS": str(web_workers), "PROMETHEUS_MULTIPROC_DIR": str(directory / "metrics")}
        self.environ = {**environ, **own}
        self.directory = directory
        self._processes: list[Process] = []
        self._wanted = (workers, batch_worker, slow_worker, scheduler)

    def __enter__(self) -> "Bank":
        workers, batch_worker, slow_worker, scheduler = self._wanted
        try:
            self.web = self.add("web", "-m", "gunicorn", "-c", "bank/gunicorn.py", self.APPLICATION)
            self.workers = [self.add(f"worker-{number}", "worker.py") for number in range(1, workers + 1)]
            self.batch_worker = self.add("worker-batch", "worker.py", "batch") if batch_worker else None
            self.slow_worker = self.add("worker-slow", "worker.py", "slow") if slow_worker else None
            self.scheduler = self.add("scheduler", "-m", "bank", "scheduler") if scheduler else None
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def add(self, name: str, *arguments: str) -> Process:
        """Start one more process of Python, e.g. `add("worker-3", "worker.py")`; it is stopped with the bank."""
        log = self.directory / f"{name}.log"
        process = Process(name, log, lambda: python(arguments, self.environ, log))
        self._processes.append(process)
        return process

    def wait_until_ready(self) -> None:
        """Wait until the API answers and every worker listens; also after a restart."""
        wait_until(self._api_ready, "the API answers", 60)
        with redis.Redis.from_url(self.environ["REDIS_URL"], decode_responses=True) as client:
            for worker in filter(None, [*self.workers, self.batch_worker, self.slow_worker]):
                wait_until(partial(self._listens, client, worker), f"{worker.name} listens", 60)

    def _api_ready(self) -> bool:
        self._check_alive(self.web)
        client = Client(self.port, timeout_s=2)
        try:
            return client.request("GET", "/health/ready").status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            client.close()

    def _listens(self, client: "redis.Redis", worker: Process) -> bool:
        self._check_alive(worker)
        # RQ keeps a set of its workers, and a hash for each.
        return str(worker.pid) in [client.hget(key, "pid") for key in client.smembers("rq:workers")]

    def _check_alive(self, process: Process) -> None:
        assert process.child.poll() is None, f"{process.name} ended:\n{process.log.read_text()[-3000:]}"

    def client(self, token: str | None = None) -> Client:
        """A client for one thread."""
        return Client(self.port, token)

    def log_in(self, username: str = "admin", password: str = ADMIN_PASSWORD) -> str:
        """Log in and return the access token."""
        client = self.client()
        answer = client.post("/auth/login", {"username": username, "password": password})
        client.close()
        assert answer.status == 200, answer.body
        return str(answer.json["access_token"])

    def stop(self) -> None:
        """End every process that still runs. Told all at once: a test has nothing left to be accepted."""
        for number in (signal.SIGTERM, signal.SIGCONT):  # one that a test paused hears nothing before the latter
            for process in self._processes:
                if process.child.poll() is None:
                    process.signal(number)
        for process in self._processes:
            terminate(process.child, (signal.SIGTERM, 2.0))
        self._processes.clear()


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
