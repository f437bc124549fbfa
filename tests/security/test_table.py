"""The table of docs/security.md: every line of the threat list, and no file and no test that is gone."""

import ast
import re

from tests.test_house_rules import ROOT

TEXT = (ROOT / "docs" / "security.md").read_text()
ROWS = re.findall(r"^\| ([0-9]+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", TEXT, re.MULTILINE)
THREATS = 38
NOT_YET = "Not yet: "


def names(path: str) -> set[str]:
    """The tests that a file defines, which is read and not imported."""
    return {node.name for node in ast.walk(ast.parse((ROOT / "tests" / path).read_text())) if isinstance(node, ast.FunctionDef)}


def missing(text: str) -> list[str]:
    """What a text names and is not there: a test as `folder/test_file.py::test_name`, or a file of the repository."""
    gone = []
    for named in re.findall(r"`([^`\s]+)`", text):
        path, is_test, name = named.partition("::")
        if is_test:
            if not (ROOT / "tests" / path).is_file() or name not in names(path):
                gone.append(named)
        elif re.fullmatch(r"(bank|docker|migrations|docs|\.ci|tests)/[\w./-]+", named) and not (ROOT / path).exists():
            gone.append(named)
    return gone


def test_every_threat_is_there_once_and_in_order() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, THREATS + 1))
    # A row of another form would be no row to the test above.
    assert len(re.findall(r"^\| *[0-9]", TEXT, re.MULTILINE)) == THREATS


def test_every_threat_names_the_file_that_keeps_it_off() -> None:
    assert [number for number, _, defence, _ in ROWS if not re.search(r"`(bank|docker|migrations)/[\w./-]+`", defence)] == []


def test_every_threat_names_a_test_or_says_that_there_is_none() -> None:
    assert [number for number, *_, tests in ROWS if "::" not in tests and NOT_YET not in tests] == []


def test_nothing_that_is_named_is_gone() -> None:
    assert missing(TEXT) == []
    # The check itself finds what is gone.
    assert missing("`security/test_table.py::test_none` `none/test_none.py::test_none` `bank/none.py`") != missing(TEXT)
    assert len(missing("`security/test_table.py::test_none` `none/test_none.py::test_none` `bank/none.py` `BANK_ENV`")) == 3
