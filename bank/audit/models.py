"""Who did what, on what, from where. It is only ever appended to."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Identity, Index, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class AuditLog(Base):
    """An act of a person. Events say what changed; this says who wanted it and from which address."""

    __tablename__ = "audit_logs"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # What kind of thing was acted on (user, account, transaction, login), and which.
    entity_type: Mapped[str] = mapped_column(Text)
    # NULL where there is none: a login under a name that nobody has.
    entity_id: Mapped[str | None] = mapped_column(Id)
    action: Mapped[str] = mapped_column(Text)
    # Never a secret, and no more of a person than their ids.
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    # NULL when nobody is logged in (a failed login) or the bank's operator acts on the machine.
    actor_id: Mapped[str | None] = mapped_column(Id)
    address: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    # Each filter of the search in the order of its answer, so that a page is read from where it begins and no further.
    # What nearly every row has is found at once by walking them, and accepting a transfer need not keep an index of it.
    __table_args__ = (
        Index("ix_audit_logs_created_at", "created_at", "id"),
        Index("ix_audit_logs_entity_type", "entity_type", "created_at", "id", postgresql_where=text("entity_type <> 'transaction'")),
        Index("ix_audit_logs_entity", "entity_type", "entity_id", "created_at", "id"),
        Index(
            "ix_audit_logs_action",
            "action",
            "created_at",
            "id",
            postgresql_where=text("action <> 'transaction.transfer' AND action <> 'transaction.credit' AND action <> 'transaction.debit'"),
        ),
        Index("ix_audit_logs_actor_id", "actor_id", "created_at", "id"),
    )
