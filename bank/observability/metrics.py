"""`/metrics`: what Prometheus scrapes, added up over all processes that share PROMETHEUS_MULTIPROC_DIR."""

import os

from flask import Flask, Response, g, request
from prometheus_client import Counter, Gauge, Histogram
from prometheus_flask_exporter import NO_PREFIX, PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics

from bank.db import REPLICA, Databases, route
from bank.money import exponent
from bank.processing.counters import Accepted, FollowersSeen, Happening, InvariantsChecked, QueueSeen, ReplicaSeen, Shed, StoodBy, counters
from bank.processing.queue import bells
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
_breakers = Gauge("bank_breaker_state", "0 closed, 1 half-open, 2 open; the worst of all processes.", ["part"], multiprocess_mode="livemax")
_trips = Counter("bank_breaker_opened_total", "How often a breaker opened.", ["part"])
_shed = Counter("bank_transactions_shed_total", "Transactions not taken since too much waited.", ["lane"])
_stood_by = Counter("bank_transactions_posted_without_redis_total", "Transactions decided by a process that could not ring for them.")
_lag = Gauge("bank_replica_lag_seconds", "By how much the replica is behind at most.", multiprocess_mode="livemax")
_reads = Counter("bank_reads_total", "Answers read from the primary or from the replica.", ["database"])
_checked = Gauge("bank_invariants_checked_timestamp_seconds", "When the last sample was taken.", multiprocess_mode="mostrecent")


def init_app(app: Flask) -> None:
    """Serve `/metrics`, with requests counted by endpoint and never by path: paths hold ids."""
    exporter = GunicornInternalPrometheusMetrics if os.environ.get("PROMETHEUS_MULTIPROC_DIR") else PrometheusMetrics
    exporter.for_app_factory(
        group_by="endpoint", defaults_prefix=NO_PREFIX, default_latency_as_histogram=True, excluded_paths=["^/metrics"]
    ).init_app(app)
    limiter.exempt(app.view_functions["prometheus_metrics"])
    counters.listen("metrics", _observe)
    databases: Databases = app.extensions["databases"]
    for breaker in (databases.primary, databases.replica, bells.breaker):
        _breakers.labels(breaker.name).set(0)
        breaker.listen("metrics", _tell_breaker)
    app.after_request(_count_read)


def _tell_breaker(part: str, state: str) -> None:
    _breakers.labels(part).set(("closed", "half-open", "open").index(state))
    if state == "open":
        _trips.labels(part).inc()


def _count_read(response: Response) -> Response:
    if request.method == "GET" and "known_position" in g:
        _reads.labels("replica" if route().reads == REPLICA else "primary").inc()
    return response


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
    if isinstance(happened, Shed):
        _shed.labels(str(happened.lane)).inc()
        return
    if isinstance(happened, StoodBy):
        _stood_by.inc(happened.count)
        return
    if isinstance(happened, ReplicaSeen):
        _lag.set(happened.seconds)
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
