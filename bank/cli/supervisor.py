"""Runs the bank's processes: starts them in order, starts again what crashed, stops them in reverse.

Why not a library: docs/decisions/0002-own-supervisor.md.
"""

import contextlib
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bank.embedded import log_tail
from bank.processes import kill_group

# How often a start is probed, and how often the logs' sizes are looked at.
PROBE_INTERVAL_S = 0.03
ROUND_S = 5.0
# A restart waits 0.5 s, doubled at each crash in a row; one that lived this long begins anew.
BACKOFF_FIRST_S, BACKOFF_MOST_S, STABLE_AFTER_S = 0.5, 10.0, 30.0
LOG_LIMIT_BYTES = 64 * 1024 * 1024


class StartError(Exception):
    """A process could not be started; the message is for the person at the terminal."""


class StopRequestedError(Exception):
    """A signal asked to stop while something was still starting."""


@dataclass
class Service:
    """A process to be kept running.

    `ready` asks whether it does its work now. Services stop in ascending `stop_order`, those of equal
    order together; `stop_signals` are sent in turn, each with the seconds it may take, before it is killed.
    """

    name: str
    spawn: Callable[[], subprocess.Popen[bytes]]
    log: Path
    stop_order: int
    stop_signals: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 3.0),)
    ready: Callable[["Service"], bool] = lambda _: True
    ready_timeout_s: float = 60.0
    child: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0  # Unix time
    crashes: int = 0
    restart_at: float = 0.0  # monotonic

    def start(self) -> None:
        """Start the process. Raises StartError when it cannot be executed."""
        self.started_at = time.time()
        try:
            self.child = self.spawn()
        except OSError as error:
            raise StartError(f"{self.name} cannot be started: {error}") from error

    def crashed(self) -> bool:
        """Whether it was started and is gone."""
        return self.child is not None and self.child.poll() is not None


class Supervisor:
    """Owns the services and the signals of the process; use as a context manager, which stops them all."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """`say` is handed one line for every event a person at the terminal should see."""
        self._say = say
        self._services: list[Service] = []
        self._stop_requested = False

    def __enter__(self) -> "Supervisor":
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        signal.set_wakeup_fd(self._wake_writer.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Who runs us under nohup has asked that a hang-up be ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._request_stop)
        # Only so that the end of a child wakes us; what ended is looked up then.
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop_all()

    def _request_stop(self, number: int, frame: object) -> None:
        self._stop_requested = True

    def _pause(self, seconds: float) -> None:
        """Wait, but no longer than until the next signal."""
        with contextlib.suppress(InterruptedError):
            select.select([self._wake_reader], [], [], max(0.0, seconds))
        with contextlib.suppress(BlockingIOError):
            self._wake_reader.recv(4096)

    def check_stop(self) -> None:
        """Raise StopRequestedError when a signal has asked to stop."""
        if self._stop_requested:
            raise StopRequestedError

    def start(self, *services: Service) -> None:
        """Start `services` side by side and wait until all are ready. Raises as `launch` and `wait` do."""
        self.launch(*services)
        self.wait(*services)

    def launch(self, *services: Service) -> None:
        """Start `services`, from now on looked after, without waiting. Raises StartError, StopRequestedError."""
        for service in services:
            self.check_stop()
            service.start()
            self._services.append(service)

    def wait(self, *services: Service) -> None:
        """Wait until `services` are ready.

        Raises StartError when any process ends or one does not become ready in its time, and
        StopRequestedError when a signal came in between.
        """
        began = time.monotonic()
        waiting = list(services)
        while waiting:
            self.check_stop()
            for service in self._services:
                if service.crashed():
                    raise StartError(f"{service.name} ended while the bank was starting. {_last_lines(service.log)}")
            waiting = [service for service in waiting if not service.ready(service)]
            for service in waiting:
                if time.monotonic() - began > service.ready_timeout_s:
                    raise StartError(f"{service.name} was not ready after {service.ready_timeout_s:.0f} s. {_last_lines(service.log)}")
            if waiting:
                self._pause(PROBE_INTERVAL_S)

    def once(self, name: str, log: Path, spawn: Callable[[], subprocess.Popen[bytes]]) -> None:
        """Run a process to its end. Raises StartError unless it succeeds, StopRequestedError when a signal comes first."""
        task = Service(name, spawn, log, stop_order=0)
        self.check_stop()
        task.start()
        assert task.child is not None
        self._services.append(task)
        while not task.crashed():
            self.check_stop()
            self._pause(PROBE_INTERVAL_S)
        self._services.remove(task)
        if task.child.returncode:
            raise StartError(f"{name} failed. {_last_lines(log)}")

    def run(self) -> None:
        """Keep everything running until a signal asks to stop."""
        while not self._stop_requested:
            now = time.monotonic()
            for service in self._services:
                if service.crashed():
                    self._note_crash(service)
                elif service.child is None and now >= service.restart_at:
                    self._restart(service)
                _limit(service.log)
            waits = [service.restart_at - now for service in self._services if service.child is None]
            self._pause(min([ROUND_S, *waits]))
        self._say("Stopping ...")

    def _note_crash(self, service: Service) -> None:
        assert service.child is not None
        code = service.child.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        # Its own children may have outlived it, and hold its port.
        kill_group(service.child, signal.SIGTERM)
        service.crashes = 1 if time.time() - service.started_at > STABLE_AFTER_S else service.crashes + 1
        delay = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** (service.crashes - 1))
        service.child, service.restart_at = None, time.monotonic() + delay
        self._say(f"{service.name} ended ({how}); starting it again in {delay:.1f} s. Its log: {service.log}")

    def _restart(self, service: Service) -> None:
        try:
            service.start()
        except StartError as error:
            service.restart_at = time.monotonic() + BACKOFF_MOST_S
            self._say(str(error))

    def _stop_all(self) -> None:
        # A second Ctrl-C must not break off the orderly stop; every step of it is bounded.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        for order in sorted({service.stop_order for service in self._services}):
            self._stop_together([service for service in self._services if service.stop_order == order])
        self._services.clear()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        self._wake_reader.close()
        self._wake_writer.close()

    def _stop_together(self, services: list[Service]) -> None:
        stopping = [(service, _stages(service)) for service in services if service.child is not None]
        while stopping:
            stopping = [(service, stages) for service, stages in stopping if next(stages, None) is not None]
            if stopping:
                self._pause(0.2)


def _stages(service: Service) -> Iterator[bool]:
    """Takes one service through its signals, a step at a time, and ends when it is gone."""
    assert service.child is not None
    for number, patience in service.stop_signals:
        if service.child.poll() is None:
            service.child.send_signal(number)
        deadline = time.monotonic() + patience
        while service.child.poll() is None and time.monotonic() < deadline:
            yield True
    kill_group(service.child)
    service.child.wait()


def _last_lines(log: Path) -> str:
    return f"Its last lines, from {log}:\n{log_tail(log)}"


def _limit(log: Path) -> None:
    """Keep a log and the one before it: children append to the file they were given, so it is copied and emptied in place."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_LIMIT_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            with log.open("r+b") as file:
                file.truncate()
