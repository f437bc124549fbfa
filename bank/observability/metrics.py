"""`/metrics`: what Prometheus scrapes, added up over all processes that share PROMETHEUS_MULTIPROC_DIR."""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from prometheus_client import Counter, Gauge, Histogram
from prometheus_flask_exporter import NO_PREFIX, PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics
from sqlalchemy import event
from sqlalchemy.pool import QueuePool

from bank.db import REPLICA, Databases, db, route
from bank.money import exponent
from bank.processing.counters import (
    Accepted,
    BatchDone,
    CacheAsked,
    FollowersSeen,
    Happening,
    InvariantsChecked,
    QueueSeen,
    RatesSeen,
    ReplicaSeen,
    Shed,
    StoodBy,
    counters,
)
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
_cache = Counter("bank_cache_requests_total", "Values asked of the cache, and how that ended.", ["kind", "result"])
_reads = Counter("bank_reads_total", "Answers read from the primary or from the replica.", ["database"])
_followed = Gauge(
    "bank_follower_position",
    "The position in the log a follower has reached; of `seal`, the sealed head.",
    ["follower"],
    multiprocess_mode="mostrecent",
)
_rates = Gauge(
    "bank_fx_rates_published_timestamp_seconds", "The newest day of a provider's exchange rates.", multiprocess_mode="mostrecent"
)
_pool_size = Gauge(
    "bank_database_pool_connections", "Connections that processes may hold at once.", ["database"], multiprocess_mode="livesum"
)
_pool_used = Gauge("bank_database_pool_connections_used", "Connections that are in use.", ["database"], multiprocess_mode="livesum")
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
    _watch_pools(app)


def _tell_breaker(part: str, state: str) -> None:
    _breakers.labels(part).set(("closed", "half-open", "open").index(state))
    if state == "open":
        _trips.labels(part).inc()


def _count_read(response: Response) -> Response:
    if request.method == "GET" and "known_position" in g:
        _reads.labels("replica" if route().reads == REPLICA else "primary").inc()
    return response


def _see_accepted(accepted: Accepted) -> None:
    _accepted.labels(accepted.type).inc(accepted.count)


def _see_batch(batch: BatchDone) -> None:
    for kind, count in batch.posted.items():
        _posted.labels(kind).inc(count)
    for code, count in batch.failed.items():
        _failed.labels(code).inc(count)
    for currency, minor in batch.volume.items():
        # Prometheus knows floats only; this is for graphs and no money is ever decided by it.
        _volume.labels(currency).inc(minor / 10 ** exponent(currency))
    _batch.observe(batch.size)
    _batch_seconds.observe(batch.took_seconds)


def _see_queue(seen: QueueSeen) -> None:
    for lane, (pending, seconds) in seen.lanes.items():
        _depth.labels(str(lane)).set(pending)
        _age.labels(str(lane)).set(seconds)


def _see_followers(seen: FollowersSeen) -> None:
    for follower, (seconds, position) in seen.followers.items():
        _behind.labels(follower).set(seconds)
        _followed.labels(follower).set(position)


def _see_checked(checked: InvariantsChecked) -> None:
    for check, count in checked.violations.items():
        _violations.labels(check).set(count)
    _checked.set_to_current_time()


def _see_rates(seen: RatesSeen) -> None:
    _rates.set(datetime.combine(seen.newest, time.min, UTC).timestamp())


_OBSERVERS: Mapping[type[Happening], Callable[[Any], None]] = {
    Accepted: _see_accepted,
    BatchDone: _see_batch,
    QueueSeen: _see_queue,
    FollowersSeen: _see_followers,
    InvariantsChecked: _see_checked,
    RatesSeen: _see_rates,
    Shed: lambda shed: _shed.labels(str(shed.lane)).inc(),
    StoodBy: lambda stood: _stood_by.inc(stood.count),
    CacheAsked: lambda asked: _cache.labels(asked.kind, asked.result).inc(),
    ReplicaSeen: lambda seen: _lag.set(seen.seconds),
}


def _observe(happened: Happening) -> None:
    _OBSERVERS[type(happened)](happened)


def _watch_pools(app: Flask) -> None:
    """Count the connections that are out of the pools. A pool has one for each thread, and no more."""
    with app.app_context():
        for name, engine in db.engines.items():
            database = "replica" if name == REPLICA else "primary"
            pool = engine.pool
            if isinstance(pool, QueuePool):
                _pool_size.labels(database).inc(pool.size())
            event.listen(engine, "checkout", partial(_move, _pool_used.labels(database), 1))
            event.listen(engine, "checkin", partial(_move, _pool_used.labels(database), -1))


def _move(gauge: Gauge, by: int, *_: Any) -> None:
    gauge.inc(by)
