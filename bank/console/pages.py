"""What all pages have in common: the blueprint, how a page is made, and what is shown in the place of one that cannot be."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

import structlog
from flask import Blueprint, g, make_response, render_template, request
from marshmallow import Schema, ValidationError
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from bank.auth.guard import principal
from bank.console import session
from bank.errors import BankError, Unprocessable
from bank.users.models import Role
from bank.web import paging, problems
from bank.web.fields import StrictSchema, Text

log = structlog.get_logger(__name__)

blp = Blueprint("console", __name__, url_prefix="/console", template_folder="templates", static_folder="static")

# By these htmx goes on asking for a part of a page, or stops.
GOES_ON, STOPS = 200, 286

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}


class Reason(StrictSchema):
    """Why somebody does what they are asked for once more. The API does without; a browser's `required` is no check."""

    reason = Text(required=True, most=500)


def page(name: str, status: int = 200, **shown: Any) -> Response:
    """The page, or the part of one, that the template makes of what is `shown`."""
    if "session" in g:
        role = principal().role
        shown |= {
            "csrf": session.csrf(),
            "me": principal().id,
            "role": role.value,
            "staff": role != Role.CUSTOMER,
            "sees_all": principal().may_read_all,
        }
    return make_response(render_template(f"console/{name}.html", **shown), status)


def loaded(schema: Schema, given: MultiDict[str, str], *left_out: str) -> dict[str, Any]:
    """What a form or a query holds, by the API's own schema; what was left empty was not given. Raises Unprocessable."""
    twice = [name for name, values in given.lists() if len(values) > 1]
    if twice:
        raise Unprocessable(errors=[{"pointer": f"/{name}", "message": "Given twice."} for name in twice])
    try:
        found: dict[str, Any] = schema.load({name: value for name, value in given.items() if value and name not in left_out})
    except ValidationError as error:
        raise Unprocessable(errors=problems.pointers({"form": error.messages_dict})) from None
    return found


def further(query: dict[str, Any], keys: Sequence[Any]) -> str | None:
    """The address of the page behind this one, as `paging.next_cursor` tells of one."""
    cursor = paging.next_cursor(query, keys)
    return cursor and f"{request.path}?{urlencode({**request.args.to_dict(), 'cursor': cursor})}"


@blp.after_request
def _protect(response: Response) -> Response:
    response.headers.extend(_HEADERS)
    if request.endpoint != "console.static":
        response.headers["Cache-Control"] = "no-store"
    return response


def _trouble(status: int, title: str, detail: str | None, errors: Sequence[dict[str, str]] = ()) -> Response:
    # Where htmx asks for a part of a page, it says so in the place of what has become old.
    name = "trouble" if "HX-Request" in request.headers else "error"
    return page(name, status, title=title, detail=detail, errors=errors)


@blp.errorhandler(BankError)
def _refused(error: BankError) -> Response:
    response = _trouble(error.status, error.title, error.detail, error.errors or ())
    response.headers.extend(error.headers)
    return response


@blp.errorhandler(HTTPException)
def _not_so(error: HTTPException) -> Response:
    return _trouble(error.code or 500, error.name, error.description)


@blp.errorhandler(Exception)
def _bug(error: Exception) -> Response:
    log.error("page_failed", path=request.path, exc_info=error)
    return _trouble(500, "Something went wrong on our side", "It was logged under the id below.")


@blp.app_template_filter("clock")
def _clock(moment: str) -> str:
    """A timestamp of the API as people read one, to the second and in UTC."""
    return f"{moment[:10]} {moment[11:19]}"
