"""`bank replay`: what the bank looked like at any moment, as the events tell it."""

from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import click
import orjson
from marshmallow import ValidationError
from rich.table import Table
from rich.text import Text

from bank import create_app
from bank.cli import telling
from bank.cli.progress import progress
from bank.cli.telling import Unknown
from bank.config import Config, ConfigError
from bank.errors import BankError
from bank.events.types import UnknownEventError
from bank.replay.run import Until, goal, replay
from bank.replay.service import present
from bank.replay.state import BrokenLogError
from bank.web import streaming
from bank.web.fields import Identifier, Moment

# Exit code: the account was not there.
NOT_THERE = 1

_COLUMNS = ("id", "user_id", "currency", "kind", "name", "status", "balance", "held", "overdraft_limit", "version")

_COUNTS = ("users", "submitted", "completed", "failed", "open_holds", "voided", "pending")

# The largest position that the log can have, in digits.
_LONGEST = 19


class NotThere(click.ClickException):
    """There was no such account at that moment."""

    exit_code = NOT_THERE


def _until(ctx: click.Context, param: click.Parameter, given: str | None) -> Until:
    if given is None:
        return None
    if given.isascii() and given.isdigit() and len(given) <= _LONGEST:
        return int(given)
    try:
        return Moment().deserialize(given)
    except ValidationError as error:
        raise click.BadParameter(f"{given!r} is no position. {' '.join(error.messages)}") from error


def _account(ctx: click.Context, param: click.Parameter, given: str | None) -> str | None:
    try:
        return None if given is None else Identifier().deserialize(given)
    except ValidationError as error:
        raise click.BadParameter(" ".join(error.messages)) from error


@click.command("replay")
@click.option("--until", callback=_until, metavar="TIME|POSITION", help="RFC 3339 with an offset, or a position of the log. Default: now.")
@click.option("--account", "account_id", callback=_account, metavar="ID", help="Show this account only.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option("--from-start", is_flag=True, help="Read the whole log: use no snapshot of an earlier replay.")
def command(until: Until, account_id: str | None, form: str, from_start: bool) -> None:
    """Show what the bank looked like at a moment, as the events tell it.

    A position counts the event there too; a time counts all that was recorded by then. Safe while the bank runs: it reads in
    short statements, and writes nothing but a snapshot now and then, from which the next replay starts; `started_from` is the position of
    the one that was used, 0 for none. What was recorded by a time of the last ten seconds may still grow.

    Exit code: 0; 1 when the account was not there then; 2 when it could not be found out.
    """
    try:
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        with app.app_context():
            end = goal(until)
            steps: list[int] = []
            with progress(end.position) as watch:

                def step(position: int) -> None:
                    steps.append(position)
                    watch("Events", position)

                state = replay(end, step, from_start=from_start)
    except (ConfigError, BankError, UnknownEventError, BrokenLogError) as error:
        raise Unknown(str(error)) from error
    if account_id is not None and account_id not in state.accounts:
        raise NotThere(f"There was no account {account_id} then.")
    shown = [present(each, state.accounts[each]) for each in ([account_id] if account_id else sorted(state.accounts))]
    _PRINT[form]({"position": end.position, "started_from": steps[0], **{name: getattr(state, name) for name in _COUNTS}}, shown)


def _print_table(counts: dict[str, int], accounts: Sequence[dict[str, Any]]) -> None:
    console = telling.console(highlight=False)
    for name, count in counts.items():
        console.print(f"{name:13}{count:,}")
    table = Table(*_COLUMNS, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[6:]:
        column.justify = "right"
    for account in accounts:
        # Text, so that brackets in a name are no markup.
        table.add_row(*(Text("" if account[name] is None else str(account[name]), overflow="fold") for name in _COLUMNS))
    console.print()
    console.print(table)


def _print_json(counts: dict[str, int], accounts: Sequence[dict[str, Any]]) -> None:
    click.echo(orjson.dumps({**counts, "accounts": accounts}))


def _print_csv(counts: dict[str, int], accounts: Sequence[dict[str, Any]]) -> None:
    # As numbers, which no spreadsheet takes for a formula when they are negative.
    money = ("balance", "held", "overdraft_limit")
    rows = [{**account, **{name: account[name] and Decimal(account[name]) for name in money}} for account in accounts]
    for piece in streaming.csv_lines(_COLUMNS, [rows]):
        click.echo(piece, nl=False)


_PRINT = {"table": _print_table, "json": _print_json, "csv": _print_csv}
