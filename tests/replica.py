"""A PostgreSQL with a streaming replica, both of which can be stopped, killed and brought back."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from bank.embedded import HOST, EmbeddedError, Postgres, places
from bank.embedded.server import Server


class Replica(Postgres):
    """A copy of another server that follows it."""

    def __init__(self, data_dir: Path, primary: Postgres) -> None:
        super().__init__(data_dir, durable=False)
        shutil.copytree(primary.data_dir / "secrets", data_dir / "secrets")
        self._primary = primary

    def ready(self) -> bool:
        """Whether the bank's user reaches the bank's database; what the primary has made arrives by itself."""
        return self._connects("bank", "bank")

    def _initdb(self, cluster: Path) -> None:
        source = f"host={HOST} port={self._primary.port} user=postgres password={superuser(self._primary)} application_name=replica"
        draft = cluster.with_name("data.new")
        arguments = [f"--dbname={source}", f"--pgdata={draft}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        done = places.run([self._programs / "pg_basebackup", *arguments], self._user)
        if done.returncode:
            raise EmbeddedError(done.stdout)
        draft.rename(cluster)


def superuser(server: Server) -> str:
    """The password of its superuser."""
    return (server.data_dir / "secrets" / "postgres-superuser").read_text().strip()


def ask_as_superuser(server: Postgres, statement: str) -> None:
    """Run a statement that the bank's own user may not."""
    connection = psycopg2.connect(host=HOST, port=server.port, user="postgres", password=superuser(server), dbname="postgres")
    # ALTER SYSTEM runs in no transaction.
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


def signal_all(server: Postgres, number: signal.Signals) -> None:
    """Send a signal to the server and all its backends, which have sessions of their own."""
    child = server.process
    for pid in [child.pid, *map(int, Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split())]:
        os.kill(pid, number)


@contextmanager
def primary_and_replica() -> Iterator[tuple[Postgres, Replica]]:
    """Both, running, on data of their own."""
    # Not pytest's tmp_path: the database's own user must be able to reach it.
    with tempfile.TemporaryDirectory(prefix="bank-replica-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        primary = Postgres(directory / "primary", durable=False)
        started: list[Postgres] = []
        try:
            primary.start()
            started.append(primary)
            replica = Replica(directory / "replica", primary)
            replica.start()
            started.append(replica)
            yield primary, replica
        finally:
            for server in reversed(started):
                server.stop()
                shutil.rmtree(server.home, ignore_errors=True)
