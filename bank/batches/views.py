"""`/transactions/batch`."""

from typing import Any
from uuid import UUID

from flask import Request, Response, request

from bank.auth.guard import MOVERS, login_required, origin, principal
from bank.batches import schemas, service, upload
from bank.batches.models import BatchMode
from bank.errors import Unprocessable
from bank.transactions.service import Asked
from bank.transactions.views import IDEMPOTENCY_KEY, REPLAYED, idempotency_key
from bank.web import paging
from bank.web.api import Blueprint, StrictParser
from bank.web.body import json_response
from bank.web.examples import ALICES_ACCOUNT

# Ten thousand transactions, each with a description of its own.
MOST_BYTES = 8 * 1024 * 1024

CSV = "text/csv"


class _Parser(StrictParser):
    """Takes a larger body than the other routes, and CSV in the place of JSON."""

    def _raw_load_json(self, req: Request) -> Any:
        req.max_content_length = MOST_BYTES
        if req.mimetype != CSV:
            return super()._raw_load_json(req)
        told = {"mode": req.args["mode"]} if "mode" in req.args else {}
        return {**told, "transactions": upload.read(req.get_data(), schemas.MOST_ITEMS)}


class _Blueprint(Blueprint):
    ARGUMENTS_PARSER = _Parser()


blp = _Blueprint("batches", __name__, url_prefix="/api/v1/transactions/batch", description="Moving money many times at once.")

_HEADERS = {
    "Location": {"schema": {"type": "string"}, "description": "The batch, and how far it is."},
    **REPLAYED,
}
_EXAMPLE = "type,to_username,amount,currency,reference\ntransfer,bob,12.34,USD,INV-1\ntransfer,bob,5.00,USD,INV-2\n"


@blp.route("", methods=["POST"])
@login_required(*MOVERS)
@blp.doc(
    parameters=[IDEMPOTENCY_KEY],
    requestBody={"content": {CSV: {"schema": {"type": "string"}, "example": _EXAMPLE}}},
)
@blp.response(202, schemas.BatchAnswer, description="Durable; it is posted in a moment.", headers=_HEADERS)
@blp.alt_response(200, schema=schemas.BatchPreview, description="With `dry_run`: what would happen to each.")
@blp.problem(404, "There is no such thing here.")
@blp.problem(413, "The body is larger than 8 MB.")
@blp.problem(415, "The body says that it is neither JSON nor CSV.")
@blp.arguments(
    schemas.SubmitBatch(),
    example={
        "mode": "atomic",
        "transactions": [
            {"type": "transfer", "to_username": "bob", "amount": "12.34", "currency": "USD", "reference": "INV-1"},
            {"type": "debit", "account_id": ALICES_ACCOUNT, "amount": "5.00", "currency": "USD", "reference": "INV-2"},
        ],
    },
)
@blp.arguments(schemas.SubmitQuery(), location="query")
def submit_batch(body: dict[str, Any], query: dict[str, Any]) -> Response:
    """Move money up to 10,000 times at once

    Each transaction sees the effects of those before it. Where one is bad, nothing is accepted, and `errors` names up to a hundred
    of them. What the ledger refuses later fails alone, or takes the others of an atomic batch with it. Credits, debits
    and transfers as on their own routes, with a `type`; a CSV upload has a header of the same names.
    """
    if "mode" in query and request.mimetype != CSV:
        raise Unprocessable.at("/mode", "Belongs into the JSON body.")
    how = Asked(idempotency_key(), 0)
    mode = BatchMode(body["mode"])
    if query.get("dry_run") == "true":
        return json_response(service.preview(mode, body["transactions"], principal(), origin()))
    answer = service.submit(mode, body["transactions"], principal(), origin(), how)
    headers = {"Location": f"/api/v1/transactions/batch/{answer.made_id}"}
    if answer.replayed:
        headers["Idempotent-Replayed"] = "true"
    return Response(answer.body, status=answer.status, mimetype="application/json", headers=headers)


@blp.route("/<uuid:batch_id>", methods=["GET"])
@login_required()
@blp.arguments(schemas.BatchQuery(), location="query")
@blp.response(200, schemas.BatchPage, headers=paging.LINK)
@blp.problem(404, "Not there, or not yours.")
def get_batch(query: dict[str, Any], batch_id: UUID) -> Response:
    """See how far a batch is, and its transactions in their order

    For who made it and staff; each party finds theirs in `/transactions/history?batch_id=`.
    """
    batch, rows = service.get(str(batch_id), principal(), query.get("status"), paging.after(query), query["limit"])
    return paging.page(query, rows, [row["index"] for row in rows], batch)
