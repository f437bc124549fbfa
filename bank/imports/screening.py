"""Which lines of a chunk become transactions: what the parser cannot know, for the import and its trial alike."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from bank.imports.lines import Line, Refused
from bank.imports.store import Recorded


@dataclass(frozen=True, slots=True)
class Account:
    """The account that an `account` value stands for; `id` None while it is to be opened."""

    id: str | None
    currency: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """A line whose reference another file has brought in already, with the same content."""

    line: Line
    transaction_id: str


def new_accounts(lines: Iterable[Line | Refused], known: Mapping[str, Account]) -> dict[str, str]:
    """The names in `lines` without an account, in their order, each with the currency of its first line."""
    new: dict[str, str] = {}
    for line in lines:
        if isinstance(line, Line) and line.account not in known:
            new.setdefault(line.account, line.currency)
    return new


def references(lines: Iterable[Line | Refused], accounts: Mapping[str, Account]) -> list[tuple[str, str]]:
    """Account id and reference of the lines that have both."""
    wanted = [(accounts[line.account].id, line.reference) for line in lines if isinstance(line, Line)]
    return [(account_id, reference) for account_id, reference in wanted if account_id is not None and reference is not None]


def screen(
    lines: Iterable[Line | Refused],
    accounts: Mapping[str, Account],
    recorded: Mapping[tuple[str, str], Recorded],
    seen: set[tuple[str, str]],
) -> Iterator[Line | Repeated | Refused]:
    """Each line as it is to be taken: as a new transaction, as one that is there already, or not at all.

    `recorded` is by account id and reference; `seen` are the account names and references of earlier
    lines, and takes in those of these.
    """
    for line in lines:
        yield line if isinstance(line, Refused) else _screen_one(line, accounts[line.account], recorded, seen)


def _screen_one(
    line: Line, account: Account, recorded: Mapping[tuple[str, str], Recorded], seen: set[tuple[str, str]]
) -> Line | Repeated | Refused:
    if line.currency != account.currency:
        return Refused(line.record, "currency_mismatch", f"The account holds {account.currency}.")
    if line.reference is None:
        return line
    found = recorded.get((account.id, line.reference)) if account.id else None
    if (line.account, line.reference) in seen or (found and found.in_this_file):
        return Refused(line.record, "duplicate_reference", "An earlier line of the account has the same reference.")
    seen.add((line.account, line.reference))
    if found is None:
        return line
    if (found.type, found.amount, found.currency, found.effective_at) != (line.type, line.amount, line.currency, line.effective_at):
        return Refused(line.record, "reference_reused", "Another file brought in something else under the same reference.")
    return Repeated(line, found.transaction_id)
