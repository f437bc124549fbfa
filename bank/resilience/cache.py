"""What is read again and again, kept in Redis: accounts, balances, users and rates, as they are shown. Nothing is ever decided by it.

Three things keep it right. Who has written reads past it for longer than anything stays in it. It is only used while somebody
who follows the log says, again and again, that all that has happened is in it (`bank.resilience.refresher`). And each value bears
the place in the write-ahead log where the database was when it was read: what was read earlier never replaces it.
"""

import hmac
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
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

# The follower of the log says by it, again and again, that it is at its end, and in which timeline that is; it is believed for seconds.
FRESH_KEY = "bank:cache:fresh"

# A value that nobody keeps up ends by itself; up to a fifth sooner, so that not all end at once.
_SECONDS, _SPREAD = 60.0, 0.2

# For how long one process may be reading for all, how long others wait for it, and how often these look.
_LEASE_SECONDS, _WAIT_SECONDS, _LOOK_SECONDS = 2.0, 0.3, 0.02

# To be raised when what is shown of a kind gets another form: during an upgrade, two versions then take none of each other's values.
_SHAPES = b"bank cache 1"

_TAG_BYTES = 16

# Of what is kept, in the order they are read in.
_FIELDS = ("timeline", "as_of", "value")

# KEYS: the value and its lease. ARGV: as of which position, the value, when it ends (ms), the lease that whoever fills it took
# before he read (a follower has none), and the timeline of the position. The lease is gone when something has happened to the value
# since: what was read is not kept. A primary that took another's place begins a timeline, and may begin it behind what the other had
# written: positions of two timelines do not compare, and what was read in the later one is the later.
_PUT = """
if ARGV[4] ~= '' then
    if redis.call('GET', KEYS[2]) ~= ARGV[4] then return 0 end
    redis.call('DEL', KEYS[2])
end
if ARGV[2] == '' then return 0 end
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then redis.call('DEL', KEYS[1]) end
local known = redis.call('HMGET', KEYS[1], 'timeline', 'as_of')
local timeline, as_of = tonumber(known[1] or 0) or 0, tonumber(known[2] or 0) or 0
if timeline > tonumber(ARGV[5]) or (timeline == tonumber(ARGV[5]) and as_of > tonumber(ARGV[1])) then return 0 end
redis.call('HSET', KEYS[1], 'timeline', ARGV[5], 'as_of', ARGV[1], 'value', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""

# The first eight digits of a segment's name are its timeline, in hexadecimal (PostgreSQL 18, 9.28.3).
TIMELINE = "('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::int"

# Nothing of a primary that has become a standby.
_FLUSHED = f"SELECT {TIMELINE}, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint WHERE NOT pg_is_in_recovery()"


@dataclass(frozen=True, slots=True)
class AsOf:
    """A place in the write-ahead log of a primary: its timeline, and bytes from the log's beginning."""

    timeline: int
    position: int


def flushed() -> AsOf | None:
    """Up to where the primary has written its log; None where it is none any more. Raises Unavailable."""
    rows = fetch(_FLUSHED, {}, READER)
    return AsOf(*rows[0]) if rows else None


Load = Callable[[Sequence[str], str], Mapping[str, Any]]
"""By the key the values of those keys that there are, read from an engine."""


class Cache:
    """What one process keeps in Redis and takes from there. `loads` says for each kind how its values are read."""

    def __init__(self, config: Config, loads: Mapping[str, Load]) -> None:
        self._on = config.cache
        self._key = hmac.digest(config.jwt_secret.encode(), _SHAPES, "sha256")
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
        # What is kept is read from the primary.
        fills = result == "miss" and databases().primary.closed and route().logins == READER
        return self._fill(kind, key) if fills else self._load(kind, key)

    def _ask(self, kind: str, key: str) -> tuple[str, Any]:
        """`hit` and the value, `miss`, `passed` where it must not be used now, or `error`."""
        try:
            with bells.breaker(), redis().pipeline(transaction=False) as pipeline:
                pipeline.hmget(_name(kind, key), *_FIELDS)
                pipeline.get(FRESH_KEY)
                pipeline.exists(_wrote(g.principal.id))
                kept, fresh, wrote = pipeline.execute(raise_on_error=False)
                for error in (kept, fresh, wrote):
                    # Where somebody else has put another thing in a value's place, Redis is well.
                    if isinstance(error, RedisError) and not str(error).startswith("WRONGTYPE"):
                        raise error
            found = self._unsealed(kind, key, kept)
            if wrote or not fresh:
                return "passed", None
            if found is None:
                return "miss", None
            as_of, value = found
            # What a primary said that was replaced, its successor may never have heard of.
            return ("passed", None) if as_of.timeline != int(fresh) or _is_behind(as_of.position) else ("hit", value)
        except (RedisError, Unavailable, ValueError):
            return "error", None

    def _load(self, kind: str, key: str) -> Any:
        return self._loads[kind]([key], route().reads).get(key)

    def _fill(self, kind: str, key: str) -> Any:
        """Load it for all of this process who miss it at the same time."""
        name = _name(kind, key)
        with self._lock:
            others = self._loading.get(name)
            if others is None:
                mine = self._loading[name] = Future[Any]()
        if others is not None:
            # They may have begun before what the caller has been told of.
            return self._load(kind, key) if _is_told() else others.result()
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
        """Load it for all processes, or wait a little for the one that does."""
        try:
            filled = self._fill_kept(kind, [key])
            if key in filled:
                return filled[key]
            until = time.monotonic() + _WAIT_SECONDS
            while time.monotonic() < until and not self._pause.wait(_LOOK_SECONDS):
                with bells.breaker(), redis().pipeline(transaction=False) as pipeline:
                    pipeline.hmget(_name(kind, key), *_FIELDS)
                    pipeline.exists(_lease(kind, key))
                    kept, loads = pipeline.execute()
                found = self._unsealed(kind, key, kept)
                if found is not None and not _is_behind(found[0].position):
                    return found[1]
                if found is not None or not loads:
                    break
        except (RedisError, ValueError):
            pass
        except Unavailable as error:
            if error.part != bells.breaker.name:
                raise
        return self._load(kind, key)

    def _fill_kept(self, kind: str, keys: Sequence[str]) -> dict[str, Any]:
        """Read those that nobody else reads for all at the moment, and keep them; by key the value, None where the database has none."""
        lease = secrets.token_hex(8)
        with bells.breaker(), redis().pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.set(_lease(kind, key), lease, nx=True, px=int(_LEASE_SECONDS * 1000))
            mine = [key for key, taken in zip(keys, pipeline.execute(), strict=True) if taken]
        as_of, ends, values = self._read(kind, mine) if mine else (None, 0.0, {})
        with suppress(RedisError, Unavailable):
            self._put(kind, {key: values.get(key) for key in mine}, as_of, ends, lease)
        return {key: values.get(key) for key in mine}

    def warm(self, kind: str, keys: Sequence[str]) -> None:
        """Keep what is not kept yet. Raises Unavailable and RedisError."""
        kept = {*self.kept(kind, keys)}
        self._fill_kept(kind, [key for key in keys if key not in kept])

    def renew(self, kind: str, keys: Sequence[str]) -> None:
        """Something has happened to these: read again those that are kept or being read. Raises Unavailable and RedisError."""
        with redis().pipeline(transaction=False) as pipeline:
            for key in keys:
                # Who is reading it may have begun before.
                pipeline.delete(_lease(kind, key))
                pipeline.exists(_name(kind, key))
            told = pipeline.execute()
        there = [key for key, read, kept in zip(keys, told[::2], told[1::2], strict=True) if read or kept]
        if there:
            as_of, ends, values = self._read(kind, there)
            self._put(kind, values, as_of, ends, "")

    def _read(self, kind: str, keys: Sequence[str]) -> tuple[AsOf | None, float, Mapping[str, Any]]:
        """As of which position (None: not to be kept), until when (monotonic seconds), and the values."""
        # Both before they are read: what was read long ago when it is kept must not stay for longer than the mark of who wrote meanwhile.
        ends = time.monotonic() + _SECONDS
        return flushed(), ends, self._loads[kind](keys, READER)

    def _put(self, kind: str, values: Mapping[str, Any], as_of: AsOf | None, ends: float, lease: str) -> None:
        at = as_of or AsOf(0, 0)
        with redis().pipeline(transaction=False) as pipeline:
            for key, value in values.items():
                left = int((ends - time.monotonic()) * 1000 * (1 - random.random() * _SPREAD))  # noqa: S311 - no secret
                kept = b"" if value is None or as_of is None or left <= 0 else self.sealed(kind, key, at, value)
                pipeline.eval(_PUT, 2, _name(kind, key), _lease(kind, key), at.position, kept, left, lease, at.timeline)
            pipeline.execute()

    def sealed(self, kind: str, key: str, as_of: AsOf, value: Any) -> bytes:
        """The value as it is kept: behind a tag by which the bank knows its own, of that kind, key and moment, in the form it has now."""
        text = orjson.dumps(value)
        return self._tag(kind, key, as_of, text) + text

    def _unsealed(self, kind: str, key: str, kept: Any) -> tuple[AsOf, Any] | None:
        """What the fields hold, and as of when; None where they are empty. Raises ValueError for what the bank has not put there."""
        if not isinstance(kept, list):
            raise ValueError("Not what we keep.")
        if kept == [None] * len(_FIELDS):
            return None
        timeline, position, sealed = (part or b"" for part in kept)
        as_of, text = AsOf(int(timeline), int(position)), sealed[_TAG_BYTES:]
        if not hmac.compare_digest(sealed[:_TAG_BYTES], self._tag(kind, key, as_of, text)):
            raise ValueError("Not what we keep.")
        return as_of, orjson.loads(text)

    def _tag(self, kind: str, key: str, as_of: AsOf, text: bytes) -> bytes:
        head = f"{_name(kind, key)} {as_of.timeline} {as_of.position} ".encode()
        return hmac.digest(self._key, head + text, "sha256")[:_TAG_BYTES]

    def kept(self, kind: str, keys: Sequence[str]) -> list[str]:
        """Those of the keys that are in Redis. Raises RedisError."""
        with redis().pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.exists(_name(kind, key))
            return [key for key, there in zip(keys, pipeline.execute(), strict=True) if there]

    def forget(self, kind: str) -> None:
        """Take all of a kind out; where Redis does not answer, they end by themselves within a minute."""
        try:
            for name in redis().scan_iter(_name(kind, "*"), count=1_000):
                redis().delete(name)
        except RedisError as error:
            log.warning("cache_not_forgotten", kind=kind, error=str(error))


def _name(kind: str, key: str) -> str:
    return f"bank:cache:{kind}:{key}"


def _lease(kind: str, key: str) -> str:
    return f"{_name(kind, key)}:loads"


def _is_told() -> bool:
    """Whether the caller has been told of a position, or may have been. They are told where there is a replica."""
    return "replicas" in current_app.extensions and g.get("known_position") != 0


def _is_behind(position: int) -> bool:
    """Whether the caller has been told of something newer, or may have been."""
    known = g.get("known_position")
    # Equal is not enough: what was flushed by then may not have been seen yet.
    return _is_told() and (known is None or position <= known)


def _wrote(user_id: str) -> str:
    return f"bank:cache:wrote:{user_id}"


def init_app(app: Flask, config: Config, loads: Mapping[str, Load]) -> None:
    """Give the application a cache, and let who writes read past it from then on."""
    app.extensions["cache"] = Cache(config, loads)
    if config.cache:
        app.after_request(_mark)


def _mark(response: Response) -> Response:
    """Whoever wrote something reads what he wrote: past the cache, for longer than anything that is in it now stays there."""
    writer = g.principal.id if "principal" in g else g.get("writer")
    # Who logs in has written nothing that is kept.
    if g.get("wrote") and request.method not in ("GET", "HEAD") and writer is not None and request.blueprint != "auth":
        # Where Redis does not answer now and does a moment later, others show the older value until the follower has renewed it.
        with suppress(RedisError, Unavailable), bells.breaker():
            redis().set(_wrote(writer), 1, px=int(_SECONDS * 1000) + 1_000)
    return response


def cache() -> Cache:
    """That of the current application."""
    found: Cache = current_app.extensions["cache"]
    return found
