"""`bank health`: what a container asks of the process that runs in it."""

import http.client
import os
import socket
from collections.abc import Callable
from contextlib import closing

import click

from bank.config import Config, ConfigError

# A follower that is longer behind than this stands still, or cannot keep up: the time of its alert.
_BEHIND_SECONDS = 60

# Every part loads no more than it needs: each container asks again and again, on processors that the bank could use.


def answers(port: int, path: str, status: int, seconds: float = 0.5) -> bool:
    """Whether what listens on that port of this machine gives `path` this status, within `seconds`."""
    # gunicorn takes connections before its workers have loaded; a longer wait would keep the other probes.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == status
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _serves(path: str, status: int) -> str | None:
    if answers(int(os.environ.get("PORT") or 8000), path, status, seconds=3.0):
        return None
    return f"{path} does not answer {status}."


def _reports(part: str) -> str | None:
    from redis import Redis
    from redis.exceptions import RedisError

    host = socket.gethostname()
    try:
        with Redis.from_url(Config.from_env().redis_url, decode_responses=True, socket_timeout=2, socket_connect_timeout=2) as redis:
            if part == "worker":
                # The key of a worker that is silent for longer than it has said ends; the set forgets it later.
                alive = [key for key in redis.smembers("rq:workers") if redis.hget(key, "hostname") == host]
            else:
                # The scheduler's ends some seconds after its last round; one that stopped in order has left its death in it.
                alive = [key for key in redis.scan_iter("rq:scheduler_instance:*", count=1000) if not redis.hexists(key, "death")]
    except RedisError as error:
        return f"Redis cannot be asked: {error}"
    return None if alive else f"No {part} has reported{f' from {host}' if part == 'worker' else ''}."


def _follows() -> str | None:
    import psycopg2

    from bank.followers.lag import SECONDS_BEHIND

    # Not through the application, whose parts take seconds to load.
    url = Config.from_env().database_url.replace("+psycopg2", "", 1)
    try:
        with (
            closing(psycopg2.connect(url, connect_timeout=3, options="-c statement_timeout=5000")) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(SECONDS_BEHIND)
            behind = {name: seconds for name, seconds in cursor.fetchall() if seconds > _BEHIND_SECONDS}
    except psycopg2.Error as error:
        return f"PostgreSQL cannot be asked: {error}"
    return " ".join(f"{name} is {seconds:.0f} s behind." for name, seconds in behind.items()) or None


_PARTS: dict[str, Callable[[], str | None]] = {
    "api": lambda: _serves("/health/ready", 200),
    # It asks for a login, so it is up when it refuses us.
    "dashboard": lambda: _serves("/rq/", 401),
    "worker": lambda: _reports("worker"),
    "scheduler": lambda: _reports("scheduler"),
    "follower": _follows,
}


@click.command("health")
@click.argument("part", type=click.Choice([*_PARTS]))
def command(part: str) -> None:
    """Say whether PART of the bank does its work; for the health checks of containers, which hold one part each.

    The API must be ready and the dashboard ask for a login, both at PORT. A worker of this machine, and the scheduler, must have
    reported to Redis within the time that they have set themselves. No follower may be more than a minute behind the log.
    Exits with 1 and a reason when it does not.
    """
    try:
        wrong = _PARTS[part]()
    except ConfigError as error:
        raise click.ClickException(str(error)) from error
    if wrong:
        raise click.ClickException(wrong)
