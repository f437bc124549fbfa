"""Taking transactions in: one unit of work makes a request durable, then the bell is rung."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from threading import Event
from types import SimpleNamespace
from typing import Any

import orjson
from flask import current_app
from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from structlog.contextvars import bind_contextvars

from bank.accounts import service as accounts
from bank.accounts.access import only_seen_by, reads_as
from bank.auth.guard import Principal
from bank.config import Config
from bank.db import fetch, reader, unit_of_work
from bank.errors import IdempotencyInProgress, IdempotencyKeyReused, NotFound, QuoteUsed, Unavailable, Unprocessable
from bank.events.types import Origin, TransactionSubmitted
from bank.ledger.decide import Command, Outcome, Posting, Refusal, Release, decide
from bank.ledger.store import exchange, load_states
from bank.ledger.system import lane_of, outside_account_id
from bank.limits import store as limits
from bank.observability import traces
from bank.processing.counters import counters
from bank.processing.queue import bells
from bank.processing.shedding import admit
from bank.proof import receipts
from bank.transactions import explanation, store
from bank.transactions.models import ReviewStatus
from bank.transactions.parties import Found, Intent, OneByOne
from bank.transactions.waiting import waiters
from bank.users.models import Role
from bank.web.context import new_id
from bank.web.fields import timestamp
from bank.web.serving import LOOK_SECONDS, serving

# SQLSTATE of a lock that was not had in time.
LOCK_NOT_AVAILABLE = "55P03"

# How long a hold is kept: what is usual for cards, and the most.
_USUAL_HOLD = timedelta(days=7)
_LONGEST_HOLD = timedelta(days=31)

# How long past its own patience a waiting request may still be at work before its key is taken over.
_GRACE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """How the client wants it: its idempotency key, and how many seconds it waits for the outcome (0: not)."""

    key: str | None
    wait_seconds: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send: the body's bytes, so that a repetition is the same to the byte."""

    status: int
    body: bytes
    # The transaction, the batch or the schedule.
    made_id: str
    replayed: bool = False
    waited: bool = False


def submit(intent: Intent, body: Mapping[str, Any], origin: Origin, asked: Asked) -> Answer:
    """Make a transaction durable as pending, ring its lane's bell, and wait for it if asked to.

    `intent` finds the parties within the unit of work; `body` is what the idempotency key stands
    for. Answers 202; with a wait 201 when it was posted, 422 when it was refused. Raises what the
    intent raises, IdempotencyKeyReused, IdempotencyInProgress and Unavailable.
    """
    fingerprint = fingerprint_of(body)
    transaction_id = traces.marked(new_id())
    if not asked.wait_seconds:
        return once(asked, lambda: _submit(transaction_id, intent, fingerprint, origin, asked))
    with waiters.expect(transaction_id) as final:
        waits = asked if final is not None else replace(asked, wait_seconds=0)
        answer = once(waits, lambda: _submit(transaction_id, intent, fingerprint, origin, waits))
        if final is None or answer.replayed:
            return answer
        _wait(final, transaction_id, waits.wait_seconds)
    return _settle(intent.operation, origin, asked.key, transaction_id)


def fingerprint_of(body: Mapping[str, Any]) -> bytes:
    """What an idempotency key stands for."""
    return hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).digest()


def _wait(final: Event, transaction_id: str, seconds: float) -> None:
    """Wait until the transaction is final, the time is over, or this process is asked to stop. A listener that had to connect
    again wakes everybody for a look: who sees a pending row goes on waiting."""
    deadline = time.monotonic() + seconds
    while serving() and (left := deadline - time.monotonic()) > 0:
        if not final.wait(min(left, LOOK_SECONDS)):
            continue
        final.clear()
        if fetch("SELECT FROM transactions WHERE id = %(id)s::uuid AND status <> 'pending'", {"id": transaction_id}):
            return


def _submit(transaction_id: str, intent: Intent, fingerprint: bytes, origin: Origin, asked: Asked) -> Answer:
    with unit_of_work() as session:
        now, stored = store.find_key(session, origin.actor_id, intent.operation, asked.key)
        if stored is not None:
            return replay(stored, fingerprint, intent.operation, origin, asked.key or "", session)
        try:
            event = _event(session, intent, origin, now, bool(asked.wait_seconds))
        except QuoteUsed:
            # It may be that another request with this key committed between our look and our use of the quote.
            _, stored = store.find_key(session, origin.actor_id, intent.operation, asked.key)
            if stored is None:
                raise
            return replay(stored, fingerprint, intent.operation, origin, asked.key or "", session)
        admit(session.connection(), event.lane)
        body = orjson.dumps(store.present(as_row(transaction_id, event, now)))
        key = key_to_store(intent.operation, fingerprint, body, origin, asked)
        store.submit(session.connection(), transaction_id, event, f"transaction.{intent.operation}", origin, key)
    counters.accepted(event.type)
    bind_contextvars(transaction_id=transaction_id)
    with traces.enqueue(transaction_id):
        bells.ring(event.lane)
    return Answer(202, body, transaction_id)


def once(asked: Asked, attempt: Callable[[], Answer]) -> Answer:
    """The answer of `attempt`, which looks for the key and takes the request in; tried again when another request with the key
    was faster. Raises IdempotencyInProgress when that one takes too long, and what `attempt` raises."""
    try:
        return attempt()
    except IntegrityError as error:
        # Another request with the same key committed between our look and our insert.
        if asked.key is None or "pk_idempotency_keys" not in str(error.orig):
            raise
        return once(asked, attempt)
    except Unavailable as error:
        # The other request with this key has not committed yet, and we waited long enough for it.
        if asked.key is not None and error.sqlstate == LOCK_NOT_AVAILABLE:
            raise IdempotencyInProgress from error
        raise


def key_to_store(
    route: str, fingerprint: bytes, body: bytes, origin: Origin, asked: Asked, *, status: int = 202
) -> store.KeyToStore | None:
    """The key that is to be stored with what the request did and its answer; None where none was given."""
    if asked.key is None or origin.actor_id is None:
        return None
    waits = asked.wait_seconds > 0
    return store.KeyToStore(
        user_id=origin.actor_id,
        route=route,
        key=asked.key,
        fingerprint=fingerprint,
        status=None if waits else status,
        body=None if waits else body,
        wait_seconds=asked.wait_seconds + _GRACE_SECONDS if waits else 0,
    )


def replay(stored: store.StoredAnswer, fingerprint: bytes, route: str, origin: Origin, key: str, session: Session) -> Answer:
    """The first answer again. A first request that died while it waited is answered from what became of it.

    Raises IdempotencyKeyReused for another request, and IdempotencyInProgress.
    """
    if stored.fingerprint != fingerprint:
        raise IdempotencyKeyReused
    if stored.status is None or stored.body is None:
        if not stored.overdue:
            raise IdempotencyInProgress
        status, body = _outcome(session, stored.made_id)
        status, body = store.store_answer(session, origin.actor_id or "", route, key, status, body)
        return Answer(status, body, stored.made_id, replayed=True)
    return Answer(stored.status, stored.body, stored.made_id, replayed=True)


def _settle(route: str, origin: Origin, key: str | None, transaction_id: str) -> Answer:
    """The answer at the end of a wait, kept with the key before it is given."""
    if key is None:
        with reader() as session:
            status, body = _outcome(session, transaction_id)
    else:
        with unit_of_work() as session:
            status, body = _outcome(session, transaction_id)
            status, body = store.store_answer(session, origin.actor_id or "", route, key, status, body)
    return Answer(status, body, transaction_id, waited=True)


def _outcome(session: Session, transaction_id: str) -> tuple[int, bytes]:
    """Status and body that tell what became of a transaction. Of a refusal it is what the view makes the
    problem from, with the id of the request that asked: a repetition is to be the same to the byte."""
    row = store.get(session, transaction_id)
    if row is None:
        raise LookupError(f"transaction {transaction_id} was committed and is gone")
    if row.status == "failed":
        return 422, orjson.dumps({"transaction": store.present(row), "request_id": row.request_id})
    waits = row.status == "pending" or (row.status == "held" and row.review == ReviewStatus.OPEN)
    return 202 if waits else 201, orjson.dumps(store.present(row))


def _event(session: Session, intent: Intent, origin: Origin, now: datetime, awaited: bool) -> TransactionSubmitted:
    """What will be recorded: the intent with its parties found. Raises Unprocessable for a time that cannot be."""
    config: Config = current_app.config["BANK"]
    found = intent.find(OneByOne(session, origin))
    # The lane orders what an account spends; money from the outside is ordered by who receives it.
    orders = found.source or found.target
    if orders is None:
        raise AssertionError("A transaction has an account on one side at least.")
    event = event_of(intent, found, lane_of(orders.account_id, config.lanes), now, awaited=awaited)
    if found.agreed is not None:
        accounts.ensure_positions(session, (event.currency, event.to_currency), event.lane, origin)
    return event


def event_of(
    intent: Intent,
    found: Found,
    lane: int,
    now: datetime,
    *,
    awaited: bool = False,
    batch_id: str | None = None,
    batch_index: int | None = None,
) -> TransactionSubmitted:
    """What will be recorded of an intent whose parties were found. Raises Unprocessable for a time that cannot be."""
    if intent.effective_at is not None and intent.effective_at > now:
        raise Unprocessable.at("/effective_at", "Lies in the future.")
    expires_at = (intent.expires_at or now + _USUAL_HOLD) if intent.holds else None
    if expires_at is not None and not now < expires_at <= now + _LONGEST_HOLD:
        raise Unprocessable.at("/expires_at", f"Must lie in the future, by {_LONGEST_HOLD.days} days at most.")
    return TransactionSubmitted(
        lane=lane,
        type=intent.type.value,
        from_user_id=found.source.user_id if found.source else None,
        to_user_id=found.target.user_id if found.target else None,
        from_account_id=found.source.account_id if found.source else None,
        to_account_id=found.target.account_id if found.target else None,
        amount=found.amount,
        currency=found.currency,
        to_amount=found.agreed.to_amount if found.agreed else found.amount,
        to_currency=found.to_currency,
        rate=found.agreed.rate if found.agreed else None,
        description=intent.description,
        reference=intent.reference,
        metadata=intent.metadata,
        reverses_id=found.reverses_id,
        awaited=awaited,
        effective_at=timestamp(intent.effective_at),
        expires_at=timestamp(expires_at),
        captures_id=found.captures_id,
        voids_id=found.voids_id,
        batch_id=batch_id,
        batch_index=batch_index,
        quote_id=found.agreed.quote_id if found.agreed else None,
        remainder=found.agreed.remainder if found.agreed else None,
    )


def as_row(transaction_id: str | None, event: TransactionSubmitted, now: datetime, **changes: Any) -> SimpleNamespace:
    """The row that `event` makes, before it is there."""
    row = SimpleNamespace(
        id=transaction_id,
        status="pending",
        failure_code=None,
        schedule_id=None,
        rolled_back_amount=0,
        held_amount=0,
        captured_amount=0,
        review=None,
        created_at=now,
        completed_at=None,
        **{name: getattr(event, name) for name in event.__slots__},
    )
    row.effective_at = datetime.fromisoformat(event.effective_at) if event.effective_at else now
    row.expires_at = datetime.fromisoformat(event.expires_at) if event.expires_at else None
    for name, value in changes.items():
        setattr(row, name, value)
    return row


def command_of(event: TransactionSubmitted, now: datetime, name: str = "") -> Command:
    """What the ledger would be asked to decide on, before there is a transaction; `name` stands for its id."""
    return Command(
        transaction_id=name,
        from_account_id=event.from_account_id or outside_account_id(event.currency, event.lane),
        to_account_id=event.to_account_id or outside_account_id(event.to_currency, event.lane),
        amount=event.amount,
        currency=event.currency,
        effective_at=now,
        reverses_id=event.reverses_id,
        holds=event.expires_at is not None,
        captures_id=event.captures_id,
        voids_id=event.voids_id,
        exchange=(
            None if event.remainder is None else exchange(event.lane, event.currency, event.to_amount, event.to_currency, event.remainder)
        ),
    )


def preview(intent: Intent, origin: Origin, caller: Principal) -> dict[str, Any]:
    """What would become of it, decided by the same code on the present state, and written nowhere.

    Returns the transaction as it would be, with `id` null, its `entries`, and `dry_run` true. The balances
    of accounts that are not the caller's are for those who may read them.
    """
    with unit_of_work() as session:
        now, _ = store.find_key(session, None, intent.operation, None)
        event = _event(session, intent, origin, now, False)
        connection, command = session.connection(), command_of(event, now)
        applicable = limits.applicable_to(connection, {command.transaction_id: event})
        states = load_states(connection, [command], also=applicable.accounts if applicable else (), lock=False)
        policy = limits.policy(connection, applicable, states, keep=False) if applicable else None
        viewer_id = reads_as(session, caller, event.from_user_id, event.to_user_id)
        # Parties that would be opened on the way were opened in this unit of work; it ends without them.
        session.rollback()
    balance, version = states.accounts[command.from_account_id].amount, states.accounts[command.from_account_id].version
    outcome = decide([command], states.accounts, states.originals, policy)[0]
    row = as_row(None, event, now, **became(outcome, states.posted_at))
    entries = outcome.entries if isinstance(outcome, Posting) else ()
    own = {event.from_account_id: event.from_user_id, event.to_account_id: event.to_user_id}
    shown = [
        SimpleNamespace(
            account_id=entry.account_id,
            user_id=own.get(entry.account_id),
            version=entry.version,
            amount=entry.amount,
            currency=states.accounts[entry.account_id].currency,
            balance=entry.balance,
            effective_at=row.effective_at,
            posted_at=states.posted_at,
        )
        for entry in entries
    ]
    # As in an explanation: what is on an account is for its owner, and the bank's own are for nobody.
    own_funds = event.from_account_id is not None and viewer_id in (None, event.from_user_id)
    asked = () if isinstance(outcome, Release) or not own_funds else outcome.checks
    with reader() as session:
        checks = explanation.present(
            session,
            event.currency,
            row.failure_code,
            points=command.original_id is not None,
            funds=explanation.funds(balance, version, event.currency) if own_funds else {},
            asked=asked,
            staff=viewer_id is None,
        )
    return {
        **store.present(row),
        "dry_run": True,
        "entries": [store.present_entry(entry, viewer_id) for entry in shown],
        "checks": checks,
    }


def became(outcome: Outcome, posted_at: datetime) -> dict[str, Any]:
    """What the decision makes of the pending row. What is only held is not complete."""
    match outcome:
        case Posting():
            return {"status": "completed", "completed_at": posted_at}
        case Release():
            return {"status": "voided", "completed_at": posted_at}
        case Refusal(code=code):
            return {"status": "failed", "failure_code": code.value, "completed_at": posted_at}
        case _:
            review = ReviewStatus.OPEN.value if outcome.review else None
            return {"status": "held", "held_amount": outcome.command.amount, "review": review}


def get(transaction_id: str, caller: Principal) -> dict[str, Any]:
    """One transaction with its `entries`, for one of its parties and for staff who may read one of them. Raises NotFound."""
    with reader() as session:
        row = store.get(session, transaction_id)
        if row is None:
            raise NotFound
        viewer_id = reads_as(session, caller, row.from_user_id, row.to_user_id)
        entries = store.entries_of(session, transaction_id)
    return {**store.present(row), "entries": [store.present_entry(entry, viewer_id) for entry in entries]}


def receipt(transaction_id: str, caller: Principal) -> dict[str, Any]:
    """The proof that it is in the sealed log, for whom `get` is for. Who asked for it is shown to auditors and admins.

    Raises NotFound, NotSealed and NotAsSealed.
    """
    with reader() as session:
        row = store.get(session, transaction_id)
        if row is None:
            raise NotFound
        viewer_id = reads_as(session, caller, row.from_user_id, row.to_user_id)
        return receipts.make(session, transaction_id, balances=viewer_id is None, origin=caller.may_read_all)


def explain(transaction_id: str, caller: Principal) -> dict[str, Any]:
    """Why it was refused or passed, for whose it is and staff who may read theirs. Raises NotFound."""
    with reader() as session:
        return explanation.explain(session, transaction_id, caller)


def history(query: store.HistoryQuery, caller: Principal) -> Sequence[Row[Any]]:
    """A page of transactions: of a customer those of their own accounts, for tellers those with a customer and their own, for
    other staff any.

    An account in the query must be of the user in the query, and both the customer's own; else NotFound.
    """
    user_id = caller.id if caller.role == Role.CUSTOMER else query.user_id
    query = replace(query, user_id=user_id, seen_by=only_seen_by(caller))
    with reader() as session:
        if query.account_id:
            owner = text("SELECT user_id::text FROM accounts WHERE id = CAST(:id AS uuid)")
            owner_id = session.execute(owner, {"id": query.account_id}).scalar_one_or_none()
            if owner_id is None or query.user_id not in (None, owner_id):
                raise NotFound
            reads_as(session, caller, owner_id)
        return store.history(session, query)
