"""Payments that a rule had held: one person asks, another decides."""

from typing import Any

from sqlalchemy import Row

from bank.audit import service as audit
from bank.db import unit_of_work
from bank.errors import NotApprovable, NotFound, NotUnderReview, SamePerson
from bank.events.types import Origin
from bank.ledger import store as ledger
from bank.ledger.decide import Command, FailureCode, Outcome, Refusal, decide
from bank.ledger.store import States
from bank.ledger.system import outside_account_id
from bank.transactions import store


def end(transaction_id: str, approved: bool, reason: str | None, origin: Origin) -> dict[str, Any]:
    """Approve a payment, which is posted at once or stays the hold that it asked to be; or reject it, and it fails as `rule_denied`.

    Limits and rules are not asked again: that an admin decides is their answer. Returns the transaction. Raises NotFound,
    SamePerson, NotUnderReview, and NotApprovable where the ledger would refuse it now, as with a frozen account.
    """
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
        row = ledger.review_of(connection, transaction_id, lock=True)
        if row is None or not row.open:
            raise NotUnderReview
        if approved and row.expires_at is not None:
            if row.expires_at <= states.posted_at:
                raise NotApprovable("The time of the hold is over.")
            ledger.end_review(connection, states.posted_at, transaction_id, 0, True, origin)
        else:
            states.accounts[command.from_account_id].held -= row.held_amount
            outcome = _outcome(command, states, approved)
            ledger.end_review(connection, states.posted_at, transaction_id, row.held_amount, approved, origin)
            ledger.write_outcomes(connection, states, [outcome])
        action = "transaction.approved" if approved else "transaction.rejected"
        audit.record(session, "transaction", transaction_id, action, origin, {"reason": reason} if reason else None)
        return store.present(store.get(session, transaction_id))


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
