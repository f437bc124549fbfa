"""Batches: taken in by one unit of work, posted in their order by the drain of a lane of their own."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import orjson
from sqlalchemy import Row
from sqlalchemy.orm import Session
from structlog.contextvars import bind_contextvars

from bank.accounts import service as accounts
from bank.accounts.access import reads_as
from bank.auth.guard import Principal
from bank.batches import store
from bank.batches.directory import BatchDirectory
from bank.batches.models import BatchMode
from bank.batches.schemas import Item
from bank.batches.upload import MOST_ERRORS
from bank.db import reader, unit_of_work
from bank.errors import BankError, CurrencyMismatch, Forbidden, NotFound, Unprocessable
from bank.events.types import Origin, TransactionSubmitted
from bank.ledger.decide import FailureCode, decide, decide_together
from bank.ledger.store import load_states
from bank.ledger.system import BATCH_LANE
from bank.limits import store as limits
from bank.observability import traces
from bank.processing.counters import counters
from bank.processing.queue import bells
from bank.processing.shedding import admit
from bank.transactions import parties
from bank.transactions import store as transactions
from bank.transactions.many import submit_many
from bank.transactions.models import TransactionStatus, TransactionType
from bank.transactions.parties import Intent, PartyNotFound
from bank.transactions.service import Answer, Asked, as_row, became, command_of, event_of, fingerprint_of, key_to_store, once, replay
from bank.web.context import new_id
from bank.web.fields import timestamp

# The operation that an idempotency key is for.
_ROUTE = "batch"


def submit(mode: BatchMode, items: Sequence[Item], caller: Principal, origin: Origin, asked: Asked) -> Answer:
    """Make all transactions of a batch durable as pending, or none, and ring for them.

    Answers 202 with the batch as it then stands. Raises Unprocessable with a pointer to each bad item, up to a hundred,
    IdempotencyKeyReused, IdempotencyInProgress and Unavailable.
    """
    fingerprint = fingerprint_of({"mode": mode.value, "transactions": [{"type": item.type.value, **item.body} for item in items]})
    batch_id = traces.marked(new_id())
    return once(asked, lambda: _submit(batch_id, mode, items, caller, fingerprint, origin, asked))


def _submit(
    batch_id: str, mode: BatchMode, items: Sequence[Item], caller: Principal, fingerprint: bytes, origin: Origin, asked: Asked
) -> Answer:
    with unit_of_work() as session:
        now, stored = transactions.find_key(session, origin.actor_id, _ROUTE, asked.key)
        if stored is not None:
            return replay(stored, fingerprint, _ROUTE, origin, asked.key or "", session)
        admit(session.connection(), BATCH_LANE)
        accepted = SimpleNamespace(id=batch_id, mode=mode.value, created_at=now, completed_at=None, counts={"pending": len(items)})
        body = orjson.dumps(_present(accepted, None))
        store.insert(session, batch_id, mode, len(items), key_to_store(_ROUTE, fingerprint, body, origin, asked), origin)
        events = _events(session, batch_id, items, caller, origin, now)
        submit_many(session.connection(), [(new_id(), event) for event in events], origin)
    for kind, count in Counter(event.type for event in events).items():
        counters.accepted(kind, count)
    bind_contextvars(batch_id=batch_id)
    with traces.enqueue(batch_id):
        bells.ring(BATCH_LANE)
    return Answer(202, body, batch_id)


def _events(
    session: Session, batch_id: str | None, items: Sequence[Item], caller: Principal, origin: Origin, now: datetime
) -> list[TransactionSubmitted]:
    """What will be recorded of the items, with their parties found and accounts opened where money comes to who has none.

    Raises Unprocessable with a pointer to each bad item, up to a hundred.
    """
    directory = BatchDirectory(session, caller, items)
    events: list[TransactionSubmitted] = []
    errors: list[dict[str, str]] = []
    for index, item in enumerate(items):
        try:
            intent = _intent(item, caller)
            found = intent.find(directory)
            # For one alone the ledger says so. An account's currency never changes, so here there is nothing to wait for.
            sides = ((found.source, found.currency), (found.target, found.to_currency))
            if any(party is not None and party.currency != currency for party, currency in sides):
                raise CurrencyMismatch
            events.append(event_of(intent, found, BATCH_LANE, now, batch_id=batch_id, batch_index=index))
        except (NotFound, Forbidden, Unprocessable) as error:
            errors += [{"pointer": f"/transactions/{index}{place}", "message": item.told(what)} for place, what in _complaints(error)]
            if len(errors) >= MOST_ERRORS:
                break
    if errors:
        raise Unprocessable(errors=errors)
    directory.open_noted(origin)
    exchanged = {currency for event in events if event.rate is not None for currency in (event.currency, event.to_currency)}
    if exchanged:
        accounts.ensure_positions(session, exchanged, BATCH_LANE, origin)
    return events


def _intent(item: Item, caller: Principal) -> Intent:
    if item.type is TransactionType.TRANSFER:
        return parties.transfer(caller, item.body)
    return parties.credit_or_debit(item.type, caller, item.body)


def _complaints(error: BankError) -> list[tuple[str, str]]:
    """Where in the item something is wrong, and what."""
    if isinstance(error, PartyNotFound):
        return [(f"/{error.field}", error.detail)]
    if isinstance(error, CurrencyMismatch):
        return [("/currency", error.detail)]
    return [(each["pointer"], each["message"]) for each in error.errors or [{"pointer": "", "message": error.detail}]]


def preview(mode: BatchMode, items: Sequence[Item], caller: Principal, origin: Origin) -> dict[str, Any]:
    """What would become of the batch and each of its transactions, decided by the same code on the present state, and written
    nowhere. Raises what `submit` raises of bad items."""
    with unit_of_work() as session:
        now, _ = transactions.find_key(session, None, _ROUTE, None)
        events = _events(session, None, items, caller, origin, now)
        commands = [command_of(event, now, str(index)) for index, event in enumerate(events)]
        connection = session.connection()
        applicable = limits.applicable_to(
            connection, {command.transaction_id: event for command, event in zip(commands, events, strict=True)}
        )
        states = load_states(connection, commands, also=applicable.accounts if applicable else (), lock=False)
        policy = limits.policy(connection, applicable, states, keep=False) if applicable else None
        # Accounts that would be opened were opened in this unit of work; it ends without them.
        session.rollback()
    outcomes = (decide_together if mode is BatchMode.ATOMIC else decide)(commands, states.accounts, states.originals, policy)
    rows = [as_row(None, event, now, **became(outcome, states.posted_at)) for event, outcome in zip(events, outcomes, strict=True)]
    counts = Counter(row.status for row in rows)
    batch = SimpleNamespace(id=None, mode=mode.value, created_at=now, completed_at=states.posted_at, counts=counts)
    refused = [row for row in rows if row.failure_code not in (None, FailureCode.BATCH_REFUSED)] if mode is BatchMode.ATOMIC else []
    failure = {"index": refused[0].batch_index, "code": refused[0].failure_code, "transaction_id": None} if refused else None
    return {**_present(batch, failure), "dry_run": True, "data": [_present_item(row) for row in rows]}


def get(batch_id: str, caller: Principal, status: str | None, after: int | None, limit: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A batch, and a page of its transactions in their order (those of a `status`, from behind place `after`; one more than
    `limit` when more follow), for who made it and staff who may read theirs. Raises NotFound."""
    with reader() as session:
        row = store.get(session, batch_id)
        if row is None:
            raise NotFound
        reads_as(session, caller, row.user_id)
        items = store.items(session, batch_id, status, after, limit)
    return _present(row, _failure(row)), [_present_item(item) for item in items]


def latest(seen_by: str | None, limit: int) -> list[dict[str, Any]]:
    """The batches that were asked for last, whosever they are (for a teller, `seen_by`, customers' and their own): `id`, `mode`, `items`,
    `created_at`."""
    with reader() as session:
        return [{**row._mapping, "created_at": timestamp(row.created_at)} for row in store.latest(session, seen_by, limit)]


def _failure(row: Row[Any]) -> dict[str, Any] | None:
    if row.failed_id is None:
        return None
    return {"index": row.failed_index, "code": row.failure_code, "transaction_id": row.failed_id}


def _present(row: Any, failure: dict[str, Any] | None) -> dict[str, Any]:
    """The batch as the API shows it."""
    counts = {status.value: row.counts.get(status.value, 0) for status in TransactionStatus}
    pending = counts["pending"] > 0
    return {
        "id": row.id,
        "mode": row.mode,
        "status": "pending" if pending else "failed" if failure else "completed",
        "counts": counts,
        "failure": failure,
        "created_at": timestamp(row.created_at),
        "completed_at": None if pending else timestamp(row.completed_at),
    }


def _present_item(row: Any) -> dict[str, Any]:
    return {**transactions.present(row), "index": row.batch_index}
