"""`make faults` is too long for each run; one of its rows is run here, and a planted bug, so that it is known to work and to fail."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faultsuite.__main__ import strike
from tests.faultsuite.planted import PLANTED, copy_with
from tests.faultsuite.rows import ROWS, Row
from tests.faultsuite.stage import stage
from tests.test_house_rules import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Which the database's own user can reach, unlike pytest's."""
    with TemporaryDirectory(prefix="bank-faultsuite-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _named(name: str) -> Row:
    [row] = [row for row in ROWS if row.name == name]
    return row


def test_lost_answers_to_commits_and_a_killed_primary_lose_and_double_nothing(directory: Path) -> None:
    with stage(directory) as built:
        assert strike(built, _named("primary: answers to COMMIT lost"), "one") == []
        assert strike(built, _named("primary: SIGKILL"), "two") == []


def test_a_bank_that_stores_a_key_twice_is_caught(directory: Path) -> None:
    [bug] = [bug for bug in PLANTED if bug.sql]
    with stage(directory, plant=bug.sql) as built:
        assert "doubled" in strike(built, bug.row, "planted")


@pytest.mark.parametrize("bug", [bug for bug in PLANTED if bug.file], ids=lambda bug: bug.name)
def test_each_bug_can_still_be_planted(bug, tmp_path: Path) -> None:
    code = copy_with(bug, tmp_path)
    assert (code / bug.file).read_text() != (ROOT / bug.file).read_text()
    shutil.rmtree(code)
