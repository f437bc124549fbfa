"""The file that is to be brought in, and how one knows it again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from bank.imports.lines import Format
from bank.imports.records import Unusable
from bank.money import InvalidMoney, parse_amount

Watch = Callable[[str, int], None]
"""Told of progress: what is being done, and how many of the file's bytes it has been done to."""


@dataclass(frozen=True, slots=True)
class Source:
    """The file, how it is read, and who is to own the accounts.

    `overdraft_limit` is a decimal amount in the currency of each account that is opened, or None
    for no overdraft.
    """

    path: Path
    format: Format
    owner: str
    overdraft_limit: str | None = None

    @property
    def options(self) -> bytes:
        """Stands for all that decides what the lines mean."""
        return self.format.digest(self.owner.lower())

    def limit_in(self, currency: str) -> int:
        """The overdraft limit in minor units. Raises Unusable when it is no amount of the currency."""
        if self.overdraft_limit is None:
            return 0
        try:
            return parse_amount(self.overdraft_limit, currency, allow_zero=True)
        except InvalidMoney as error:
            raise Unusable(f"The overdraft limit is no amount in {currency}: {error}") from error

    def size(self) -> int:
        """The file's size in bytes. Raises Unusable when there is no such file."""
        return self.identity()[1]

    def identity(self) -> tuple[int, int, int]:
        """Changes when the file is replaced or written to. Raises Unusable when there is no such file."""
        try:
            stat = self.path.stat()
        except OSError as error:
            raise Unusable(f"{self.path} cannot be read: {error.strerror}.") from error
        return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """SHA-256 of a file and its size in bytes; and of its beginnings, by their size, where a line ends there."""

    content: bytes
    size: int
    beginnings: dict[int, bytes]


def fingerprint(path: Path, sizes: Sequence[int], watch: Watch) -> Fingerprint:
    """Hash the file in one go, and its beginnings of these sizes (ascending). Raises Unusable when it cannot be read."""
    digest, size, beginnings = sha256(), 0, {}
    try:
        with path.open("rb") as file:
            for stop in [*sizes, None]:
                last = b""
                while block := file.read(_BLOCK if stop is None else min(_BLOCK, stop - size)):
                    digest.update(block)
                    size += len(block)
                    last = block
                    watch("Reading", size)
                if stop is not None and last.endswith((b"\n", b"\r")):
                    beginnings[size] = digest.digest()
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}.") from error
    return Fingerprint(digest.digest(), size, beginnings)


_BLOCK = 1 << 20
