"""The end of an import: the file is read once more, and its totals are held against the entries in the books."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bank.db import reader, unit_of_work
from bank.imports import store
from bank.imports.lines import Line, Lines, chunks
from bank.imports.records import Record, Unusable
from bank.imports.source import Source, Watch


@dataclass(frozen=True, slots=True)
class Sums:
    """Credits and debits in minor units, both positive, and how many lines or entries they are of."""

    credits: int
    debits: int
    count: int


@dataclass(frozen=True, slots=True)
class Difference:
    """An account whose entries are not what the file says."""

    account: str
    currency: str
    file: Sums
    books: Sums


@dataclass(slots=True)
class Report:
    """What came of the file.

    `lines` are all but the header and blank ones, `posted` and `repeated` (there before, by another
    file) those that count, `refused` the others by reason. `sums` by currency and `accounts` are of
    the lines that count. `changed`: whether this run had anything to do.
    """

    changed: bool
    lines: int = 0
    posted: int = 0
    repeated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    sums: dict[str, Sums] = field(default_factory=dict)
    accounts: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def proven(self) -> bool:
        """Whether every line has its outcome, and every account's totals are those of the file."""
        return not self.differences and self.lines == self.posted + self.repeated + self.refused.total()


def prove(source: Source, known: store.Known, refused_file: Path, watch: Watch) -> Report:
    """Read the file again, sum its lines by account, and compare with the entries by one statement.

    The sums are made from the file alone, less the lines that were refused; these are written to
    `refused_file` with their reasons, or an older one is removed when there are none. Raises Unusable
    when a file cannot be read or written.
    """
    report = Report(changed=known.finished_at is None)
    sums: dict[tuple[str, str], list[int]] = {}
    with Lines(source.path, source.format, known.created_at) as lines, RefusedFile(refused_file, source, lines.header) as out:
        refused = _Refusals(_refusals(known.chain))
        for part in chunks(lines):
            for line in part:
                report.lines += 1
                if reason := refused.of(line.record.start):
                    report.refused[reason[0]] += 1
                    out.write(line.record, *reason)
                elif isinstance(line, Line):
                    entry = sums.setdefault((line.account, line.currency), [0, 0, 0])
                    entry[0 if line.type == "credit" else 1] += line.amount
                    entry[2] += 1
            watch("Proving", lines.position)
    with unit_of_work() as session:
        outcomes = store.outcomes(session, known.chain)
        found = store.differences(session, known.owner_id, known.chain, sums)
    report.posted, report.repeated = outcomes.get("submitted", 0), outcomes.get("known", 0)
    report.accounts = len(sums)
    report.sums = {currency: Sums(*total) for currency, total in _by_currency(sums).items()}
    report.differences = [Difference(name, currency, Sums(*file), Sums(*books)) for name, currency, file, books in found]
    return report


def _by_currency(sums: dict[tuple[str, str], list[int]]) -> dict[str, list[int]]:
    totals: dict[str, list[int]] = {}
    for (_, currency), values in sorted(sums.items()):
        total = totals.setdefault(currency, [0, 0, 0])
        for place, value in enumerate(values):
            total[place] += value
    return totals


def _refusals(chain: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    after = 0
    while True:
        # A session for each page: the file is read in between, and no transaction may wait for that.
        with reader() as session:
            page = store.refused(session, chain, after)
        if not page:
            return
        yield from page
        after = page[-1][0]


class _Refusals:
    """The refusals beside the lines of the file: both are in its order, so none need be kept."""

    def __init__(self, refusals: Iterator[tuple[int, str, str]]) -> None:
        self._refusals = refusals
        self._next = next(refusals, None)

    def of(self, line: int) -> tuple[str, str] | None:
        """Reason and detail of the refusal of `line`, if it was refused. To be asked in ascending order."""
        while self._next is not None and self._next[0] < line:
            self._next = next(self._refusals, None)
        return self._next[1:] if self._next is not None and self._next[0] == line else None


class RefusedFile:
    """The refused lines as they stand in the file, each with its line number and reasons: what is put
    right in it can be imported like the file itself. It is made at the first line; without one, it is removed."""

    def __init__(self, path: Path, source: Source, header: list[str]) -> None:
        self._path = path
        self._source = source
        self._header = header
        self._file: Any = None
        self._writer: Any = None

    def __enter__(self) -> "RefusedFile":
        return self

    def write(self, record: Record, reason: str, detail: str) -> None:
        """Add a line. Raises Unusable when the file cannot be written."""
        try:
            if self._file is None:
                self._open()
            self._writer.writerow([record.start, reason, detail, *record.fields])
        except OSError as error:
            raise Unusable(f"The refused lines cannot be written to {self._path}: {error.strerror}.") from error

    def _open(self) -> None:
        # The file's own encoding, without a byte order mark, and its bytes that are none as they are.
        encoding = self._source.format.encoding.removesuffix("-sig")
        self._file = self._path.open("w", encoding=encoding, errors="surrogateescape", newline="")
        self._writer = csv.writer(self._file, delimiter=self._source.format.delimiter)
        # In front: a line that was refused for its number of fields would push them away.
        self._writer.writerow(["refused_line", "refused_reason", "refused_detail", *self._header])

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()
        elif exception[0] is None:
            self._path.unlink(missing_ok=True)
