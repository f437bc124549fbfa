"""A dry run: the same reading, screening and deciding as the import, on states that nobody writes back."""

from collections import Counter
from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from bank.imports import store
from bank.imports.lines import Line, Lines, Refused, chunks
from bank.imports.proof import Sums
from bank.imports.screening import Account, Repeated, new_accounts, references, screen
from bank.imports.source import Source, Watch
from bank.ledger.decide import AccountState, Command, Refusal, decide

# How many refused lines are kept to be shown.
SHOWN = 20


@dataclass(slots=True)
class Trial:
    """What would come of the file: `done` lines are in already, the rest would be posted, repeated or refused.

    `shown` are the first refused lines: line, reason, detail.
    """

    done: int = 0
    posted: int = 0
    repeated: int = 0
    new_accounts: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    shown: list[tuple[int, str, str]] = field(default_factory=list)
    sums: dict[str, Sums] = field(default_factory=dict)


def attempt(session: Session, source: Source, owner_id: str | None, known: store.Known | None, watch: Watch) -> Trial:
    """Go through the lines that are not recorded yet, behind where `known` stands.

    Remembers the references of the file, some 200 bytes a line. Raises Unusable.
    """
    trial = Trial()
    seen: set[tuple[str, str]] = set()
    books = _Books(session, source, owner_id, trial)
    chain, lines_done = (known.chain, known.lines_done) if known else ((), 0)
    with Lines(source.path, source.format, store.now(session)) as lines:
        for part in chunks(lines):
            rest = [line for line in part if line.record.end > lines_done]
            trial.done += len(part) - len(rest)
            books.learn(rest)
            recorded = store.recorded(session, chain, references(rest, books.accounts))
            for line in screen(rest, books.accounts, recorded, seen):
                books.decide(line)
            watch("Checking", lines.position)
    return trial


class _Books:
    """The accounts as they would stand, by the names in the file."""

    def __init__(self, session: Session, source: Source, owner_id: str | None, trial: Trial) -> None:
        self.accounts: dict[str, Account] = {}
        self._states: dict[str, AccountState] = {}
        self._session = session
        self._source = source
        self._owner_id = owner_id
        self._trial = trial

    def learn(self, lines: list[Line | Refused]) -> None:
        """Look up the accounts of the lines; those that are not there are as they would be opened."""
        new = new_accounts(lines, self.accounts)
        if new and self._owner_id:
            found = store.accounts_named(self._session, self._owner_id, list(new))
            states = store.states(self._session, [account_id for account_id, _ in found.values()])
            for name, (account_id, currency) in found.items():
                self.accounts[name] = Account(account_id, currency)
                self._states[name] = states[account_id]
        for name, currency in new_accounts(lines, self.accounts).items():
            limit = self._source.limit_in(currency)
            self.accounts[name] = Account(None, currency)
            self._states[name] = AccountState(name, currency, "active", limit, amount=0, held=0, version=0)
            self._trial.new_accounts += 1

    def decide(self, line: Line | Repeated | Refused) -> None:
        """Count what would become of the line, and move its account on."""
        if isinstance(line, Repeated):
            self._trial.repeated += 1
            self._count(line.line)
        elif isinstance(line, Refused):
            self._refuse(line.record.start, line.reason, line.detail)
        else:
            outcome = decide([self._command(line)], self._states, {})[0]
            if isinstance(outcome, Refusal):
                self._refuse(line.record.start, outcome.code.value, "The ledger would refuse it.")
            else:
                self._trial.posted += 1
                self._count(line)

    def _command(self, line: Line) -> Command:
        # No account has such a name: NUL is refused in names.
        outside = f"\0{line.currency}"
        if outside not in self._states:
            self._states[outside] = AccountState(outside, line.currency, "active", None, amount=0, held=0, version=0)
        source, target = (outside, line.account) if line.type == "credit" else (line.account, outside)
        return Command("", source, target, line.amount, line.currency, line.effective_at)

    def _count(self, line: Line) -> None:
        sums = self._trial.sums.get(line.currency, Sums(0, 0, 0))
        credit = line.type == "credit"
        self._trial.sums[line.currency] = Sums(
            sums.credits + line.amount * credit, sums.debits + line.amount * (not credit), sums.count + 1
        )

    def _refuse(self, line: int, reason: str, detail: str) -> None:
        self._trial.refused[reason] += 1
        if len(self._trial.shown) < SHOWN:
            self._trial.shown.append((line, reason, detail))
