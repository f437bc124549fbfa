"""Each alert fires when it should and is silent when not, and leads to a runbook."""

import subprocess
from typing import Any

import pytest
import yaml

from tests.observability.conftest import TOOLS, needs_prometheus
from tests.processes import ROOT

PLACE = ROOT / "monitoring" / "prometheus"
ALERTS: list[dict[str, Any]] = [rule for group in yaml.safe_load((PLACE / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
CASES = [case["name"] for case in yaml.safe_load((PLACE / "alerts.test.yml").read_text())["tests"]]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_tested_both_ways_and_has_a_runbook_that_names_it(alert: dict[str, Any]) -> None:
    assert {f"{alert['alert']} fires", f"{alert['alert']} is silent"} <= set(CASES)
    page = alert["annotations"]["runbook_url"].partition("#")[0]
    assert f"`{alert['alert']}`" in (ROOT / page).read_text()


@needs_prometheus
def test_promtool_finds_that_alerts_fire_when_they_should_and_no_other_time() -> None:
    done = subprocess.run([TOOLS / "promtool", "test", "rules", "alerts.test.yml"], cwd=PLACE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
