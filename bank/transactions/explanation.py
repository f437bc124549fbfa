"""Why a transaction was refused or passed: what was asked before it was decided, from its own events."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.errors import NotFound
from bank.events.types import Happened, TransactionCompleted, TransactionFailed, TransactionHeld, TransactionVoided, load
from bank.ledger.decide import FailureCode
from bank.limits.checks import LimitKind
from bank.money import format_amount
from bank.transactions import store
from bank.web.fields import timestamp

# What the ledger asks, in this order, and by which codes each says no. `original`: only of what points at another transaction.
_LEDGER: dict[str, set[str]] = {
    "request": {FailureCode.SAME_ACCOUNT, FailureCode.CURRENCY_MISMATCH},
    "status": {FailureCode.ACCOUNT_CLOSED, FailureCode.ACCOUNT_FROZEN},
    "original": {
        FailureCode.ALREADY_ROLLED_BACK,
        FailureCode.AMOUNT_EXCEEDS_ORIGINAL,
        FailureCode.HOLD_EXPIRED,
        FailureCode.HOLD_CLOSED,
    },
    "funds": {FailureCode.INSUFFICIENT_FUNDS},
    "range": {FailureCode.AMOUNT_OUT_OF_RANGE},
}

# These tell of no question that was asked: the others of its batch failed, or it could not be written.
_NOT_ASKED = {FailureCode.BATCH_REFUSED, FailureCode.INTERNAL_ERROR}

_EVENTS = text("SELECT type, schema, data, actor_id::text, recorded_at FROM events WHERE stream_id = CAST(:id AS uuid) ORDER BY version")


def explain(session: Session, transaction_id: str, viewer_id: str | None) -> dict[str, Any]:
    """Each check of a transaction and how it came out, for staff (`viewer_id` None) and for whose account it pays from, or is for where
    the money comes from outside. Raises NotFound."""
    row = store.get(session, transaction_id)
    if row is None or viewer_id not in (None, row.from_user_id or row.to_user_id):
        raise NotFound
    told = session.execute(_EVENTS, {"id": transaction_id}).all()
    decided_at, checks, review = None, [], None
    for each in told:
        event = load(each.type, each.schema, each.data)
        if decided_at is None and isinstance(event, TransactionCompleted | TransactionFailed | TransactionHeld | TransactionVoided):
            decided_at, checks = each.recorded_at, _checks(event, row)
        elif each.type in ("TransactionApproved", "TransactionRejected"):
            review = each
    return {
        "transaction_id": row.id,
        "status": row.status,
        "failure_code": row.failure_code,
        "decided_at": timestamp(decided_at),
        "checks": present(checks, row.currency, staff=viewer_id is None),
        "review": None if row.review is None else _review(row, review, viewer_id),
    }


def _review(row: Row[Any], ended: Row[Any] | None, viewer_id: str | None) -> dict[str, Any]:
    return {
        "status": row.review,
        "decided_at": timestamp(ended.recorded_at) if ended else None,
        # Who works at the bank is not the customer's to know.
        "decided_by": ended.actor_id if ended and viewer_id is None else None,
    }


def _checks(event: Happened, row: Row[Any]) -> list[dict[str, Any]]:
    code = event.failure_code if isinstance(event, TransactionFailed) else None
    own: Sequence[Mapping[str, Any]] = getattr(event, "checks", None) or ()
    return ledger_checks(code, points=bool(row.reverses_id or row.captures_id or row.voids_id), funds=_funds(event, row), asked=own)


def _funds(event: Happened, row: Row[Any]) -> dict[str, Any]:
    """What was on the paying account before: that entry tells it which the posting made."""
    for account_id, version, amount, balance in event.entries if isinstance(event, TransactionCompleted) else ():
        if account_id == row.from_account_id:
            return {"balance": balance - amount, "account_version": version - 1}
    return {}


def ledger_checks(code: str | None, *, points: bool, funds: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The ledger's own checks up to the one that refused by `code`, and then those `asked` of limits and rules.

    `points`: the transaction is about another one; `funds`: what is known of the paying account.
    """
    if code in _NOT_ASKED:
        return []
    checks: list[dict[str, Any]] = []
    for name, codes in _LEDGER.items():
        if name == "original" and not points:
            continue
        if name == "funds" and code in codes and asked:
            return [*checks, dict(asked[0])]
        checks.append({"check": name, **(funds if name == "funds" else {}), "outcome": "denied" if code in codes else "passed"})
        if code in codes:
            return checks
    return [*checks, *map(dict, asked)]


def present(checks: Sequence[Mapping[str, Any]], currency: str, *, staff: bool) -> list[dict[str, Any]]:
    """The checks as the API shows them. Of a rule a customer sees its name and effect."""
    shown = []
    for check in checks:
        told = dict(check)
        for name in ("limit", "used", "balance", "available"):
            if name in told and told.get("kind") != LimitKind.COUNT:
                told[name] = format_amount(told[name], currency)
        if not staff:
            told.pop("error", None)
        shown.append(told)
    return shown
