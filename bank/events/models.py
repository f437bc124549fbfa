"""The log of everything that happened. It is only ever appended to."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Identity, Index, Integer, SmallInteger, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class Event(Base):
    """A change of state, in the past tense, written in the transaction that made it."""

    __tablename__ = "events"

    # The global order. A gap means a transaction that was rolled back.
    position: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # The id of the user, account or transaction that changed.
    stream_id: Mapped[str] = mapped_column(Id)
    # 1, 2, 3, … without a gap for each stream.
    version: Mapped[int] = mapped_column(Integer)
    type: Mapped[str] = mapped_column(Text)
    # The version of the type's shape, for the upcasters.
    schema: Mapped[int] = mapped_column(SmallInteger, server_default="1")
    # `json` and not `jsonb`: it is written once, read rarely and must come back as it was.
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    actor_id: Mapped[str | None] = mapped_column(Id)
    request_id: Mapped[str | None] = mapped_column(Text)
    trace_id: Mapped[str | None] = mapped_column(Text)
    recorded_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        UniqueConstraint("stream_id", "version"),
        # For the types that are rare. The two that nearly every event has are found at once by walking the log, and
        # posting need not keep an index of them.
        Index(
            "ix_events_type",
            "type",
            "position",
            postgresql_where=text("type <> 'TransactionSubmitted' AND type <> 'TransactionCompleted'"),
        ),
    )
