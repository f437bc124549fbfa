"""`/health/live` and `/health/ready`: is the process there, and can it do its work."""

from flask import Flask, Response, current_app
from redis.exceptions import RedisError

from bank.config import Config
from bank.db import reader
from bank.errors import Unavailable
from bank.ledger import store
from bank.ledger.system import every_lane
from bank.processing.queue import redis
from bank.web.body import json_response
from bank.web.limits import limiter


def init_app(app: Flask) -> None:
    """Add both routes, without limits: whoever asks must get an answer."""
    app.add_url_rule("/health/live", "health.live", limiter.exempt(live))
    app.add_url_rule("/health/ready", "health.ready", limiter.exempt(ready))


def live() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


def ready() -> Response:
    """PostgreSQL can be reached and has the lanes that this process would fill, so money can be accepted. Redis is told of
    and no condition: without it transactions are accepted all the same and posted as soon as a sweeper rings."""
    config: Config = current_app.config["BANK"]
    checks = {"database": "ok", "redis": "ok"}
    try:
        with reader() as session:
            if not {*every_lane(config.lanes)} <= {*store.lanes(session.connection())}:
                checks["database"] = "has fewer lanes than BANK_LANES: run `bank migrate`"
    except Unavailable:
        checks["database"] = "unavailable"
    try:
        redis().ping()
    except RedisError:
        checks["redis"] = "unavailable"
    good = checks["database"] == "ok"
    return json_response({"status": "ok" if good else "unavailable", "checks": checks}, 200 if good else 503)
