"""A whole bank for faults: primary, replica and Redis of its own, lines between them, and every kind of process."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bank import embedded
from bank.embedded import Postgres
from tests.faults.conftest import broken_books
from tests.faultsuite.line import Line
from tests.faultsuite.load import Told
from tests.faultsuite.machine import small_disk
from tests.processes import ADMIN_PASSWORD, ROOT, Client, Process, free_port, python, query, wait_until
from tests.replica import Replica

ACCOUNTS = 20

# What is logged where the bank found itself to be wrong.
_BUGS = ("batch_refused", "transaction_refused", "request_failed", "invariant_violated", "LaneLost")

# What was accepted is final within this time of the healing (faults.md, I5).
FINAL_SECONDS = 30.0


@dataclass
class Stage:
    """The bank, and what can be done to it. `code` is where its processes take their code from."""

    directory: Path
    primary: Postgres
    replica: Replica
    redis: embedded.Redis
    code: Path = ROOT
    lines: dict[str, Line] = field(default_factory=dict)
    parts: dict[str, list[Process]] = field(default_factory=dict)
    port: int = 0
    token: str = ""
    accounts: list[str] = field(default_factory=list)
    environ: dict[str, str] = field(default_factory=dict)
    # Held by whoever ends a process on purpose: nobody else starts it again meanwhile.
    supervised: threading.RLock = field(default_factory=threading.RLock)
    # What Python is told before the arguments of the process of that name, when it is started the next time.
    before: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _read: dict[str, int] = field(default_factory=dict)
    _over: threading.Event = field(default_factory=threading.Event)

    def client(self, timeout_s: float = 35.0) -> Client:
        """A client of the administrator, for one thread."""
        return Client(self.port, self.token, timeout_s)

    def start(self) -> None:
        """Migrate, start every part, and put money into accounts."""
        self.port = free_port()
        self.lines = {
            "api to primary": Line(self.primary.port),
            "workers to primary": Line(self.primary.port),
            "api to replica": Line(self.replica.port),
            "all to redis": Line(self.redis.port),
        }
        (self.directory / "metrics").mkdir()
        self.environ = {
            "BANK_ENV": "test",
            "DATABASE_URL": self.primary.url,
            "REDIS_URL": self._by(self.redis, "all to redis"),
            "JWT_SECRET_KEY": secrets.token_hex(32),
            "BANK_SEAL_KEY": secrets.token_hex(32),
            "BANK_SELF_SERVICE_DEPOSITS": "true",
            "RATELIMIT_ENABLED": "false",
            "BANK_LOG_LEVEL": "WARNING",
            "BANK_ACCESS_TOKEN_SECONDS": "86400",
            "BANK_SHED_AFTER_SECONDS": "20",
            "PORT": str(self.port),
            "PROMETHEUS_MULTIPROC_DIR": str(self.directory / "metrics"),
        }
        self.run("-m", "bank", "migrate", BANK_ADMIN_PASSWORD=ADMIN_PASSWORD)
        api = {
            "DATABASE_URL": self._by(self.primary, "api to primary"),
            "DATABASE_REPLICA_URL": self._by(self.replica, "api to replica"),
        }
        work = {"DATABASE_URL": self._by(self.primary, "workers to primary")}
        self.parts = {
            "api": [self._process("api", api, "-m", "gunicorn", "-c", "bank/gunicorn.py", "wsgi:app")],
            "worker": [self._process(f"worker-{number}", work, "worker.py") for number in (1, 2)],
            "batch worker": [self._process("worker-batch", work, "worker.py", "batch")],
            "slow worker": [self._process("worker-slow", work, "worker.py", "slow")],
            "scheduler": [self._process("scheduler", work, "-m", "bank", "scheduler")],
            "follower": [self._process("follower", work, "-m", "bank", "follow")],
        }
        threading.Thread(target=self._supervise, daemon=True).start()
        wait_until(self.api_answers, "the API answers", 60)
        client = self.client()
        login = client.post("/auth/login", {"username": "admin", "password": ADMIN_PASSWORD})
        assert login.status == 200, login.body
        self.token = client.token = login.json["access_token"]
        for _ in range(ACCOUNTS):
            self.accounts.append(client.post("/accounts", {"currency": "USD"}).json["id"])
            body = {"account_id": self.accounts[-1], "amount": "1000.00", "currency": "USD"}
            assert client.post("/transactions/credit", body, Prefer="wait=20").status == 201
        client.close()

    def _supervise(self) -> None:
        """As `bank run` does, and every orchestrator: what ended is started again."""
        while not self._over.wait(1.0):
            with self.supervised:
                for process in (process for part in self.parts.values() for process in part):
                    if process.child.poll() is not None and not self._over.is_set():
                        process.restart()

    def _by(self, server: embedded.Server, line: str) -> str:
        return server.url.replace(f":{server.port}/", f":{self.lines[line].port}/")

    def _process(self, name: str, environ: Mapping[str, str], *arguments: str) -> Process:
        log = self.directory / f"{name}.log"
        where = {"PYTHONPATH": str(self.code), "PYTHONDONTWRITEBYTECODE": "1"}
        given = {**self.environ, **environ, **where}
        return Process(name, log, lambda: python((*self.before.get(name, ()), *arguments), given, log, cwd=self.code))

    def run(self, *arguments: str, **environ: str) -> None:
        """Run a command of the bank to its end, past all lines. Fails with what it said when it does."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.code,
            env={"PATH": os.environ["PATH"], **self.environ, "PYTHONPATH": str(self.code), **environ},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def api_answers(self) -> bool:
        """Whether it is ready."""
        client = Client(self.port, timeout_s=2)
        try:
            return client.request("GET", "/health/ready").status == 200
        except Exception:
            return False
        finally:
            client.close()

    def stop(self) -> None:
        """End everything."""
        self._over.set()
        for number in (signal.SIGTERM, signal.SIGCONT, signal.SIGKILL):
            for process in (process for part in self.parts.values() for process in part):
                if process.child.poll() is None:
                    process.signal(number)
            if number == signal.SIGCONT:
                deadline = time.monotonic() + 3
                while time.monotonic() < deadline and any(p.child.poll() is None for part in self.parts.values() for p in part):
                    time.sleep(0.05)
        for line in self.lines.values():
            line.close()

    def works(self) -> bool:
        """Whether a transfer is accepted and posted now."""
        client = self.client(timeout_s=5)
        try:
            body = {"from_account_id": self.accounts[0], "to_account_id": self.accounts[1], "amount": "0.01", "currency": "USD"}
            return client.post("/transactions/transfer", body, Prefer="wait=3").status == 201
        except Exception:
            return False
        finally:
            client.close()

    def pending(self) -> int:
        """How many transactions are not final."""
        return int(query(self.environ, "SELECT count(*) FROM transactions WHERE status = 'pending'")[0][0])

    def check(self, name: str, told: Told) -> tuple[int, int, list[str]]:
        """After the healing: how many acknowledged transfers are lost, how many keys moved money twice, and what else is wrong."""
        wrong = [*dict.fromkeys(told.wrong), *dict.fromkeys(told.overlong)]
        try:
            wait_until(lambda: self.pending() == 0, "everything is final", FINAL_SECONDS)
        except AssertionError:
            wrong.append(f"{self.pending()} not final after {FINAL_SECONDS:.0f} s")
        rows = query(
            self.environ,
            """SELECT t.reference, t.id::text, t.status, (SELECT count(*) FROM entries e WHERE e.transaction_id = t.id)
                 FROM transactions t WHERE t.reference LIKE %s""",
            f"{name}-%",
        )
        by_id = {made: (status, entries) for _, made, status, entries in rows}
        acknowledged = {made for ids in told.ids.values() for made in ids}
        lost = sum(by_id.get(made) not in (("completed", 2), ("failed", 0)) for made in acknowledged)
        keys = [reference for reference, *_ in rows]
        doubled = len(keys) - len({*keys}) + sum(len(ids) > 1 for ids in told.ids.values())
        unanswered = sum(not ids for ids in told.ids.values())
        if unanswered:
            wrong.append(f"{unanswered} keys never answered")
        return lost, doubled, wrong + self.broken() + self._complaints()

    def _complaints(self) -> list[str]:
        """What processes logged since the last time that no fault explains: a defence further back had to hold."""
        found = []
        for log in self.directory.glob("*.log"):
            with log.open(errors="replace") as file:
                file.seek(self._read.get(log.name, 0))
                text = file.read()
                self._read[log.name] = file.tell()
            found += [f"{log.name}: {event}" for event in _BUGS if event in text]
        return found

    def broken(self) -> list[str]:
        """What is wrong with the books, the projections and the seal."""
        wrong = broken_books(self.environ)
        for command in (["rebuild", "--check"], ["verify"]):
            try:
                self.run("-m", "bank", *command)
            except AssertionError as error:
                wrong.append(str(error)[-300:])
        return wrong


@contextmanager
def stage(directory: Path, code: Path = ROOT, plant: str = "", *, small: bool = False) -> Iterator[Stage]:
    """A bank that runs, on servers of its own. `plant` is SQL that spoils its database, once it is migrated; `small` gives PostgreSQL
    and Redis small disks."""
    with ExitStack() as ends:
        for part in ("primary", "redis") if small else ():
            ends.enter_context(small_disk(part, directory / part))
        primary = Postgres(directory / "primary", durable=False)
        primary.start()
        ends.callback(primary.stop)
        replica = Replica(directory / "replica", primary)
        replica.start()
        ends.callback(replica.stop)
        redis = embedded.Redis(directory / "redis", durable=True)
        redis.start()
        ends.callback(redis.stop)
        built = Stage(directory, primary, replica, redis, code)
        ends.callback(built.stop)
        built.start()
        if plant:
            query(built.environ, plant)
        yield built
