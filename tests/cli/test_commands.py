"""What the command line and make say of themselves."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from bank.cli import COMMANDS, main
from tests.processes import ROOT


def test_help_lists_every_command_and_every_file_is_a_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for name, line in COMMANDS.items():
        assert re.search(rf"^  {name}\s+{re.escape(line.split()[0])}", result.output, re.MULTILINE)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) > 5


@pytest.mark.parametrize("path", sorted((ROOT / "bank" / "cli").glob("*.py")), ids=lambda path: path.stem)
def test_a_file_with_a_command_is_listed(path: Path) -> None:
    if re.search(r"^def command\(", path.read_text(), re.MULTILINE):
        assert path.stem.rstrip("_").replace("_", "-") in COMMANDS


def test_an_unknown_command_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["rob"]).exit_code == click.UsageError.exit_code


def test_help_of_all_loads_no_command() -> None:
    code = "import sys; from click.testing import CliRunner; from bank.cli import main; CliRunner().invoke(main, ['--help'])"
    code += "; print([name for name in sys.modules if name.startswith('bank.cli.')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    for target in set(phony[1].split()) - {"python"}:
        assert re.search(rf"^  {target} ", done.stdout, re.MULTILINE), target


def test_an_old_python_is_refused_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python"
    # What it is given after -c runs in this Python, which is told that it is another.
    old.write_text('#!/bin/sh\nexec "$REAL" -c "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "python", f"PYTHON={old}"], cwd=ROOT, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "REAL": sys.executable}
    )
    assert done.returncode != 0
    assert "bank needs Python 3.11, 3.12 or 3.13" in done.stderr
    assert "3.9" in done.stderr.splitlines()[0]
