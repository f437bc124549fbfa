"""`bank restore`: a backup brought back into an empty database, and verified."""

import subprocess
from dataclasses import replace
from pathlib import Path

import click
import orjson
from rich.console import Console
from sqlalchemy import text

from bank import create_app
from bank.cli import rights
from bank.cli.backup import DUMP, HEAD
from bank.cli.check import all_hold
from bank.cli.postgres import BackupFailed, load
from bank.cli.telling import Unknown
from bank.cli.trust import HELP, trusted
from bank.cli.verify import is_as_sealed
from bank.config import Config, ConfigError
from bank.db import reader, unit_of_work
from bank.errors import BankError
from bank.proof import verification

# Exit code: what was restored is not what was backed up.
WRONG = 1

_TABLES = text("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'S')")


@click.command("restore")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--key", "keys", multiple=True, metavar="HEX", help=HELP)
def command(directory: Path, keys: tuple[str, ...]) -> None:
    """Bring the backup in DIRECTORY back into the database of DATABASE_URL, which must be empty, and verify it.

    All of it comes back or nothing. Then the log is held against the head that lies in the backup, as `bank verify` does, and every
    invariant of the books is checked, as `bank check` does. No part of the bank may run on the database meanwhile; when it starts,
    what was pending is posted.

    Exit code: 0 when it is back and verified, 1 when it is back and something is wrong with it (it is named), 2 when it is not back.
    """
    console = Console(highlight=False, markup=False)
    try:
        config = replace(Config.from_env(), log_level="WARNING")
        head = directory / HEAD
        if keys and not head.exists():
            raise Unknown(f"A key is named, and the backup has no {HEAD} that it could have signed.")
        public_keys = trusted(keys) if head.exists() else set()
        kept = verification.head_of(orjson.loads(head.read_bytes()), public_keys) if head.exists() else None
        app = create_app(config.as_owner())
        with app.app_context():
            with reader() as session:
                if session.execute(_TABLES).scalar_one():
                    raise Unknown("The database is not empty. Make a new one for the backup.")
            load(config.as_owner().database_url, directory / DUMP)
            rights.grant(config)
            _settle()
            sealed = kept is None or is_as_sealed(public_keys, kept)
            if kept is None:
                console.print("The backup has no head: that its log is what was sealed cannot be seen.", soft_wrap=True)
            holds = all_hold()
    except (ConfigError, BankError, BackupFailed, OSError, ValueError, subprocess.SubprocessError) as error:
        raise Unknown(str(error)) from error
    if not (sealed and holds):
        click.get_current_context().exit(WRONG)
    console.print("The bank is back.")


def _settle() -> None:
    """Let go of what belonged to the server that the backup is from, and get to know the tables."""
    with unit_of_work() as session:
        # Its transaction ids mean nothing here, and nobody who held one is left.
        session.execute(text("UPDATE lanes SET candidate_xid = NULL"))
    with reader() as session:
        session.execute(text("SET statement_timeout = 0"))
        session.execute(text("ANALYZE"))
