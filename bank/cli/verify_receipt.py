"""`bank verify-receipt`: a receipt, without asking the bank."""

from typing import BinaryIO

import click
import orjson
from rich.console import Console

from bank.cli.trust import HELP, trusted
from bank.proof.receipts import NotProven, Proven, check

# The exit code of a receipt that proves nothing; click's own for a file that cannot be read is 2.
NOT_PROVEN = 1

# What the last of its events says of a transaction.
_OUTCOMES = {
    "TransactionSubmitted": "was asked for; nothing is proven of what became of it",
    "TransactionCompleted": "was posted",
    "TransactionFailed": "was refused",
    "TransactionRolledBack": "was rolled back, in whole or in part",
}


@click.command("verify-receipt")
@click.argument("file", type=click.File("rb"))
@click.option("--key", "keys", multiple=True, metavar="HEX", help=HELP)
def command(file: BinaryIO, keys: tuple[str, ...]) -> None:
    """Check a receipt from GET /transactions/{id}/receipt offline: no database, nothing but the file and the public key.

    FILE may be - for standard input. A receipt proves that these events were in the log when their blocks were sealed. That
    events are missing at its end cannot be told: it says nothing of what came later.

    Exit code: 0 when it is proven, 1 when it is not, 2 when the file cannot be read.
    """
    public_keys = trusted(keys)
    console = Console(highlight=False, markup=False)
    try:
        receipt = orjson.loads(file.read())
        proven = check(receipt, public_keys)
    except (NotProven, orjson.JSONDecodeError) as error:
        console.print(f"NOT PROVEN: {error}", soft_wrap=True)
        click.get_current_context().exit(NOT_PROVEN)
    for event in proven:
        console.print(_line(event), soft_wrap=True)
    outcome = _OUTCOMES.get(proven[-1].type, proven[-1].type)
    console.print(f"Proven: transaction {receipt['transaction_id']} {outcome}. What came later is not in a receipt.", soft_wrap=True)


def _line(event: Proven) -> str:
    data = "closed" if event.data is None else orjson.dumps(event.data).decode()
    return f"{event.recorded_at} {event.type}, position {event.position}, block {event.block} sealed {event.sealed_at}: {data}"
