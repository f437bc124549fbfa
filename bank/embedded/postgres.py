"""The embedded PostgreSQL."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg2

from bank.embedded import places
from bank.embedded.server import HOST, PLAIN_ENVIRONMENT, EmbeddedError, Server, secret
from bank.processes import spawn

# Settings for a small bank, handed over at each start so that a new version of bank brings its own.
POSTGRES_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # loopback serves; a socket's path would have to be under 108 bytes
    "max_connections": "200",  # four processes with a pool of twenty or so each, tests and a person besides
    "shared_buffers": "256MB",
    "synchronous_commit": "on",  # a 202 is a promise; it must outlive the machine's power
    "wal_compression": "on",
    "min_wal_size": "512MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",  # the queries are short; compiling them costs more than running them
    "track_io_timing": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
# For tests: nothing survives a power cut, everything else behaves the same.
POSTGRES_THROWAWAY = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Server):
    """PostgreSQL 18 with a database `bank` that belongs to the user `bank`."""

    name = "postgres"
    title = "PostgreSQL"
    # "Fast": ends the sessions and writes a checkpoint; "immediate": leaves the recovery to the next start.
    stop_signals = ((signal.SIGINT, 8.0), (signal.SIGQUIT, 2.0))

    @property
    def url(self) -> str:
        password = secret(self.data_dir / "secrets" / "postgres")
        return f"postgresql+psycopg2://bank:{password}@{HOST}:{self.port}/bank"

    def _set_up(self) -> None:
        self._user = places.service_user()
        self.home = places.home_of(self.data_dir, self._user, self.durable)
        self._programs = places.programs_for(self._user, self.home)
        cluster = self.home / "data"
        if not cluster.exists():
            self._initdb(cluster)
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != places.POSTGRES_MAJOR:
            raise EmbeddedError(
                f"The database in {cluster} was made by PostgreSQL {version}, this bank brings {places.POSTGRES_MAJOR}: "
                "dump it with the bank that made it and load it here."
            )
        # We hold the lock that a living server would hold, so what this names is gone, even if its
        # process id has been given to another process since.
        (cluster / "postmaster.pid").unlink(missing_ok=True)

    def _initdb(self, cluster: Path) -> None:
        # Made aside and moved: a kill in the middle leaves nothing that looks like a database.
        draft = cluster.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        password_file = cluster.with_name("initdb.password")
        password_file.write_text(secret(self.data_dir / "secrets" / "postgres-superuser"))
        password_file.chmod(0o600)
        if self._user:
            os.chown(password_file, self._user.pw_uid, self._user.pw_gid)
        arguments = ["--username=postgres", f"--pwfile={password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--data-checksums"]
        arguments += ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self.durable:
            arguments.append("--no-sync")
        try:
            done = places.run([self._programs / "initdb", *arguments, f"--pgdata={draft}"], self._user)
        finally:
            password_file.unlink()
        if done.returncode:
            raise EmbeddedError(f"The database could not be made in {cluster}:\n{done.stdout}")
        draft.rename(cluster)

    def spawn(self) -> subprocess.Popen[bytes]:
        settings = POSTGRES_SETTINGS | {"port": str(self.port)} | ({} if self.durable else POSTGRES_THROWAWAY)
        options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return spawn(
            [self._programs / "postgres", "-D", self.home / "data", *options],
            env=PLAIN_ENVIRONMENT,
            log=self.log,
            cwd=self.home,
            death_signal=signal.SIGINT,
            user=self._user.pw_uid if self._user else None,
            group=self._user.pw_gid if self._user else None,
            keep=self._inherited(),
        )

    def ready(self) -> bool:
        """Whether the bank's user reaches the bank's database; makes both at the first start."""
        if self._connects("bank", "bank"):
            return True
        if not self._connects("postgres", "postgres"):
            return False
        self._create_database()
        return self._connects("bank", "bank")

    def _connect(self, user: str, database: str) -> "psycopg2.extensions.connection":
        password = secret(self.data_dir / "secrets" / ("postgres" if user == "bank" else "postgres-superuser"))
        return psycopg2.connect(host=HOST, port=self.port, user=user, password=password, dbname=database, connect_timeout=5)

    def _connects(self, user: str, database: str) -> bool:
        try:
            self._connect(user, database).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _create_database(self) -> None:
        connection = self._connect("postgres", "postgres")
        try:
            connection.autocommit = True  # CREATE DATABASE takes no transaction around it
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'bank'")
                # Not a superuser: what the schema forbids, the application cannot lift.
                statement = "ALTER" if cursor.fetchone() else "CREATE"
                cursor.execute(f"{statement} ROLE bank LOGIN CREATEDB PASSWORD %s", [secret(self.data_dir / "secrets" / "postgres")])
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'bank'")
                if not cursor.fetchone():
                    cursor.execute("CREATE DATABASE bank OWNER bank")
        finally:
            connection.close()
