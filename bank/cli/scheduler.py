"""`bank scheduler`: the clock. It rings ticks; the database says what is due."""

from datetime import UTC, datetime
from typing import Any

import click
import structlog
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

from bank.config import Config
from bank.observability import logs
from bank.processing.queue import QUEUE, SLOW_QUEUE
from bank.processing.ticks import SLOW, TICKS

log = structlog.get_logger(__name__)

# A tick that is put back is due at once, also when the machine's clock is just being put back.
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class JsonJob(Job):
    """A job that is JSON in Redis: rq-scheduler would write a pickle, which our workers refuse."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["serializer"] = JSONSerializer
        super().__init__(*args, **kwargs)


class Clock(Scheduler):
    """rq-scheduler that looks after its ticks.

    A tick that rq-scheduler lost (killed between taking it out and putting it back) or that Redis
    forgot never comes back by itself, so each round puts back what is missing.
    """

    def enqueue_jobs(self) -> Any:
        for task, seconds in TICKS.items():
            tick = f"tick-{task.rsplit('.', 1)[-1]}"
            if tick not in self:
                self.schedule(
                    scheduled_time=_LONG_AGO,
                    func=task,
                    interval=seconds,
                    id=tick,
                    description=tick,
                    queue_name=SLOW_QUEUE if task in SLOW else QUEUE,
                )
        return super().enqueue_jobs()


@click.command("scheduler")
def command() -> None:
    """Ring the ticks that make sweepers and schedules run.

    Keep one running, under a supervisor: it ends when Redis goes away. A second one does no harm.
    """
    config = Config.from_env()
    logs.configure(config)
    connection = Redis.from_url(config.redis_url, socket_connect_timeout=2, socket_timeout=5)
    log.info("scheduler_started", ticks=TICKS)
    Clock(queue_name=QUEUE, connection=connection, job_class=JsonJob, interval=1).run()
