"""Transactions: looking for them, following one, and what people do to one."""

import re
from contextlib import suppress
from typing import Any
from uuid import UUID

from flask import redirect, request, url_for
from werkzeug.wrappers import Response

from bank.audit import service as audit
from bank.auth.guard import origin, principal, viewer
from bank.batches import service as batches
from bank.console.pages import Reason, blp, further, loaded, page
from bank.console.session import signed_in
from bank.db import reader
from bank.errors import Conflict, Forbidden, NotFound, Unprocessable
from bank.events import store as events
from bank.schedules import service as schedules
from bank.transactions import parties, review, schemas, service, store
from bank.users.models import Role
from bank.web import paging
from bank.web.body import json_response
from bank.web.context import new_id
from bank.web.fields import timestamp

_MOVERS = (Role.CUSTOMER, Role.TELLER, Role.ADMIN)
# How long a page waits for what became of it.
_WAIT_SECONDS = 5
# As `new_id` makes them: what is no text to PostgreSQL must not reach it.
_MADE_KEY = re.compile(r"[0-9a-f-]{36}", re.ASCII)


@blp.get("/transactions")
@signed_in()
def list_transactions() -> Response:
    """The newest first, by the filters of the API."""
    query = loaded(schemas.History(), request.args)
    filters = {name: value for name, value in query.items() if name != "cursor"}
    if viewer() is not None and "user_id" in filters:
        raise Forbidden
    rows = service.history(store.HistoryQuery(before=paging.after(query), **filters), viewer())
    return page(
        "transactions",
        transactions=[store.present(row) for row in rows[: query["limit"]]],
        more=further(query, [row.seq for row in rows]),
        types=schemas.History().fields["type"].metadata["enum"],
        statuses=schemas.History().fields["status"].metadata["enum"],
        asked=request.args,
    )


@blp.get("/transactions/<uuid:transaction_id>")
@signed_in()
def show_transaction(transaction_id: UUID) -> Response:
    """One transaction from its request to its entries, its events and its seal."""
    found = service.get(str(transaction_id), viewer())
    return page("transaction", transaction=found, may=_may(found), orders=_orders(found), **_followed(str(transaction_id)))


def _may(transaction: dict[str, Any]) -> list[str]:
    """What this caller may ask to have done to it; whether it can be, the services say."""
    who, may = principal(), []
    receives = transaction["to_user_id"] == who.id
    # Neither a way back nor a hold has one; a rolled back part leaves its original "completed".
    movable = transaction["status"] == "completed" and transaction["type"] != "rollback" and transaction["expires_at"] is None
    if movable and (who.role in (Role.TELLER, Role.ADMIN) or (who.role == Role.CUSTOMER and receives)):
        may.append("rollback")
    if transaction["review"] == "open" and who.role == Role.ADMIN:
        may += ["approve", "reject"]
    return may


def _orders(transaction: dict[str, Any]) -> set[str]:
    """Which of the batch and the schedule that it comes from this caller may see: who is paid sees neither."""
    seen = set()
    if transaction["batch_id"]:
        with suppress(NotFound):
            batches.get(transaction["batch_id"], viewer(), None, None, 1)
            seen.add("batch")
    if transaction["schedule_id"]:
        with suppress(NotFound):
            schedules.get(transaction["schedule_id"], viewer())
            seen.add("schedule")
    return seen


def _followed(transaction_id: str) -> dict[str, Any]:
    try:
        explanation = service.explain(transaction_id, viewer())
    except NotFound:
        # It is for who pays.
        explanation = None
    unsealed: str | None = None
    try:
        service.receipt(transaction_id, viewer(), origin=False)
    except Conflict as error:
        unsealed = f"{error.title}. {error.detail}"
    logged, audited = [], []
    if principal().may_read_all:
        with reader() as session:
            logged = [
                {**row._mapping, "recorded_at": timestamp(row.recorded_at)}
                for row in events.read(session, {"stream_id": transaction_id}, 0, paging.MAX_LIMIT)
            ]
            audited = [
                {**row._mapping, "created_at": timestamp(row.created_at)}
                for row in audit.read(session, {"entity_type": "transaction", "entity_id": transaction_id}, None, paging.MAX_LIMIT)
            ]
    return {"explanation": explanation, "unsealed": unsealed, "events": logged, "audited": audited}


@blp.get("/transactions/<uuid:transaction_id>/receipt")
@signed_in()
def save_receipt(transaction_id: UUID) -> Response:
    """The receipt as a file, to be checked by `bank verify-receipt`."""
    response = json_response(service.receipt(str(transaction_id), viewer(), origin=principal().may_read_all))
    response.headers.set("Content-Disposition", "attachment", filename=f"receipt-{transaction_id}.json")
    return response


@blp.get("/transactions/<uuid:transaction_id>/rollback")
@signed_in(*_MOVERS)
def ask_rollback(transaction_id: UUID) -> Response:
    """How much is to be moved back, and why."""
    return _confirm(transaction_id, "rollback")


@blp.post("/transactions/<uuid:transaction_id>/rollback")
@signed_in(*_MOVERS)
def roll_back(transaction_id: UUID) -> Response:
    """Move money back."""
    body = loaded(schemas.Rollback(), request.form, "csrf", "key")
    intent = parties.rollback(principal(), str(transaction_id), body)
    asked_for = {**body, "transaction_id": str(transaction_id)}
    answer = service.submit(intent, asked_for, origin(), service.Asked(_key(), _WAIT_SECONDS))
    return redirect(url_for("console.show_transaction", transaction_id=answer.made_id), 303)


@blp.get("/transactions/<uuid:transaction_id>/<any(approve, reject):decision>")
@signed_in(Role.ADMIN)
def ask_review(transaction_id: UUID, decision: str) -> Response:
    """Whether it is really meant."""
    return _confirm(transaction_id, decision)


@blp.post("/transactions/<uuid:transaction_id>/<any(approve, reject):decision>")
@signed_in(Role.ADMIN)
def end_review(transaction_id: UUID, decision: str) -> Response:
    """Let it go on, or refuse it."""
    body = loaded(Reason(), request.form, "csrf", "key")
    review.end(str(transaction_id), review.Ended(decision == "approve", body["reason"], body, _key(), False), origin())
    return redirect(url_for("console.show_transaction", transaction_id=transaction_id), 303)


def _confirm(transaction_id: UUID, action: str) -> Response:
    # The key is made with the form: who sends it twice does it once.
    return page("confirm", transaction=service.get(str(transaction_id), viewer()), action=action, key=new_id())


def _key() -> str:
    key = request.form.get("key", "")
    if not _MADE_KEY.fullmatch(key):
        raise Unprocessable.at("/key", "Not the key of a form. Open the page again.")
    return f"console-{key}"
