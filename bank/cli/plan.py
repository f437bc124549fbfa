"""What `bank run` runs: the processes, in which order they stop, and how one sees that each is ready."""

import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from bank.cli.adoption import ROOT
from bank.cli.health import answers
from bank.cli.layout import Layout
from bank.cli.supervisor import Service
from bank.embedded import HOST, Postgres, Server
from bank.processes import spawn

if TYPE_CHECKING:
    from redis import Redis

# Nothing new is accepted first, then the workers finish their batch, and only then goes what they
# need. The patience adds up to ten seconds at the very worst.
FRONT, WORKERS, REDIS, POSTGRES = range(1, 5)
STOP_SIGNALS = {
    # SIGTERM lets requests finish, of which some wait for half a minute by their caller's wish.
    FRONT: ((signal.SIGTERM, 2.0), (signal.SIGQUIT, 0.5)),
    WORKERS: ((signal.SIGTERM, 2.5),),
    REDIS: ((signal.SIGTERM, 1.0),),
    POSTGRES: ((signal.SIGINT, 3.0), (signal.SIGQUIT, 1.0)),
}


def embedded(server: Server) -> Service:
    """The supervised form of an embedded server, which has been opened."""
    order = POSTGRES if isinstance(server, Postgres) else REDIS
    return Service(
        name=server.title,
        spawn=server.spawn,
        log=server.log,
        stop_order=order,
        stop_signals=STOP_SIGNALS[order],
        ready=lambda _: server.ready(),
        ready_timeout_s=120.0,  # a database that was killed redoes what its log holds
    )


def migration(layout: Layout, environment: Mapping[str, str], admin_password: str) -> subprocess.Popen[bytes]:
    """Start the migration, which makes the administrator with this password when there is none."""
    return _python(["-m", "bank", "migrate"], {**environment, "BANK_ADMIN_PASSWORD": admin_password}, layout.log("migrate"))


def programs(layout: Layout, environment: Mapping[str, str]) -> tuple[list[Service], list[Service]]:
    """The bank's own processes: those without which it is not ready, and those that may come after.

    API, a worker, scheduler and dashboard are the first. Further workers, those for batches and for what takes minutes, and
    what follows the log are the second: on a small machine they would only take the processor from the others while these load.
    """
    roll = Roll(environment["REDIS_URL"])

    def service(name: str, arguments: list[str], order: int, ready: Callable[[Service], bool], **told: str) -> Service:
        log = layout.log(name)
        return Service(name, lambda: _python(arguments, {**environment, **told}, log), log, order, STOP_SIGNALS[order], ready)

    api = ["-m", "gunicorn", "-c", "bank/gunicorn.py", "wsgi:app"]
    dashboard = ["-m", "gunicorn", "--bind", f"{HOST}:{layout.dashboard_port}", "--worker-class", "gthread", "--threads", "4"]
    dashboard += ["--logger-class", "bank.observability.gunicorn.Log"]
    dashboard += ["--no-control-socket", "bank.dashboard:create_app()"]
    workers = [service(f"worker-{number}", ["worker.py"], WORKERS, roll.has_worker) for number in range(1, layout.workers + 1)]
    needed = [
        service("api", api, FRONT, lambda _: answers(layout.port, "/health/ready", 200)),
        workers[0],
        service("scheduler", ["-m", "bank", "scheduler"], FRONT, roll.has_scheduler),
        # It asks for a login, so it is up when it refuses us.
        service("dashboard", dashboard, FRONT, lambda _: answers(layout.dashboard_port, "/rq/", 401)),
    ]
    follower = service("follower", ["-m", "bank", "follow"], WORKERS, lambda _: True, BANK_SEAL_KEY=layout.seal_key)
    batch = service("worker-batch", ["worker.py", "batch"], WORKERS, roll.has_worker)
    slow = service("worker-slow", ["worker.py", "slow"], WORKERS, roll.has_worker)
    return needed, [*workers[1:], batch, slow, follower]


def _python(arguments: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    return spawn([sys.executable, *arguments], env=environment, log=log, cwd=ROOT)


class Roll:
    """Who has reported for work in Redis."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url

    @cached_property
    def _client(self) -> "Redis":
        # Loaded at the first question, when all processes are on their way: it takes as long as PostgreSQL's start.
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # One short try: a probe that fails is asked again anyway.
        retry = Retry(NoBackoff(), 0)
        return Redis.from_url(self._url, decode_responses=True, socket_timeout=2, socket_connect_timeout=2, retry=retry)

    def has_worker(self, worker: Service) -> bool:
        """Whether RQ's set of workers names the process."""
        from redis import RedisError

        assert worker.child is not None
        with suppress(RedisError):
            return str(worker.child.pid) in [self._client.hget(key, "pid") for key in self._client.smembers("rq:workers")]
        return False

    def has_scheduler(self, scheduler: Service) -> bool:
        """Whether a scheduler was born since the process was started; it writes this down under a name that it makes up."""
        from redis import RedisError

        with suppress(RedisError):
            births = [self._client.hget(key, "birth") for key in self._client.scan_iter("rq:scheduler_instance:*", count=1000)]
            return any(float(birth) >= scheduler.started_at for birth in births if birth)
        return False
