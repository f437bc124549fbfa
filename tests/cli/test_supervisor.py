"""The supervisor, with small programs in the place of the bank's."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from bank.cli.supervisor import Service, StartError, Supervisor
from bank.processes import spawn
from tests.processes import ROOT, wait_until

SLEEPS = "import time; print('up', flush=True); time.sleep(600)"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
WRITES_ITS_NAME_AT_THE_END = """
import pathlib, signal, sys
def end(number, frame):
    with pathlib.Path(sys.argv[2]).open('a') as file:
        file.write(sys.argv[1] + '\\n')
    sys.exit()
signal.signal(signal.SIGTERM, end)
print('up', flush=True)
signal.pause()
"""


def service(directory: Path, name: str, code: str, *arguments: str, stop_order: int = 1) -> Service:
    log = directory / f"{name}.log"
    return Service(
        name,
        lambda: spawn([sys.executable, "-c", code, *arguments], env=dict(os.environ), log=log),
        log,
        stop_order,
        stop_signals=((signal.SIGTERM, 1.0),),
        ready=lambda service: "up" in service.log.read_text(),
    )


@pytest.fixture(autouse=True)
def _signals_as_before():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_services_stop_in_order(tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    with Supervisor(print) as supervisor:
        supervisor.start(service(tmp_path, "database", WRITES_ITS_NAME_AT_THE_END, "database", str(ends), stop_order=3))
        supervisor.start(
            service(tmp_path, "api", WRITES_ITS_NAME_AT_THE_END, "api", str(ends), stop_order=1),
            service(tmp_path, "worker", WRITES_ITS_NAME_AT_THE_END, "worker", str(ends), stop_order=2),
        )
    assert ends.read_text().split() == ["api", "worker", "database"]


def test_one_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    stubborn = service(tmp_path, "stubborn", IGNORES_SIGTERM)
    with Supervisor(print) as supervisor:
        supervisor.start(stubborn)
        began = time.monotonic()
    assert stubborn.child is not None and stubborn.child.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 3


def test_one_that_cannot_start_ends_all_with_its_last_words(tmp_path: Path) -> None:
    good = service(tmp_path, "good", SLEEPS)
    with pytest.raises(StartError, match="no money today"), Supervisor(print) as supervisor:
        supervisor.start(good)
        supervisor.start(service(tmp_path, "bad", "raise SystemExit('no money today')"))
    assert good.child is not None and good.child.returncode == -signal.SIGTERM


def test_a_program_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    log = tmp_path / "log"
    missing = Service("missing", lambda: spawn([tmp_path / "nothing"], env={}, log=log), log, 1)
    with pytest.raises(StartError, match="missing cannot be started"), Supervisor(print) as supervisor:
        supervisor.start(missing)


def test_a_task_that_fails_ends_the_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(StartError, match=r"task failed(.|\n)*because"), Supervisor(print) as supervisor:
        supervisor.once("task", log, lambda: spawn([sys.executable, "-c", "raise SystemExit('because')"], env={}, log=log))


SUPERVISES = textwrap.dedent(
    """
    import os, pathlib, sys
    sys.path.insert(0, sys.argv[2])
    from bank.cli.supervisor import Service, Supervisor
    from bank.processes import spawn
    directory = pathlib.Path(sys.argv[1])
    def service(name):
        code = "import time; print('up', flush=True); time.sleep(600)"
        log = directory / (name + ".log")
        start = lambda: spawn([sys.executable, "-c", code, name], env=dict(os.environ), log=log)
        return Service(name, start, log, 1, ready=lambda service: "up" in service.log.read_text())
    with Supervisor(lambda line: print(line, flush=True)) as supervisor:
        supervisor.start(service("one"), service("two"))
        print("running", flush=True)
        supervisor.run()
    """
)


@pytest.fixture
def supervising(tmp_path: Path):
    """A supervisor of two services, in a process of its own that a test may kill."""
    process = subprocess.Popen([sys.executable, "-c", SUPERVISES, str(tmp_path), str(ROOT)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    yield process
    if process.poll() is None:
        process.terminate()
    process.communicate(timeout=10)


def test_what_crashes_is_started_again(supervising) -> None:
    children = psutil.Process(supervising.pid).children()
    one = next(child for child in children if child.cmdline()[-1] == "one")
    one.kill()
    assert "one ended (killed by SIGKILL); starting it again" in supervising.stdout.readline()
    wait_until(lambda: [child for child in psutil.Process(supervising.pid).children() if child.cmdline()[-1:] == ["one"]], "one is back")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_and_is_no_error(supervising, number: signal.Signals) -> None:
    children = psutil.Process(supervising.pid).children(recursive=True)
    supervising.send_signal(number)
    assert supervising.wait(30) == 0
    # They sleep for ten minutes: whoever is gone soon was stopped, and only their parent's end is not awaited here.
    gone, left = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 2 and not left


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_nothing_outlives_a_supervisor_that_is_killed(supervising) -> None:
    children = psutil.Process(supervising.pid).children(recursive=True)
    supervising.kill()
    gone, left = psutil.wait_procs(children, timeout=10)
    assert len(gone) == 2 and not left
