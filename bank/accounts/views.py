"""`/accounts`."""

from typing import Any
from uuid import UUID

from flask import Response, request

from bank.accounts import schemas, service
from bank.accounts.access import check_seen, check_teller, only_seen_by
from bank.auth.guard import MOVERS, login_required, origin, principal, viewer, whose
from bank.db import reader
from bank.errors import Forbidden, NotFound, Unprocessable
from bank.money import InvalidMoney, parse_amount
from bank.resilience.cache import cache
from bank.users.models import Role
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.conditional import ETAG, IF_MATCH, resource

blp = Blueprint("accounts", __name__, url_prefix="/api/v1/accounts", description="What money lies in.")


@blp.route("", methods=["POST"])
@login_required(*MOVERS)
@blp.arguments(schemas.OpenAccount(), example={"currency": "USD", "name": "Household"})
@blp.response(201, schemas.AccountAnswer, headers=ETAG, example={"balance": "0.00", "available": "0.00", "version": 0})
@blp.problem(404, "There is no such user, or it is not you.")
def open_account(body: dict[str, Any]) -> Response:
    """Open an account

    The first in a currency becomes the default for money that reaches the user. Staff name whose it is by `user_id`. Each call opens one
    more: there is no idempotency key here.
    """
    caller = principal()
    user_id = body.get("user_id", caller.id)
    if user_id != caller.id and caller.role == Role.CUSTOMER:
        raise NotFound
    if user_id != caller.id:
        check_seen(caller, user_id)
    account = service.open_account(user_id, body["currency"], body.get("name"), origin())
    return resource(service.present(account), service.etag(account), 201, f"/api/v1/accounts/{account.id}")


@blp.route("", methods=["GET"])
@login_required()
@blp.arguments(schemas.AccountQuery(), location="query")
@blp.response(200, schemas.AccountPage, headers=paging.LINK)
def list_accounts(query: dict[str, Any]) -> Response:
    """List accounts

    The caller's own, the oldest first; auditors and admins see everybody's, tellers their own and customers', or those of a `user_id`.
    Closed ones are in it too.
    """
    seen_by = only_seen_by(principal())
    rows = service.search(whose(query), query.get("currency"), query.get("status"), paging.after(query), query["limit"], seen_by)
    return paging.page(query, [service.present(row) for row in rows], [row.id for row in rows])


@blp.route("/<uuid:account_id>", methods=["GET"])
@login_required()
@blp.response(200, schemas.AccountAnswer, headers=ETAG)
@blp.problem(404, "Not there, or not yours.")
def get_account(account_id: UUID) -> Response:
    """Read one account

    By its owner and staff. `balance` is what was posted, `available` what can be spent: less what is held, with the overdraft.
    """
    owner_id, account = viewer(), cache().read("account", str(account_id))
    if account is None or owner_id not in (None, account["body"]["user_id"]):
        raise NotFound
    check_seen(principal(), account["body"]["user_id"])
    return resource(account["body"], account["etag"])


@blp.route("/<uuid:account_id>", methods=["PATCH"])
@login_required(*MOVERS)
@blp.arguments(schemas.ChangeAccount(), example={"name": "Household"})
@blp.doc(parameters=[IF_MATCH])
@blp.response(200, schemas.AccountAnswer, headers=ETAG)
@blp.problem(404, "Not there, or not yours.")
@blp.problem(
    409,
    "`account_closed`: a closed account stays as it is. `balance_not_zero`: it holds money or owes it. "
    "`balance_below_limit`: more overdraft is in use than the new limit.",
)
def change_account(body: dict[str, Any], account_id: UUID) -> Response:
    """Change an account

    Its owner names it; staff also freeze it, close it or set its overdraft limit. An account with money or a debt cannot be closed, and a
    closed one stays closed.
    """
    owner_id = viewer()
    account = service.get(str(account_id), owner_id)
    check_seen(principal(), account.user_id)
    if owner_id is not None and body.keys() & {"status", "overdraft_limit"}:
        raise Forbidden("Only staff may change the status or the overdraft limit.")
    with reader() as session:
        check_teller(session, principal(), account.user_id)
    if "overdraft_limit" in body:
        try:
            body["overdraft_limit"] = parse_amount(body["overdraft_limit"], account.currency, allow_zero=True)
        except InvalidMoney as error:
            raise Unprocessable.at("/overdraft_limit", str(error)) from None
    if_match = request.if_match.contains if "If-Match" in request.headers else None
    changed = service.change(account.id, owner_id, body, origin(), if_match)
    return resource(service.present(changed), service.etag(changed))


@blp.route("/<uuid:account_id>/entries", methods=["GET"])
@login_required()
@blp.arguments(paging.PageSchema(), location="query")
@blp.response(200, schemas.EntryPage, headers=paging.LINK)
@blp.problem(404, "Not there, or not yours.")
def list_entries(query: dict[str, Any], account_id: UUID) -> Response:
    """List the entries of an account

    Every posting, newest first, with the balance after it. By its owner and staff. Entries are never changed: a rollback adds some.
    """
    account = service.get(str(account_id), viewer())
    check_seen(principal(), account.user_id)
    rows = service.entries(account.id, paging.after(query), query["limit"])
    return paging.page(query, [service.present_entry(row) for row in rows], [row.version for row in rows])
