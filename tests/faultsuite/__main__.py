"""Prints a table: each fault, how long the bank took to recover, and what was refused, lost and doubled."""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import click

from tests.faultsuite import rows
from tests.faultsuite.load import Load
from tests.faultsuite.machine import enter_network
from tests.faultsuite.planted import PLANTED, Planted, copy_with
from tests.faultsuite.rows import ROWS, Row
from tests.faultsuite.stage import Stage, stage
from tests.processes import wait_until

_WARM_UP_SECONDS, _AFTER_SECONDS = 1.5, 1.0

# How long the bank may take until a transfer is accepted and posted again.
_RECOVERY_SECONDS = 60.0


@click.command()
@click.option("--only", default="", help="Rows whose names contain this.")
@click.option("--list", "lists", is_flag=True, help="Name the rows and end.")
@click.option("--planted", is_flag=True, help="Plant bugs instead, and see each of them caught.")
@click.option("--full", is_flag=True, help="Stop processes for 95 seconds and not for 25.")
def main(only: str, lists: bool, planted: bool, full: bool) -> None:
    """Put faults on a running bank, one after the other, and check after each that nothing was lost or doubled."""
    wanted = [row for row in ROWS if only.lower() in row.name.lower()]
    if lists:
        click.echo("\n".join(row.name for row in wanted))
        return
    if full:
        rows.stopped_seconds = 95.0
    if planted:
        caught = [_is_caught(bug) for bug in PLANTED if only.lower() in bug.name]
        sys.exit(0 if all(caught) else 1)
    enter_network()
    click.echo(f"{'fault':52} {'recovered':>10} {'moved':>6} {'refused':>8} {'lost':>5} {'doubled':>8}  longest answer")
    failed = sum(_walk([row for row in wanted if row.small is small], small=small) for small in (False, True))
    sys.exit(1 if failed else 0)


def _walk(wanted: Sequence[Row], *, small: bool) -> int:
    """Do these rows, on one bank, and tell in how many something was wrong."""
    possible = [row for row in wanted if not row.hindrance()]
    failed = 0
    if possible:
        with _directory("bank-faults-") as directory, stage(directory, small=small) as built:
            for number, row in enumerate(possible):
                failed += bool(strike(built, row, f"f{number}"))
    for row in wanted:
        if row not in possible:
            click.echo(f"{row.name:52} not run: {row.hindrance()}")
    return failed


@contextmanager
def _directory(prefix: str) -> Iterator[Path]:
    """One that PostgreSQL's own user may pass through."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def _is_caught(bug: Planted) -> bool:
    """Run its row on a bank that has the bug, and tell whether anything was found to be wrong."""
    with _directory("bank-planted-") as directory, stage(directory, copy_with(bug, directory), bug.sql) as built:
        wrong = strike(built, bug.row, "planted")
    click.echo(f"{'caught' if wrong else 'NOT CAUGHT'}: {bug.name}\n")
    return bool(wrong)


def strike(built: Stage, row: Row, name: str) -> list[str]:
    """Do one row, print its line, and tell what was wrong."""
    load = Load(built.port, built.token, built.accounts, name)
    wrong: list[str] = []
    with nullcontext(load.told) if row.quiet else load.running() as told:
        time.sleep(0 if row.quiet else _WARM_UP_SECONDS)
        try:
            row.strike(built)
        except AssertionError as error:
            wrong.append(str(error))
        healed = time.monotonic()
        try:
            wait_until(built.works, "a transfer is accepted and posted", _RECOVERY_SECONDS)
        except AssertionError as error:
            wrong.append(str(error))
        recovered = time.monotonic() - healed
        time.sleep(0 if row.quiet else _AFTER_SECONDS)
    lost, doubled, more = built.check(name, told)
    wrong += more + ([] if row.quiet or any(told.ids.values()) else ["nothing was moved"])
    refused = told.refused + told.broken_off
    click.echo(f"{row.name:52} {recovered:8.1f} s {len(told.ids):6} {refused:8} {lost:5} {doubled:8}  {told.longest:.1f} s")
    for line in dict.fromkeys(wrong):
        click.echo(f"  WRONG: {line}")
    return [*wrong, *(["lost"] * lost), *(["doubled"] * doubled)]


if __name__ == "__main__":
    main()
