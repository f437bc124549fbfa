"""`bank check`: every invariant of the books, over everything."""

import time
from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table

from bank import create_app
from bank.cli import telling
from bank.cli.telling import Unknown
from bank.config import Config, ConfigError
from bank.db import reader
from bank.errors import BankError
from bank.ledger.invariants import CHECKS

# Exit code: an invariant does not hold.
VIOLATED = 1

# How many ids are shown of those that violate a check; the rest are counted.
_SHOWN = 5


@click.command("check")
def command() -> None:
    """Check every invariant of the books, over everything.

    Safe while the bank runs: nothing is locked or changed, and each check sees the books at one moment. The
    scheduler checks a sample each minute by itself. That the tables are what the events say is among the checks; what
    differs, row by row and column by column, is what `bank rebuild` shows.

    Exit code: 0 when all hold, 1 when one does not (it is named), 2 when that could not be found out.
    """
    try:
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        with app.app_context():
            holds = all_hold()
    except (ConfigError, BankError) as error:
        raise Unknown(str(error)) from error
    if not holds:
        click.get_current_context().exit(VIOLATED)


def all_hold() -> bool:
    """Check every invariant and show what was found; whether all hold. Needs an application context. Raises Unavailable."""
    progress = Console(stderr=True)
    table = Table("check", "seconds", "violations", "the first of them", box=None, padding=(0, 2, 0, 0))
    broken = []
    with reader() as session:
        connection = session.connection()
        # A check may read every entry there is. The connection is in autocommit, so no transaction spans two of them.
        connection.exec_driver_sql("SET statement_timeout = 0")
        # And it is worth the workers that a reader otherwise does without.
        connection.exec_driver_sql("SET max_parallel_workers_per_gather = 2")
        for number, check in enumerate(CHECKS, 1):
            progress.print(f"{number}/{len(CHECKS)} {check.name}", highlight=False)
            started = time.monotonic()
            ids = check.find(connection, None)
            seconds = time.monotonic() - started
            shown = [*ids[:_SHOWN], *(["…"] if len(ids) > _SHOWN else [])]
            table.add_row(check.name, f"{seconds:.2f}", f"{len(ids):,}", ", ".join(shown))
            if ids:
                broken.append(check.name)
    console = telling.console()
    console.print(table)
    if broken:
        console.print(f"VIOLATED: {', '.join(broken)}. What to do: docs/runbooks/invariant-violated.md", soft_wrap=True)
    else:
        console.print("All invariants hold.")
    return not broken
