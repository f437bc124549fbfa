"""A TCP line between two processes that can be slow, silent, or lose the answer to a COMMIT."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from bank.embedded import HOST

_CHUNK = 65_536


class Line:
    """Listens on a port of its own and leads to another one."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._flows = threading.Event()
        self._flows.set()
        self._delay = 0.0
        self._commits_to_lose = 0
        self._lock = threading.Lock()
        self._server = socket.create_server((HOST, 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections; those that there are end with their ends."""
        self._server.close()

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing goes through, and nobody is told: as if the cable were cut. What was sent meanwhile arrives afterwards."""
        self._flows.clear()
        try:
            yield
        finally:
            self._flows.set()

    @contextlib.contextmanager
    def slow(self, seconds: float) -> Iterator[None]:
        """Whatever is asked takes so much longer to arrive."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    def lose_commits(self, count: int) -> None:
        """Of the next so many COMMITs, let the database do them, and the answer get lost with the connection."""
        with self._lock:
            self._commits_to_lose = count

    @property
    def commits_to_lose(self) -> int:
        """How many are still to be lost."""
        return self._commits_to_lose

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        self._flows.wait()
        try:
            server = socket.create_connection((HOST, self._to), timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        losing = threading.Event()
        threading.Thread(target=self._ask, args=(client, server, losing), daemon=True).start()
        threading.Thread(target=self._answer, args=(server, client, losing), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(_CHUNK):
                self._flows.wait()
                if self._delay:
                    time.sleep(self._delay)
                if b"COMMIT\0" in chunk and self._takes_one():
                    losing.set()
                server.sendall(chunk)
        _end(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, losing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(_CHUNK):
                self._flows.wait()
                # It was done by now: the database answers afterwards.
                if losing.is_set():
                    break
                client.sendall(chunk)
        _end(client, server)

    def _takes_one(self) -> bool:
        with self._lock:
            if not self._commits_to_lose:
                return False
            self._commits_to_lose -= 1
            return True


def _end(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
