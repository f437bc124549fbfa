"""The progress bar of the commands that take long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """A progress bar on standard error; yields what moves it, which takes what is being done and how much of `total` is."""
    columns = (
        TextColumn("{task.description:8}"),
        BarColumn(None),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Reading", total=max(total, 1))

        def watch(doing: str, done: int) -> None:
            bar.update(task, description=doing, completed=done)

        yield watch
