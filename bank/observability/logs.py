"""Structured logs: JSON lines in production, coloured ones in development; one line a request."""

import logging
import sys
import time
from typing import Any

import structlog
from flask import Flask, Response, g, request

from bank.config import Config

log = structlog.get_logger("bank.request")


def configure(config: Config) -> None:
    """Set up structlog and the standard library's logging for this process, to standard error."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer = (
        structlog.processors.JSONRenderer()
        if config.env == "production"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    )
    level = logging.getLevelName(config.log_level)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries log through the standard library; they get the same lines.
    handler = logging.StreamHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_plain, renderer]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))


def _plain(logger: Any, name: str, event: Any) -> Any:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, name, event)


def init_app(app: Flask) -> None:
    """Log one line a request: what was asked, by which id, with what status, in how long."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    g.started = time.perf_counter()


def _end(response: Response) -> Response:
    # repr() keeps CR, LF and escape sequences of a path from becoming lines of their own.
    log.info(
        "request",
        method=request.method,
        path=repr(request.path)[1:-1],
        status=response.status_code,
        milliseconds=round((time.perf_counter() - g.started) * 1000, 2),
        request_id=g.get("request_id"),
    )
    return response
