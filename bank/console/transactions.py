"""Transactions: looking for them, following one, and what people do to one."""

from typing import Any
from uuid import UUID

from flask import redirect, request, url_for
from werkzeug.wrappers import Response

from bank.audit import service as audit
from bank.auth.guard import MOVERS, origin, principal, whose
from bank.console.pages import GOES_ON, STOPS, Reason, blp, further, loaded, page
from bank.console.session import signed_in
from bank.db import reader
from bank.errors import NotFound, Unprocessable
from bank.events import store as events
from bank.proof.receipts import NotAsSealed, NotSealed
from bank.transactions import parties, review, schemas, service, store
from bank.transactions.models import TransactionStatus, TransactionType
from bank.users.models import Role
from bank.web import paging
from bank.web.body import json_response
from bank.web.context import new_id


@blp.get("/transactions")
@signed_in()
def list_transactions() -> Response:
    """The newest first, by the filters of the API."""
    query = loaded(schemas.History(), request.args)
    filters = {name: value for name, value in query.items() if name != "cursor"} | {"user_id": whose(query)}
    rows = service.history(store.HistoryQuery(before=paging.after(query), **filters), principal())
    return page(
        "transactions",
        transactions=[store.present(row) for row in rows[: query["limit"]]],
        more=further(query, [row.seq for row in rows]),
        types=[each.value for each in TransactionType],
        statuses=[each.value for each in TransactionStatus],
        asked=request.args,
    )


@blp.get("/transactions/<uuid:transaction_id>")
@signed_in()
def show_transaction(transaction_id: UUID) -> Response:
    """One transaction from its request to its entries, its events and its seal."""
    return page("transaction", **_followed(str(transaction_id)))


@blp.get("/transactions/<uuid:transaction_id>/followed")
@signed_in()
def follow_transaction(transaction_id: UUID) -> Response:
    """The same without the page around it, until it is final."""
    followed = _followed(str(transaction_id))
    return page("followed", GOES_ON if followed["transaction"]["status"] == "pending" else STOPS, **followed)


def _may(transaction: dict[str, Any]) -> list[str]:
    """What this caller may ask to have done to it; whether it can be, the services say."""
    who, may = principal(), []
    receives = transaction["to_user_id"] == who.id
    moved = transaction["status"] == "completed" and transaction["type"] != TransactionType.ROLLBACK and transaction["expires_at"] is None
    if moved and (who.role in (Role.TELLER, Role.ADMIN) or (who.role == Role.CUSTOMER and receives)):
        may.append("rollback")
    if transaction["review"] == "open" and who.role == Role.ADMIN:
        may += ["approve", "reject"]
    return may


def _followed(transaction_id: str) -> dict[str, Any]:
    found = service.get(transaction_id, principal())
    try:
        explanation = service.explain(transaction_id, principal())
    except NotFound:
        # It is for who pays.
        explanation = None
    unsealed, changed = "", ""
    try:
        service.receipt(transaction_id, principal())
    except NotSealed as error:
        unsealed = f"{error.title}. {error.detail}"
    except NotAsSealed as error:
        changed = f"{error.title}. {error.detail}"
    logged, audited = [], []
    if principal().may_read_all:
        with reader() as session:
            of_events = events.read(session, {"stream_id": transaction_id}, 0, paging.MAX_LIMIT)
            of_audit = audit.read(session, {"entity_type": "transaction", "entity_id": transaction_id}, None, paging.MAX_LIMIT)
        logged = [audit.present_event(row) for row in of_events]
        audited = [audit.present(row) for row in of_audit]
    # Of a batch's items nothing is audited when they are taken in.
    asked_by = logged[0]["request_id"] if logged else None
    return {
        "transaction": found,
        "may": _may(found),
        "explanation": explanation,
        "unsealed": unsealed,
        "changed": changed,
        "events": logged,
        "audited": audited,
        "address": next((row["address"] for row in audited if row["request_id"] == asked_by), None),
    }


@blp.get("/transactions/<uuid:transaction_id>/receipt")
@signed_in()
def save_receipt(transaction_id: UUID) -> Response:
    """The receipt as a file, to be checked by `bank verify-receipt`."""
    response = json_response(service.receipt(str(transaction_id), principal()))
    response.headers.set("Content-Disposition", "attachment", filename=f"receipt-{transaction_id}.json")
    return response


@blp.get("/transactions/<uuid:transaction_id>/rollback")
@signed_in(*MOVERS)
def ask_rollback(transaction_id: UUID) -> Response:
    """How much is to be moved back, and why."""
    return _confirm(transaction_id, "rollback")


@blp.post("/transactions/<uuid:transaction_id>/rollback")
@signed_in(*MOVERS)
def roll_back(transaction_id: UUID) -> Response:
    """Move money back."""
    body = loaded(schemas.Rollback(), request.form, "csrf", "key")
    intent = parties.rollback(principal(), str(transaction_id), body)
    asked_for = {**body, "transaction_id": str(transaction_id)}
    answer = service.submit(intent, asked_for, origin(), service.Asked(_key(), 0))
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
    return page("confirm", transaction=service.get(str(transaction_id), principal()), action=action, key=new_id())


def _key() -> str:
    try:
        return f"console-{UUID(request.form['key'])}"
    except (KeyError, ValueError):
        raise Unprocessable.at("/key", "Open the form again.") from None
