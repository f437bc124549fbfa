"""Logging in and out, the overview, and finding things."""

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from flask import current_app, redirect, request, url_for
from werkzeug.exceptions import NotFound as NoSuchPage
from werkzeug.wrappers import Response

from bank.accounts import service as accounts
from bank.accounts.access import check_seen
from bank.auth import service as auth
from bank.auth.guard import origin, principal, standing, viewer
from bank.auth.schemas import Credentials
from bank.batches import service as batches
from bank.console import session, throughput
from bank.console.charts import line
from bank.console.pages import blp, loaded, page
from bank.console.session import signed_in
from bank.db import databases
from bank.errors import BankError, NotFound, Unauthenticated
from bank.observability import stats
from bank.processing.queue import bells
from bank.schedules import service as schedules
from bank.transactions import service as transactions
from bank.transactions import store
from bank.users import service as users
from bank.users.models import Role
from bank.web import context
from bank.web.fields import timestamp
from bank.web.limits import by_address

_MOST_FOUND = 20


@blp.get("/login")
def log_in() -> Response:
    """The form."""
    return page("login", next=request.args.get("next", ""), refusal=None)


@blp.post("/login")
@by_address
def begin_login() -> Response:
    """Log in, by the same throttle as the API."""
    session.require_own_page()
    try:
        told = loaded(Credentials(), request.form, "next")
        before = session.current()
        begun = auth.begin_login(told["username"], told["password"], told.get("code"), context.user_agent(), context.origin(None))
    except BankError as error:
        response = page("login", error.status, next=request.form.get("next", ""), refusal=error.detail)
        response.headers.extend(error.headers)
        return response
    if before is not None:
        # Nobody could end it any more: its cookie is overwritten.
        with suppress(Unauthenticated):
            auth.logout(standing(before.user_id, before.login_id), context.origin(before.user_id))
    return session.start(begun)


@blp.post("/logout")
@signed_in(renews=False, enrolling=True)
def log_out() -> Response:
    """End the login."""
    auth.logout(principal(), origin())
    return session.end(redirect(url_for("console.log_in"), 303))


@blp.get("/")
@signed_in()
def home() -> Response:
    """What the bank is doing for who may see all; their accounts for customers."""
    role = principal().role
    if role == Role.CUSTOMER:
        return redirect(url_for("console.list_accounts"))
    if role == Role.TELLER:
        return redirect(url_for("console.list_transactions"))
    return page("overview", **_live())


@blp.get("/live")
@signed_in(Role.ADMIN, Role.AUDITOR)
def live() -> Response:
    """What moves on the overview."""
    return page("live", moved=True, **_live())


def _live() -> dict[str, Any]:
    numbers = stats.gather()
    rates = throughput.per_second(numbers)
    reviews = [
        store.present(row) for row in transactions.history(store.HistoryQuery(limit=_MOST_FOUND, review="open"), principal())[:_MOST_FOUND]
    ]
    parts = databases()
    breakers = [parts.primary, *([parts.replica] if current_app.config["BANK"].database_replica_url else []), bells.breaker]
    return {
        # The numbers stay on the page when nobody answers any more, and must not look like those of now.
        "at": timestamp(datetime.now(UTC)),
        "numbers": numbers,
        "sums": {name: sum(numbers[name].values()) for name in ("accepted", "posted", "failed")},
        "rate": rates[-1] if rates else None,
        "chart": line(rates),
        "reviews": reviews,
        "breakers": {breaker.name: breaker.state for breaker in breakers},
    }


@blp.get("/find")
@signed_in()
def find() -> Response:
    """Go to what has this id; else list what was asked for by this request, has this reference, or is called so."""
    asked = request.args.get("q", "").strip()
    if not asked or len(asked) > 254 or not asked.isprintable():
        raise NotFound("Give an id, the id of a request, a reference or a name.")
    with suppress(ValueError):
        where = _by_id(str(UUID(asked)))
        if where is not None:
            return redirect(where)
    found = transactions.history(store.HistoryQuery(limit=_MOST_FOUND, request_id=asked), principal())
    found = found or transactions.history(store.HistoryQuery(limit=_MOST_FOUND, reference=asked), principal())
    if len(found) == 1:
        return redirect(url_for("console.show_transaction", transaction_id=found[0].id))
    named = users.search(principal(), {"q": asked, "limit": _MOST_FOUND}, None) if viewer() is None else []
    return page("found", asked=asked, transactions=[store.present(row) for row in found[:_MOST_FOUND]], users=named[:_MOST_FOUND])


def _by_id(given: str) -> str | None:
    """Where the thing with this id is shown, for who may see it."""
    with suppress(NotFound):
        transactions.get(given, principal())
        return url_for("console.show_transaction", transaction_id=given)
    with suppress(NotFound):
        check_seen(principal(), accounts.get(given, viewer()).user_id)
        return url_for("console.show_account", account_id=given)
    with suppress(NotFound):
        check_seen(principal(), schedules.get(given, viewer()).from_user_id)
        return url_for("console.show_schedule", schedule_id=given)
    with suppress(NotFound):
        batches.get(given, principal(), None, None, 1)
        return url_for("console.show_batch", batch_id=given)
    if viewer() is None:
        with suppress(NotFound):
            users.get(principal(), given)
            return url_for("console.list_accounts", user_id=given)
    return None


@blp.get("/<path:other>")
def nowhere(other: str) -> Response:
    """A page, and no problem document, for who followed a dead link."""
    raise NoSuchPage
