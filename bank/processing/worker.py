"""The RQ worker of the bank: it runs jobs in its own process, where the thread pool and the counters live."""

from collections.abc import Callable
from typing import Any

from flask import Flask
from prometheus_client import start_http_server
from redis import Redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from structlog.contextvars import bound_contextvars

from bank.config import Config, ConfigError
from bank.db import reader
from bank.ledger import store
from bank.ledger.system import every_lane
from bank.processes import spare_collector
from bank.processing.processor import Processor
from bank.processing.queue import DRAIN, QUEUE
from bank.processing.ticks import TICKS
from bank.replay import jobs as replays

_JOBS = {DRAIN, replays.RUN, *TICKS}


class BankJob(Job):
    """A job that is one of the bank's. Whoever can write to Redis could name any function that there is to be imported, or have one
    called back."""

    # Properties of RQ's, which import what the job names.
    success_callback = failure_callback = stopped_callback = None

    @property
    def func(self) -> Callable[..., Any]:
        """What is to be run. Raises PermissionError for what is no job of the bank."""
        if self.func_name not in _JOBS:
            raise PermissionError("This is no job of the bank.")
        return super().func


class BankWorker(SimpleWorker):
    """A SimpleWorker that lets its jobs end at a good place when it is asked to stop.

    Not the forking worker: a fork for each bell would cap the bank at about a hundred of them a
    second, and lose the connections and counters each time. A job that crashes the process costs
    nothing either way: its claim is free when its connection dies.
    """

    job_class = BankJob
    processor: Processor

    # RQ would wait up to a minute before it asks again for a Redis that was away for one.
    max_connection_wait_time = 5.0

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
        with bound_contextvars(job=job.description):
            return super().perform_job(job, queue, execution)

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()
        self.processor.stop()
        replays.stop()


def build(app: Flask, queue_name: str) -> BankWorker:
    """A worker on one of the bank's queues. Needs the application context while it works.

    Its Redis client waits as long as RQ needs for a blocking pop; RQ sets that timeout itself.
    """
    config: Config = app.config["BANK"]
    connection = Redis.from_url(config.redis_url, socket_connect_timeout=2)
    queue = Queue(queue_name, connection=connection, serializer=JSONSerializer)
    # The time to live bounds how long a pop waits on a line that was cut: RQ's own is seven minutes.
    worker = BankWorker([queue], connection=connection, serializer=JSONSerializer, worker_ttl=30)
    worker.processor = Processor(app, config.worker_threads)
    app.extensions["processor"] = worker.processor
    return worker


def run(app: Flask, queue_name: str = QUEUE, **options: Any) -> None:
    """Work until SIGTERM or SIGINT; then finish the batch at hand, or give the replay at hand back. `options` go to
    RQ's `work()`.

    Raises ConfigError when there are lanes to be filled that nobody has made.
    """
    worker = build(app, queue_name)
    config: Config = app.config["BANK"]
    with app.app_context():
        with reader() as session:
            if not {*every_lane(config.lanes)} <= {*store.lanes(session.connection())}:
                raise ConfigError("The database has fewer lanes than BANK_LANES: run `bank migrate`.")
        if config.metrics_port:
            start_http_server(config.metrics_port)
        spare_collector()
        worker.work(with_scheduler=False, logging_level="WARNING", **options)
    worker.processor.close()
