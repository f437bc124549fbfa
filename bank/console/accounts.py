"""Accounts: what they hold, how that came, and freezing them."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from flask import redirect, request, url_for
from werkzeug.wrappers import Response

from bank.accounts import schemas, service
from bank.accounts.access import check_teller
from bank.auth.guard import origin, principal, viewer
from bank.balances import service as balances
from bank.console.charts import line
from bank.console.pages import Reason, blp, further, loaded, page
from bank.console.session import signed_in
from bank.db import reader
from bank.errors import Forbidden
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
    owner_id = viewer()
    if "user_id" in query:
        if owner_id not in (None, query["user_id"]):
            raise Forbidden
        owner_id = query["user_id"]
    rows = service.search(owner_id, query.get("currency"), query.get("status"), paging.after(query), query["limit"])
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
    account = service.get(str(account_id), viewer())
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
    return page("freeze", account=service.present(service.get(str(account_id), viewer())), action=action)


@blp.post("/accounts/<uuid:account_id>/<any(freeze, unfreeze):action>")
@signed_in(Role.TELLER, Role.ADMIN)
def freeze(account_id: UUID, action: str) -> Response:
    """Let nothing move on an account, or let it again. The audit log keeps the reason."""
    reason = loaded(Reason(), request.form, "csrf")["reason"]
    account = service.get(str(account_id), viewer())
    with reader() as session:
        check_teller(session, principal(), account.user_id)
    service.change(account.id, viewer(), {"status": "frozen" if action == "freeze" else "active"}, origin(), reason=reason)
    return redirect(url_for("console.show_account", account_id=account_id), 303)
