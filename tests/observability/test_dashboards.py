"""Every expression of a dashboard has something to show for a bank that runs."""

import json

import pytest

from tests.observability.conftest import Prometheus, needs_prometheus
from tests.processes import ROOT, wait_until

PANELS = {
    (path.stem, panel["title"], number): target["expr"]
    for path in sorted((ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json"))
    for panel in json.loads(path.read_text())["panels"]
    for number, target in enumerate(panel["targets"])
}


def test_there_is_a_dashboard_for_each_part() -> None:
    assert {name for name, *_ in PANELS} == {"service", "ledger", "queue", "database"}


@needs_prometheus
@pytest.mark.parametrize("panel", sorted(PANELS), ids=str)
def test_a_panel_shows_something(prometheus: Prometheus, panel: tuple[str, str, int]) -> None:
    # The invariants are checked once a minute.
    wait_until(lambda: prometheus.ask(PANELS[panel]), f"{panel} is not empty", 75)
