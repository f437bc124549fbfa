"""Transactions: what clients asked for and what became of it; and the keys that make asking twice safe."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, Integer, LargeBinary, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant, Minor


class TransactionType(StrEnum):
    """Which way the money goes."""

    CREDIT = "credit"  # from the outside to an account
    DEBIT = "debit"  # from an account to the outside
    TRANSFER = "transfer"  # from an account to another
    ROLLBACK = "rollback"  # back again, in whole or in part


class TransactionStatus(StrEnum):
    """How far a transaction is."""

    PENDING = "pending"  # accepted and durable, not decided
    HELD = "held"  # reserved, not moved
    COMPLETED = "completed"  # posted
    FAILED = "failed"  # refused by the ledger; `failure_code` says why
    ROLLED_BACK = "rolled_back"  # posted, and all of it moved back since
    VOIDED = "voided"  # a hold that was let go


class Transaction(Base):
    """One movement of money. The row is the queue: a pending row waits for its lane's drain."""

    __tablename__ = "transactions"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    # The position of its `TransactionSubmitted` event: the order of all transactions.
    seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    lane: Mapped[int] = mapped_column(SmallInteger)
    type: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    # NULL on the side of the outside.
    from_user_id: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    to_user_id: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    from_account_id: Mapped[str | None] = mapped_column(Id, ForeignKey("accounts.id"))
    to_account_id: Mapped[str | None] = mapped_column(Id, ForeignKey("accounts.id"))
    # What leaves, in minor units of `currency`.
    amount: Mapped[int] = mapped_column(Minor)
    currency: Mapped[str] = mapped_column(Text)
    # What arrives, in minor units of `to_currency`; the same unless money is exchanged.
    to_amount: Mapped[int] = mapped_column(Minor)
    to_currency: Mapped[str] = mapped_column(Text)
    # Units of `to_currency` for one of `currency`, as a decimal; NULL where nothing is exchanged.
    rate: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    # `metadata` is a word of SQLAlchemy's.
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON)
    failure_code: Mapped[str | None] = mapped_column(Text)
    # The transaction that this rollback moves back.
    reverses_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
    # The schedule of which this is a run.
    schedule_id: Mapped[str | None] = mapped_column(Id, ForeignKey("schedules.id"))
    # How much of this transaction rollbacks have moved back, in minor units of `currency`.
    rolled_back_amount: Mapped[int] = mapped_column(Minor, server_default="0")
    # Who asked, by which request and trace, and whether somebody waits for the outcome (`Prefer: wait`).
    actor_id: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    request_id: Mapped[str | None] = mapped_column(Text)
    trace_id: Mapped[str | None] = mapped_column(Text)
    awaited: Mapped[bool] = mapped_column(server_default="false")
    # How many events the transaction's stream has.
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    effective_at: Mapped[datetime] = mapped_column(Instant)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    completed_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("type IN ('credit', 'debit', 'transfer', 'rollback')", name="type"),
        CheckConstraint("status IN ('pending', 'held', 'completed', 'failed', 'rolled_back', 'voided')", name="status"),
        CheckConstraint("amount > 0 AND to_amount > 0", name="amount"),
        CheckConstraint("rolled_back_amount BETWEEN 0 AND amount", name="rolled_back_amount"),
        CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="failure_code"),
        CheckConstraint("(type = 'rollback') = (reverses_id IS NOT NULL)", name="reverses_id"),
        # The claim reads this from where the lane stands. `status` is in no index on purpose: the
        # update that completes a row then stays on its page (HOT), with room left by the
        # fillfactor that the migration sets.
        Index("ix_transactions_lane_seq", "lane", "seq"),
        Index("ix_transactions_from_account_id_seq", "from_account_id", "seq"),
        Index("ix_transactions_to_account_id_seq", "to_account_id", "seq"),
        Index("ix_transactions_from_user_id_seq", "from_user_id", "seq"),
        Index("ix_transactions_to_user_id_seq", "to_user_id", "seq"),
        Index("ix_transactions_reference", "reference", "seq", postgresql_where=text("reference IS NOT NULL")),
        Index("ix_transactions_schedule_id", "schedule_id", "seq", postgresql_where=text("schedule_id IS NOT NULL")),
        Index("ix_transactions_reverses_id", "reverses_id", postgresql_where=text("reverses_id IS NOT NULL")),
    )


class IdempotencyKey(Base):
    """A client's key and the answer it got, committed together with what the request did."""

    __tablename__ = "idempotency_keys"

    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), primary_key=True)
    # The operation: a key may be used again on another route.
    route: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    # SHA-256 of what was asked.
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    # NULL where the request made no transaction: a schedule.
    transaction_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
    # NULL while the first request still waits for the outcome (`Prefer: wait`).
    response_status: Mapped[int | None] = mapped_column(SmallInteger)
    response_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    # Until when the first request may hold the answer back; past that it is taken as lost.
    answer_by: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
