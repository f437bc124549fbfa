"""flask-smorest with our strictness: how a request's parts are read, and who answers errors."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

import flask_smorest
from flask import Request
from flask_smorest.utils import prepare_response
from marshmallow import RAISE, Schema, fields
from webargs import missing
from webargs.flaskparser import FlaskParser

View = TypeVar("View", bound=Callable[..., Any])

_PROBLEM_TYPE = "application/problem+json"


class _StrictParser(FlaskParser):
    """Reads bodies by `bank.web.body`, and refuses unknown query parameters; webargs drops these by default."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}

    def _raw_load_json(self, req: Request) -> Any:
        # webargs's own takes any JSON, duplicate keys and NaN included, and a body of any other
        # type for none at all.
        return req.get_json() if req.get_data(cache=True) else missing


class _ErrorSchema(Schema):
    """One thing that is wrong with the request."""

    pointer = fields.String(required=True, metadata={"description": "A JSON pointer (RFC 6901).", "example": "/amount"})
    message = fields.String(required=True)


class ProblemSchema(Schema):
    """An error (RFC 9457)."""

    type = fields.String(required=True, metadata={"format": "uri-reference", "example": "/problems/validation-failed"})
    title = fields.String(required=True, metadata={"example": "The request is not valid"})
    status = fields.Integer(required=True, metadata={"example": 422})
    detail = fields.String(required=True)
    instance = fields.String(required=True, metadata={"description": "The path that was asked for."})
    code = fields.String(required=True, metadata={"description": "Stable, in snake_case.", "example": "validation_failed"})
    request_id = fields.String(required=True, allow_none=True)
    errors = fields.List(fields.Nested(_ErrorSchema))


def _keep_parameters(doc: dict[str, Any], doc_info: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    # The parameters of a `blp.doc` would take the place of those of the query's schema; headers come on top.
    manual = doc_info.get("manual_doc", {})
    if "parameters" in manual:
        manual["parameters"] = [*doc.get("parameters", []), *manual["parameters"]]
    return doc


class Blueprint(flask_smorest.Blueprint):
    """The parent of all our blueprints."""

    ARGUMENTS_PARSER = _StrictParser()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._prepare_doc_cbks.append(_keep_parameters)

    def problem(self, status: int, description: str) -> Callable[[View], View]:
        """Document that a view may answer with a problem of this status; `description` says when."""
        decorate: Callable[[View], View] = self.alt_response(
            status, schema=ProblemSchema, content_type=_PROBLEM_TYPE, description=description
        )
        return decorate


class Api(flask_smorest.Api):
    """The OpenAPI document and its blueprints."""

    def _register_responses(self) -> None:
        """Offer the answers that are referred to by name, as what they are; the original says application/json."""
        named = [(status.name, status.phrase) for status in HTTPStatus if status >= 400]
        for name, description in [*named, (self.DEFAULT_ERROR_RESPONSE_NAME, "Any other error.")]:
            response = {"description": description, "schema": ProblemSchema}
            prepare_response(response, self.spec, _PROBLEM_TYPE)
            self.spec.components.response(name, response, lazy=True)

    def _register_error_handlers(self) -> None:
        """Leave every error to `bank.web.problems`: flask-smorest's own handler would be the more specific one."""
