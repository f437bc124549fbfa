"""The recipes' blocks, pasted into a shell against a bank that runs, print what the recipes show."""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from tests.processes import ADMIN_PASSWORD, ROOT, Bank, fresh_database

RECIPES = ("first-transfer", "batch", "hold", "exchange", "refund")


@pytest.fixture(scope="module")
def bank(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bank]:
    """A bank as `make run` starts it, in a folder that looks like this one."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / ".data").mkdir()
    (folder / ".data" / "admin-password").write_text(ADMIN_PASSWORD)
    with fresh_database(environ, folder) as own, Bank(own, folder, web_workers=1, batch_worker=True) as bank:
        yield bank


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_prints_what_it_shows(name: str, bank: Bank) -> None:
    blocks = re.findall(r"```(\w*)\n(.*?)```", (ROOT / "docs" / "recipes" / f"{name}.md").read_text(), re.DOTALL)
    script = "".join(text for language, text in blocks if language == "sh")
    shown = "".join(text for language, text in blocks if language == "text")
    environ = {"PATH": os.environ["PATH"], "BANK_API": f"http://127.0.0.1:{bank.port}/api/v1"}
    result = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script], cwd=bank.directory, env=environ, capture_output=True, text=True, timeout=60
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert script and result.stdout == shown
