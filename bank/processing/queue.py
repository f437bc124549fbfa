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

# How long a bell keeps others for its lane out of the queue, should nobody answer it or its worker be killed.
_MARK_SECONDS = 5

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

    Redis holds two things for each lane: a mark from when a bell is put into the queue until its drain
    ends, so that there is one at most, and the number of rings. A drain compares the number before its
    claim with that after it let the lane go, and so sees who rang in between.
    """

    def __init__(self) -> None:
        self._resting_until = 0.0

    def ring(self, lane: int, *, again: bool = False) -> bool:
        """Tell the workers that rows wait in `lane`; call it after the commit.

        `again` is for who knows that a bell was lost, and puts one into the queue whatever the mark
        says. Returns whether Redis took it; False is no error, the sweeper will ring.
        """
        if time.monotonic() < self._resting_until:
            return False
        try:
            with redis().pipeline(transaction=False) as pipeline:
                pipeline.incr(_rings(lane))
                # The mark ends by itself: a bell that a killed worker took with it must not silence the lane.
                pipeline.set(_waits(lane), 1, nx=not again, ex=_MARK_SECONDS)
                _, marked = pipeline.execute()
            if marked:
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
        """The lane's bell is answered: who rings from now on puts a new one into the queue."""
        self._quietly(lane, lambda: redis().delete(_waits(lane)))

    def rings(self, lane: int) -> int:
        """How often the lane was rung for; always the same while Redis is out of reach."""
        return int(self._quietly(lane, lambda: redis().get(_rings(lane))) or 0)

    def waiting(self, lanes: int) -> list[int]:
        """Those of the lanes 0 to `lanes` - 1 that were rung for and not drained since."""
        marks = self._quietly(0, lambda: redis().mget([_waits(lane) for lane in range(lanes)]))
        return [lane for lane, mark in enumerate(marks or []) if mark]

    def _quietly(self, lane: int, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            log.warning("bell_out_of_reach", lane=lane, error=str(error))
            return None


def _waits(lane: int) -> str:
    return f"bank:bell:{lane}"


def _rings(lane: int) -> str:
    return f"bank:rings:{lane}"


bells = Bells()
