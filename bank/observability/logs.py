"""Structured logs: JSON lines in production, coloured ones in development, the same for us and for every library.

What is bound to structlog's context variables (a request's id, its trace, who asks, the transaction) is in each line that is written
while it is; the lines of requests are `bank.observability.access`.
"""

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import structlog

from bank.config import Config, secrets_of
from bank.observability.redaction import Redactor, passwords

log = structlog.get_logger(__name__)

# Of other libraries warnings are enough; these tell what they did to the schema.
_TELL_MORE = ("alembic",)


def configure(config: Config) -> None:
    """Set up structlog and the standard library's logging for this process, to standard error; what nobody catches becomes a line too."""
    level = logging.getLevelName(config.log_level)
    structlog.configure(
        processors=[*_shared(config), _renderer(config)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write a line: what several processes write into one file must not come between each other.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(config))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.WARNING))
    for name in _TELL_MORE:
        logging.getLogger(name).setLevel(level)
    logging.captureWarnings(True)
    # The interpreter would write them as they are, with whatever is in their texts.
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def formatter(config: Config) -> logging.Formatter:
    """What makes our lines of the standard library's records."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *_shared(config)],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(config)],
    )


def _shared(config: Config) -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.format_exc_info,
        structlog.processors.StackInfoRenderer(),
        _without_meta(Redactor({*secrets_of(config), *passwords((config.database_url, config.database_replica_url, config.redis_url))})),
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _without_meta(redact: Redactor) -> Any:
    """`redact` for what will be seen: the record that the standard library's formatter carries along is not."""

    def processor(logger: Any, method: str, event: Any) -> Any:
        meta = {name: event.pop(name) for name in ("_record", "_from_structlog") if name in event}
        return redact(logger, method, event) | meta

    return processor


def _renderer(config: Config) -> Any:
    if config.env == "production":
        return structlog.processors.JSONRenderer()
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    log.critical("uncaught", exc_info=(kind, error, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None:
        log.critical(
            "uncaught", thread=args.thread.name if args.thread else None, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
        )
