"""A batch of decisions, turned from rows into the columns that one statement writes.

Columns travel as PostgreSQL array literals, which the server parses far faster than a thousand
parameters; nothing in them needs quoting but the JSON of the events.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from bank.ledger.decide import AccountState, Command, OriginalState, Outcome, Posting, Refusal


@dataclass(frozen=True, slots=True)
class Pending:
    """A claimed transaction: its command, and what the drain needs beside it."""

    seq: int
    type: str
    command: Command
    awaited: bool
    created_at: datetime
    request_id: str | None


@dataclass(frozen=True, slots=True)
class States:
    """What a decision needs to know, and the time it may carry."""

    accounts: dict[str, AccountState]
    originals: dict[str, OriginalState]
    posted_at: datetime


class Batch:
    """The outcomes of a batch, turned from rows into columns."""

    def __init__(self, states: States, pending: Sequence[Pending], outcomes: Sequence[Outcome]) -> None:
        self.states = states
        self.pending = pending
        self.outcomes = outcomes
        self.postings = [outcome for outcome in outcomes if isinstance(outcome, Posting)]
        self.reverses = any(posting.reversal for posting in self.postings)
        touched = {entry.account_id for posting in self.postings for entry in posting.entries}
        self.touched = [states.accounts[account_id] for account_id in sorted(touched)]
        self.days = self._days()
        today = states.posted_at.date()
        self.backdated = any(day < today for _, day in self.days)

    def _days(self) -> dict[tuple[str, date], list[int]]:
        """For each account and effective day: change, credits and debits in minor units, and count."""
        days: dict[tuple[str, date], list[int]] = {}
        for posting in self.postings:
            day = posting.command.effective_at.astimezone(UTC).date()
            for entry in posting.entries:
                sums = days.get((entry.account_id, day))
                if sums is None:
                    sums = days[entry.account_id, day] = [0, 0, 0, 0]
                sums[0] += entry.amount
                if entry.amount > 0:
                    sums[1] += entry.amount
                else:
                    sums[2] -= entry.amount
                sums[3] += 1
        return dict(sorted(days.items()))

    def parameters(self) -> dict[str, Any]:
        entries = [(posting.command, entry) for posting in self.postings for entry in posting.entries]
        running = self._running()
        days = self.days.items()
        events = self._events()
        return {
            "posted_at": self.states.posted_at,
            "ids": array(outcome.command.transaction_id for outcome in self.outcomes),
            "failures": array("NULL" if isinstance(outcome, Posting) else outcome.code.value for outcome in self.outcomes),
            "entry_accounts": array(entry.account_id for _, entry in entries),
            "entry_versions": array(entry.version for _, entry in entries),
            "entry_transactions": array(command.transaction_id for command, _ in entries),
            "entry_currencies": array(command.currency for command, _ in entries),
            "entry_amounts": array(entry.amount for _, entry in entries),
            "entry_balances": array(entry.balance for _, entry in entries),
            "entry_effective": array(f'"{command.effective_at.isoformat()}"' for command, _ in entries),
            "accounts": array(account.account_id for account in self.touched),
            "amounts": array(account.amount for account in self.touched),
            "versions": array(account.version for account in self.touched),
            "day_accounts": array(account_id for (account_id, _), _ in days),
            "days": array(day.isoformat() for (_, day), _ in days),
            "day_changes": array(running[key] for key in self.days),
            "day_credits": array(sums[1] for _, sums in days),
            "day_debits": array(sums[2] for _, sums in days),
            "day_counts": array(sums[3] for _, sums in days),
            "streams": array(event[0] for event in events),
            "stream_versions": array(event[1] for event in events),
            "types": array(event[2] for event in events),
            "data": array(_quoted(event[3]) for event in events),
            "requests": array("NULL" if event[4] is None else _quoted(event[4]) for event in events),
        }

    def _running(self) -> dict[tuple[str, date], int]:
        """The batch's change of each account up to and with each of its days, in minor units."""
        running: dict[tuple[str, date], int] = {}
        last_account, total = "", 0
        for (account_id, day), sums in self.days.items():
            total = sums[0] + (total if account_id == last_account else 0)
            last_account = account_id
            running[account_id, day] = total
        return running

    def later_days(self) -> tuple[str, str, str, str]:
        """For each account: the spans between the batch's own days, and by how much to move the days in them."""
        running = self._running()
        keys = list(running)
        spans = []
        for (account_id, day), following in zip(keys, [*keys[1:], None], strict=True):
            until = following[1].isoformat() if following and following[0] == account_id else "infinity"
            spans.append((account_id, day.isoformat(), until, running[account_id, day]))
        accounts, afters, befores, changes = zip(*spans, strict=True)
        return array(accounts), array(afters), array(befores), array(changes)

    def originals(self) -> tuple[str, str, str]:
        # The last mark on an original is the one that stays.
        marks = {posting.reversal.original_id: posting.reversal for posting in self.postings if posting.reversal}
        return (
            array(marks),
            array(mark.rolled_back_amount for mark in marks.values()),
            array(mark.version for mark in marks.values()),
        )

    def _events(self) -> list[tuple[str, int, str, str, str | None]]:
        """The events of the batch: stream, version, type, data as JSON, request id."""
        events: list[tuple[str, int, str, str, str | None]] = []
        for pending, outcome in zip(self.pending, self.outcomes, strict=True):
            command, request_id = outcome.command, pending.request_id
            if isinstance(outcome, Refusal):
                data = f'{{"failure_code":"{outcome.code.value}"}}'
                events.append((command.transaction_id, 2, "TransactionFailed", data, request_id))
                continue
            entries = ",".join(f'["{e.account_id}",{e.version},{e.amount},{e.balance}]' for e in outcome.entries)
            data = f'{{"entries":[{entries}]}}'
            events.append((command.transaction_id, 2, "TransactionCompleted", data, request_id))
            if outcome.reversal is not None:
                data = (
                    f'{{"rollback_id":"{command.transaction_id}","amount":{command.amount},'
                    f'"rolled_back_amount":{outcome.reversal.rolled_back_amount}}}'
                )
                original = outcome.reversal
                events.append((original.original_id, original.version, "TransactionRolledBack", data, request_id))
        return events


def array(values: Iterable[object]) -> str:
    """A PostgreSQL array literal of values that need no quoting or are quoted already."""
    return "{" + ",".join(map(str, values)) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
