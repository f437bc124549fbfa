"""States of the bank that were made from the events: snapshots to start from, and replays that somebody asked for."""

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant, Minor


class Snapshot(Base):
    """The state that all events up to a position make. Never the truth: it can be thrown away."""

    __tablename__ = "snapshots"

    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    # What it was made by: other code does not start from it.
    code: Mapped[str] = mapped_column(Text, primary_key=True)
    # The latest time at which one of its events was recorded.
    recorded_until: Mapped[datetime] = mapped_column(Instant)
    # Compressed JSON.
    state: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())


class Replay(Base):
    """A replay that was asked for through the API, how far it is, and what came out."""

    __tablename__ = "replays"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    asked_by: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    # Up to which moment, by one or the other; and of which account, where it is not of all.
    until_position: Mapped[int | None] = mapped_column(BigInteger)
    until_time: Mapped[datetime | None] = mapped_column(Instant)
    account_id: Mapped[str | None] = mapped_column(Id)
    # Whether no snapshot may be used.
    from_start: Mapped[bool] = mapped_column(Boolean)
    # One that is forgotten is not shown any more, and goes as soon as its accounts are gone.
    status: Mapped[str] = mapped_column(Text, server_default="queued")
    # How often it was begun: who is killed in the middle of it leaves it to the next.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    # The position of the snapshot that it began at, 0 for the start of the log; NULL until it has begun.
    started_from: Mapped[int | None] = mapped_column(BigInteger)
    # Where it is, and where it ends; NULL until it has begun.
    position: Mapped[int | None] = mapped_column(BigInteger)
    end_position: Mapped[int | None] = mapped_column(BigInteger)
    # How many transactions and users there were by then; NULL until it is finished.
    users: Mapped[int | None] = mapped_column(BigInteger)
    submitted: Mapped[int | None] = mapped_column(BigInteger)
    completed: Mapped[int | None] = mapped_column(BigInteger)
    failed: Mapped[int | None] = mapped_column(BigInteger)
    open_holds: Mapped[int | None] = mapped_column(BigInteger)
    voided: Mapped[int | None] = mapped_column(BigInteger)
    # What went wrong, for people.
    error: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # When it was last heard of; one that is running and silent has died.
    heard_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    finished_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("status IN ('queued', 'running', 'finished', 'failed', 'forgotten')", name="status"),
        CheckConstraint("(until_position IS NULL) <> (until_time IS NULL)", name="until"),
        Index("ix_replays_open", "heard_at", postgresql_where=text("status IN ('queued', 'running')")),
        Index("ix_replays_created_at", "created_at"),
    )


class ReplayedAccount(Base):
    """An account as it was at the end of a replay."""

    __tablename__ = "replayed_accounts"

    replay_id: Mapped[str] = mapped_column(Id, ForeignKey("replays.id", ondelete="CASCADE"), primary_key=True)
    account_id: Mapped[str] = mapped_column(Id, primary_key=True)
    # NULL for the bank's own accounts.
    user_id: Mapped[str | None] = mapped_column(Id)
    currency: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    name: Mapped[str | None] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    # Minor units; NULL: without a limit, as the bank's own accounts are.
    overdraft_limit: Mapped[int | None] = mapped_column(Minor)
    # Minor units, after the entry that `version` counts.
    balance: Mapped[int] = mapped_column(Minor)
    version: Mapped[int] = mapped_column(BigInteger)
    # Minor units of the balance that were reserved by holds.
    held: Mapped[int] = mapped_column(Minor, server_default="0")
