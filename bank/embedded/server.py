"""What the embedded servers share: a lock, a port, a log, a start that waits for a real answer, a stop."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from importlib import util
from pathlib import Path

from bank.processes import lock, terminate

HOST = "127.0.0.1"
# How long a start may take: a database that was killed first redoes what its log holds.
READY_TIMEOUT_S = 120.0
# A server whose parent was killed is still writing its last pages; wait for it before saying "in use".
LOCK_TIMEOUT_S = 10.0
# Where useradd is, too; and no locale or time zone of the person at the terminal.
PLAIN_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedError(Exception):
    """An embedded server cannot be set up or started; the message is for the person at the terminal."""


def secret(path: Path) -> str:
    """The secret in `path`, made at the first call: 256 random bits, in a file only the owner can read."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    value = secrets.token_hex(32)
    # Written aside and moved, so that a kill in between leaves no empty secret.
    draft = path.with_name(path.name + ".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(value + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return value


class Server:
    """One server on the data directory; a subclass says how it is set up, started and asked."""

    name: str
    title: str
    # Where its files lie; known once it is open.
    home: Path
    # What ends it cleanly, what ends it if that takes too long, and the seconds each may take.
    stop_signals: tuple[tuple[signal.Signals, float], ...]

    def __init__(self, data_dir: Path, port: int = 0, durable: bool = True) -> None:
        """A server on `data_dir`. `port` 0 takes the last one again, or a free one; not `durable` is faster, for tests."""
        self.data_dir = data_dir.absolute()
        self.port = port
        self.durable = durable
        self.log = self.data_dir / "logs" / f"{self.name}.log"
        self._lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL to connect to, password included."""
        raise NotImplementedError

    def _set_up(self) -> None:
        raise NotImplementedError

    def ready(self) -> bool:
        """Whether it answers a real request now."""
        raise NotImplementedError

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the process; `open` must have been called."""
        raise NotImplementedError

    def open(self) -> None:
        """Lock the data directory, make what is missing in it, pick the port. Raises EmbeddedError."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.log.parent.mkdir(mode=0o700, exist_ok=True)
            self._lock = self._take_lock()
            self._set_up()
            self.port = self.port or self._pick_port()
        except OSError as error:
            self.close()
            raise EmbeddedError(f"{self.title} cannot use the data directory {self.data_dir}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> int:
        path = self.data_dir / f"{self.name}.lock"
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while (descriptor := lock(path)) is None:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.title} runs on {self.data_dir} already. Stop that bank, or set BANK_DATA_DIR to another place.")
            time.sleep(0.05)
        return descriptor

    def _pick_port(self) -> int:
        remembered = self.data_dir / f"{self.name}.port"
        with contextlib.suppress(FileNotFoundError, ValueError):
            port = int(remembered.read_text())
            if port_is_free(port):
                return port
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        remembered.write_text(f"{port}\n")
        return port

    def start(self) -> str:
        """Open, start and wait until it answers. Returns the URL; raises EmbeddedError and leaves nothing running."""
        self.open()
        try:
            self._child = self.spawn()
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not self.ready():
                if self._child.poll() is not None or time.monotonic() > deadline:
                    raise EmbeddedError(f"{self.title} did not start:\n{log_tail(self.log)}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise
        return self.url

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The server that was started."""
        if self._child is None:
            raise EmbeddedError(f"{self.title} has not been started.")
        return self._child

    def stop(self) -> None:
        """Stop it, cleanly if it will, and let go of the data directory."""
        if self._child is not None:
            terminate(self._child, *self.stop_signals)
            self._child = None
        self.close()

    def close(self) -> None:
        """Let go of the data directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _inherited(self) -> list[int]:
        # The child holds the lock too: as long as it lives, this process gone or not, no second one starts.
        return [] if self._lock is None else [self._lock]


def port_is_free(port: int) -> bool:
    """Whether a server could listen on `port` of the loopback address now."""
    with socket.socket() as probe:
        # As servers do: connections of a moment ago that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, indented, for an error message."""
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:])


def package(name: str) -> Path:
    # Found, not imported: the import would load what only its own way of starting needs.
    found = util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(f"The package {name} is not installed: pip install -r requirements.txt")
    return Path(found.submodule_search_locations[0])
