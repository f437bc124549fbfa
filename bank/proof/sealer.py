"""The follower that seals the log."""

import os
from collections.abc import Collection
from datetime import UTC, datetime
from hashlib import sha256

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.orm import Session

from bank.proof import blocks, keys, leaves, merkle
from bank.proof.models import Block
from bank.web.fields import timestamp

log = structlog.get_logger(__name__)

NAME = "seal"
"""What the follower is called."""

# How many events a block holds at most.
BLOCK_EVENTS = 1_000

_EVENTS = f"SELECT {leaves.COLUMNS} FROM events WHERE position > %s AND position <= %s ORDER BY position LIMIT {BLOCK_EVENTS}"


# Any number; it is this lock's name.
_LOCK = 0x7365616C


def hold(session: Session) -> None:
    """Until the caller's unit of work ends, nothing else is sealed: who reads an event to seal it and who erases of it take turns."""
    session.connection().exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))


class ChainBroken(RuntimeError):
    """The chain in the database is not the one that was sealed. Nothing is sealed on top of it."""


class Sealer:
    """Seals events into blocks that it signs with `key`. `trusted` are the public keys that may have signed before.

    It signs nothing on top of a chain that it can tell is not the right one: whose head is not signed by a trusted key, or
    which has lost or changed a block that this process sealed. Its log tells the hash of every header: one that is kept
    elsewhere is a head to verify by.
    """

    def __init__(self, key: Ed25519PrivateKey, trusted: Collection[bytes] = ()) -> None:
        self._key = key
        self._public_key = keys.public_half(key)
        self._trusted = {self._public_key, *trusted}
        # The last block that was seen to be right.
        self._known: tuple[int, str] | None = None

    def take(self, session: Session, after: int, last: int) -> int:
        """Seal the next block of events up to position `last`, and return where it ends. Raises ChainBroken."""
        hold(session)
        before = self._checked_head(session)
        # Not `after`: where only positions that were never used lie between, no block was made of them.
        begin = before.last if before else 0
        rows = session.connection().exec_driver_sql(_EVENTS, (begin, last)).fetchall()
        if not rows:
            return last
        end = rows[-1].position if len(rows) == BLOCK_EVENTS else last
        secret = os.urandom(blocks.SECRET_BYTES)
        hashes = [leaves.leaf(row, secret).hash for row in rows]
        header = blocks.Header(
            number=before.number + 1 if before else 1,
            after=begin,
            last=end,
            events=len(rows),
            root=merkle.root(hashes).hex(),
            previous=blocks.header_hash(before.header) if before else blocks.BEFORE_ALL,
            secret=sha256(secret).hexdigest(),
            sealed_at=str(timestamp(datetime.now(UTC))),
        )
        signed = header.to_text()
        block = Block(
            number=header.number,
            last=end,
            header=signed,
            signature=self._key.sign(signed.encode()),
            public_key=self._public_key,
            secret=secret,
            leaves=b"".join(hashes),
        )
        session.add(block)
        log.info("block_sealed", number=block.number, events=header.events, last=end, header_hash=blocks.header_hash(signed))
        return end

    def _checked_head(self, session: Session) -> Block | None:
        head = blocks.last_block(session)
        if self._known is not None:
            number, known_hash = self._known
            known = head if head is not None and head.number == number else session.get(Block, number)
            if known is None or blocks.header_hash(known.header) != known_hash:
                raise ChainBroken(f"Block {number} is not there any more as it was sealed.")
        if head is not None:
            if not keys.is_signed(head.header, head.signature, head.public_key, self._trusted):
                raise ChainBroken(f"Block {head.number}, the last, is not signed with a key that is trusted.")
            self._known = (head.number, blocks.header_hash(head.header))
        return head
