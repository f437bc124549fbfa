"""What is known of the request that is being answered: its id, its address, who is asking."""

import re

from flask import Flask, Response, g, request
from uuid_utils import uuid7

from bank.events.types import Origin

_SANE_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)


def init_app(app: Flask) -> None:
    """Give every request an id (the client's own where it is sane) and send it back."""
    app.before_request(_begin)
    app.after_request(_end)


def new_id() -> str:
    """A new UUIDv7 (RFC 9562): unique, and roughly in the order of time."""
    return str(uuid7())


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _SANE_REQUEST_ID.fullmatch(given) else new_id()
    g.traceparent = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    # Where requests are traced, one that gives none gets one (`bank.observability.traces`).
    g.trace_id = g.traceparent[1] if g.traceparent else None


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    return response


def sent_by_own_page() -> bool:
    """Whether a browser sends the current request from a page of ours, and not because another site's page made it do so (OWASP, CSRF)."""
    site, page = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    return site == "same-origin" if site is not None else page == request.host_url.rstrip("/")


def user_agent() -> str | None:
    """By what program the caller asks, as it says itself and no longer than is worth keeping; None where it does not."""
    return request.headers.get("User-Agent", "")[:300] or None


def origin(actor_id: str | None) -> Origin:
    """Where the current request comes from, with `actor_id` as the one who acts."""
    return Origin(actor_id=actor_id, request_id=g.request_id, trace_id=g.trace_id, address=request.remote_addr)
