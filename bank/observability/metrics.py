"""`/metrics`: what Prometheus scrapes, added up over all processes that share PROMETHEUS_MULTIPROC_DIR."""

import os
from collections.abc import Callable
from contextlib import suppress
from hmac import compare_digest
from http import HTTPMethod
from pathlib import Path
from threading import RLock
from typing import Any
from weakref import WeakSet

from flask import Flask, Response, abort, g, request
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.multiprocess import mark_process_dead
from prometheus_flask_exporter import NO_PREFIX, PrometheusMetrics
from prometheus_flask_exporter.multiprocess import GunicornInternalPrometheusMetrics
from sqlalchemy import event
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from bank.config import Config
from bank.db import REPLICA, Databases, db, route
from bank.money import exponent
from bank.processing.counters import (
    Accepted,
    BankSeen,
    BatchDone,
    CacheAsked,
    FollowersSeen,
    Happening,
    InvariantsChecked,
    QueueSeen,
    ReplicaSeen,
    Shed,
    StoodBy,
    counters,
)
from bank.processing.queue import bells
from bank.web.limits import limiter

_accepted = Counter("bank_transactions_accepted_total", "Transactions that a client was told 202 for.", ["type"])
_posted = Counter("bank_transactions_posted_total", "Transactions posted.", ["type"])
_failed = Counter("bank_transactions_failed_total", "Transactions the ledger refused.", ["type", "code"])
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
_checked = Gauge("bank_invariants_checked_timestamp_seconds", "When the last sample was taken.", multiprocess_mode="mostrecent")
_sealed = Gauge("bank_sealed_position", "The last event that is under a seal.", multiprocess_mode="mostrecent")
_sealed_at = Gauge("bank_sealed_timestamp_seconds", "When that event was recorded.", multiprocess_mode="mostrecent")
_reviews = Gauge("bank_reviews_open_transactions", "Transactions that wait for an administrator's review.", multiprocess_mode="mostrecent")
_review_age = Gauge("bank_reviews_oldest_seconds", "How long the oldest of them waits.", multiprocess_mode="mostrecent")
_rates_of = Gauge("bank_fx_rates_day_timestamp_seconds", "The day of the provider's newest rates.", multiprocess_mode="mostrecent")
_connections = Gauge(
    "bank_database_connections",
    "Connections of the processes that live, by whether they are in use.",
    ["pool", "state"],
    multiprocess_mode="livesum",
)
_most_connections = Gauge("bank_database_connections_max", "How many those processes may open.", ["pool"], multiprocess_mode="livesum")


def init_app(app: Flask, config: Config) -> None:
    """Serve `/metrics` to who may have it, with requests counted by endpoint and never by path: paths hold ids."""
    app.before_request(lambda: _hide(config))
    exporter = PrometheusMetrics
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        exporter = GunicornInternalPrometheusMetrics
        app.before_request(_forget_the_dead)
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
    # Before the exporter's own, which was added earlier.
    app.after_request(_leave_out_what_is_no_method)
    with app.app_context():
        for key, engine in db.engines.items():
            _watch(key or "writer", engine.pool, app.config["SQLALCHEMY_ENGINE_OPTIONS"]["max_overflow"])


def _hide(config: Config) -> None:
    """Be no such path to who may not see the metrics: they tell how much money is moved, and what is out of order."""
    if request.endpoint != "prometheus_metrics":
        return
    given = request.authorization
    sent = given.token if given is not None and given.type == "bearer" else None
    if not config.has_metrics or (config.metrics_token and not compare_digest((sent or "").encode(), config.metrics_token.encode())):
        abort(404)


def _forget_the_dead() -> None:
    """Before a scrape let go of what processes that are gone left in their live gauges: the breaker of a worker that was killed would be
    open for good. gunicorn does so for its own workers; of the others nobody who outlives them knows of metrics."""
    if request.endpoint != "prometheus_metrics":
        return
    for pid in {int(path.stem.rpartition("_")[2]) for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db")}:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            # Another process that is scraped may have done it meanwhile.
            with suppress(FileNotFoundError):
                mark_process_dead(pid)
        except PermissionError:
            # It lives, as somebody else's.
            continue


def _tell_breaker(part: str, state: str) -> None:
    _breakers.labels(part).set(("closed", "half-open", "open").index(state))
    if state == "open":
        _trips.labels(part).inc()


def _watch(name: str, pool: Pool, overflow: int) -> None:
    """Count a pool's connections as they come, go and are used; it may have `overflow` more than its size.

    By what happens, and not by asking the pool: it tells of a connection that comes back before it takes it back, and would be
    said to have it in use until the next one came. A pool that was disposed of leaves its listeners to the one in its place.
    """
    # What a pool that was disposed of still had out must be able to go, and be closed: nothing here holds it or the pool.
    limit = pool.size() + overflow if isinstance(pool, QueuePool) else 0
    opened: WeakSet[ConnectionPoolEntry] = WeakSet()
    used: WeakSet[ConnectionPoolEntry] = WeakSet()
    # The garbage collector brings back what nobody closed, in whatever thread it runs, this one included.
    changing = RLock()
    in_use, idle, most = _connections.labels(name, "in_use"), _connections.labels(name, "idle"), _most_connections.labels(name)

    def show() -> None:
        in_use.set(len(used))
        idle.set(len(opened) - len(used))
        # Here, and not once and for all: gunicorn forks its workers, and each has a pool of its own.
        most.set(limit)

    def taken(connection: object, entry: ConnectionPoolEntry, proxy: object) -> None:
        with changing:
            opened.add(entry)
            used.add(entry)
            show()

    def back(connection: object, entry: ConnectionPoolEntry) -> None:
        with changing:
            used.discard(entry)
            # One that broke while it was used comes back without a connection.
            if connection is None:
                opened.discard(entry)
            show()

    def closed(connection: object, entry: ConnectionPoolEntry) -> None:
        with changing:
            opened.discard(entry)
            used.discard(entry)
            show()

    for happening, told in (("checkout", taken), ("checkin", back), ("close", closed)):
        event.listen(pool, happening, told)


def _leave_out_what_is_no_method(response: Response) -> Response:
    """Whoever invents methods, and anybody may, would have twenty series made for each, in every process, for good."""
    if request.method not in HTTPMethod.__members__:
        request.prom_exclude_all = True  # type: ignore[attr-defined]
    return response


def _count_read(response: Response) -> Response:
    if request.method == "GET" and "known_position" in g:
        _reads.labels("replica" if route().reads == REPLICA else "primary").inc()
    return response


def _observe(happened: Happening) -> None:
    _SHOWN[type(happened)](happened)


def _show_batch(batch: BatchDone) -> None:
    for kind, count in batch.posted.items():
        _posted.labels(kind).inc(count)
    for (kind, code), count in batch.failed.items():
        _failed.labels(kind, code).inc(count)
    for currency, minor in batch.volume.items():
        # Prometheus knows floats only; this is for graphs and no money is ever decided by it.
        _volume.labels(currency).inc(minor / 10 ** exponent(currency))
    _batch.observe(batch.size)
    _batch_seconds.observe(batch.took_seconds)


def _show_queue(seen: QueueSeen) -> None:
    for lane, (pending, seconds) in seen.lanes.items():
        _depth.labels(str(lane)).set(pending)
        _age.labels(str(lane)).set(seconds)


def _show_followers(seen: FollowersSeen) -> None:
    for follower, seconds in seen.seconds.items():
        _behind.labels(follower).set(seconds)


def _show_bank(seen: BankSeen) -> None:
    _sealed.set(seen.sealed_position)
    _reviews.set(seen.open_reviews)
    _review_age.set(seen.oldest_review_seconds)
    # What has never been is not shown, and is no moment in 1970.
    if seen.sealed_at is not None:
        _sealed_at.set(seen.sealed_at)
    if seen.rates_of is not None:
        _rates_of.set(seen.rates_of)


def _show_invariants(checked: InvariantsChecked) -> None:
    for check, count in checked.violations.items():
        _violations.labels(check).set(count)
    _checked.set_to_current_time()


# What becomes of each thing that can happen. The keys are what `Happening` may be, and a test compares the two.
_SHOWN: dict[type, Callable[[Any], None]] = {
    BatchDone: _show_batch,
    Accepted: lambda accepted: _accepted.labels(accepted.type).inc(accepted.count),
    QueueSeen: _show_queue,
    FollowersSeen: _show_followers,
    BankSeen: _show_bank,
    InvariantsChecked: _show_invariants,
    Shed: lambda shed: _shed.labels(str(shed.lane)).inc(),
    StoodBy: lambda stood_by: _stood_by.inc(stood_by.count),
    ReplicaSeen: lambda seen: _lag.set(seen.seconds),
    CacheAsked: lambda asked: _cache.labels(asked.kind, asked.result).inc(),
}
