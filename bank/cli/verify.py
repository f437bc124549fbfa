"""`bank verify`: the whole sealed log."""

import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import click
import orjson
from rich.console import Console

from bank import create_app
from bank.cli.progress import progress
from bank.cli.telling import Unknown, counted
from bank.cli.trust import HELP, trusted
from bank.config import Config, ConfigError
from bank.errors import BankError
from bank.proof import verification
from bank.proof.verification import Walked

# Exit code: the log is not what was sealed.
CHANGED = 1


@click.command("verify")
@click.option("--head", type=click.Path(dir_okay=False, path_type=Path), help="A head from GET /events/head that was kept elsewhere.")
@click.option("--key", "keys", multiple=True, metavar="HEX", help=HELP)
def command(head: Path | None, keys: tuple[str, ...]) -> None:
    """Walk the chain of sealed blocks and hold every event against it.

    Finds events that were changed, removed, added or swapped, and blocks that are not what was signed or not chained. That the end of
    log and chain was cut off, or all of it made anew, is seen for certain only against a head that was kept where nobody could
    change it. What is sealed meanwhile is not looked at.

    Exit code: 0 when all is as it was sealed, 1 when it is not (it is named), 2 when that could not be found out.
    """
    public_keys = trusted(keys)
    try:
        app = create_app(replace(Config.from_env(), log_level="WARNING"))
        kept = _read(head, public_keys) if head else None
        with app.app_context():
            sealed = is_as_sealed(public_keys, kept)
    except (ConfigError, BankError) as error:
        raise Unknown(str(error)) from error
    if not sealed:
        click.get_current_context().exit(CHANGED)


def is_as_sealed(public_keys: set[bytes], kept: str | None) -> bool:
    """Walk the chain and show what was found; whether the log is what was sealed. `kept` is a header that it must hold. Needs an
    application context. Raises Unknown where nothing is sealed, and Unavailable."""
    started = time.monotonic()
    end = verification.head()
    if not end.number and not end.sealed and kept is None:
        raise Unknown("Nothing is sealed: there is nothing to verify by.")
    with progress(end.last) as watch:
        walked = verification.walk(end, public_keys, kept, lambda position: watch("Events", position))
    _show(walked, time.monotonic() - started)
    return not walked.faults.count


def _read(head: Path, public_keys: set[bytes]) -> str:
    try:
        return verification.head_of(orjson.loads(head.read_bytes()), public_keys)
    except (OSError, ValueError) as error:
        raise Unknown(f"{head}: {error}") from error


def _show(walked: Walked, seconds: float) -> None:
    console = Console(highlight=False, markup=False)
    for fault in walked.faults.told:
        console.print(fault, soft_wrap=True)
    if more := walked.faults.count - len(walked.faults.told):
        console.print(f"… and {more:,} more.")
    console.print(f"{walked.blocks:,} blocks with {walked.events:,} events in {seconds:.1f} s.")
    if walked.erased:
        console.print(f"Of {walked.erased:,} events what was personal has been erased.")
    if walked.tail.since is not None:
        age = (datetime.now(UTC) - walked.tail.since).total_seconds()
        count = counted(walked.tail.events, verification.COUNTED)
        console.print(f"{count} events are not sealed yet, the first for {age:.0f} s.")
    console.print("CHANGED: the log is not what was sealed." if walked.faults.count else "The log is what was sealed.")
