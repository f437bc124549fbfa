"""The RQ worker of the bank: it runs jobs in its own process, where the thread pool and the counters live."""

from typing import Any

from flask import Flask
from redis import Redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from bank.config import Config
from bank.processing.processor import Processor
from bank.processing.queue import QUEUE


class BankWorker(SimpleWorker):
    """A SimpleWorker that lets its drains finish their batch when it is asked to stop.

    Not the forking worker: a fork for each bell would cap the bank at about a hundred of them a
    second, and lose the connections and counters each time. A job that crashes the process costs
    nothing either way: its claim is free when its connection dies.
    """

    processor: Processor

    def handle_warm_shutdown_request(self) -> None:
        super().handle_warm_shutdown_request()
        self.processor.stop()


def build(app: Flask) -> BankWorker:
    """A worker on the bank's one queue. Needs the application context while it works.

    Its Redis client waits as long as RQ needs for a blocking pop; RQ sets that timeout itself.
    """
    config: Config = app.config["BANK"]
    connection = Redis.from_url(config.redis_url, socket_connect_timeout=2)
    queue = Queue(QUEUE, connection=connection, serializer=JSONSerializer)
    worker = BankWorker([queue], connection=connection, serializer=JSONSerializer)
    worker.processor = Processor(app, config.worker_threads)
    app.extensions["processor"] = worker.processor
    return worker


def run(app: Flask, **options: Any) -> None:
    """Work until SIGTERM or SIGINT; then finish the batch at hand. `options` go to RQ's `work()`."""
    worker = build(app)
    with app.app_context():
        worker.work(with_scheduler=False, logging_level="WARNING", **options)
    worker.processor.close()
