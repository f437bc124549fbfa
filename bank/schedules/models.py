"""Standing orders, and what became of each of their runs. Both are made from the events, like what they move."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, Index, Integer, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant, Minor


class ScheduleStatus(StrEnum):
    """Whether a schedule runs."""

    ACTIVE = "active"  # runs at `next_run_at`
    PAUSED = "paused"  # runs again when it is made active; what lies between is never run
    FINISHED = "finished"  # had its last run
    DELETED = "deleted"  # for good; its history stays


class Misfire(StrEnum):
    """What becomes of runs that were missed while nobody looked."""

    CATCH_UP = "catch_up"  # each is run, late
    SKIP = "skip"  # each is recorded as skipped


class Schedule(Base):
    """A transfer that is made again and again, or once at a time to come."""

    __tablename__ = "schedules"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    status: Mapped[str] = mapped_column(Text)
    # Who asked for it: each run is checked for what they may do then.
    created_by: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    name: Mapped[str | None] = mapped_column(Text)
    # Whose account pays, and so whose schedule it is; both sides are accounts of users.
    from_user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    to_user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    from_account_id: Mapped[str] = mapped_column(Id, ForeignKey("accounts.id"))
    to_account_id: Mapped[str] = mapped_column(Id, ForeignKey("accounts.id"))
    # Minor units of `currency`.
    amount: Mapped[int] = mapped_column(Minor)
    currency: Mapped[str] = mapped_column(Text)
    # What arrives, at the rate of the day of each run; NULL: the same.
    to_currency: Mapped[str | None] = mapped_column(Text)
    description: Mapped[str | None] = mapped_column(Text)
    reference: Mapped[str | None] = mapped_column(Text)
    # `metadata` is a word of SQLAlchemy's.
    meta: Mapped[dict[str, Any] | None] = mapped_column("metadata", JSON)
    # Once, or by a rule in the wall time of a zone from a start on; `ends_at` is the last run that COUNT or UNTIL allow.
    run_at: Mapped[datetime | None] = mapped_column(Instant)
    rrule: Mapped[str | None] = mapped_column(Text)
    time_zone: Mapped[str | None] = mapped_column(Text)
    starts_at: Mapped[datetime | None] = mapped_column(Instant)
    month_end: Mapped[str | None] = mapped_column(Text)
    ends_at: Mapped[datetime | None] = mapped_column(Instant)
    misfire: Mapped[str] = mapped_column(Text)
    # How often a run is tried in all, and how many seconds lie between two tries.
    retry_attempts: Mapped[int] = mapped_column(SmallInteger)
    retry_delay_seconds: Mapped[int] = mapped_column(Integer)
    # When it is due; NULL unless it is active.
    next_run_at: Mapped[datetime | None] = mapped_column(Instant)
    # How many events the schedule's stream has; the ETag.
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("status IN ('active', 'paused', 'finished', 'deleted')", name="status"),
        CheckConstraint("amount > 0", name="amount"),
        CheckConstraint("(run_at IS NULL) <> (rrule IS NULL)", name="run_at"),
        CheckConstraint("num_nulls(rrule, time_zone, starts_at, month_end) IN (0, 4)", name="rrule"),
        CheckConstraint("month_end IN ('last_day', 'skip')", name="month_end"),
        CheckConstraint("misfire IN ('catch_up', 'skip')", name="misfire"),
        CheckConstraint("retry_attempts BETWEEN 1 AND 5", name="retry_attempts"),
        CheckConstraint("retry_delay_seconds > 0", name="retry_delay_seconds"),
        CheckConstraint("(status = 'active') = (next_run_at IS NOT NULL)", name="next_run_at"),
        Index("ix_schedules_next_run_at", "next_run_at", postgresql_where=text("next_run_at IS NOT NULL")),
        Index("ix_schedules_from_user_id", "from_user_id", "id"),
        Index("ix_schedules_status", "status", "id"),
    )


class ScheduleRun(Base):
    """One run of a schedule. That there is one row for each due time is what keeps it from being paid twice."""

    __tablename__ = "schedule_runs"

    schedule_id: Mapped[str] = mapped_column(Id, ForeignKey("schedules.id"), primary_key=True)
    due_at: Mapped[datetime] = mapped_column(Instant, primary_key=True)
    # How often it was tried; 0: it was skipped.
    attempts: Mapped[int] = mapped_column(SmallInteger)
    # The transaction of the last try; NULL where it did not come to one, and `failure_code` says why.
    transaction_id: Mapped[str | None] = mapped_column(Id, ForeignKey("transactions.id"))
    failure_code: Mapped[str | None] = mapped_column(Text)
    # When to look whether it must be tried again; NULL: it is over, or has no try left.
    look_at: Mapped[datetime | None] = mapped_column(Instant)
    # When it was tried first, or skipped.
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("attempts BETWEEN 0 AND 5", name="attempts"),
        CheckConstraint("num_nonnulls(transaction_id, failure_code) = CASE attempts WHEN 0 THEN 0 ELSE 1 END", name="outcome"),
        Index("ix_schedule_runs_look_at", "look_at", postgresql_where=text("look_at IS NOT NULL")),
        Index("ix_schedule_runs_transaction_id", "transaction_id", postgresql_where=text("transaction_id IS NOT NULL")),
    )
