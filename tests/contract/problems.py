"""What every error answer must look like."""

import json
import re
from typing import Any

from werkzeug.test import TestResponse

CODES = {
    400: {"malformed_request"},
    401: {"unauthenticated", "invalid_credentials"},
    403: {"forbidden", "same_person"},
    404: {"not_found"},
    405: {"method_not_allowed"},
    406: {"not_acceptable"},
    412: {"precondition_failed"},
    413: {"body_too_large"},
    415: {"unsupported_media_type"},
    422: {"validation_failed"},
    429: {"too_many_requests"},
    500: {"internal_error"},
}

# One type has one title, over all answers of a run (RFC 9457, 3.1.3).
_titles: dict[str, str] = {}


def check_problem(response: TestResponse, status: int, pointer: str | None = None) -> dict[str, Any]:
    """Check that the answer is the contract's problem of this status, and return it.

    With a `pointer`, one of its errors must point there.
    """
    problem = check_form(response, status)
    if status in CODES:
        assert problem["code"] in CODES[status]
    if pointer is not None:
        assert pointer in [error["pointer"] for error in problem["errors"]]
    return problem


def check_form(response: TestResponse, status: int) -> dict[str, Any]:
    """Check that the answer is a problem of this status, whatever its code, and return it."""
    assert response.status_code == status, (response.status_code, response.get_data(as_text=True)[:500])
    assert response.mimetype == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.data)
    required = {"type", "title", "status", "detail", "instance", "code", "request_id"}
    assert required <= problem.keys() <= required | {"errors", "transaction"}
    assert problem["status"] == status
    assert problem["instance"] == response.request.path
    assert problem["request_id"] == response.headers["X-Request-ID"]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", problem["code"])
    assert problem["type"] == "/problems/" + problem["code"].replace("_", "-")
    assert _titles.setdefault(problem["type"], problem["title"]) == problem["title"]
    for error in problem.get("errors", []):
        assert error.keys() == {"pointer", "message"}
        assert error["pointer"] == "" or error["pointer"].startswith("/")
        assert error["message"]
    return problem
