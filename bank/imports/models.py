"""Imports: which file was brought in how far, and what became of each of its lines."""

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class Import(Base):
    """One file, read in one way, for one owner. The same again is the same row, so it goes on where it stood."""

    __tablename__ = "imports"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    # SHA-256 of the file's bytes, and of the options that decide what its lines mean.
    content: Mapped[bytes] = mapped_column(LargeBinary)
    options: Mapped[bytes] = mapped_column(LargeBinary)
    # Of the file, in bytes: a longer file that begins with these bytes is this one, appended to.
    size: Mapped[int] = mapped_column(BigInteger)
    # What the file was called, for people.
    name: Mapped[str] = mapped_column(Text)
    owner_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    # The import of the beginning of this file: its lines are not read again.
    continues_id: Mapped[str | None] = mapped_column(Id, ForeignKey("imports.id"))
    # The file's line up to which all is recorded; moved in the unit of work that records.
    lines_done: Mapped[int] = mapped_column(Integer, server_default="0")
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # When every line was final: posted, refused or there before.
    finished_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        UniqueConstraint("content", "options"),
        Index("ix_imports_options", "options", "size"),
        Index("ix_imports_continues_id", "continues_id", postgresql_where=text("continues_id IS NOT NULL")),
    )


class ImportAccount(Base):
    """The account that stands for an `account` value of an owner's files, however it is named later."""

    __tablename__ = "import_accounts"

    owner_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    account_id: Mapped[str] = mapped_column(Id, ForeignKey("accounts.id"), unique=True)


class ImportLine(Base):
    """What became of a line of a file."""

    __tablename__ = "import_lines"

    import_id: Mapped[str] = mapped_column(Id, ForeignKey("imports.id"), primary_key=True)
    # Where it begins in the file, counted from 1.
    line: Mapped[int] = mapped_column(Integer, primary_key=True)
    # `submitted`: became a transaction. `known`: another file brought the same in before. `refused`: did not count.
    outcome: Mapped[str] = mapped_column(Text)
    account_id: Mapped[str | None] = mapped_column(Id, ForeignKey("accounts.id"))
    reference: Mapped[str | None] = mapped_column(Text)
    # NULL for a line that was refused before it became one.
    transaction_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
    # Why it was refused: a code, and a sentence.
    reason: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        CheckConstraint("outcome IN ('submitted', 'known', 'refused')", name="outcome"),
        CheckConstraint("(outcome = 'refused') = (reason IS NOT NULL)", name="reason"),
        CheckConstraint("outcome = 'refused' OR transaction_id IS NOT NULL", name="transaction_id"),
        # A reference moves an account's money once, by whatever file it comes. A refused line leaves
        # its reference free, so that it can be imported again when it is put right.
        Index(
            "uq_import_lines_reference",
            "account_id",
            "reference",
            unique=True,
            postgresql_where=text("outcome = 'submitted' AND reference IS NOT NULL"),
        ),
        Index(
            "uq_import_lines_transaction_id",
            "transaction_id",
            "import_id",
            unique=True,
            postgresql_where=text("transaction_id IS NOT NULL"),
        ),
        Index("ix_import_lines_refused", "import_id", "line", postgresql_where=text("outcome = 'refused'")),
    )
