"""One line a request, and what the lines that are written meanwhile have in common."""

import time

import structlog
from flask import Flask, Response, g, request
from structlog.contextvars import bind_contextvars, clear_contextvars

log = structlog.get_logger("bank.request")


def init_app(app: Flask) -> None:
    """Log one line a request: what was asked, by which id, with what status, in how long. Comes after what gives a request its ids."""
    app.before_request(_begin)
    app.after_request(_end)
    app.teardown_request(_clear)


def _begin() -> None:
    g.started = time.perf_counter()
    # Threads go from one request to the next, and what was bound stays with the thread.
    clear_contextvars()
    bind_contextvars(request_id=g.request_id)
    if g.trace_id:
        bind_contextvars(trace_id=g.trace_id)


def _end(response: Response) -> Response:
    # repr() keeps CR, LF and escape sequences of a path from becoming lines of their own.
    log.info(
        "request",
        method=request.method,
        path=repr(request.path)[1:-1],
        status=response.status_code,
        milliseconds=round((time.perf_counter() - g.started) * 1000, 2),
    )
    return response


def _clear(error: BaseException | None) -> None:
    clear_contextvars()
