"""Batches: transactions that were asked for at once."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, Integer, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class BatchMode(StrEnum):
    """What a refusal of one of its transactions means to the others."""

    ATOMIC = "atomic"  # all are posted, or none
    INDEPENDENT = "independent"  # nothing


class Batch(Base):
    """What was asked for at once. Never changed: how far it is follows from its transactions."""

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    # Who asked.
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    mode: Mapped[str] = mapped_column(Text)
    # How many transactions it has.
    items: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("mode IN ('atomic', 'independent')", name="mode"),
        CheckConstraint("items > 0", name="items"),
    )
