"""`/balances`."""

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Response

from bank.accounts.access import check_seen, only_seen_by
from bank.auth.guard import login_required, principal, viewer, whose
from bank.balances import schemas, service
from bank.errors import NotFound, Unprocessable
from bank.money import format_amount
from bank.resilience.cache import cache
from bank.web import paging
from bank.web.api import Blueprint
from bank.web.body import json_response
from bank.web.fields import timestamp

blp = Blueprint("balances", __name__, url_prefix="/api/v1/balances", description="Balances now, then, at any time.")


@blp.route("/current", methods=["GET"])
@login_required()
@blp.arguments(schemas.CurrentQuery(), location="query")
@blp.response(200, schemas.BalancePage, headers=paging.LINK)
@blp.problem(404, "The account is not there, or not yours.")
def current(query: dict[str, Any]) -> Response:
    """Read what accounts hold now

    The caller's own; anybody's for auditors and admins, customers' for tellers. `available` is what can be spent: less what is held,
    with the overdraft.
    """
    owner_id, account_id = whose(query), query.get("account_id")
    if query.keys() <= {"account_id", "limit"} and account_id:
        balance = cache().read("balance", account_id)
        if balance is None or owner_id not in (None, balance["user_id"]):
            raise NotFound
        check_seen(principal(), balance["user_id"])
        return paging.page(query, [balance], [account_id])
    seen_by = only_seen_by(principal())
    rows = service.current(owner_id, account_id, query.get("currency"), paging.after(query), query["limit"], seen_by)
    if account_id and not rows:
        # An account that is there, but in another currency than asked for, is an empty list.
        check_seen(principal(), service.holder(account_id, owner_id).user_id)
    return paging.page(query, [service.present(row) for row in rows], [row[0] for row in rows])


@blp.route("/historical", methods=["GET"])
@login_required()
@blp.arguments(schemas.HistoricalQuery(), location="query")
@blp.response(200, schemas.HistoricalAnswer)
@blp.problem(404, "The account is not there, or not yours.")
def historical(query: dict[str, Any]) -> Response:
    """Read a balance step by step

    Opening, closing, credits, debits and count per hour, day, week or month, in UTC and by `effective_at`; steps in which nothing happened
    are there too. By the account's owner and staff.
    """
    held = service.holder(query["account_id"], viewer())
    check_seen(principal(), held.user_id)
    until = query.get("until", datetime.now(UTC))
    since = query.get("since", until - timedelta(days=30))
    if since >= until:
        raise Unprocessable.at("/from", "Must lie before `to`.")
    steps = service.historical(held, since, until, query["interval"])
    return json_response(
        {
            "account_id": held.account_id,
            "user_id": held.user_id,
            "currency": held.currency,
            "interval": query["interval"],
            "data": steps,
        }
    )


@blp.route("/at-time", methods=["GET"])
@login_required()
@blp.arguments(schemas.AtTimeQuery(), location="query")
@blp.response(200, schemas.AtTimeAnswer)
@blp.problem(404, "The account is not there, or not yours.")
def at_time(query: dict[str, Any]) -> Response:
    """Read the balance at a moment

    What counted at `at`, as the bank knew it at `known_at`: later, backdated entries may have come. By the account's owner and staff.
    """
    held = service.holder(query["account_id"], viewer())
    check_seen(principal(), held.user_id)
    known_at = query.get("known_at")
    # Taken before the balance is read, and so never later than what was known.
    now = datetime.now(UTC)
    amount = service.at_time(held.account_id, query["at"], known_at)
    return json_response(
        {
            "account_id": held.account_id,
            "user_id": held.user_id,
            "currency": held.currency,
            "amount": format_amount(amount, held.currency),
            "at": timestamp(query["at"]),
            "known_at": timestamp(known_at or now),
        }
    )
