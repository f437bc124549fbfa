"""`bank run`, whole: the processes of a newcomer's first minutes."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.processes import HOST, ROOT, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def free_port() -> int:
    """A port that is free, and so is the next."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind((HOST, 0))
            port = int(first.getsockname()[1])
            try:
                second.bind((HOST, port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Run:
    """One `bank run` on a data directory."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.port = int(settings.pop("PORT", 0)) or free_port()
        environ = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environ |= {
            "BANK_DATA_DIR": str(data_dir),
            "PORT": str(self.port),
            "HOME": "/nonexistent",
            "BANK_WORKERS": "1",
            "BANK_WEB_WORKERS": "1",
        }
        self.output = data_dir.with_name(f"{data_dir.name}-output-{self.port}")
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bank", "run"],
                cwd=ROOT,
                env=environ | settings,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def said(self) -> str:
        return self.output.read_text()

    def wait_for_table(self) -> str:
        wait_until(lambda: "Ctrl-C" in self.said() or self.process.poll() is not None, "the table", 120)
        assert "Ctrl-C" in self.said(), self.said()
        return self.said()

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def get(self, path: str, port: int | None = None) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port or self.port}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def log_in(self, password: str) -> int:
        body = json.dumps({"username": "admin", "password": password}).encode()
        request = urllib.request.Request(
            f"http://{HOST}:{self.port}/api/v1/auth/login", body, {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal as a terminal does, to the whole group; the exit code, when nothing is left of it."""
        if self.process.poll() is not None:
            return self.process.returncode
        processes = self.processes()
        os.killpg(self.process.pid, number)
        code = self.process.wait(20)
        _, left = psutil.wait_procs(processes, timeout=1)
        assert not left, left
        return code


@pytest.fixture
def data_dir() -> Iterator[Path]:
    parent = Path(tempfile.mkdtemp(prefix="bank-run-"))
    parent.chmod(0o755)
    yield parent / "data"
    if (parent / "data" / "postgres").is_symlink():
        shutil.rmtree((parent / "data" / "postgres").resolve(), ignore_errors=True)
    shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def runs(data_dir: Path) -> Iterator[list[Run]]:
    """Whatever a test started, to be ended with it."""
    started: list[Run] = []
    yield started
    for run in started:
        if run.process.poll() is None:
            run.process.terminate()
            run.process.wait(20)


def test_a_bank_from_nothing_stopped_and_started_again(data_dir: Path, runs: list[Run]) -> None:
    first = Run(data_dir)
    runs.append(first)
    table = first.wait_for_table()
    password = (data_dir / "admin-password").read_text().strip()
    for row in (f"http://{HOST}:{first.port}/api/v1", "/docs", "/metrics", "/health/ready", f":{first.port + 1}/rq/", "admin-password"):
        assert row in table
    assert password not in table
    assert (data_dir / "admin-password").stat().st_mode & 0o777 == 0o600
    assert first.log_in(password) == 200
    assert [first.get(path)[0] for path in ("/health/live", "/health/ready", "/docs", "/metrics")] == [200] * 4
    assert first.get("/rq/", first.port + 1)[0] == 401
    # A secret among a process's arguments is shown to every user of the machine.
    secrets = [password, *((path.read_text().strip()) for path in (data_dir / "secrets").iterdir())]
    arguments = " ".join(" ".join(process.cmdline()) for process in first.processes())
    assert not [secret for secret in secrets if secret in arguments]
    assert "listening" not in first.said().lower()

    assert first.stop(signal.SIGINT) == 0

    second = Run(data_dir)
    runs.append(second)
    second.wait_for_table()
    assert second.log_in(password) == 200

    third = Run(data_dir)
    runs.append(third)
    assert third.process.wait(20) == 1
    assert re.search(r"A bank runs on .* already", third.said())

    assert second.stop(signal.SIGTERM) == 0


def test_a_given_password_is_nowhere_on_disk(data_dir: Path, runs: list[Run]) -> None:
    given = "what the operator chose 42"
    run = Run(data_dir, BANK_ADMIN_PASSWORD=given)
    runs.append(run)
    table = run.wait_for_table()
    assert "BANK_ADMIN_PASSWORD" in table and given not in table
    assert run.log_in(given) == 200
    environments = [process.environ() for process in run.processes() if process.uids().real == os.geteuid()]
    assert not [environment for environment in environments if given in environment.values()]
    assert run.stop() == 0
    assert not (data_dir / "admin-password").exists()
    assert not [path for path in data_dir.rglob("*.log") if given in path.read_text(errors="replace")]

    # Without it the next start has nothing to point at, and must not invent a password that is wrong.
    again = Run(data_dir)
    runs.append(again)
    assert "set earlier" in again.wait_for_table()
    assert not (data_dir / "admin-password").exists()


def test_a_taken_port_is_named_and_nothing_is_left(data_dir: Path, runs: list[Run]) -> None:
    with socket.create_server((HOST, 0)) as taken:
        run = Run(data_dir, PORT=str(taken.getsockname()[1]))
        runs.append(run)
        assert run.process.wait(20) == 1
    assert re.search(r"Port \d+ is taken by another program. Set PORT", run.said())


@pytest.mark.parametrize("setting", ["PORT", "BANK_WORKERS", "BANK_DASHBOARD_PORT"])
def test_a_senseless_number_is_named(data_dir: Path, runs: list[Run], setting: str) -> None:
    environ = {**os.environ, "BANK_DATA_DIR": str(data_dir), setting: "many"}
    done = subprocess.run([sys.executable, "-m", "bank", "run"], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"{setting} is 'many'" in done.stderr


def test_what_is_killed_comes_back(data_dir: Path, runs: list[Run]) -> None:
    run = Run(data_dir)
    runs.append(run)
    run.wait_for_table()
    names = {
        "api": "wsgi:app",
        "worker-1": "worker.py$",
        "worker-batch": "worker.py batch$",
        "worker-slow": "worker.py slow$",
        "scheduler": "scheduler",
        "PostgreSQL": "postgres",
        "Redis": "valkey-server",
    }

    def children() -> dict[str, psutil.Process]:
        return {" ".join(child.cmdline()): child for child in psutil.Process(run.process.pid).children()}

    # The slow worker comes after the table.
    wait_until(lambda: any(re.search(names["worker-slow"], arguments) for arguments in children()), "the slow worker is there")
    own = children()
    for name, part in names.items():
        next(child for arguments, child in own.items() if re.search(part, arguments)).kill()
        wait_until(lambda name=name: f"{name} ended (killed by SIGKILL)" in run.said(), f"{name} is missed")
    wait_until(lambda: len(psutil.Process(run.process.pid).children()) == len(own), "all are back")

    def ready() -> bool:
        try:
            return run.get("/health/ready") == (200, '{"status":"ok","checks":{"database":"ok","redis":"ok"}}')
        except OSError:
            return False

    wait_until(ready, "the bank is ready again", 60)
    assert run.stop() == 0
