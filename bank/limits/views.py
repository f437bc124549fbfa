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
@limits.arguments(schemas.SetLimit(), example={"role": "customer", "currency": "USD", "kind": "sum", "amount": "1000.00", "window": "day"})
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
    """List limits

    Oldest first. Admins and auditors; customers see what a limit did to a payment in its explanation.
    """
    filters = {name: value for name, value in query.items() if name not in ("limit", "cursor")}
    rows = service.limits(filters, paging.after(query), query["limit"])
    return paging.page(query, [service.present_limit(row) for row in rows], [row.id for row in rows])


@limits.route("/<uuid:limit_id>", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@limits.response(200, schemas.LimitAnswer, headers=ETAG)
@limits.problem(404, "Not there, or removed.")
def get_limit(limit_id: UUID) -> Response:
    """Read one limit

    Admins and auditors. What its kind does not say is null.
    """
    row = service.limit(str(limit_id))
    return resource(service.present_limit(row), service.etag(row))


@limits.route("/<uuid:limit_id>", methods=["PATCH"])
@login_required(Role.ADMIN)
@limits.arguments(schemas.ChangeLimit(), example={"amount": "1000.00"})
@limits.doc(parameters=[IF_MATCH])
@limits.response(200, schemas.LimitAnswer, headers=ETAG)
@limits.problem(404, "Not there, or removed.")
def change_limit(body: dict[str, Any], limit_id: UUID) -> Response:
    """Change a limit

    Admins only. It counts for all that is decided from now on. Whom it is for, its currency and its kind stay: set another for that.
    """
    row = service.change_limit(str(limit_id), body, origin())
    return resource(service.present_limit(row), service.etag(row))


@limits.route("/<uuid:limit_id>", methods=["DELETE"])
@login_required(Role.ADMIN)
@limits.doc(parameters=[IF_MATCH])
@limits.response(204)
@limits.problem(404, "Not there, or removed.")
def remove_limit(limit_id: UUID) -> Response:
    """Remove a limit

    Admins only. What was decided by it stays explained: its history is in the events.
    """
    service.remove_limit(str(limit_id), origin())
    return Response(status=204)


@rules.route("", methods=["POST"])
@login_required(Role.ADMIN)
@rules.arguments(
    schemas.SetRule(),
    example={"name": "Large transfers", "expression": schemas.EXPRESSION["example"], "effect": "review"},
)
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
    """List rules

    Oldest first, in the order in which they are asked. Admins and auditors.
    """
    rows = service.rules(paging.after(query), query["limit"])
    return paging.page(query, [service.present_rule(row) for row in rows], [row.id for row in rows])


@rules.route("/<uuid:rule_id>", methods=["GET"])
@login_required(Role.ADMIN, Role.AUDITOR)
@rules.response(200, schemas.RuleAnswer, headers=ETAG)
@rules.problem(404, "Not there, or removed.")
def get_rule(rule_id: UUID) -> Response:
    """Read one rule

    Admins and auditors. Its amounts are minor units.
    """
    row = service.rule(str(rule_id))
    return resource(service.present_rule(row), service.etag(row))


@rules.route("/<uuid:rule_id>", methods=["PATCH"])
@login_required(Role.ADMIN)
@rules.arguments(schemas.ChangeRule(), example={"enabled": False})
@rules.doc(parameters=[IF_MATCH])
@rules.response(200, schemas.RuleAnswer, headers=ETAG)
@rules.problem(404, "Not there, or removed.")
def change_rule(body: dict[str, Any], rule_id: UUID) -> Response:
    """Change a rule

    Admins only; `enabled` switches it on or off. It counts for all that is decided from now on, and what waits for
    a review goes on waiting.
    """
    row = service.change_rule(str(rule_id), body, origin())
    return resource(service.present_rule(row), service.etag(row))


@rules.route("/<uuid:rule_id>", methods=["DELETE"])
@login_required(Role.ADMIN)
@rules.doc(parameters=[IF_MATCH])
@rules.response(204)
@rules.problem(404, "Not there, or removed.")
def remove_rule(rule_id: UUID) -> Response:
    """Remove a rule

    Admins only. What was decided by it stays explained, and what waits for a review goes on waiting.
    """
    service.remove_rule(str(rule_id), origin())
    return Response(status=204)
