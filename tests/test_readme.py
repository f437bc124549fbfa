"""The README's lines do what it prints."""

import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.processes import ADMIN_PASSWORD, Bank, fresh_database

README = Path(__file__).resolve().parents[1] / "README.md"

# What differs from run to run: ids, times, and how many events came before.
_VARYING = [
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"), "<time>"),
    (re.compile(r"^\d+ (?=Transaction)", re.MULTILINE), "<position> "),
]


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Bank]:
    """A bank as `make run` starts it."""
    with fresh_database(environ, tmp_path) as own, Bank(own, tmp_path, workers=1) as bank:
        yield bank


def constant(output: str) -> str:
    """The output without what differs from run to run."""
    for pattern, name in _VARYING:
        output = pattern.sub(name, output)
    return output.strip()


def test_the_first_transfer_prints_what_the_readme_shows(bank: Bank, tmp_path: Path) -> None:
    section = README.read_text().split("## A first transfer")[1].split("\n## ")[0]
    blocks = re.findall(r"```(sh)?\n(.*?)```", section, re.DOTALL)
    script = "\n".join(text for language, text in blocks if language == "sh").replace("localhost:8000", f"127.0.0.1:{bank.port}")
    shown = "\n".join(text for language, text in blocks if not language)
    (tmp_path / ".data").mkdir()
    (tmp_path / ".data" / "admin-password").write_text(ADMIN_PASSWORD)
    result = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert constant(result.stdout).split("\n") == [line for line in constant(shown).split("\n") if line]


def test_the_readme_names_files_that_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text())
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []
