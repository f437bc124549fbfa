"""Files to bring in, and what the books say afterwards."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from flask import Flask
from sqlalchemy import text

from bank.cli.import_ import command
from bank.db import reader
from tests.conftest import Person

HEADER = "account,date,type,amount,currency,reference,description\n"


@dataclass(frozen=True)
class Imported:
    """What a run of `bank import` left behind: exit code, what it printed, and the refused lines with their reasons."""

    code: int
    output: str
    refused: list[dict[str, str]]

    @property
    def reasons(self) -> dict[int, str]:
        return {int(row["refused_line"]): row["refused_reason"] for row in self.refused}


@pytest.fixture
def owner(person: Callable[..., Person]) -> Person:
    """Who owns the accounts of this test: nobody else's files know their names."""
    return person("owner")


@pytest.fixture
def bring_in(owner: Person, environ: dict[str, str], app: Flask, tmp_path: Path) -> Callable[..., Imported]:
    """Run `bank import` on a file with this content, for this test's owner. A traceback fails the test."""

    def run(content: str | bytes, *options: str, name: str = "history.csv") -> Imported:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        runner = CliRunner(env={**environ, "COLUMNS": "200"})
        result = runner.invoke(command, [str(path), "--owner", owner.username, *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Imported(result.exit_code, result.output, refused_in(path.with_name(name + ".refused.csv")))

    return run


def refused_in(path: Path) -> list[dict[str, str]]:
    """The rows of a file of refused lines; none where there is no file."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def balances(app: Flask, owner: Person) -> Iterator[Callable[[], dict[str, int]]]:
    """The owner's balances in minor units, by the accounts' names."""

    def ask() -> dict[str, int]:
        with app.app_context(), reader() as session:
            rows = session.execute(
                text("SELECT a.name, b.amount FROM accounts a JOIN balances b ON b.account_id = a.id WHERE a.user_id = :owner"),
                {"owner": owner.id},
            )
            return {row[0]: row[1] for row in rows}

    yield ask


@pytest.fixture
def until() -> datetime:
    """The time of the import, for tests that only read."""
    return datetime(2026, 1, 1, tzinfo=UTC)
