"""Small books whose log is sealed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flask import Flask
from sqlalchemy import text

from bank.db import reader
from bank.followers.runner import Inside, register, step
from bank.proof import keys
from bank.proof.sealer import Sealer
from tests.books import Books, small_books
from tests.processes import query

SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
KEY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(SEED))
PUBLIC_KEY = keys.public_half(KEY)


def seal_up_to(app: Flask, last: int) -> None:
    """Seal all events up to a position, as the follower does."""
    follower = Inside("seal", Sealer(KEY).take)
    with app.app_context():
        position = register("seal")
        while position < last:
            position = step(follower, last)


def last_position(app: Flask) -> int:
    with app.app_context(), reader() as session:
        return int(session.execute(text("SELECT COALESCE(max(position), 0) FROM events")).scalar_one())


@dataclass(frozen=True)
class Sealed:
    """Books whose log is sealed in several blocks, and what restores them."""

    books: Books
    environ: dict[str, str]

    def harm(self, statements: str) -> None:
        """Run statements with a superuser's hands, past every trigger and key."""
        query({"DATABASE_URL": self.books.superuser_url}, f"SET session_replication_role = replica; {statements}")

    def restore(self) -> None:
        """Put log, chain and followers back as they were."""
        self.harm(
            """DELETE FROM events; INSERT INTO events OVERRIDING SYSTEM VALUE SELECT * FROM kept_events;
               DELETE FROM blocks; INSERT INTO blocks SELECT * FROM kept_blocks;
               DELETE FROM followers; INSERT INTO followers SELECT * FROM kept_followers"""
        )


@pytest.fixture(scope="session")
def sealed_books(
    environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sealed]:
    directory: Path = tmp_path_factory.mktemp("sealed")
    with small_books({**environ, "BANK_SEAL_KEY": SEED}, as_superuser, directory) as books:
        end = last_position(books.app)
        assert end > 15
        for last in (5, 6, 13, end):
            seal_up_to(books.app, last)
        sealed = Sealed(books, books.environ)
        sealed.harm("; ".join(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}" for table in ("events", "blocks", "followers")))
        yield sealed


@pytest.fixture
def sealed(sealed_books: Sealed) -> Iterator[Sealed]:
    """Sealed books that a test may harm."""
    yield sealed_books
    sealed_books.restore()
