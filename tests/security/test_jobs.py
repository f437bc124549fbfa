"""Who can write to Redis rings the bank's bells, and runs nothing else."""

from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from rq import Queue
from rq.job import Callback
from rq.serializers import JSONSerializer

from bank.config import Config
from bank.processing import worker
from bank.processing.queue import DRAIN

called: list[str] = []


def call_back(*_: Any) -> None:
    called.append("back")


@pytest.mark.parametrize(("function", "runs"), [("os.mkdir", False), ("bank.users.service.shown", False), (DRAIN, True)])
@pytest.mark.usefixtures("context")
def test_a_worker_runs_the_banks_jobs_alone(app: Flask, config: Config, tmp_path: Path, function: str, runs: bool) -> None:
    with Redis.from_url(config.redis_url) as connection:
        queue = Queue("made-up", connection=connection, serializer=JSONSerializer)
        argument: Any = 0 if function == DRAIN else str(tmp_path / "ran")
        here = Callback("tests.security.test_jobs.call_back")
        job = queue.enqueue(function, argument, on_success=here, on_failure=here, result_ttl=60, failure_ttl=60)
        at_work = worker.build(app, "made-up")
        try:
            at_work.work(burst=True, logging_level="CRITICAL")
        finally:
            at_work.processor.close()
        job.refresh()
        result = job.latest_result()
        assert result is not None
        assert (job.is_finished, job.is_failed) == (runs, not runs)
        assert runs or "PermissionError: This is no job of the bank." in str(result.exc_string)
    assert called == [] and not (tmp_path / "ran").exists()
