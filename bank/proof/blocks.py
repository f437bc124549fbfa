"""Blocks: runs of events under one signature each, every one chained to the one before."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.orm import Session

from bank.proof.models import Block

# Of a SHA-256, and of the secrets of blocks.
HASH_BYTES = SECRET_BYTES = 32

# What the first block has in the place of the hash of one before.
BEFORE_ALL = bytes(HASH_BYTES).hex()


@dataclass(frozen=True, slots=True)
class Header:
    """What is signed of a block. Hashes are in hexadecimal digits; `sealed_at` is RFC 3339 in UTC.

    It holds so many `events`, all those behind position `after` and up to position `last`. `root` is that of their tree,
    `previous` the hash of the header before, `secret` that of the block's secret.
    """

    number: int
    after: int
    last: int
    events: int
    root: str
    previous: str
    secret: str
    sealed_at: str

    def to_text(self) -> str:
        """What is signed, and stored: JSON with the members in the order above."""
        return orjson.dumps(self).decode()


def parse(header: str) -> Header:
    """The header of a block from its text. Raises ValueError for what is none."""
    try:
        found = Header(**orjson.loads(header))
    except TypeError as error:
        raise ValueError(f"It is not the header of a block: {error}") from error
    numbers = (found.number, found.after, found.last, found.events)
    # What the database can look for.
    if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
        raise ValueError("It is not the header of a block: its numbers are none.")
    return found


def header_hash(header: str) -> str:
    """The SHA-256 of a header's text, by which the next block is chained to it."""
    return sha256(header.encode()).hexdigest()


def present(block: Block) -> dict[str, Any]:
    """A block as receipts and the head show it: the signed text, and what it is checked with."""
    return {"header": block.header, "signature": block.signature.hex(), "public_key": block.public_key.hex()}


def last_block(session: Session) -> Block | None:
    """The head of the chain; None where nothing is sealed yet."""
    return session.scalars(select(Block).order_by(Block.number.desc()).limit(1)).one_or_none()
