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


class ReviewStatus(StrEnum):
    """What became of a transaction that a rule had held."""

    OPEN = "open"  # an admin is to decide
    APPROVED = "approved"  # it went on
    REJECTED = "rejected"  # it failed


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
    # Units of `to_currency` for one of `currency`, as a decimal; of a rollback that of its original. NULL where nothing is exchanged.
    rate: Mapped[str | None] = mapped_column(Text)
    # What rounding at that rate left, exactly: minor units, as a decimal, of the currency that was bought. See `bank.fx.service.Agreed`.
    remainder: Mapped[str | None] = mapped_column(Text)
    # The quote that it was agreed by, if there was one.
    quote_id: Mapped[str | None] = mapped_column(Id)
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
    # The batch that it came with, and its place there from 0 on; NULL where it came by itself.
    batch_id: Mapped[str | None] = mapped_column(Id, ForeignKey("batches.id"))
    batch_index: Mapped[int | None] = mapped_column(Integer)
    # Until when a hold reserves; NULL: it is none.
    expires_at: Mapped[datetime | None] = mapped_column(Instant)
    # What an open hold still reserves, and what captures have taken of it, in minor units of `currency`.
    held_amount: Mapped[int] = mapped_column(Minor, server_default="0")
    captured_amount: Mapped[int] = mapped_column(Minor, server_default="0")
    # That a rule had it held until an admin decides (`ReviewStatus`), and what was decided; NULL: no rule had.
    review: Mapped[str | None] = mapped_column(Text)
    # The hold that this transfer takes from; the hold that this one, which moves nothing, lets go.
    captures_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
    voids_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
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
        CheckConstraint("(currency = to_currency) = (rate IS NULL) AND (rate IS NULL) = (remainder IS NULL)", name="exchange"),
        CheckConstraint("rolled_back_amount BETWEEN 0 AND amount", name="rolled_back_amount"),
        CheckConstraint("(status = 'failed') = (failure_code IS NOT NULL)", name="failure_code"),
        CheckConstraint("(type = 'rollback') = (reverses_id IS NOT NULL)", name="reverses_id"),
        CheckConstraint("(batch_id IS NULL) = (batch_index IS NULL)", name="batch_index"),
        CheckConstraint("held_amount >= 0 AND captured_amount >= 0 AND held_amount + captured_amount <= amount", name="hold_parts"),
        CheckConstraint("(status = 'held') = (held_amount > 0)", name="held"),
        CheckConstraint("expires_at IS NOT NULL OR (captured_amount = 0 AND (held_amount = 0 OR review IS NOT NULL))", name="hold"),
        CheckConstraint("review IN ('open', 'approved', 'rejected')", name="review"),
        CheckConstraint(
            "(expires_at IS NOT NULL)::int + (captures_id IS NOT NULL)::int + (voids_id IS NOT NULL)::int <= "
            "CASE type WHEN 'transfer' THEN 1 ELSE 0 END",
            name="hold_requests",
        ),
        # A hold is completed by its captures, and a void never is: a worker that takes them for transfers must not get through.
        CheckConstraint(
            "status <> 'completed' OR (voids_id IS NULL AND (expires_at IS NULL OR captured_amount > 0))", name="hold_moves_nothing"
        ),
        # The claim reads this from where the lane stands. `status` is in no index on purpose: the
        # update that completes a row then stays on its page (HOT), with room left by the
        # fillfactor that the migration sets.
        Index("ix_transactions_lane_seq", "lane", "seq"),
        Index("ix_transactions_from_account_id_seq", "from_account_id", "seq"),
        Index("ix_transactions_to_account_id_seq", "to_account_id", "seq"),
        Index("ix_transactions_from_user_id_seq", "from_user_id", "seq"),
        Index("ix_transactions_to_user_id_seq", "to_user_id", "seq"),
        Index("ix_transactions_reference", "reference", "seq", postgresql_where=text("reference IS NOT NULL")),
        Index("ix_transactions_request_id", "request_id", "seq", postgresql_where=text("request_id IS NOT NULL")),
        Index("ix_transactions_batch", "batch_id", "batch_index", postgresql_where=text("batch_id IS NOT NULL")),
        Index("ix_transactions_schedule_id", "schedule_id", "seq", postgresql_where=text("schedule_id IS NOT NULL")),
        Index("ix_transactions_reverses_id", "reverses_id", postgresql_where=text("reverses_id IS NOT NULL")),
        # The open holds. By `held_amount`, which stays 0 in all other rows, for the same reason.
        Index("ix_transactions_held", "from_account_id", postgresql_where=text("held_amount > 0")),
        Index("ix_transactions_expiring", "expires_at", postgresql_where=text("held_amount > 0")),
        Index("ix_transactions_review", "review", "seq", postgresql_where=text("review IS NOT NULL")),
        Index(
            "ix_transactions_hold",
            text("COALESCE(captures_id, voids_id)"),
            "seq",
            postgresql_where=text("captures_id IS NOT NULL OR voids_id IS NOT NULL"),
        ),
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
    # What the request made: a transaction, a batch or a schedule.
    transaction_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
    batch_id: Mapped[str | None] = mapped_column(Id, ForeignKey("batches.id"))
    schedule_id: Mapped[str | None] = mapped_column(Id, ForeignKey("schedules.id"))
    # NULL while the first request still waits for the outcome (`Prefer: wait`).
    response_status: Mapped[int | None] = mapped_column(SmallInteger)
    response_body: Mapped[bytes | None] = mapped_column(LargeBinary)
    # Until when the first request may hold the answer back; past that it is taken as lost.
    answer_by: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("num_nonnulls(transaction_id, batch_id, schedule_id) = 1", name="made"),
        # For an erasure: the answer tells what the schedule is called.
        Index("ix_idempotency_keys_schedule_id", "schedule_id", postgresql_where=text("schedule_id IS NOT NULL")),
    )
