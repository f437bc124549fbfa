"""Bugs that are planted to see the suite fail: each is caught by what the suite looks at, or the suite is worth nothing."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.faultsuite.rows import Row, lose_bells, ring_twice, work
from tests.processes import ROOT


@dataclass(frozen=True)
class Planted:
    """A bug: `change` of a file's text, or `sql` on the database; and the row under which it shows."""

    name: str
    row: Row
    file: str = ""
    change: tuple[str, str] = ("", "")
    sql: str = ""


def copy_with(planted: Planted, directory: Path) -> Path:
    """The code of the bank with the bug in it, in a directory of its own."""
    code = directory / "code"
    code.mkdir()
    for name in ("bank", "migrations"):
        shutil.copytree(ROOT / name, code / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "worker.py"):
        shutil.copy(ROOT / name, code / name)
    if planted.file:
        path = code / planted.file
        before, after = planted.change
        text = path.read_text()
        assert text.count(before) == 1, f"{planted.name}: {before!r} is not there once"
        path.write_text(text.replace(before, after))
    return code


_BUSY = Row("nothing", "but load", work)
_TWICE = Row("Redis", "every bell rings twice", ring_twice)
_QUIET = Row("Redis", "bells lost, and nobody rings again", lose_bells, quiet=True)

PLANTED: tuple[Planted, ...] = (
    Planted(
        "the lock on accounts is not taken",
        _BUSY,
        file="bank/ledger/store.py",
        change=('in_order = " ORDER BY {} FOR NO KEY UPDATE" if lock else ""', 'in_order = " ORDER BY {}"'),
    ),
    Planted("an idempotency key can be stored twice", _BUSY, sql="ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys"),
    Planted(
        "a lane is claimed without its lock",
        _TWICE,
        file="bank/ledger/store.py",
        change=("FROM lanes WHERE lane = %s FOR UPDATE SKIP LOCKED", "FROM lanes WHERE lane = %s"),
    ),
    Planted(
        "nobody sweeps",
        _QUIET,
        file="bank/processing/ticks.py",
        change=('    "bank.processing.tasks.sweep": 3,\n', ""),
    ),
)
