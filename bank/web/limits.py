"""How often a caller may ask: flask-limiter, set so that a Redis that is away neither opens nor breaks the API."""

from collections.abc import Callable
from typing import Any

from flask import Flask, current_app
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from bank.config import Config


def _caller() -> str:
    """The user where a good token says who it is, else the address: a made-up token is no new caller."""
    identify: Callable[[], str | None] = current_app.extensions["rate_limit_user"]
    return identify() or get_remote_address()


def _default() -> str:
    # Asked at each request: what init_app finds in the first application's configuration, it keeps for all others.
    config: Config = current_app.config["BANK"]
    return config.rate_limit_default


limiter = Limiter(key_func=_caller, default_limits=[_default], headers_enabled=True)


def settings(config: Config) -> dict[str, Any]:
    """The limiter's part of Flask's configuration."""
    # A hung Redis costs at most these timeouts, and then each process counts for itself.
    options = {"socket_timeout": 0.25, "socket_connect_timeout": 0.25}
    return {
        "RATELIMIT_ENABLED": config.rate_limit_enabled,
        "RATELIMIT_STORAGE_URI": config.redis_url,
        "RATELIMIT_STORAGE_OPTIONS": options,
        "RATELIMIT_STRATEGY": "fixed-window",
        "RATELIMIT_DEFAULTS_PER_METHOD": False,
        "RATELIMIT_IN_MEMORY_FALLBACK_ENABLED": True,
        "RATELIMIT_HEADER_LIMIT": "RateLimit-Limit",
        "RATELIMIT_HEADER_REMAINING": "RateLimit-Remaining",
        "RATELIMIT_HEADER_RESET": "RateLimit-Reset",
        "RATELIMIT_HEADER_RETRY_AFTER_VALUE": "delta-seconds",
    }


def init_app(app: Flask, user: Callable[[], str | None]) -> None:
    """Limit every route that does not say otherwise. `user` gives the id of who asks, if that is proven."""
    app.extensions["rate_limit_user"] = user
    limiter.init_app(app)
