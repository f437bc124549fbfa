"""`bank rebuild`: the projections again from the events alone."""

import time
from dataclasses import replace

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.exc import DBAPIError

from bank import create_app
from bank.cli import rights
from bank.cli.progress import progress
from bank.cli.telling import Unknown
from bank.config import Config, ConfigError
from bank.db import unit_of_work
from bank.errors import BankError
from bank.events.horizon import settled
from bank.events.types import UnknownEventError
from bank.rebuild import shadow
from bank.rebuild.compare import Compared, compare
from bank.rebuild.swap import finish, swap

# Exit code: a table is not what the events say.
DIFFERENT = 1


@click.command("rebuild")
@click.option("--check", is_flag=True, help="Begin anew, compare, throw the result away; exit with 1 when anything differs.")
@click.option("--swap", "swaps", is_flag=True, help="Put what was made in the place of the tables that are in use.")
def command(check: bool, swaps: bool) -> None:
    """Make users, accounts, balances, transactions, entries and closing balances again from the events alone.

    They are made in a schema of their own while the bank runs, and compared with the tables that are in use,
    row by row. Without an option they stay there; run again, it goes on where it stood, also after a kill.
    With --swap they take the place of the tables in use; writers wait for a moment, and it says for how long. Users are made
    again but for their passwords, which are in no event.

    Exit code: 0; with --check 1 when a table is not what the events say; 2 when that could not be found out, or a
    constraint does not hold on the swapped tables.
    """
    if check and swaps:
        raise click.UsageError("--check changes nothing, --swap does: give one of them.")
    console = Console(highlight=False)
    try:
        config = replace(Config.from_env(), log_level="WARNING")
        app = create_app(config.as_owner())
        with app.app_context(), shadow.alone():
            if check:
                _forget()
            elif broken := finish():
                raise Unknown(f"An earlier swap left constraints that do not hold: {', '.join(broken)}")
            # An earlier swap may have been killed before it did.
            rights.grant(config)
            position = _build(console)
            compared = compare()
            _show(console, compared)
            if check:
                _forget()
            elif not swaps:
                shadow.drop_if_outdated()
            if swaps:
                waited = swap(position)
                # The tables are others now, and were made with the rights of any.
                rights.grant(config)
                console.print(f"Swapped. Writers waited for at most {waited:.3f} s.")
                if broken := finish():
                    raise Unknown(f"Constraints do not hold on the swapped tables: {', '.join(broken)}")
    except DBAPIError as error:
        # An event that was changed may be nothing that a table can hold.
        raise Unknown(f"The events cannot be brought into the tables: {error.orig}") from error
    except (ConfigError, BankError, UnknownEventError) as error:
        raise Unknown(str(error)) from error
    if check and any(table.different for table in compared):
        click.get_current_context().exit(DIFFERENT)


def _forget() -> None:
    with unit_of_work() as session:
        shadow.drop(session.connection())


def _build(console: Console) -> int:
    """Fill and index the shadow; the position up to which all is applied."""
    begun = shadow.prepare()
    end = settled(shadow.PATIENCE_SECONDS)
    started = time.monotonic()
    with progress(end) as watch:
        shadow.fill(begun, end, lambda position: watch("Events", position))
        watch("Indexes", end)
        shadow.index()
    seconds = time.monotonic() - started
    if end > begun:
        console.print(f"{end - begun:,} positions of the log in {seconds:.1f} s: {(end - begun) / seconds:,.0f} a second")
    return shadow.catch_up(end)


def _show(console: Console, compared: list[Compared]) -> None:
    table = Table("table", "rows", "different", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for found in compared:
        table.add_row(found.table, f"{found.rows:,}", f"{found.different:,}")
    console.print(table)
    for found in compared:
        for difference in found.first:
            console.print(f"  {found.table} {escape(str(difference))}", soft_wrap=True)
