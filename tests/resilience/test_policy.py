"""docs/resilience.md is what the bank does: each row is shown by tests that are there, and each number is the code's."""

import ast
import re
from importlib import import_module

import pytest

from bank import db
from tests.test_house_rules import ROOT

_TEXT = (ROOT / "docs" / "resilience.md").read_text()


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table that begins with this heading."""
    _, _, table = _TEXT.partition(f"| {heading} |")
    lines = table.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("row", _rows("part"), ids=lambda row: f"{row[0]} {row[1]}"[:50])
def test_each_row_of_the_policy_is_shown_by_tests(row: list[str]) -> None:
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)`", row[-1])
    assert len(row) == 5
    assert len(named) == row[-1].count("::") > 0
    for file, name in named:
        path = ROOT / "tests" / (file if "/" in file else f"resilience/{file}")
        functions = {node.name: node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert name in functions, f"{file} has no {name}"
        assert not any("skip" in ast.unparse(decorator) for decorator in functions[name].decorator_list)


@pytest.mark.parametrize("row", _rows("what"), ids=lambda row: row[0][:50])
def test_each_number_is_the_codes(row: list[str]) -> None:
    what, value, where = row
    module, _, name = where.strip("`").rpartition(".")
    found = getattr(import_module(module), name)
    if found is db.settings:
        found = db.settings("", "", 1)["SQLALCHEMY_ENGINE_OPTIONS"]["connect_args"]["connect_timeout"]
    elif found is db.SERVER_SETTINGS:
        setting = {"statement": "statement_timeout", "lock": "lock_timeout"}.get(what.split()[1], "idle_in_transaction_session_timeout")
        found = re.search(rf"\b{setting}=(\d+)", found)[1]  # type: ignore[index]
    assert value == str(found)


def test_nothing_that_shows_what_the_bank_does_without_a_part_is_left_out_of_the_policy() -> None:
    told = {*re.findall(r"\btest_\w+\.py::(test_\w+)`", _TEXT)}
    for file in ("test_without_redis.py", "test_shedding.py"):
        tree = ast.parse((ROOT / "tests" / "resilience" / file).read_text())
        assert {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")} <= told
