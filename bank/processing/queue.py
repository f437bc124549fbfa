"""The bell: an RQ job that tells some worker to look at a lane. Postgres is the queue; this only wakes it.

Losing a bell, ringing twice or ringing for an empty lane does no harm, so nothing here is tried
again and nothing waits long: the sweeper rings for whatever was not heard.
"""

import time
from collections.abc import Callable
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

log = structlog.get_logger(__name__)

# A worker on several queues pops without atomicity and can lose a job when it is killed: one queue a worker.
QUEUE = "bank"

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
    """Rings for lanes, and tells a drain whether somebody rang since it looked.

    Each lane has one number in Redis: how often it was rung for since a drain last began to look.
    Who makes it 1 puts the bell into the queue; who finds it higher knows that one is on its way.
    A bell that is lost leaves the number standing, and the sweeper rings regardless of it.
    """

    def __init__(self) -> None:
        self._resting_until = 0.0

    def ring(self, lane: int, *, again: bool = False) -> bool:
        """Tell the workers that rows wait in `lane`; call it after the commit.

        `again` puts a bell into the queue even if one should be there. Returns whether Redis took
        it; False is no error, the sweeper will ring.
        """
        if time.monotonic() < self._resting_until:
            return False
        try:
            if redis().incr(_rings(lane)) == 1 or again:
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
        """A drain begins to look: what was committed before is seen by it, what comes later rings anew."""
        self._quietly(lane, lambda: redis().delete(_rings(lane)))

    def pass_on(self, lane: int) -> None:
        """The lane is taken, and its bell was answered here: leave word for the drain that has it."""
        self._quietly(lane, lambda: redis().incr(_rings(lane)))

    def rung(self, lane: int) -> bool:
        """Whether somebody rang or left word since the last `heard`."""
        return bool(self._quietly(lane, lambda: redis().exists(_rings(lane))))

    def waiting(self, lanes: int) -> list[int]:
        """Those of the lanes 0 to `lanes` - 1 that were rung for and not heard yet."""
        counts = self._quietly(0, lambda: redis().mget([_rings(lane) for lane in range(lanes)]))
        return [lane for lane, count in enumerate(counts or []) if count]

    def _quietly(self, lane: int, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            log.warning("bell_out_of_reach", lane=lane, error=str(error))
            return None


def _rings(lane: int) -> str:
    return f"bank:rings:{lane}"


bells = Bells()
