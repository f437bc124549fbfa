"""The bell: an RQ job that tells some worker to look at a lane. Postgres is the queue; this only wakes it.

Losing a bell, ringing twice or ringing for an empty lane does no harm, so nothing here is tried
again and nothing waits long: the sweeper rings for whatever was not heard.
"""

import time
from functools import cache
from threading import Lock

import structlog
from flask import current_app
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from bank.config import Config

log = structlog.get_logger(__name__)

# A worker on several queues pops without atomicity and can lose a job when it is killed: one queue a worker.
QUEUE = "bank"

# How long a bell that nobody answered keeps others for its lane away.
_BELL_SECONDS = 5

# After Redis failed, rings are left to the sweeper for this long: every request paying the timeout
# of a dead Redis would take the API down with it.
_REST_SECONDS = 1.0


@cache
def _connection(url: str) -> Redis:
    # redis-py would try 10 times by itself, and after a pause run a command twice.
    return Redis.from_url(url, socket_timeout=0.25, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0), health_check_interval=0)


# Two threads that ask first at once would each get a client of their own, and the one that is not
# kept closes its connections when it is collected, in the middle of its first command.
_connecting = Lock()


def redis() -> Redis:
    """The process's client for short commands: it fails within a quarter second and never retries."""
    config: Config = current_app.config["BANK"]
    with _connecting:
        return _connection(config.redis_url)


def queue() -> Queue:
    """The RQ queue on that client. Jobs are JSON: who can write to Redis must not run code."""
    return Queue(QUEUE, connection=redis(), serializer=JSONSerializer)


class Bells:
    """Rings for lanes, and tells a drain whether somebody rang since it looked."""

    def __init__(self) -> None:
        self._resting_until = 0.0

    def ring(self, lane: int, *, again: bool = False) -> bool:
        """Tell the workers that rows wait in `lane`; call it after the commit.

        A bell that waits in the queue already is enough, unless `again` says that it may be lost.
        Returns whether Redis took it; False is no error, the sweeper will ring.
        """
        if time.monotonic() < self._resting_until:
            return False
        try:
            with redis().pipeline(transaction=False) as pipeline:
                # First the count: a drain that ends right now will see it and look once more.
                pipeline.incr(_rings(lane))
                pipeline.set(_waiting(lane), 1, nx=not again, ex=_BELL_SECONDS)
                _, first = pipeline.execute()
            if first:
                queue().enqueue(
                    "bank.processing.tasks.drain",
                    lane,
                    description=f"drain lane {lane}",
                    result_ttl=0,
                    failure_ttl=86_400,
                    job_timeout=120,
                )
        except RedisError as error:
            self._resting_until = time.monotonic() + _REST_SECONDS
            log.warning("bell_not_rung", lane=lane, error=str(error))
            return False
        return True

    def heard(self, lane: int) -> None:
        """The bell of `lane` is answered: from now on a new one is let into the queue."""
        try:
            redis().delete(_waiting(lane))
        except RedisError as error:
            log.warning("bell_not_cleared", lane=lane, error=str(error))

    def count(self, lane: int) -> int:
        """How often the lane was rung for. A drain compares it before its claim and after it let the
        lane go: a bell may have been answered by another worker that found the lane taken."""
        try:
            value = redis().get(_rings(lane))
        except RedisError:
            return -1
        return int(value) if isinstance(value, bytes) else 0


def _rings(lane: int) -> str:
    return f"bank:rings:{lane}"


def _waiting(lane: int) -> str:
    return f"bank:bell:{lane}"


bells = Bells()
