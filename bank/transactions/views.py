"""`/transactions`."""

import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
from flask import Response, request

from bank.auth.guard import MOVERS, login_required, origin, principal, whose
from bank.errors import LedgerRefused, Unprocessable
from bank.proof.schemas import ReceiptAnswer
from bank.transactions import parties, review, schemas, service, store
from bank.transactions.models import TransactionType
from bank.users.models import Role
from bank.web import paging
from bank.web.api import PROBLEM_TYPE, Blueprint, View
from bank.web.body import json_response
from bank.web.conditional import ETAG, resource
from bank.web.examples import ALICE, ALICES_ACCOUNT, BOB, BOBS_ACCOUNT, OTHER_TRANSACTION, TRANSACTION

blp = Blueprint("transactions", __name__, url_prefix="/api/v1/transactions", description="Moving money.")

_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*([0-9]{1,2})\s*(?:$|,|;)", re.ASCII | re.IGNORECASE)

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "The same key and body again: the first answer again, and the money moves once.",
    "example": "order-4711",
}

_HEADERS = [
    IDEMPOTENCY_KEY,
    {
        "in": "header",
        "name": "Prefer",
        "schema": {"type": "string"},
        "example": "wait=5",
        "description": "Hold the answer for up to 1 to 30 seconds, until the transaction is final (RFC 7240).",
    },
]


_LOCATION = {"Location": {"schema": {"type": "string"}, "description": "The transaction."}}
REPLAYED = {"Idempotent-Replayed": {"schema": {"type": "string", "enum": ["true"]}, "description": "It is the first answer again."}}
_APPLIED = {"Preference-Applied": {"schema": {"type": "string", "example": "wait=5"}, "description": "It was waited for."}}


def _documented(example: dict[str, Any], *, status: str = "completed", **answered: Any) -> Callable[[View], View]:
    """Document what every view that moves money takes and answers.

    `example` is the one of its body; `status` is what becomes of it, and `answered` what else the answer's example says of it.
    """
    answer, headers = schemas.TransactionAnswer, {**_LOCATION, **REPLAYED, **_APPLIED}
    # What the answer repeats of the body.
    told = {name: value for name, value in example.items() if name in answer().fields} | answered
    final = {"status": status, "completed_at": None if status == "held" else schemas.TIME["example"]}

    def documented(view: View) -> View:
        for document in (
            blp.doc(parameters=_HEADERS),
            blp.response(
                202, answer, description="Durable; it is posted in a moment, or its wait has run out.", headers=headers, example=told
            ),
            blp.alt_response(201, schema=answer, description="Posted within the wait.", headers=headers, example={**told, **final}),
            blp.alt_response(
                200,
                schema=schemas.PreviewAnswer,
                description="With `dry_run`: what would happen.",
                example={**told, **final, "id": None, "entries": []},
            ),
            blp.alt_response(
                422,
                schema=schemas.RefusedSchema,
                content_type=PROBLEM_TYPE,
                description="Not valid: `errors` names each place. Or refused by the ledger within the wait: `code` says why.",
                headers={**REPLAYED, **_APPLIED},
            ),
            blp.problem(404, "What the body or the path names is not there, or not yours."),
        ):
            view = document(view)
        return view

    return documented


_DEPOSIT = {"account_id": ALICES_ACCOUNT, "amount": "100.00", "currency": "USD", "description": "Cash", "reference": "TILL-3-0042"}
_WITHDRAWAL = {"account_id": ALICES_ACCOUNT, "amount": "20.00", "currency": "USD", "description": "Cash machine"}
_TRANSFER = {"to_username": "bob", "amount": "12.34", "currency": "USD", "description": "Rent for May", "metadata": {"order": "4711"}}
_CAPTURE = {"amount": "5.00", "description": "The first part"}
_VOID = {"reason": "Out of stock"}
_REFUND = {"amount": "2.34", "reason": "Returned goods"}


def idempotency_key() -> str | None:
    """The request's Idempotency-Key. Raises Unprocessable for one that is none."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise Unprocessable.at("/headers/Idempotency-Key", "Must be 1 to 255 printable ASCII characters.")
    return key


def _asked() -> service.Asked:
    """The request's Idempotency-Key and Prefer headers. Raises Unprocessable for a key that is none."""
    key = idempotency_key()
    wait = _WAIT.search(request.headers.get("Prefer", ""))
    # RFC 7240, 2: a preference that cannot be honoured is ignored.
    seconds = int(wait[1]) if wait and 1 <= int(wait[1]) <= 30 else 0
    return service.Asked(key, seconds)


def _submit(intent: parties.Intent, body: dict[str, Any], query: dict[str, Any]) -> Response:
    asked = _asked()
    if query.get("dry_run") == "true":
        return json_response(service.preview(intent, origin(), principal()))
    answer = service.submit(intent, body, origin(), asked)
    headers = {}
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    if answer.waited:
        headers["Preference-Applied"] = f"wait={asked.wait_seconds}"
    if answer.status == 422:
        raise LedgerRefused(orjson.loads(answer.body), headers)
    headers["Location"] = f"/api/v1/transactions/{answer.made_id}"
    return Response(answer.body, status=answer.status, mimetype="application/json", headers=headers)


@blp.route("/credit", methods=["POST"])
@login_required(*MOVERS)
@_documented(
    _DEPOSIT, type="credit", from_user_id=None, from_account_id=None, to_amount="100.00", to_user_id=ALICE, to_account_id=ALICES_ACCOUNT
)
@blp.arguments(schemas.CreditOrDebit(), example=_DEPOSIT)
@blp.arguments(schemas.DryRun(), location="query")
def credit(body: dict[str, Any], query: dict[str, Any]) -> Response:
    """Bring money in from the outside

    A teller's act, unless the bank lets customers deposit for themselves. By `account_id`, or by `user_id` into the user's default account,
    which is opened where there is none.
    """
    return _submit(parties.credit_or_debit(TransactionType.CREDIT, principal(), body), body, query)


@blp.route("/debit", methods=["POST"])
@login_required(*MOVERS)
@_documented(_WITHDRAWAL, type="debit", to_user_id=None, to_account_id=None, to_amount="20.00")
@blp.arguments(schemas.CreditOrDebit(), example=_WITHDRAWAL)
@blp.arguments(schemas.DryRun(), location="query")
def debit(body: dict[str, Any], query: dict[str, Any]) -> Response:
    """Pay money out to the outside

    Customers from their own accounts, tellers and admins from any customer's. It fails as `insufficient_funds` where more is asked for
    than is `available`.
    """
    return _submit(parties.credit_or_debit(TransactionType.DEBIT, principal(), body), body, query)


@blp.route("/transfer", methods=["POST"])
@login_required(*MOVERS)
@_documented(_TRANSFER)
@blp.arguments(schemas.Transfer(), example=_TRANSFER)
@blp.arguments(schemas.DryRun(), location="query")
def transfer(body: dict[str, Any], query: dict[str, Any]) -> Response:
    """Move money to another account, or hold it

    From an account of the caller's; admins from any. With `hold` it is reserved, until it is captured, voided or expires.
    """
    return _submit(parties.transfer(principal(), body), body, query)


_NOT_HELD = blp.problem(
    409, "`not_held`: no hold, or one that is not held yet. `idempotency_in_progress`: the first request with this key still runs."
)


@blp.route("/<uuid:transaction_id>/capture", methods=["POST"])
@login_required(*MOVERS)
@_documented(_CAPTURE, to_amount="5.00", captures_id=TRANSACTION, id=OTHER_TRANSACTION)
@blp.arguments(schemas.Capture(), required=False, example=_CAPTURE)
@blp.arguments(schemas.DryRun(), location="query")
@_NOT_HELD
def capture(body: dict[str, Any], query: dict[str, Any], transaction_id: UUID) -> Response:
    """Take what a hold has reserved, the whole or a part

    By staff, or by who is to receive the money. It is a transaction of its own, so there may be several, and each can be rolled back.
    """
    return _submit(parties.capture(principal(), str(transaction_id), body), {**body, "transaction_id": str(transaction_id)}, query)


@blp.route("/<uuid:transaction_id>/void", methods=["POST"])
@login_required(*MOVERS)
@_documented(_VOID, status="voided", description=_VOID["reason"], voids_id=TRANSACTION, id=OTHER_TRANSACTION)
@blp.arguments(schemas.Void(), required=False, example=_VOID)
@blp.arguments(schemas.DryRun(), location="query")
@_NOT_HELD
def void(body: dict[str, Any], query: dict[str, Any], transaction_id: UUID) -> Response:
    """Let a hold go, all that is left of it

    By staff, or by who was to receive the money. It is a transaction of its own, which moves nothing.
    """
    return _submit(parties.void(principal(), str(transaction_id), body), {**body, "transaction_id": str(transaction_id)}, query)


@blp.route("/<uuid:transaction_id>/rollback", methods=["POST"])
@login_required(*MOVERS)
@_documented(
    _REFUND,
    type="rollback",
    description=_REFUND["reason"],
    reverses_id=TRANSACTION,
    id=OTHER_TRANSACTION,
    to_amount="2.34",
    from_user_id=BOB,
    from_account_id=BOBS_ACCOUNT,
    to_user_id=ALICE,
    to_account_id=ALICES_ACCOUNT,
)
@blp.arguments(schemas.Rollback(), example=_REFUND)
@blp.arguments(schemas.DryRun(), location="query")
@blp.problem(
    409, "`not_reversible`: a rollback, or what is not completed. `idempotency_in_progress`: the first request with this key still runs."
)
def rollback(body: dict[str, Any], query: dict[str, Any], transaction_id: UUID) -> Response:
    """Move money back, the whole or a part

    By staff, or by who received it (a refund).
    """
    asked_for = {**body, "transaction_id": str(transaction_id)}
    return _submit(parties.rollback(principal(), str(transaction_id), body), asked_for, query)


def _ends_review(status: str, **ended: Any) -> Callable[[View], View]:
    """Document what both views that end a review take and answer; `status` and `ended` are what becomes of the transaction."""
    documents = (
        blp.arguments(schemas.DryRun(), location="query"),
        blp.arguments(schemas.EndReview(), required=False, example={"reason": "Called back by the customer"}),
        blp.doc(parameters=[IDEMPOTENCY_KEY]),
        blp.response(200, schemas.TransactionAnswer, headers=REPLAYED, example={"status": status, **ended}),
        blp.problem(404, "Not there."),
        blp.problem(403, "`same_person`: who asked for it or is a party to it does not decide. `forbidden`: only admins do."),
        blp.problem(
            409,
            "`not_under_review`: no rule had it held, or it was decided before. `not_approvable`: the ledger would refuse it now. "
            "`idempotency_in_progress`: the first request with this key still runs.",
        ),
    )

    def documented(view: View) -> View:
        for document in documents:
            view = document(view)
        return view

    return documented


def _end_review(transaction_id: UUID, approved: bool, body: dict[str, Any], query: dict[str, Any]) -> Response:
    ended = review.Ended(approved, body.get("reason"), body, idempotency_key(), query.get("dry_run") == "true")
    answer = review.end(str(transaction_id), ended, origin())
    headers = {"Idempotent-Replayed": "true"} if answer.replayed else {}
    return Response(answer.body, status=200, mimetype="application/json", headers=headers)


@blp.route("/<uuid:transaction_id>/approve", methods=["POST"])
@login_required(Role.ADMIN)
@_ends_review("completed", review="approved", completed_at=schemas.TIME["example"])
def approve(body: dict[str, Any], query: dict[str, Any], transaction_id: UUID) -> Response:
    """Let a payment go on that a rule had held

    By an admin who neither asked for it nor pays or receives it. It is posted at once; a hold stays held until it is captured.
    """
    return _end_review(transaction_id, True, body, query)


@blp.route("/<uuid:transaction_id>/reject", methods=["POST"])
@login_required(Role.ADMIN)
@_ends_review("failed", review="rejected", failure_code="rule_denied", completed_at=schemas.TIME["example"])
def reject(body: dict[str, Any], query: dict[str, Any], transaction_id: UUID) -> Response:
    """Refuse a payment that a rule had held

    By the same. It fails as `rule_denied`, and what was held for it is free.
    """
    return _end_review(transaction_id, False, body, query)


@blp.route("/history", methods=["GET"])
@login_required()
@blp.arguments(schemas.History(), location="query")
@blp.response(200, schemas.TransactionPage, headers=paging.LINK)
@blp.problem(404, "The account is not there, or not yours.")
def history(query: dict[str, Any]) -> Response:
    """List transactions, newest first

    Customers see those of their own accounts, tellers those of customers and their own, auditors and admins all.
    """
    filters = {name: value for name, value in query.items() if name != "cursor"} | {"user_id": whose(query)}
    rows = service.history(store.HistoryQuery(before=paging.after(query), **filters), principal())
    return paging.page(query, [store.present(row) for row in rows], [row.seq for row in rows])


@blp.route("/<uuid:transaction_id>", methods=["GET"])
@login_required()
@blp.response(200, schemas.TransactionWithEntries, headers=ETAG)
@blp.problem(404, "Not there, or not yours.")
def get_transaction(transaction_id: UUID) -> Response:
    """Read one transaction with its entries

    For its two parties and staff. The balance after an entry is shown to the account's owner and to staff.
    """
    found = service.get(str(transaction_id), principal())
    return resource(found, f"{found['status']}-{found['rolled_back_amount']}-{found['captured_amount']}-{found['review']}")


@blp.route("/<uuid:transaction_id>/explanation", methods=["GET"])
@login_required()
@blp.response(200, schemas.ExplanationAnswer)
@blp.problem(404, "Not there, or not yours.")
def get_explanation(transaction_id: UUID) -> Response:
    """Read why a transaction was refused or passed

    Each check with its limit and what was used before, in their order. For whose account pays (or is credited from outside) and staff.
    """
    return json_response(service.explain(str(transaction_id), principal()))


@blp.route("/<uuid:transaction_id>/receipt", methods=["GET"])
@login_required()
@blp.response(200, ReceiptAnswer)
@blp.problem(404, "Not there, or not yours.")
@blp.problem(409, "`not_sealed`: try again in a moment. `not_as_sealed`: somebody has changed the log.")
def get_receipt(transaction_id: UUID) -> Response:
    """Read the proof that a transaction is in the sealed log

    To be checked offline, with the bank's public key alone, by `bank verify-receipt` or docs/recipes/verify_receipt.py. For its two
    parties and staff. The balances after it are closed to the parties, and who asked for it to all but auditors and admins.
    """
    return json_response(service.receipt(str(transaction_id), principal()))
