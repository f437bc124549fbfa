"""The follower that seals the log."""

import os
from datetime import UTC, datetime

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.proof import blocks, leaves, merkle
from bank.web.fields import timestamp

log = structlog.get_logger(__name__)

# How many events a block holds at most.
BLOCK_EVENTS = 1_000

_EVENTS = f"SELECT {leaves.COLUMNS} FROM events WHERE position > %s AND position <= %s ORDER BY position LIMIT {BLOCK_EVENTS}"

_INSERT = text(
    """
    INSERT INTO blocks (number, after, last, events, root, previous, sealed_at, signature, public_key, secret, leaves)
    VALUES (:number, :after, :last, :events, :root, :previous, :sealed_at, :signature, :public_key, :secret, :leaves)
    """
)


class Sealer:
    """Seals events into blocks that it signs with `key`."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public_key = blocks.public_bytes(key)

    def take(self, session: Session, after: int, last: int) -> int:
        """Seal the next block of events up to position `last`, and return where it ends."""
        before = blocks.last_block(session)
        # Not `after`: where only positions that were never used lie between, no block was made of them.
        begin = before.last if before else 0
        rows = session.connection().exec_driver_sql(_EVENTS, (begin, last)).fetchall()
        if not rows:
            return last
        end = rows[-1].position if len(rows) == BLOCK_EVENTS else last
        secret = os.urandom(blocks.HASH_BYTES)
        hashes = [leaves.leaf(row, secret).hash for row in rows]
        sealed_at = datetime.now(UTC)
        root = merkle.root(hashes)
        previous = blocks.header(before).hash() if before else blocks.BEFORE_ALL
        number = before.number + 1 if before else 1
        header = blocks.Header(number, begin, end, len(rows), root.hex(), previous.hex(), str(timestamp(sealed_at)))
        session.execute(
            _INSERT,
            {
                "number": number,
                "after": begin,
                "last": end,
                "events": len(rows),
                "root": root,
                "previous": previous,
                "sealed_at": sealed_at,
                "signature": self._key.sign(header.to_bytes()),
                "public_key": self._public_key,
                "secret": secret,
                "leaves": b"".join(hashes),
            },
        )
        log.debug("block_sealed", number=number, events=len(rows), last=end)
        return end
