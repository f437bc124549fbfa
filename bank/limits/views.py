"""`/limits` and `/rules`: what customers may pay. Admins set them, auditors read them."""

from typing import Any
from uuid import UUID

from flask import Response

from bank.auth.guard import login_required, origin
from bank.limits import schemas, service
from bank.users.models import Role
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.conditional import ETAG, IF_MATCH, resource

limits = Blueprint("limits", __name__, url_prefix="/api/v1/limits", description="What customers may pay.")
rules = Blueprint("rules", __name__, url_prefix="/api/v1/rules", description="Conditions on what customers pay.")

_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "Where it is read."}}


@limits.route("", methods=["POST"])
@login_required(Role.ADMIN)
@limits.arguments(schemas.SetLimit())
@limits.response(201, schemas.LimitAnswer, headers={**_LOCATION, **ETAG})
@limits.problem(409, "`too_many_limits`: there are 50 for this role, user or account.")
def set_limit(body: dict[str, Any]) -> Response:
    """Set a limit for a role, a user or an account

    It counts for all that is decided from now on, with what was paid before. Where several apply, each does.
    """
    row = service.set_limit(body, origin())
    return resource(service.present_limit(row), service.etag(row), 201, f"/api/v1/limits/{row.id}")


@limits.route("", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@limits.arguments(schemas.LimitQuery(), location="query")
@limits.response(200, schemas.LimitPage, headers=paging.LINK)
def list_limits(query: dict[str, Any]) -> Response:
    """List limits, oldest first"""
    filters = {name: value for name, value in query.items() if name not in ("limit", "cursor")}
    rows = service.limits(filters, paging.after(query), query["limit"])
    return paging.page(query, [service.present_limit(row) for row in rows], [row.id for row in rows])


@limits.route("/<uuid:limit_id>", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@limits.response(200, schemas.LimitAnswer, headers=ETAG)
@limits.problem(404, "Not there, or removed.")
def get_limit(limit_id: UUID) -> Response:
    """Read one limit"""
    row = service.limit(str(limit_id))
    return resource(service.present_limit(row), service.etag(row))


@limits.route("/<uuid:limit_id>", methods=["PATCH"])
@login_required(Role.ADMIN)
@limits.arguments(schemas.ChangeLimit())
@limits.doc(parameters=[IF_MATCH])
@limits.response(200, schemas.LimitAnswer, headers=ETAG)
@limits.problem(404, "Not there, or removed.")
def change_limit(body: dict[str, Any], limit_id: UUID) -> Response:
    """Change a limit"""
    row = service.change_limit(str(limit_id), body, origin())
    return resource(service.present_limit(row), service.etag(row))


@limits.route("/<uuid:limit_id>", methods=["DELETE"])
@login_required(Role.ADMIN)
@limits.doc(parameters=[IF_MATCH])
@limits.response(204)
@limits.problem(404, "Not there, or removed.")
def remove_limit(limit_id: UUID) -> Response:
    """Remove a limit; its history stays"""
    service.remove_limit(str(limit_id), origin())
    return Response(status=204)


@rules.route("", methods=["POST"])
@login_required(Role.ADMIN)
@rules.arguments(schemas.SetRule())
@rules.response(201, schemas.RuleAnswer, headers={**_LOCATION, **ETAG})
@rules.problem(409, "`too_many_rules`: there are 50.")
def set_rule(body: dict[str, Any]) -> Response:
    """Set a rule for what customers pay

    It counts for all that is decided from now on. A rule that comes to no answer, as for a key that is not there, is taken to be true.
    """
    row = service.set_rule(body, origin())
    return resource(service.present_rule(row), service.etag(row), 201, f"/api/v1/rules/{row.id}")


@rules.route("", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@rules.arguments(paging.PageSchema(), location="query")
@rules.response(200, schemas.RulePage, headers=paging.LINK)
def list_rules(query: dict[str, Any]) -> Response:
    """List rules, oldest first, as they are asked"""
    rows = service.rules(paging.after(query), query["limit"])
    return paging.page(query, [service.present_rule(row) for row in rows], [row.id for row in rows])


@rules.route("/<uuid:rule_id>", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@rules.response(200, schemas.RuleAnswer, headers=ETAG)
@rules.problem(404, "Not there, or removed.")
def get_rule(rule_id: UUID) -> Response:
    """Read one rule"""
    row = service.rule(str(rule_id))
    return resource(service.present_rule(row), service.etag(row))


@rules.route("/<uuid:rule_id>", methods=["PATCH"])
@login_required(Role.ADMIN)
@rules.arguments(schemas.ChangeRule())
@rules.doc(parameters=[IF_MATCH])
@rules.response(200, schemas.RuleAnswer, headers=ETAG)
@rules.problem(404, "Not there, or removed.")
def change_rule(body: dict[str, Any], rule_id: UUID) -> Response:
    """Change a rule, or switch it on or off"""
    row = service.change_rule(str(rule_id), body, origin())
    return resource(service.present_rule(row), service.etag(row))


@rules.route("/<uuid:rule_id>", methods=["DELETE"])
@login_required(Role.ADMIN)
@rules.doc(parameters=[IF_MATCH])
@rules.response(204)
@rules.problem(404, "Not there, or removed.")
def remove_rule(rule_id: UUID) -> Response:
    """Remove a rule; its history stays"""
    service.remove_rule(str(rule_id), origin())
    return Response(status=204)
