"""The bell: an RQ job that tells some worker to look at a lane. Postgres is the queue; this only wakes it.

Losing a bell, ringing twice or ringing for an empty lane does no harm, so nothing here is tried
again and nothing waits long: the sweeper rings for whatever was not heard.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from threading import Lock
from typing import Any

import structlog
from flask import current_app
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from bank.config import Config
from bank.errors import Unavailable
from bank.ledger.system import BATCH_LANE
from bank.resilience.breaker import Breaker

log = structlog.get_logger(__name__)

# A worker on several queues pops without atomicity and can lose a job when it is killed: one queue a worker.
QUEUE = "bank"

# What takes minutes has a queue and a worker of its own, so that it keeps nobody from posting.
SLOW_QUEUE = "bank-slow"

# What came in batches too: ten thousand transfers at once must not keep the workers from those that come one by one.
BATCH_QUEUE = "bank-batch"

# How long a mark keeps bells for its lane out of the queue, should nobody answer it or its worker be killed.
_MARK_SECONDS = 5

# What a bell names.
DRAIN = "bank.processing.tasks.drain"

# In the place of a number of rings: more than any drain has answered, so there is work left.
UNANSWERED = -1

# After Redis failed, nobody rings for this long: every request paying the timeout of a dead Redis would take the API down with it.
_REST_SECONDS = 1.0


_TIMEOUT_SECONDS = 0.25


@cache
def _connection(url: str) -> Redis:
    # redis-py would try 10 times by itself, and after a pause run a command twice.
    return Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        health_check_interval=0,
    )


# Two threads that ask first at once would each get a client of their own, and the one that is not
# kept closes its connections when it is collected, in the middle of its first command.
_connecting = Lock()


def redis() -> Redis:
    """The process's client for short commands: it fails within a quarter second and never retries."""
    config: Config = current_app.config["BANK"]
    with _connecting:
        return _connection(config.redis_url)


def queue(name: str = QUEUE) -> Queue:
    """The RQ queue on that client. Jobs are JSON: who can write to Redis must not run code."""
    return Queue(name, connection=redis(), serializer=JSONSerializer)


class Bells:
    """Rings for lanes, and tells a drain whether somebody rang since it looked.

    Redis holds two things for each lane: the number of rings, and a mark that says that somebody will
    look at that number: a bell waits in the queue, or a drain is awake. Who rings counts and marks in
    one step, and puts a bell into the queue if there was no mark. A drain takes the marks of the
    lanes that have none, so that for as long as it is awake rings are only counted; when it ends it takes its
    marks away and looks at the numbers a last time.
    """

    def __init__(self) -> None:
        self.breaker = Breaker("redis", 1, _REST_SECONDS, lambda error: isinstance(error, RedisError))

    def ring(self, lane: int) -> None:
        """Tell the workers that rows wait in `lane`; call it after the commit.

        Where Redis does not take it, the process posts them itself (`bank.processing.standby`).
        """
        try:
            with self.breaker():
                self._ring(lane)
        except (RedisError, Unavailable) as error:
            if isinstance(error, RedisError):
                log.warning("bell_not_rung", lane=lane, error=str(error))
            current_app.extensions["standby"].post(lane)

    def _ring(self, lane: int) -> None:
        with redis().pipeline() as pipeline:
            pipeline.incr(_rings(lane))
            # The mark ends by itself: a bell that a killed worker took with it must not silence the lane.
            pipeline.set(_mark(lane), 1, nx=True, ex=_MARK_SECONDS)
            _, marked = pipeline.execute()
        if marked:
            queue(BATCH_QUEUE if lane == BATCH_LANE else QUEUE).enqueue(
                DRAIN,
                lane,
                description=f"drain lane {lane}",
                result_ttl=0,
                failure_ttl=86_400,
                job_timeout=120,
            )

    def rings(self, lanes: Sequence[int]) -> dict[int, int]:
        """How often each of the lanes was rung for; always the same while Redis is out of reach."""
        counts = self._quietly(lambda: redis().mget([_rings(lane) for lane in lanes])) or [0] * len(lanes)
        return {lane: int(count or 0) for lane, count in zip(lanes, counts, strict=True)}

    def take(self, lanes: Sequence[int]) -> set[int]:
        """Mark those of the lanes that have no mark, and return them: rings for them are only counted now, and
        the caller answers them until it puts the lanes back."""

        def mark() -> list[Any]:
            with redis().pipeline() as pipeline:
                for lane in lanes:
                    pipeline.set(_mark(lane), 1, nx=True, ex=_MARK_SECONDS)
                return pipeline.execute()

        marks = self._quietly(mark) or [None] * len(lanes)
        return {lane for lane, marked in zip(lanes, marks, strict=True) if marked}

    def put_back(self, lanes: Collection[int], heard: Mapping[int, int]) -> None:
        """Take the marks of these lanes away, and ring for all that were rung for since `heard`, the rings answered."""
        # Who rings from here on puts a bell into the queue; one that came just before is seen by this last look.
        self._quietly(lambda: redis().delete(*(_mark(lane) for lane in lanes)))
        for lane, count in self.rings(list(heard)).items():
            if count != heard[lane]:
                self.ring(lane)

    def _quietly(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            log.warning("bells_out_of_reach", error=str(error))
            return None


def _mark(lane: int) -> str:
    return f"bank:bell:{lane}"


def _rings(lane: int) -> str:
    return f"bank:rings:{lane}"


bells = Bells()
