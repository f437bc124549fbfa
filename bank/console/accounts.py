"""Accounts: what they hold, how that came, and freezing them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from flask import redirect, request, url_for
from sqlalchemy import Row
from werkzeug.wrappers import Response

from bank.accounts import schemas, service
from bank.accounts.access import check_seen, check_teller, only_seen_by
from bank.auth.guard import origin, principal, viewer, whose
from bank.balances import service as balances
from bank.console.charts import line
from bank.console.pages import Reason, blp, further, loaded, page
from bank.console.session import signed_in
from bank.db import reader
from bank.errors import Conflict
from bank.statements.schemas import FORMATS, StatementQuery
from bank.statements.views import file_of
from bank.users.models import Role
from bank.web import paging

_DAYS = 90


@blp.get("/accounts")
@signed_in()
def list_accounts() -> Response:
    """The caller's own; for staff everybody's, or a user's."""
    query = loaded(schemas.AccountQuery(), request.args)
    rows = service.search(
        whose(query), query.get("currency"), query.get("status"), paging.after(query), query["limit"], only_seen_by(principal())
    )
    return page(
        "accounts",
        accounts=[service.present(row) for row in rows[: query["limit"]]],
        more=further(query, [row.id for row in rows]),
    )


@blp.get("/accounts/<uuid:account_id>")
@signed_in()
def show_account(account_id: UUID) -> Response:
    """What it holds, the line of its balance, its entries and its statement."""
    query = loaded(paging.PageSchema(), request.args)
    account = _seen(account_id)
    today = datetime.now(UTC).date()
    held = balances.Holder(account.id, account.user_id, account.currency)
    steps = balances.historical(held, _midnight(today - timedelta(days=_DAYS)), datetime.now(UTC), "day")
    rows = service.entries(account.id, paging.after(query), query["limit"])
    return page(
        "account",
        account=service.present(account),
        chart=line([Decimal(steps[0]["opening"]), *(Decimal(step["closing"]) for step in steps)], steps=True),
        since=steps[0]["from"][:10],
        entries=[service.present_entry(row) for row in rows[: query["limit"]]],
        more=further(query, [row.version for row in rows]),
        formats=FORMATS,
        month=today.replace(day=1),
        tomorrow=today + timedelta(days=1),
    )


def _seen(account_id: UUID) -> Row[Any]:
    """The account. Raises NotFound when it is not there, or not for the caller to read."""
    account = service.get(str(account_id), viewer())
    check_seen(principal(), account.user_id)
    return account


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


@blp.get("/accounts/<uuid:account_id>/statement")
@signed_in()
def save_statement(account_id: UUID) -> Response:
    """The statement as a file."""
    return file_of(loaded(StatementQuery(), request.args), str(account_id))


@blp.get("/accounts/<uuid:account_id>/<any(freeze, unfreeze):action>")
@signed_in(Role.TELLER, Role.ADMIN)
def ask_freeze(account_id: UUID, action: str) -> Response:
    """Whether it is really meant."""
    return page("freeze", account=service.present(_seen(account_id)), action=action)


@blp.post("/accounts/<uuid:account_id>/<any(freeze, unfreeze):action>")
@signed_in(Role.TELLER, Role.ADMIN)
def freeze(account_id: UUID, action: str) -> Response:
    """Let nothing move on an account, or let it again. The audit log keeps the reason."""
    reason = loaded(Reason(), request.form, "csrf")["reason"]
    status = "frozen" if action == "freeze" else "active"
    account = _seen(account_id)
    with reader() as session:
        check_teller(session, principal(), account.user_id)
    if account.status == status:
        raise Conflict(f"The account is {status} already.")
    service.change(account.id, viewer(), {"status": status}, origin(), reason=reason)
    return redirect(url_for("console.show_account", account_id=account_id), 303)
