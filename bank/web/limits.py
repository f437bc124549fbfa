"""How often a caller may ask: flask-limiter, set so that a Redis that is away neither opens nor breaks the API."""

import time
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, current_app, request
from flask_limiter import Limiter
from redis.exceptions import RedisError

from bank.config import Config
from bank.web.addresses import place


def _caller() -> str:
    """The user where a good token says who it is, else the address: a made-up token is no new caller."""
    identify: Callable[[], str | None] = current_app.extensions["rate_limit_user"]
    return identify() or _place()


def _place() -> str:
    return place(request.remote_addr)


def _default() -> str:
    # Asked at each request: what init_app finds in the first application's configuration, it keeps for all others.
    config: Config = current_app.config["BANK"]
    return config.rate_limit_default


limiter = Limiter(key_func=_caller, default_limits=[_default])


def _guesses() -> str:
    config: Config = current_app.config["BANK"]
    return config.rate_limit_auth


# Hashing a password is the dearest thing that anybody can ask for: a stranger, and who is logged in and confirms something by it.
by_address = limiter.shared_limit(_guesses, scope="guesses", key_func=_place)
by_user = limiter.shared_limit(_guesses, scope="confirmations", key_func=_caller)


def settings(config: Config) -> dict[str, Any]:
    """The limiter's part of Flask's configuration."""
    # A socket has another name there than redis-py gives it.
    uri = f"redis+{config.redis_url}" if config.redis_url.startswith("unix://") else config.redis_url
    # A hung Redis costs at most these timeouts, and then each process counts for itself.
    options = {"socket_timeout": 0.25, "socket_connect_timeout": 0.25}
    return {
        "RATELIMIT_ENABLED": config.rate_limit_enabled,
        "RATELIMIT_STORAGE_URI": uri,
        "RATELIMIT_STORAGE_OPTIONS": options,
        # Whenever one looks back, no more than the limit: where windows follow each other, twice as much fits around a change of them.
        "RATELIMIT_STRATEGY": "moving-window",
        # What versions before keep under the same names without it is of another type, and both are at work during an upgrade.
        "RATELIMIT_KEY_PREFIX": "moving",
        "RATELIMIT_DEFAULTS_PER_METHOD": False,
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
        # Of two requests that see Redis die at once only one switches to the fallback; the other one is let through.
        "RATELIMIT_SWALLOW_ERRORS": True,
    }


def init_app(app: Flask, user: Callable[[], str | None]) -> None:
    """Limit every route that does not say otherwise. `user` gives the id of who asks, if that is proven."""
    app.extensions["rate_limit_user"] = user
    limiter.init_app(app)
    app.after_request(_tell)


def _tell(response: Response) -> Response:
    """Tell the limit in headers, with seconds where flask-limiter would give a time of day, and Retry-After only where
    the limit is what refuses: flask-limiter puts it on every answer, also over our own."""
    current = limiter.current_limit
    if current is None or not limiter.enabled:
        return response
    try:
        remaining, reset_at = current.remaining, current.reset_at
    except RedisError:
        return response
    seconds = max(0, int(reset_at - time.time()))
    response.headers["RateLimit-Limit"] = str(current.limit.amount)
    response.headers["RateLimit-Remaining"] = str(remaining)
    response.headers["RateLimit-Reset"] = str(seconds)
    if current.breached:
        response.headers.setdefault("Retry-After", str(max(1, seconds)))
    return response
