"""What is read again and again, kept in Redis: accounts, balances, users and rates, as they are shown. Nothing is ever decided by it.

Three things keep it right. Who has written reads past it for longer than anything stays in it. It is only used while somebody
who follows the log says, again and again, that all that has happened is in it (`bank.resilience.refresher`). And each value bears
the place in the write-ahead log where the database was when it was read: what was read earlier never replaces it.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from threading import Event, Lock
from typing import Any

import orjson
import structlog
from flask import Flask, Response, current_app, g, request
from redis.exceptions import RedisError

from bank.config import Config
from bank.db import READER, databases, fetch, route
from bank.errors import Unavailable
from bank.processing.counters import CacheAsked, counters
from bank.processing.queue import bells, redis

log = structlog.get_logger(__name__)

# The follower of the log says so often that it is at its end, and is believed for so long.
FRESH_KEY = "bank:cache:fresh"

# A value that nobody keeps up ends by itself; up to a fifth sooner, so that not all end at once.
_SECONDS, _SPREAD = 60.0, 0.2

# For how long one process may be loading what others wait for, and how often these look.
_LEASE_SECONDS, _LOOK_SECONDS = 0.3, 0.02

_PUT = """
local known = redis.call('HGET', KEYS[1], 'as_of')
if known and tonumber(known) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'as_of', ARGV[1], 'value', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

AS_OF = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')"

Load = Callable[[Iterable[str], str], Mapping[str, Any]]
"""By the key the values of those keys that there are, read from an engine."""


class Cache:
    """What one process keeps in Redis and takes from there. `loads` says for each kind how its values are read."""

    def __init__(self, config: Config, loads: Mapping[str, Load]) -> None:
        self._on = config.cache
        self._loads = loads
        self._lock = Lock()
        self._loading: dict[str, Future[Any]] = {}
        self._pause = Event()

    def read(self, kind: str, key: str) -> Any:
        """The value, from Redis where that is as good; None where the database has none. Raises Unavailable."""
        if not self._on or request.cache_control.no_cache:
            return self._load(kind, key)
        result, value = self._ask(kind, key)
        counters.seen(CacheAsked(kind, result))
        if result == "hit":
            return value
        return self._fill(kind, key) if result == "miss" and databases().primary.closed else self._load(kind, key)

    def _ask(self, kind: str, key: str) -> tuple[str, Any]:
        """`hit` and the value, `miss`, `passed` where it must not be used now, or `error`."""
        try:
            with bells.breaker(), redis().pipeline(transaction=False) as pipeline:
                pipeline.hget(_name(kind, key), "value")
                pipeline.exists(FRESH_KEY)
                pipeline.exists(_wrote(g.principal.id))
                value, fresh, wrote = pipeline.execute()
        except (RedisError, Unavailable):
            return "error", None
        if wrote or not fresh:
            return "passed", None
        return ("miss", None) if value is None else ("hit", orjson.loads(value))

    def _load(self, kind: str, key: str, bind: str | None = None) -> Any:
        return self._loads[kind]([key], bind or route().reads).get(key)

    def _fill(self, kind: str, key: str) -> Any:
        """Load it for all who miss it at the same time."""
        name = _name(kind, key)
        with self._lock:
            others = self._loading.get(name)
            if others is None:
                mine = self._loading[name] = Future[Any]()
        if others is not None:
            return others.result()
        try:
            value = self._load_for_all(kind, key)
            mine.set_result(value)
            return value
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._loading[name]

    def _load_for_all(self, kind: str, key: str) -> Any:
        try:
            if not redis().set(f"{_name(kind, key)}:loads", 1, nx=True, px=int(_LEASE_SECONDS * 1000)):
                until = time.monotonic() + _LEASE_SECONDS
                while time.monotonic() < until and not self._pause.wait(_LOOK_SECONDS):
                    found = redis().hget(_name(kind, key), "value")
                    if found is not None:
                        return orjson.loads(found)
        except RedisError:
            return self._load(kind, key)
        return self.put(kind, [key]).get(key)

    def put(self, kind: str, keys: Iterable[str]) -> Mapping[str, Any]:
        """Read these from the primary and keep them, unless Redis is away; by the key the values that there are."""
        # Before they are read, so that it is not behind what they show.
        [(as_of,)] = fetch(AS_OF, {}, READER)
        began = time.monotonic()
        values = self._loads[kind](keys, READER)
        # What was read long ago when it is written must not stay for longer than the mark of who wrote meanwhile.
        seconds = _SECONDS - (time.monotonic() - began)
        if values and seconds > 0:
            try:
                with redis().pipeline(transaction=False) as pipeline:
                    for key, value in values.items():
                        ends = int(seconds * 1000 * (1 - random.random() * _SPREAD))  # noqa: S311 - no secret
                        pipeline.eval(_PUT, 1, _name(kind, key), int(as_of), orjson.dumps(value), ends)
                    pipeline.execute()
            except RedisError:
                return values
        return values

    def kept(self, kind: str, keys: Iterable[str]) -> list[str]:
        """Those of the keys that are in Redis. Raises RedisError."""
        asked = list(keys)
        with redis().pipeline(transaction=False) as pipeline:
            for key in asked:
                pipeline.exists(_name(kind, key))
            return [key for key, there in zip(asked, pipeline.execute(), strict=True) if there]

    def forget(self, kind: str) -> None:
        """Take all of a kind out; where Redis does not answer, they end by themselves within a minute."""
        try:
            for name in redis().scan_iter(_name(kind, "*"), count=1_000):
                redis().delete(name)
        except RedisError as error:
            log.warning("cache_not_forgotten", kind=kind, error=str(error))


def _name(kind: str, key: str) -> str:
    return f"bank:cache:{kind}:{key}"


def _wrote(user_id: str) -> str:
    return f"bank:cache:wrote:{user_id}"


def init_app(app: Flask, config: Config, loads: Mapping[str, Load]) -> None:
    """Give the application a cache, and let who writes read past it from then on."""
    app.extensions["cache"] = Cache(config, loads)
    if config.cache:
        app.after_request(_mark)


def _mark(response: Response) -> Response:
    """Whoever wrote something reads what he wrote: past the cache, for longer than anything that is in it now stays there."""
    if g.get("wrote") and request.method not in ("GET", "HEAD") and "principal" in g:
        try:
            redis().set(_wrote(g.principal.id), 1, px=int(_SECONDS * 1000) + 1_000)
        except RedisError:
            # It is away for the others too, or they cannot be told.
            return response
    return response


def cache() -> Cache:
    """That of the current application."""
    found: Cache = current_app.extensions["cache"]
    return found
