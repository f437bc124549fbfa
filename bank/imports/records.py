"""A CSV file as records, one at a time, whatever the file holds: broken lines are told of, not raised."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# No sane line is longer; what is beyond this is dropped, so that one endless line cannot fill the memory.
_LONGEST_LINE = 1_000_000
# How much of a line that cannot be read is kept to be shown.
_SHOWN = 1000


class Unusable(Exception):
    """The file cannot be imported as a whole, or not in this way; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Record:
    """One record: the file's lines `start` to `end` (counted from 1), and its fields.

    Where it cannot be read, `error` says why, and the only field is the text as it stands. Bytes
    that are not of the encoding are lone surrogates in the fields (PEP 383).
    """

    start: int
    end: int
    fields: list[str]
    error: str | None = None


class Records:
    """The records of the file at `path`; a context manager and an iterator. Blank lines are none.

    Raises Unusable when the file cannot be opened or is not of `encoding` beyond hope.
    """

    def __init__(self, path: Path, encoding: str, delimiter: str) -> None:
        self._raw: list[str] = []
        self._delimiter = delimiter
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise Unusable(f"{path} cannot be read: {error.strerror}.") from error
        self._text = io.TextIOWrapper(self._file, encoding, errors="surrogateescape", newline="")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._text.close()

    @property
    def position(self) -> int:
        """How many bytes of the file were read, a buffer more than the records handed out."""
        return self._file.tell()

    def __iter__(self) -> Iterator[Record]:
        # strict: what two readers could understand differently is refused, not guessed.
        reader = csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            self._raw.clear()
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                shown = "".join(self._raw)[:_SHOWN].rstrip("\r\n")
                yield Record(start, reader.line_num, [shown], str(error))
            except (UnicodeError, OSError) as error:
                raise Unusable(f"The file cannot be read past line {reader.line_num}: {error}.") from error
            else:
                if any(field.strip() for field in fields):
                    yield Record(start, reader.line_num, fields)

    def _lines(self) -> Iterator[str]:
        while line := self._text.readline(_LONGEST_LINE):
            rest = line
            while len(rest) == _LONGEST_LINE and not rest.endswith(("\n", "\r")):
                rest = self._text.readline(_LONGEST_LINE)
            self._raw.append(line)
            yield line
