"""`/metrics`: what Prometheus scrapes, added up over all processes that share PROMETHEUS_MULTIPROC_DIR."""

import os

from flask import Flask
from prometheus_client import Counter, Gauge, Histogram
from prometheus_flask_exporter import NO_PREFIX, PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from bank.money import exponent
from bank.processing.counters import Accepted, FollowersSeen, Happening, InvariantsChecked, QueueSeen, counters
from bank.web.limits import limiter

_accepted = Counter("bank_transactions_accepted_total", "Transactions that a client was told 202 for.", ["type"])
_posted = Counter("bank_transactions_posted_total", "Transactions posted.", ["type"])
_failed = Counter("bank_transactions_failed_total", "Transactions the ledger refused.", ["code"])
_volume = Counter("bank_volume_total", "Money posted, in units of the currency.", ["currency"])
_batch = Histogram("bank_batch_size_transactions", "Transactions a commit of the drain.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500))
_batch_seconds = Histogram("bank_batch_duration_seconds", "From claiming a batch to its commit.")
_depth = Gauge(
    "bank_queue_pending_transactions", "Transactions that wait, by the sweeper's last look.", ["lane"], multiprocess_mode="mostrecent"
)
_age = Gauge("bank_queue_oldest_seconds", "How long the oldest of them waits.", ["lane"], multiprocess_mode="mostrecent")
_behind = Gauge(
    "bank_follower_lag_seconds", "How long the first event waits for a follower of the log.", ["follower"], multiprocess_mode="mostrecent"
)
_violations = Gauge("bank_invariant_violations", "Violations the last sample found.", ["check"], multiprocess_mode="mostrecent")
_checked = Gauge("bank_invariants_checked_timestamp_seconds", "When the last sample was taken.", multiprocess_mode="mostrecent")


def init_app(app: Flask) -> None:
    """Serve `/metrics`, with requests counted by endpoint and never by path: paths hold ids."""
    exporter = GunicornInternalPrometheusMetrics if os.environ.get("PROMETHEUS_MULTIPROC_DIR") else PrometheusMetrics
    exporter.for_app_factory(
        group_by="endpoint", defaults_prefix=NO_PREFIX, default_latency_as_histogram=True, excluded_paths=["^/metrics"]
    ).init_app(app)
    limiter.exempt(app.view_functions["prometheus_metrics"])
    counters.listen("metrics", _observe)


def _observe(happened: Happening) -> None:
    if isinstance(happened, Accepted):
        _accepted.labels(happened.type).inc(happened.count)
        return
    if isinstance(happened, QueueSeen):
        for lane, (pending, seconds) in happened.lanes.items():
            _depth.labels(str(lane)).set(pending)
            _age.labels(str(lane)).set(seconds)
        return
    if isinstance(happened, FollowersSeen):
        for follower, seconds in happened.seconds.items():
            _behind.labels(follower).set(seconds)
        return
    if isinstance(happened, InvariantsChecked):
        for check, count in happened.violations.items():
            _violations.labels(check).set(count)
        _checked.set_to_current_time()
        return
    for kind, count in happened.posted.items():
        _posted.labels(kind).inc(count)
    for code, count in happened.failed.items():
        _failed.labels(code).inc(count)
    for currency, minor in happened.volume.items():
        # Prometheus knows floats only; this is for graphs and no money is ever decided by it.
        _volume.labels(currency).inc(minor / 10 ** exponent(currency))
    _batch.observe(happened.size)
    _batch_seconds.observe(happened.took_seconds)
