"""How the commands tell what they found, and that they could not find out."""

from typing import Any

import click
from rich.console import Console

# Columns of text; wider than any row.
_WIDE = 1_000


class Unknown(click.ClickException):
    """It could not be found out, which is neither yes nor no."""

    exit_code = 2


def console(**options: Any) -> Console:
    """Where results are written to. A file or a pipe has no width: an id that is cut or broken in two is of no use there."""
    made = Console(**options)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def counted(count: int, most: int) -> str:
    """A number of which no more than `most` and one were counted."""
    return f"{count:,}" if count <= most else f"over {most:,}"
