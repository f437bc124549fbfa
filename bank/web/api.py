"""flask-smorest with our strictness: how a request's parts are read, and who answers errors."""

import re
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar

import flask_smorest
from apispec import APISpec
from flask import Request, request
from flask_smorest.utils import prepare_response
from marshmallow import RAISE, Schema, fields
from webargs import missing
from webargs.flaskparser import FlaskParser

from bank.errors import Unprocessable
from bank.web.examples import example_of, example_of_problem, path_parameter

View = TypeVar("View", bound=Callable[..., Any])

PROBLEM_TYPE = "application/problem+json"

_ID = re.compile(r"<uuid:(\w+)>")


class StrictParser(FlaskParser):
    """Reads bodies by `bank.web.body`, and refuses unknown query parameters; webargs drops these by default."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        twice = [name for name, values in req.args.lists() if len(values) > 1]
        if twice:
            raise Unprocessable(errors=[{"pointer": f"/{name}", "message": "Given twice."} for name in twice])
        return super().load_querystring(req, schema)

    def _raw_load_json(self, req: Request) -> Any:
        # webargs's own takes any JSON, duplicate keys and NaN included, and a body of any other
        # type for none at all.
        return req.get_json() if req.get_data(cache=True) else missing


class _ErrorSchema(Schema):
    """One thing that is wrong with the request."""

    pointer = fields.String(required=True, metadata={"description": "A JSON pointer (RFC 6901).", "example": "/amount"})
    message = fields.String(required=True, metadata={"example": "USD has 2 decimals, not 3."})


class ProblemSchema(Schema):
    """An error (RFC 9457)."""

    type = fields.String(required=True, metadata={"format": "uri-reference", "example": "/problems/validation-failed"})
    title = fields.String(required=True, metadata={"example": "The request is not valid"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(required=True, metadata={"description": "A sentence for a person.", "example": "The request is not valid"})
    instance = fields.String(
        required=True, metadata={"description": "The path that was asked for.", "example": "/api/v1/transactions/transfer"}
    )
    code = fields.String(required=True, metadata={"description": "Stable, in snake_case.", "example": "validation_failed"})
    request_id = fields.String(required=True, allow_none=True, metadata={"example": "order-4711"})
    errors = fields.List(fields.Nested(_ErrorSchema))


def _keep_parameters(doc: dict[str, Any], doc_info: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    # The parameters of a `blp.doc` would take the place of those of the query's schema; headers come on top.
    manual = doc_info.get("manual_doc", {})
    if "parameters" in manual:
        manual["parameters"] = [*doc.get("parameters", []), *manual["parameters"]]
    return doc


def _add_conditions(doc: dict[str, Any], doc_info: dict[str, Any], method: str, **kwargs: Any) -> dict[str, Any]:
    """Document what a GET of one resource answers to who names the ETag they know."""
    found = [response for status, response in doc.get("responses", {}).items() if str(status) == "200" and isinstance(response, dict)]
    if method == "get" and any("ETag" in response.get("headers", {}) for response in found):
        headers = {"ETag": found[0]["headers"]["ETag"]}
        doc["responses"][304] = {"description": "`If-None-Match` names the `ETag` that it still has.", "headers": headers}
    return doc


_RETRY_AFTER = {"Retry-After": {"schema": {"type": "integer", "example": 1}, "description": "In how many seconds to try again."}}


def _add_problems(doc: dict[str, Any], doc_info: dict[str, Any], spec: APISpec, **kwargs: Any) -> dict[str, Any]:
    """Document the problems that an operation can answer by its nature; what its view says of a status stays."""
    headers = {parameter["name"] for parameter in doc_info.get("manual_doc", {}).get("parameters", []) if parameter["in"] == "header"}
    has_body = "requestBody" in doc
    possible = {
        400: (has_body, "The body is not JSON, has a key twice or nests too deep."),
        409: ("Idempotency-Key" in headers, "`idempotency_in_progress`: the first request with this key is still running."),
        412: ("If-Match" in headers or 304 in doc.get("responses", {}), "`If-Match` names an older version."),
        413: (has_body, "The body is larger than 64 KB."),
        415: (has_body, "The body does not say that it is JSON."),
        422: (True, "Not valid; `errors` names each place."),
        429: (True, "Too many requests."),
        503: (True, "A part that is needed is out of reach; try again."),
    }
    responses = doc.setdefault("responses", {})
    for status, (applies, description) in possible.items():
        # What stands there as text is the name of a common response, which says less than this.
        if applies and not isinstance(responses.get(status), dict):
            responses[status] = {"description": description, "schema": ProblemSchema}
            prepare_response(responses[status], spec, PROBLEM_TYPE)
        if status in (429, 503):
            responses[status].setdefault("headers", _RETRY_AFTER)
    return doc


def _add_examples(doc: dict[str, Any], doc_info: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Give each answer the example that its schema makes, but for what the view says is else in this one."""
    for status, response in doc["responses"].items():
        # What stands there as text is the name of a common response, which has its own.
        content = response.get("content", {}) if isinstance(response, dict) else {}
        if answer := content.get("application/json"):
            answer["example"] = example_of(answer["schema"], answer.get("example"))
        if problem := content.get(PROBLEM_TYPE):
            problem["example"] = example_of_problem(problem["schema"], int(status), response["description"])
    return doc


def _without_query(view: Callable[..., Any]) -> Callable[..., Any]:
    # A `?dry_run=true` where there is no such thing must not do the act.
    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if request.args:
            errors = [{"pointer": f"/{name}", "message": "Unknown field."} for name in request.args]
            raise Unprocessable(errors=errors)
        return view(*args, **kwargs)

    return guarded


class Blueprint(flask_smorest.Blueprint):
    """The parent of all our blueprints."""

    ARGUMENTS_PARSER = StrictParser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks += [_keep_parameters, _add_conditions, _add_problems, _add_examples]

    def add_url_rule(self, rule: str, endpoint: str | None = None, view_func: Any = None, *args: Any, **options: Any) -> None:
        """Register a view under a stable operation id; one that reads no query refuses every query parameter."""
        arguments = getattr(view_func, "_apidoc", {}).get("arguments", {}).get("parameters", [])
        if not any(argument["in"] == "query" for argument in arguments):
            view_func = _without_query(view_func)
        view_func = self.doc(operationId=f"{self.name}_{view_func.__name__}")(view_func)
        options["parameters"] = [path_parameter(name) for name in _ID.findall(rule)]
        super().add_url_rule(rule, endpoint, view_func, *args, **options)

    def problem(self, status: int, description: str) -> Callable[[View], View]:
        """Document that a view may answer with a problem of this status; `description` says when."""
        decorate: Callable[[View], View] = self.alt_response(
            status, schema=ProblemSchema, content_type=PROBLEM_TYPE, description=description
        )
        return decorate

    def streamed(self, content_type: str, example: str) -> Callable[[View], View]:
        """Document that a view gives all its rows as `content_type` too; `example` is how that begins."""
        decorate: Callable[[View], View] = self.alt_response(200, schema={"type": "string"}, content_type=content_type, example=example)
        return decorate


class Api(flask_smorest.Api):
    """The OpenAPI document and its blueprints."""

    def _register_responses(self) -> None:
        """Offer the answers that are referred to by name, as what they are; the original says application/json."""
        named = [(status.name, status.phrase) for status in HTTPStatus if status >= 400]
        for name, description in [*named, (self.DEFAULT_ERROR_RESPONSE_NAME, "Any other error.")]:
            response = {"description": description, "schema": ProblemSchema}
            prepare_response(response, self.spec, PROBLEM_TYPE)
            self.spec.components.response(name, response, lazy=True)

    def _register_error_handlers(self) -> None:
        """Leave every error to `bank.web.problems`: flask-smorest's own handler would be the more specific one."""
