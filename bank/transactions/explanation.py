"""Why a transaction was refused or passed: what was asked before it was decided, from its own events."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.accounts.access import reads_as
from bank.auth.guard import Principal
from bank.errors import NotFound
from bank.events.types import (
    Happened,
    LimitSet,
    RuleSet,
    TransactionApproved,
    TransactionCompleted,
    TransactionFailed,
    TransactionHeld,
    TransactionRejected,
    TransactionVoided,
    UnknownEventError,
    load,
)
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

_EVENTS = text(
    """
    SELECT type, schema, data, actor_id::text, recorded_at FROM events
     WHERE stream_id = CAST(:id AS uuid) AND type <> 'TransactionSubmitted' ORDER BY version
    """
)


# A limit or a rule as it was in the version that was asked.
_ASKED = text(
    """
    SELECT e.stream_id::text, e.version, e.type, e.schema, e.data
      FROM unnest(CAST(:ids AS uuid[]), CAST(:versions AS int[])) AS asked (id, version)
      JOIN events e ON e.stream_id = asked.id AND e.version = asked.version
    """
)


def explain(session: Session, transaction_id: str, caller: Principal) -> dict[str, Any]:
    """Each check of a transaction and how it came out, for whose account it pays from, or is for where the money comes from outside, and
    for staff who may read theirs. Raises NotFound."""
    row = store.get(session, transaction_id)
    if row is None:
        raise NotFound
    viewer_id = reads_as(session, caller, row.from_user_id or row.to_user_id)
    decided_at, checks, ended = None, [], None
    for told in session.execute(_EVENTS, {"id": transaction_id}):
        event = load(told.type, told.schema, told.data)
        if decided_at is None and isinstance(event, TransactionCompleted | TransactionFailed | TransactionHeld | TransactionVoided):
            decided_at = told.recorded_at
            checks = present(
                session,
                row.currency,
                event.failure_code if isinstance(event, TransactionFailed) else None,
                points=bool(row.reverses_id or row.captures_id or row.voids_id),
                funds=_funds(event, row),
                asked=getattr(event, "checks", None) or (),
                staff=viewer_id is None,
            )
        elif isinstance(event, TransactionApproved | TransactionRejected):
            ended = told
    return {
        "transaction_id": row.id,
        "status": row.status,
        "failure_code": row.failure_code,
        "decided_at": timestamp(decided_at),
        "checks": checks,
        "review": None if row.review is None else _review(row, ended, viewer_id),
    }


def _review(row: Row[Any], ended: Row[Any] | None, viewer_id: str | None) -> dict[str, Any]:
    return {
        "status": row.review,
        "decided_at": timestamp(ended.recorded_at) if ended else None,
        # Who works at the bank is not the customer's to know.
        "decided_by": ended.actor_id if ended and viewer_id is None else None,
    }


def _funds(event: Happened, row: Row[Any]) -> dict[str, Any]:
    """What was on the paying account before: that entry tells it which the posting made."""
    for account_id, version, amount, balance in event.entries if isinstance(event, TransactionCompleted) else ():
        if account_id == row.from_account_id:
            return funds(balance - amount, version - 1, row.currency)
    return {}


def funds(balance: int, version: int, currency: str) -> dict[str, Any]:
    """What is told of an account with a balance in minor units and so many entries."""
    return {"balance": format_amount(balance, currency), "account_version": version}


def present(
    session: Session,
    currency: str,
    code: str | None,
    *,
    points: bool,
    funds: Mapping[str, Any],
    asked: Sequence[Sequence[Any]],
    staff: bool,
) -> list[dict[str, Any]]:
    """The checks as the API shows them: the ledger's own up to the one that refused by `code`, then those `asked` of limits and rules.

    `points`: the transaction is about another one; `funds`: what is known of the paying account. Of a rule that came to no answer
    only staff read why.
    """
    return [{**_NOTHING, **check} for check in _checks(session, currency, code, points, funds, asked, staff)]


_NOTHING = dict.fromkeys(
    ("balance", "available", "account_version", "id", "version", "scope", "kind", "window", "limit", "used", "name", "effect", "error")
)


def _checks(
    session: Session, currency: str, code: str | None, points: bool, funds: Mapping[str, Any], asked: Sequence[Sequence[Any]], staff: bool
) -> list[dict[str, Any]]:
    if code in _NOT_ASKED:
        return []
    shown: list[dict[str, Any]] = []
    for name, codes in _LEDGER.items():
        if name == "original" and not points:
            continue
        shown.append({"check": name, "outcome": "denied" if code in codes else "passed"})
        if name == "funds":
            shown[-1] |= {"available": format_amount(asked[0][3], currency)} if code in codes and asked else funds
        if code in codes:
            return shown
    by_id = _as_they_were(session, asked)
    return shown + [_shown(by_id[each[0], each[1]], each, currency, staff) for each in asked]


def _as_they_were(session: Session, asked: Sequence[Sequence[Any]]) -> dict[tuple[str, int], Happened]:
    if not asked:
        return {}
    parameters = {"ids": [each[0] for each in asked], "versions": [each[1] for each in asked]}
    return {(row.stream_id, row.version): load(row.type, row.schema, row.data) for row in session.execute(_ASKED, parameters)}


def _shown(was: Happened, asked: Sequence[Any], currency: str, staff: bool) -> dict[str, Any]:
    subject, version, outcome, known = asked
    told = {"id": subject, "version": version, "outcome": outcome}
    if isinstance(was, RuleSet):
        error = {"error": known} if known and staff else {}
        return {"check": "rule", **told, "name": was.name, "effect": was.effect, **error}
    if not isinstance(was, LimitSet):
        raise UnknownEventError(f"a check of {subject}, which is neither a limit nor a rule")
    told |= {"check": "limit", "scope": was.scope, "kind": was.kind}
    if was.window:
        told["window"] = was.window
    if was.kind == LimitKind.COUNT:
        return {**told, "limit": str(was.count), "used": str(known)}
    if was.amount is not None:
        told["limit"] = format_amount(was.amount, currency)
    if known is not None:
        told["balance" if was.kind == LimitKind.MINIMUM_BALANCE else "used"] = format_amount(known, currency)
    return told
