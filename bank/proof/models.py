"""The seals on the log."""

from datetime import datetime

from sqlalchemy import BigInteger, Integer, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Instant


class Block(Base):
    """A run of events under one signature, chained to the block before. It is only ever appended to."""

    __tablename__ = "blocks"

    # 1, 2, 3, … without a gap.
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # It holds every event behind the one position and up to the other.
    after: Mapped[int] = mapped_column(BigInteger)
    last: Mapped[int] = mapped_column(BigInteger, unique=True)
    events: Mapped[int] = mapped_column(Integer)
    # The root of the Merkle tree (RFC 6962) over the events, and the SHA-256 of the header of the block before.
    root: Mapped[bytes] = mapped_column(LargeBinary)
    previous: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_at: Mapped[datetime] = mapped_column(Instant)
    # Ed25519 over the header, and the public key that it is to be checked with.
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    # What keeps the parts of an event that a receipt does not show from being guessed by their hashes.
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    # The hashes of the tree's leaves, one after the other: a receipt is made from them, and a changed event named by them.
    leaves: Mapped[bytes] = mapped_column(LargeBinary)
