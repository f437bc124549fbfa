"""The metrics: what shows each thing that can happen, and what the docs say of them."""

import gc
import re
import subprocess
import sys
from http import HTTPMethod
from typing import get_args

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from sqlalchemy import create_engine, text

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


def test_a_connection_that_came_back_is_idle_and_one_that_broke_is_none(config) -> None:
    engine = create_engine(config.database_url, pool_size=1, max_overflow=1)
    metrics._watch("tested", engine.pool, 1)

    def counted() -> tuple[float, float]:
        in_use, idle = (metrics._connections.labels("tested", state)._value.get() for state in ("in_use", "idle"))
        return in_use, idle

    with engine.connect() as first:
        assert counted() == (1, 0)
        with engine.connect():
            assert counted() == (2, 0)
        # The pool keeps one: the second to come back takes the free place, the other is closed.
        assert counted() == (1, 1)
        first.execute(text("SELECT 1"))
    assert counted() == (0, 1)
    with engine.connect() as broken:
        broken.invalidate()
    assert counted() == (0, 0)
    with engine.connect():
        engine.dispose()
    # It went back to a pool that is no more, and goes with that.
    gc.collect()
    with engine.connect():
        assert counted() == (1, 0)
    engine.dispose()
    assert counted() == (0, 0)


def test_no_caller_makes_labels(client) -> None:
    def methods() -> set[str]:
        return {sample.labels["method"] for family in REGISTRY.collect() for sample in family.samples if "method" in sample.labels}

    assert client.get("/health/live").status_code == 200
    for number in range(3):
        assert client.open("/health/live", method=f"BREW{number}").status_code == 405
    assert "GET" in methods() <= set(HTTPMethod.__members__)


_SCRAPED = """
import os
from bank import create_app
from bank.observability import metrics
dead = os.fork()
if dead == 0:
    # As a worker does that gave a part up and was killed.
    metrics._breakers.labels("redis").set(2)
    metrics._posted.labels("transfer").inc()
    os._exit(0)
os.waitpid(dead, 0)
client = create_app().test_client()
shown = client.get("/metrics").text
print([line for line in shown.splitlines() if line.startswith(("bank_breaker_state", "bank_transactions_posted"))])
"""


def test_what_a_killed_process_counted_stays_and_what_it_was_in_goes(environ, tmp_path) -> None:
    told = {**environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _SCRAPED], env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert 'bank_breaker_state{part="redis"} 0.0' in done.stdout and 'bank_transactions_posted_total{type="transfer"} 1.0' in done.stdout
