"""A PostgreSQL and a Redis from PyPI wheels, run as child processes on loopback, with their data in one directory.

Below the data directory:

    postgres/           the database cluster, or a link to it (see `places.home_of`)
    redis/              its append-only file
    secrets/            one password a file, readable by the owner only
    logs/               what the servers say
    *.port              the port each had the last time

Both ask for a password although they listen on loopback only: every user of the machine reaches loopback.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from bank.embedded.postgres import Postgres
from bank.embedded.redis import Redis
from bank.embedded.server import HOST, EmbeddedError, Server, log_tail, port_is_free, secret

__all__ = ["HOST", "EmbeddedError", "Postgres", "Redis", "Server", "log_tail", "port_is_free", "secret", "servers"]


@contextlib.contextmanager
def servers(directory: Path) -> Iterator[tuple[str, str]]:
    """A PostgreSQL and a Redis for tests, on any free ports, that do not wait for the disk.

    Yields (database URL, Redis URL). Stops both at the end; the files in `directory` stay.
    """
    postgres, redis = Postgres(directory, durable=False), Redis(directory, durable=False)
    try:
        yield postgres.start(), redis.start()
    finally:
        redis.stop()
        postgres.stop()
        link = directory / "postgres"
        if link.is_symlink():
            shutil.rmtree(link.resolve(), ignore_errors=True)
            link.unlink()
