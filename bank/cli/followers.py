"""`bank followers`: how far behind each follower of the log is."""

from dataclasses import replace

import click
from rich.console import Console
from rich.table import Table

from bank import create_app
from bank.cli.telling import counted
from bank.config import Config, ConfigError
from bank.db import reader
from bank.errors import BankError
from bank.followers.runner import COUNTED, lags


@click.command("followers")
def command() -> None:
    """List the followers of the log, and how far behind each is: in events, and by the age of the first of them."""
    try:
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        with app.app_context(), reader() as session:
            found = lags(session)
    except (ConfigError, BankError) as error:
        raise click.ClickException(str(error)) from error
    table = Table("follower", "position", "events behind", "seconds behind", box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for lag in found:
        table.add_row(lag.name, f"{lag.position:,}", counted(lag.events, COUNTED), f"{lag.seconds:.1f}")
    Console(highlight=False).print(table)
