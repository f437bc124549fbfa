"""The metrics: what shows each thing that can happen, and what the docs say of them."""

import re
from typing import get_args

from prometheus_client.metrics import MetricWrapperBase

from bank.observability import metrics
from bank.processing.counters import Happening
from tests.processes import ROOT

SHOWN = {
    (metric._name + ("_total" if metric._type == "counter" else ""), metric._type, ", ".join(metric._labelnames))
    for metric in vars(metrics).values()
    if isinstance(metric, MetricWrapperBase)
}


def test_everything_that_can_happen_is_shown() -> None:
    assert set(metrics._SHOWN) == set(get_args(Happening))


def test_the_table_of_the_docs_names_every_metric_as_it_is() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE)
    assert {(name, kind, labels.strip()) for name, kind, labels in told} == SHOWN
