"""`make audit`: what it makes of pip-audit's answers."""

import json
import runpy
from typing import Any

import pytest

from tests.test_house_rules import ROOT

verdict = runpy.run_path(str(ROOT / ".ci" / "audit.py"))["verdict"]

SOUND = {"name": "flask", "version": "3.1.3", "vulns": []}
HOLED = {"name": "jinja2", "version": "2.10", "vulns": [{"id": "CVE-2019-10906", "fix_versions": ["2.10.1"]}]}
UNKNOWN = {"name": "rq", "skip_reason": "Dependency not found on PyPI and could not be audited: rq (3.0.0)"}


@pytest.mark.parametrize(
    ("packages", "good", "told"),
    [
        ([SOUND], True, "1 packages audited, 0 known holes."),
        ([SOUND, HOLED], False, "jinja2 2.10: CVE-2019-10906, mended in 2.10.1"),
        ([SOUND, UNKNOWN], True, "NOT AUDITED: rq."),
        # What pip-audit itself calls "No known vulnerabilities found".
        ([UNKNOWN], True, "NOT AUDITED: the index that answers has no advisories for any of the 1 packages."),
    ],
)
def test_a_known_hole_fails_and_what_could_not_be_asked_is_told(packages: list[dict[str, Any]], good: bool, told: str) -> None:
    passed, said = verdict(1 if HOLED in packages else 0, json.dumps({"dependencies": packages}), "")
    assert passed is good and told in said


def test_where_nobody_can_be_asked_it_says_so_and_fails_nobody() -> None:
    passed, said = verdict(1, "", "Traceback\nrequests.exceptions.ConnectionError: Max retries exceeded")
    assert passed and said.startswith("NOT AUDITED") and "Max retries" in said


def test_a_mistake_of_our_own_fails() -> None:
    assert not verdict(1, "", "ERROR: invalid requirements input: nowhere.txt")[0]
    assert not verdict(2, "", "usage: pip-audit")[0]
