"""The one place that makes error answers: `application/problem+json` (RFC 9457) for all of them."""

from typing import Any

import orjson
import structlog
from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException
from werkzeug.http import HTTP_STATUS_CODES

from bank.errors import (
    BankError,
    Forbidden,
    MalformedRequest,
    NotAcceptable,
    NotFound,
    PreconditionFailed,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
    Unprocessable,
)

log = structlog.get_logger(__name__)

CODES = {
    400: "malformed_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    422: "validation_failed",
    429: "too_many_requests",
    431: "headers_too_large",
    500: "internal_error",
    503: "unavailable",
}
"""The stable codes of what Flask and its extensions raise by themselves."""

# RFC 9457, 3.1.3: one type of problem has one title, whoever raised it.
_OURS = (
    BankError,
    MalformedRequest,
    Unauthenticated,
    Forbidden,
    NotFound,
    NotAcceptable,
    PreconditionFailed,
    Unprocessable,
    TooManyAttempts,
    Unavailable,
)
_TITLES = {error.code: error.title for error in _OURS}


def init_app(app: Flask) -> None:
    """Answer every error of the application as a problem."""
    app.register_error_handler(BankError, from_error)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(Exception, _from_bug)
    app.before_request(_refuse_what_is_no_text)


def _refuse_what_is_no_text() -> None:
    # What is percent-encoded may be any bytes (RFC 3986, 2). Raw ones that are not UTF-8 would fail whoever asks for the arguments.
    try:
        request.query_string.decode()
    except UnicodeDecodeError:
        raise MalformedRequest("The query of the address is not UTF-8.") from None


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    errors: list[dict[str, str]] | None = None,
    headers: dict[str, str] | None = None,
    members: dict[str, Any] | None = None,
) -> Response:
    """A problem document. `code` is the stable name; `type` is a URI reference made from it."""
    body: dict[str, Any] = {
        "type": f"/problems/{code.replace('_', '-')}",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": request.path,
        "code": code,
        "request_id": g.get("request_id"),
    }
    if errors:
        body["errors"] = errors
    body |= members or {}
    return Response(orjson.dumps(body), status=status, mimetype="application/problem+json", headers=headers)


def from_error(error: BankError) -> Response:
    """The problem that tells a client of `error`."""
    return problem(
        error.status,
        error.code if not hasattr(error, "failure_code") else error.failure_code,
        error.title,
        error.detail,
        errors=error.errors,
        headers=error.headers,
        members=error.members,
    )


def _from_http(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:
        # A redirect is an exception to werkzeug, and no error.
        return error.get_response()  # type: ignore[return-value]
    # Headers such as Allow and Retry-After are part of the answer; the HTML body is not.
    headers = {name: value for name, value in error.get_headers() if name.lower() != "content-type"}
    messages = getattr(error, "data", {}).get("messages") if status == 422 else None
    phrase = HTTP_STATUS_CODES.get(status, "Error")
    code = CODES.get(status, phrase.lower().replace(" ", "_"))
    title = _TITLES.get(code, phrase)
    return problem(
        status,
        code,
        title,
        title if messages or not error.description else error.description,
        errors=pointers(messages) if messages else None,
        headers=headers,
    )


def _from_bug(error: Exception) -> Response:
    log.error("request_failed", path=request.path, method=request.method, exc_info=error)
    return problem(BankError.status, BankError.code, BankError.title, "Something went wrong on our side.")


def pointers(messages: dict[str, Any]) -> list[dict[str, str]]:
    """marshmallow's nested messages as a flat list of `pointer` and `message`; the first key (json, query, …) is webargs's location."""
    found: list[dict[str, str]] = []

    def walk(pointer: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, child in node.items():
                escaped = str(key).replace("~", "~0").replace("/", "~1")
                walk(pointer if key == "_schema" else f"{pointer}/{escaped}", child)
        elif isinstance(node, list):
            for child in node:
                walk(pointer, child)
        else:
            found.append({"pointer": pointer, "message": str(node)})

    for located in messages.values():
        walk("", located)
    return found
