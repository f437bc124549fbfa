"""Reading from a streaming replica: where it has all that the caller has written, and is not too far behind.

A position is one in PostgreSQL's write-ahead log, in bytes from its beginning. Every answer to a write tells the position it can be
read at, in `Bank-Position`; a client sends the last one back, and for those that do not it is remembered for the user, in Redis.

How old the replica is, is measured and not asked for: its own word for it (`pg_last_xact_replay_timestamp`) grows while nobody writes.
Each process notes where the primary stands, and when; the replica is as old as the last note that it has come past.
"""

import random
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Lock, Thread

import structlog
from flask import Flask, Response, current_app, g, request
from redis.exceptions import RedisError

from bank.config import Config
from bank.db import REPLICA, Route, databases, fetch, route, take
from bank.errors import Unavailable
from bank.processing.counters import ReplicaSeen, counters
from bank.processing.queue import bells, redis
from bank.resilience import deadlines
from bank.resilience.cache import flushed
from bank.web import problems

log = structlog.get_logger(__name__)

HEADER = "Bank-Position"

_POSITION = re.compile(r"[0-9]{1,19}", re.ASCII)

# What is read from a replica. Not the logs and replays, which need to know what may still be committed; nor what operators ask.
_READ = {"accounts", "balances", "batches", "fx", "limits", "rules", "schedules", "transactions", "users"}

# How often both are asked where they stand.
_LOOK_SECONDS = 0.2

# What was not seen for longer than this may be gone.
_SEEN_SECONDS = 3.0

# A read that failed sooner than this may be tried at the same database once more.
_PROMPT_SECONDS = 1.0

# Those whose connections died together do not come back together.
_MOST_JITTER_SECONDS = 0.05

# How long it is remembered what a user has written: much longer than a replica that is read from may be behind.
_REMEMBERED_SECONDS = 3_600

# Answers of one user can be on their way at once, and the later position is to stay.
_REMEMBER = """
local known = redis.call('GET', KEYS[1])
if not known or tonumber(known) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2]) end
"""

# Nothing of one that has become a primary: it may follow nobody.
_REPLAYED = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint END"


@dataclass(frozen=True, slots=True)
class Seen:
    """The replica at a look: how far it has come, since when (monotonic seconds) it can be that old, and when that was seen."""

    position: int
    confirmed_at: float
    at: float


class Replicas:
    """What a process knows of its replica."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._seen: Seen | None = None
        # Where the primary stood, and when; the notes that the replica has come past are taken out.
        self._notes: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._confirmed_at = 0.0
        self._starting = Lock()
        self._threads: list[Thread] = []
        self._pause = Event()

    @property
    def seen(self) -> Seen | None:
        """The replica, if it answers."""
        self._start()
        seen = self._seen
        return seen if seen is not None and time.monotonic() - seen.at < _SEEN_SECONDS else None

    def _start(self) -> None:
        # In the process that serves, and not in the one that forks it. A thread for each: one that hangs must not keep us from the other.
        with self._starting:
            if not self._threads:
                self._threads = [Thread(target=self._watch, args=(look,), daemon=True) for look in (self._note_primary, self._look)]
                for thread in self._threads:
                    thread.start()

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._pause.wait(_LOOK_SECONDS):
            try:
                with self._app.app_context(), deadlines.bounded():
                    look()
            except Unavailable:
                # The breakers tell of it.
                continue
            except Exception as error:
                log.error("replica_not_watched", exc_info=error)
                self._pause.wait(1.0)

    def _note_primary(self) -> None:
        at = time.monotonic()
        reached = flushed()
        if reached is not None:
            self._notes.append((at, reached.position))

    def _look(self) -> None:
        [(position,)] = fetch(_REPLAYED, {}, REPLICA)
        if position is None:
            self._seen = None
            return
        while self._notes and self._notes[0][1] <= position:
            self._confirmed_at = self._notes.popleft()[0]
        if self._confirmed_at:
            now = time.monotonic()
            self._seen = Seen(position, self._confirmed_at, now)
            counters.seen(ReplicaSeen(now - self._confirmed_at))


class Budget:
    """How often may be tried again: for every ten reads once, and ten times at once. More would be what keeps a server down that
    is about to come back."""

    _MOST, _EACH = 10.0, 0.1

    def __init__(self) -> None:
        self._left = self._MOST
        self._lock = Lock()

    def add(self) -> None:
        """Somebody reads."""
        with self._lock:
            self._left = min(self._MOST, self._left + self._EACH)

    def take(self) -> bool:
        """Whether one more try is left; it is taken."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


def init_app(app: Flask, config: Config, user: Callable[[], str | None]) -> None:
    """Let reads be tried again, and those of an application that has a replica be read there. `user` gives the id of who asks, if
    that is proven."""
    app.extensions["retries"] = Budget()
    app.register_error_handler(Unavailable, _ask_the_other)
    app.before_request(_choose)
    if config.database_replica_url:
        app.extensions["replicas"] = Replicas(app)
        app.extensions["position_user"] = user
        app.after_request(_tell)


def _choose() -> None:
    if request.method not in ("GET", "HEAD") or request.blueprint not in _READ:
        return
    current_app.extensions["retries"].add()
    # Only once, and not by who has waited for long already.
    g.may_ask_again = time.monotonic() + _PROMPT_SECONDS
    g.known_position = None
    if "replicas" in current_app.extensions:
        g.known_position = _known_position()
        take(_route(primary_answers=databases().primary.closed))


def _route(*, primary_answers: bool) -> Route:
    """Where to read. When the primary does not answer, a replica may be as old as an access token can be, which is as old as what is
    known of who asks; but never so old that what the caller has written is missing."""
    replicas: Replicas = current_app.extensions["replicas"]
    config: Config = current_app.config["BANK"]
    seen, known = replicas.seen, g.known_position
    if seen is None or known is None or seen.position < known or not databases().replica.closed:
        return Route()
    age = time.monotonic() - seen.confirmed_at
    if not primary_answers:
        return Route(reads=REPLICA, logins=REPLICA) if age <= config.access_token_seconds else Route()
    return Route(reads=REPLICA) if age <= config.replica_max_lag_seconds else Route()


def _known_position() -> int | None:
    """What the caller must be able to read; None when that is not known."""
    told = request.headers.get(HEADER)
    if told is not None:
        return int(told) if _POSITION.fullmatch(told) else None
    user_id = current_app.extensions["position_user"]()
    if user_id is None:
        return None
    try:
        with bells.breaker():
            return int(redis().get(_key(user_id)) or 0)
    except (RedisError, Unavailable, ValueError):
        return None


def _key(user_id: str) -> str:
    return f"bank:position:{user_id}"


def _tell(response: Response) -> Response:
    seen = current_app.extensions["replicas"].seen
    if g.get("wrote") and request.method not in ("GET", "HEAD"):
        _tell_written(response)
    elif route().reads == REPLICA and seen is not None:
        # RFC 9111, 5.1: for how many seconds what is answered may have been otherwise.
        response.headers["Age"] = str(int(time.monotonic() - seen.confirmed_at))
        response.headers[HEADER] = str(seen.position)
    return response


def _tell_written(response: Response) -> None:
    """Tell the position behind what this request wrote, and remember it."""
    try:
        # After the commit, so it is behind it.
        reached = flushed()
    except Unavailable:
        reached = None
    # Where nobody knows, a replica would have to be past everything.
    told = str(reached.position if reached is not None else 10**18)
    response.headers[HEADER] = told
    user_id = g.get("writer") or current_app.extensions["position_user"]()
    if user_id is not None:
        try:
            with bells.breaker():
                redis().eval(_REMEMBER, 1, _key(user_id), told, _REMEMBERED_SECONDS)
        except (RedisError, Unavailable) as error:
            log.warning("position_not_remembered", error=str(error))


def _ask_the_other(error: Unavailable) -> Response:
    """Read once more what could not be read: from the primary after the replica, and after the primary from the replica, or from
    the primary again where only our connections to it had died."""
    again = _again(error)
    if again is None:
        return problems.from_error(error)
    take(again)
    try:
        return current_app.make_response(current_app.dispatch_request())
    except Exception as second:
        # As Flask would have done with it at the first time.
        return current_app.make_response(current_app.handle_user_exception(second))


def _again(error: Unavailable) -> Route | None:
    """Where to read once more what `error` kept from being read, if anywhere."""
    until = g.pop("may_ask_again", None)
    if error.part is None or until is None:
        return None
    primary, replica = databases().primary, databases().replica
    if error.part == replica.name:
        return Route()
    if "replicas" in current_app.extensions and (emergency := _route(primary_answers=False)).reads == REPLICA:
        return emergency
    budget: Budget = current_app.extensions["retries"]
    if not primary.closed or time.monotonic() > until or not budget.take():
        return None
    time.sleep(random.uniform(0, _MOST_JITTER_SECONDS))  # noqa: S311 - no secret
    return Route()
