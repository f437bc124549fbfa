"""The `bank` command: one file a command in this folder, loaded when it is called."""

import os
from importlib import import_module

import click

# What `bank --help` says of each command, so that it need not load them all to ask. The file is
# named like the command, with a `_` behind it where Python keeps the word for itself.
COMMANDS = {
    "run": "Run the whole bank on this machine: database, API, workers, scheduler, dashboard.",
    "migrate": "Bring the database's schema up to date and make the administrator.",
    "scheduler": "Ring the ticks that make sweepers and schedules run.",
    "config": "Check the settings before anything starts: what is wrong or unsafe, and what to do.",
    "health": "Say whether a part of the bank does its work; for the health checks of containers.",
    "check": "Check every invariant of the books, over everything.",
    "backup": "Write a backup of the whole bank, with the signed head of its log.",
    "restore": "Bring a backup back into an empty database, and verify it.",
    "import": "Bring a history in from a CSV file, through the ledger.",
    "rebuild": "Make every projection again from the events alone; compare, and swap on demand.",
    "replay": "Show what the bank looked like at any moment, as the events tell it.",
    "follow": "Seal the log of events into signed blocks, and keep up what else is made from it.",
    "followers": "List the followers of the log, and how far behind each is.",
    "cache": "Put the accounts that move most into the cache.",
    "verify": "Walk the chain of sealed blocks and hold every event against it.",
    "verify-receipt": "Check a transaction's receipt offline, with the public key alone.",
    "collection": "Write every call of the API as a collection for Postman or Bruno, made from the OpenAPI document.",
}


class Commands(click.Group):
    """A group whose commands are imported when they are called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command in the file of that name; None when there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name != "run":
            # Here and not at the top: `bank --help` needs none of it.
            from bank.cli.adoption import adopt

            adopt(os.environ)
        module = "import_" if cmd_name == "import" else cmd_name.replace("-", "_")
        command: click.Command = import_module(f"bank.cli.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A double-entry bank behind an HTTP API.

    Begin with `bank run`: it brings its own PostgreSQL and Redis, keeps their data in ./.data and ends
    its start with a table of addresses. Ctrl-C stops everything.

    The other commands work on the bank that runs here, or else on the database that DATABASE_URL names, as
    one process of a larger installation. `bank COMMAND --help` says more about each.
    """
