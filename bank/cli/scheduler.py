"""`bank scheduler`: the clock. It rings ticks; the database says what is due."""

from datetime import UTC, datetime

import click
import structlog
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer
from rq_scheduler import Scheduler

from bank import create_app
from bank.processing.queue import QUEUE

log = structlog.get_logger(__name__)

# What ticks, and how often in seconds. Registered anew at each start: a periodic job that a crash
# took out of Redis never comes back by itself.
TICKS = {"bank.processing.tasks.sweep": 3}


class JsonJob(Job):
    """A job that is JSON in Redis: rq-scheduler would write a pickle, which our workers refuse."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs["serializer"] = JSONSerializer
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


def register(scheduler: Scheduler) -> None:
    """Put every tick into Redis, in the place of those of an earlier start."""
    for job in list(scheduler.get_jobs()):
        if job.id.startswith("tick-"):
            scheduler.cancel(job)
            job.delete()
    for task, seconds in TICKS.items():
        name = task.rsplit(".", 1)[-1]
        scheduler.schedule(
            scheduled_time=datetime.now(UTC).replace(tzinfo=None), func=task, interval=seconds, result_ttl=seconds * 3, id=f"tick-{name}",
            description=f"tick: {name}", queue_name=QUEUE,
        )


@click.command("scheduler")
def command() -> None:
    """Ring the ticks that make sweepers and schedules run.

    Keep one running, under a supervisor: it ends when Redis goes away. A second one does no harm.
    """
    app = create_app()
    config = app.config["BANK"]
    connection = Redis.from_url(config.redis_url, socket_connect_timeout=2, socket_timeout=5)
    scheduler = Scheduler(queue_name=QUEUE, connection=connection, job_class=JsonJob, interval=1)
    register(scheduler)
    log.info("scheduler_started", ticks=TICKS)
    scheduler.run()
