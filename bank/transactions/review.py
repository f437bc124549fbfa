"""Payments that a rule had held: one person asks, another decides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, Row, text

from bank.audit import service as audit
from bank.db import unit_of_work
from bank.errors import NotApprovable, NotFound, NotUnderReview, SamePerson
from bank.events.types import Origin
from bank.ledger import store as ledger
from bank.ledger.decide import Command, FailureCode, Outcome, Refusal, decide
from bank.ledger.store import States
from bank.ledger.system import outside_account_id
from bank.transactions import store
from bank.transactions.service import Answer, Asked, fingerprint_of, once, replay


@dataclass(frozen=True, slots=True)
class Ended:
    """How a review is to end, and how that was asked for: `body` is what the idempotency key stands for."""

    approved: bool
    reason: str | None
    body: Mapping[str, Any]
    key: str | None
    dry_run: bool

    @property
    def operation(self) -> str:
        """What it is called in the audit log, and as what keys are kept."""
        return "approve" if self.approved else "reject"


def end(transaction_id: str, ended: Ended, origin: Origin) -> Answer:
    """Approve a payment, which is posted at once or stays the hold that it asked to be; or reject it, and it fails as `rule_denied`.

    Limits and rules are not asked again: that an admin decides is their answer. Answers with the transaction, as it would be for a dry
    run. Raises NotFound, SamePerson, NotUnderReview, NotApprovable where the ledger would refuse it now, as with a frozen account,
    IdempotencyKeyReused and IdempotencyInProgress.
    """
    return once(Asked(ended.key, 0), lambda: _try_to_end(transaction_id, ended, origin))


def _try_to_end(transaction_id: str, ended: Ended, origin: Origin) -> Answer:
    fingerprint = fingerprint_of({**ended.body, "transaction_id": transaction_id})
    with unit_of_work() as session:
        connection = session.connection()
        row = ledger.review_of(connection, transaction_id)
        if row is None:
            raise NotFound
        if row.from_account_id is None:
            raise NotUnderReview
        # Maker and checker differ. Nor does anybody decide on what they pay or receive.
        if origin.actor_id in (row.actor_id, row.from_user_id, row.to_user_id):
            raise SamePerson
        command = _command(row)
        states = ledger.load_states(connection, [command])
        # Behind the locks: of two requests with one key the second finds what the first did.
        _, stored = store.find_key(session, origin.actor_id, ended.operation, ended.key)
        if stored is not None:
            return replay(stored, fingerprint, ended.operation, origin, ended.key or "", session)
        _end(connection, command, states, ended.approved, origin)
        answer = orjson.dumps(store.present(store.get(session, transaction_id)))
        if ended.dry_run:
            session.rollback()
            return Answer(200, answer, transaction_id)
        audit.record(
            session,
            "transaction",
            transaction_id,
            "transaction.approved" if ended.approved else "transaction.rejected",
            origin,
            {"reason": ended.reason} if ended.reason else None,
        )
        if ended.key is not None:
            session.execute(
                _KEEP,
                {"user_id": origin.actor_id, "route": ended.operation, "key": ended.key, "fingerprint": fingerprint, "body": answer}
                | {"transaction_id": transaction_id},
            )
    return Answer(200, answer, transaction_id)


_KEEP = text(
    """
    INSERT INTO idempotency_keys (user_id, route, key, fingerprint, transaction_id, response_status, response_body)
    VALUES (:user_id, :route, :key, :fingerprint, :transaction_id, 200, :body)
    """
)


def _end(connection: Connection, command: Command, states: States, approved: bool, origin: Origin) -> None:
    row = ledger.review_of(connection, command.transaction_id, lock=True)
    if row is None or not row.open:
        raise NotUnderReview
    if approved and row.expires_at is not None:
        if row.expires_at <= states.posted_at:
            raise NotApprovable("The time of the hold is over.")
        ledger.end_review(connection, states.posted_at, row.id, 0, True, origin)
        return
    states.accounts[command.from_account_id].held -= row.held_amount
    outcome = _outcome(command, states, approved)
    ledger.end_review(connection, states.posted_at, row.id, row.held_amount, approved, origin)
    ledger.write_outcomes(connection, states, [outcome])


def _command(row: Row[Any]) -> Command:
    target = row.to_account_id or outside_account_id(row.to_currency, row.lane)
    agreed = None if row.remainder is None else ledger.exchange(row.lane, row.currency, row.to_amount, row.to_currency, row.remainder)
    return Command(row.id, row.from_account_id, target, row.amount, row.currency, row.effective_at, exchange=agreed)


def _outcome(command: Command, states: States, approved: bool) -> Outcome:
    if not approved:
        return Refusal(command, FailureCode.RULE_DENIED)
    outcome = decide([command], states.accounts, states.originals)[0]
    if isinstance(outcome, Refusal):
        raise NotApprovable(f"The ledger would refuse it: {outcome.code.value}.")
    return outcome
