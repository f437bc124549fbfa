"""`/accounts/{id}/statement`."""

from typing import Any
from uuid import UUID

from flask import Response

from bank.accounts.access import check_seen
from bank.auth.guard import login_required, principal, viewer
from bank.balances.service import holder
from bank.statements import schemas, service
from bank.statements.pdf import pdf_of
from bank.statements.table import COLUMNS, csv_of
from bank.web import streaming
from bank.web.api import Blueprint

blp = Blueprint("statements", __name__, url_prefix="/api/v1/accounts", description="What was booked to an account over some days.")

_PDF, _XML = "application/pdf", "application/xml"
_TYPES = {"csv": streaming.CSV, "pdf": _PDF, "camt053": _XML}
_ENDINGS = {streaming.CSV: "csv", _PDF: "pdf", _XML: "xml"}

_CSV_EXAMPLE = (
    ",".join(COLUMNS) + "\r\nopening,,2026-01-01,,,0.00,USD,,,,,,\r\nentry,2026-01-31,2026-01-31,12.34,credit,12.34,USD,"
    "019b2f6e-8a00-7000-8000-000000000001,transfer,Rent,R-17,019b2f6e-8a00-7000-8000-000000000002,\r\n"
    "closing,,2026-01-31,,,12.34,USD,,,,,,\r\n"
)
_XML_EXAMPLE = f"<?xml version='1.0' encoding='UTF-8'?>\n<Document xmlns=\"{schemas.CAMT053}\"><BkToCstmrStmt><GrpHdr>"


@blp.route("/<uuid:account_id>/statement", methods=["GET"])
@login_required()
@blp.arguments(schemas.StatementQuery(), location="query")
@blp.response(200, {"type": "string"}, content_type=streaming.CSV, example=_CSV_EXAMPLE)
@blp.streamed(_PDF, "%PDF-1.3")
@blp.streamed(_XML, _XML_EXAMPLE)
@blp.problem(404, "Not there, or not yours.")
@blp.problem(406, "There is CSV, PDF and XML (camt.053).")
def get_statement(query: dict[str, Any], account_id: UUID) -> Response:
    """Read the statement of an account as CSV, PDF or camt.053

    Opening balance, every entry whose value date is from `from` to the day before `to` (UTC), with the balance after it in the order of
    value, and closing balance; both balances are those of `/balances/at-time`. What is pending or held is not in it. By `Accept` or
    `format`; at most 10,000 entries, as PDF 1,000.
    """
    return file_of(query, str(account_id))


def file_of(query: dict[str, Any], account_id: str) -> Response:
    """The statement that a loaded StatementQuery asks for, as a file to save. Raises NotFound, NotAcceptable and Unprocessable."""
    held = holder(account_id, viewer())
    check_seen(principal(), held.user_id)
    mimetype = _TYPES[query["format"]] if "format" in query else streaming.negotiate(_PDF, _XML, otherwise=streaming.CSV)
    made = service.statement(held, query["since"], query["until"], service.MAX_PDF_LINES if mimetype == _PDF else service.MAX_LINES)
    response = streaming.varied(Response(_body(made, mimetype), mimetype=mimetype))
    response.headers.set(
        "Content-Disposition", "attachment", filename=f"statement-{account_id}-{made.since}-{made.until}.{_ENDINGS[mimetype]}"
    )
    return response


def _body(made: service.Statement, mimetype: str) -> bytes:
    if mimetype == _PDF:
        return pdf_of(made)
    if mimetype == _XML:
        # Not above: see there.
        from bank.statements.camt053 import camt053_of

        return camt053_of(made)
    return b"".join(csv_of(made))
