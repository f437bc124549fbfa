"""ETags of single resources, and the If-Match that protects a change from another's (RFC 9110, 13.1.1)."""

from typing import Any

from flask import Response, request

from bank.errors import PreconditionFailed
from bank.web.body import json_response

# What views document.
ETAG = {"ETag": {"schema": {"type": "string", "example": '"3-17"'}, "description": "Changes with the resource."}}
IF_MATCH = {
    "in": "header",
    "name": "If-Match",
    "schema": {"type": "string"},
    "example": '"3-17"',
    "description": "The ETag that was read; the change is refused (412) when the resource has changed since.",
}


def resource(body: dict[str, Any], etag: str, status: int = 200, location: str | None = None) -> Response:
    """The response for one resource with its ETag; a GET that knows it already gets 304.

    Raises PreconditionFailed when a GET wants another than there is.
    """
    if request.method in ("GET", "HEAD"):
        # Not by `make_conditional`, whose 412 is no problem but the resource itself, and which takes no `*` for what is there.
        check_if_match(etag)
    response = json_response(body, status)
    response.set_etag(etag)
    if location:
        response.headers["Location"] = location
    if request.method in ("GET", "HEAD") and request.if_none_match.contains_weak(etag):
        # Of the headers only those that tell which one it is: there is no body whose type or length they could tell.
        return Response(status=304, headers={"ETag": response.headers["ETag"]})
    return response


def check_if_match(etag: str) -> None:
    """Raise PreconditionFailed when the request's If-Match does not name `etag`. Without one, all is well."""
    # The header and not what was understood of it: one that names nothing protects from everything.
    if "If-Match" in request.headers and not request.if_match.contains(etag):
        raise PreconditionFailed
