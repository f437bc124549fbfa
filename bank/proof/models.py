"""The seals on the log, and what was erased under them."""

from sqlalchemy import BigInteger, CheckConstraint, LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base


class Block(Base):
    """A run of events under one signature, chained to the block before. It is only ever appended to."""

    __tablename__ = "blocks"

    # 1, 2, 3, … without a gap.
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # Up to which position it holds every event; both numbers are in the header too.
    last: Mapped[int] = mapped_column(BigInteger, unique=True)
    # The signed text, to the byte (`bank.proof.blocks.Header`).
    header: Mapped[str] = mapped_column(Text)
    # Ed25519 over the header, and the public key that it is to be checked with.
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    # What keeps the parts of an event that a receipt does not show from being guessed by their hashes.
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    # The hashes of the tree's leaves, one after the other: a receipt is made from them, and a changed event named by them.
    leaves: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (CheckConstraint("octet_length(secret) = 32", name="secret"),)


class ErasedEvent(Base):
    """A sealed event of which what is personal was erased. It is only ever appended to."""

    __tablename__ = "erased_events"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    # What stood for the data that was sealed, in hexadecimal digits (`bank.proof.leaves.Part`): the leaf is made with it now.
    commitment: Mapped[str] = mapped_column(Text)

    __table_args__ = (CheckConstraint("commitment ~ '^[0-9a-f]{64}$'", name="commitment"),)
