"""Taking the lines in: chunks of them become pending transactions, and their lanes are drained right here.

Each chunk is one unit of work that holds its transactions, what became of its lines and how far the
import is, so a process that is killed at any point goes on where it stood. Workers may run meanwhile
or not: the lanes decide who drains.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence

from flask import current_app
from sqlalchemy.orm import Session

from bank.accounts.many import open_many
from bank.audit import service as audit
from bank.config import Config
from bank.db import reader, unit_of_work
from bank.events.types import Origin, TransactionSubmitted
from bank.imports import store
from bank.imports.lines import Line, Lines, Refused, chunks
from bank.imports.records import Unusable
from bank.imports.screening import Account, Repeated, new_accounts, references, screen
from bank.imports.source import Source, Watch
from bank.ledger import store as ledger
from bank.ledger.system import BATCH_LANE, lane_of
from bank.processing.processor import drain_once
from bank.processing.queue import bells
from bank.transactions.many import submit_many
from bank.transactions.models import TransactionType
from bank.web.context import new_id
from bank.web.fields import timestamp

# How long to wait before asking again for a lane that a worker drains.
_LANE_PAUSE_SECONDS = 0.02


class Run:
    """One run of an import over its file."""

    def __init__(self, source: Source, known: store.Known, watch: Watch) -> None:
        self._source = source
        self._known = known
        self._watch = watch
        self._origin = Origin(request_id=f"import-{known.id}")
        self._accounts: dict[str, Account] = {}
        self._waiting: Counter[int] = Counter()
        config: Config = current_app.config["BANK"]
        self._lanes, self._batch = config.lanes, config.batch_size

    def finish(self) -> None:
        """Record every line that is not recorded yet, and see all of them final.

        Raises Unusable when the file changes meanwhile or another process imports it as well.
        """
        done = self._known.lines_done
        before = self._source.identity()
        with Lines(self._source.path, self._source.format, self._known.created_at) as lines:
            rest = (line for line in lines if line.record.end > self._known.lines_done)
            for part in chunks(rest):
                done = self._take(part, done)
                self._drain_full()
                self._watch("Posting", lines.position)
        if self._source.identity() != before:
            raise Unusable("The file was changed while it was imported. Run the import again: what is recorded stays.")
        self._drain_all()
        with unit_of_work() as session:
            store.settle(session, self._known.chain)
            store.finish(session, self._known.id)
            counts = store.outcomes(session, self._known.chain)
            audit.record(session, "import", self._known.id, "import.finished", self._origin, counts)

    def _take(self, part: Sequence[Line | Refused], done: int) -> int:
        """Record a chunk behind line `done`; the line up to which all is recorded then."""
        ids: list[tuple[str, TransactionSubmitted]] = []
        end = part[-1].record.end
        with unit_of_work() as session:
            if store.lock_progress(session, self._known.id) != (done, False):
                raise Unusable("Another process is importing this file, or a longer one that begins with it.")
            accounts = self._resolve(session, part)
            recorded = store.recorded(session, self._known.chain, references(part, accounts))
            outcomes = []
            for line in screen(part, accounts, recorded, set()):
                outcome, event = self._outcome(line, accounts)
                outcomes.append(outcome)
                if event is not None and outcome.transaction_id is not None:
                    ids.append((outcome.transaction_id, event))
            if ids:
                submit_many(session.connection(), ids, self._origin)
            store.record(session, self._known.id, outcomes)
            store.save_progress(session, self._known.id, end)
        self._accounts = accounts
        self._waiting.update(event.lane for _, event in ids)
        return end

    def _resolve(self, session: Session, part: Iterable[Line | Refused]) -> dict[str, Account]:
        """The account of every name so far and in `part`; those that are not there yet are opened."""
        accounts, owner_id = dict(self._accounts), self._known.owner_id
        for may_open in (False, True):
            new = new_accounts(part, accounts)
            if not new:
                break
            if may_open:
                store.lock_owner(session, owner_id)
            found = store.accounts_named(session, owner_id, list(new))
            accounts.update({name: Account(*account) for name, account in found.items()})
        by_currency: dict[str, list[str]] = {}
        for name, currency in new_accounts(part, accounts).items():
            by_currency.setdefault(currency, []).append(name)
        for currency, names in by_currency.items():
            limit = self._source.limit_in(currency)
            opened = open_many(session, owner_id, currency, names, self._origin, overdraft_limit=limit)
            store.name_accounts(session, owner_id, opened)
            accounts.update({name: Account(account_id, currency) for name, account_id in opened.items()})
        return accounts

    def _outcome(self, line: Line | Repeated | Refused, accounts: dict[str, Account]) -> tuple[store.Outcome, TransactionSubmitted | None]:
        if isinstance(line, Refused):
            return store.Outcome(line.record.start, "refused", reason=line.reason, detail=line.detail), None
        if isinstance(line, Repeated):
            account_id = accounts[line.line.account].id
            start, reference = line.line.record.start, line.line.reference
            return store.Outcome(start, "known", account_id, reference, line.transaction_id), None
        account_id = accounts[line.account].id
        assert account_id is not None
        outcome = store.Outcome(line.record.start, "submitted", account_id, line.reference, new_id())
        return outcome, self._event(line, account_id)

    def _event(self, line: Line, account_id: str) -> TransactionSubmitted:
        credit = line.type == TransactionType.CREDIT
        owner_id = self._known.owner_id
        return TransactionSubmitted(
            lane=lane_of(account_id, self._lanes),
            type=line.type,
            from_user_id=None if credit else owner_id,
            to_user_id=owner_id if credit else None,
            from_account_id=None if credit else account_id,
            to_account_id=account_id if credit else None,
            amount=line.amount,
            currency=line.currency,
            to_amount=line.amount,
            to_currency=line.currency,
            rate=None,
            description=line.description,
            reference=line.reference,
            metadata=None,
            reverses_id=None,
            awaited=False,
            effective_at=timestamp(line.effective_at),
        )

    def _drain_full(self) -> None:
        """Drain the lanes that have a full batch: smaller ones cost more a row."""
        for lane, waiting in list(self._waiting.items()):
            if waiting >= self._batch:
                # A lane that a worker has is left to the end.
                self._waiting[lane] -= drain_once(lane) or 0

    def _drain_all(self) -> None:
        """Drain until nothing of ours can wait any more, whoever drained it."""
        # All lanes that there are and not only those of this run: an earlier one may have been killed, and had more of them. Lines
        # come by themselves, so none is in that of the batches.
        with reader() as session:
            lanes = [lane for lane in ledger.lanes(session.connection()) if lane != BATCH_LANE]
        waiting = set(lanes)
        while waiting := {lane for lane in waiting if not self._empty(lane)}:
            time.sleep(_LANE_PAUSE_SECONDS)
        # A worker that found a lane taken by us has left it to us, and we do not look at the rings.
        for lane in lanes:
            bells.ring(lane)

    def _empty(self, lane: int) -> bool:
        """Drain what waits in a lane. False when another drain has it, so that one must look again."""
        while (size := drain_once(lane)) == self._batch:
            pass
        # A batch that is not full held all that was there to be seen, ours in any case.
        return size is not None
