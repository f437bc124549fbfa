"""Who may do what: the bank's users, customers and staff alike."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, Integer, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class Role(StrEnum):
    """What a user may do; the least comes first."""

    CUSTOMER = "customer"  # moves their own money
    TELLER = "teller"  # credits and debits any customer, reads customers
    AUDITOR = "auditor"  # reads everything, changes nothing
    ADMIN = "admin"  # everything


class UserStatus(StrEnum):
    """Whether a user may log in."""

    ACTIVE = "active"
    FROZEN = "frozen"  # cannot log in until an admin lifts it
    DELETED = "deleted"  # for good; the history stays


class User(Base):
    """A person who logs in, or the bank itself where it acts through a schedule or an import."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    username: Mapped[str] = mapped_column(Text)
    email: Mapped[str] = mapped_column(Text)
    # An argon2id hash in PHC form; NULL for a user who cannot log in.
    password_hash: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, default=Role.CUSTOMER)
    status: Mapped[str] = mapped_column(Text, default=UserStatus.ACTIVE)
    # How many events the user's stream has; the ETag.
    version: Mapped[int] = mapped_column(Integer, default=1)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # When what is personal of a deleted user was first erased (`bank.privacy.erasure`). The triggers of the log ask for it.
    erased_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("role IN ('customer', 'teller', 'auditor', 'admin')", name="role"),
        CheckConstraint("status IN ('active', 'frozen', 'deleted')", name="status"),
        # Names are ASCII and emails are compared without case, so lower() is enough to keep
        # "Alice" and "alice" one person. The name of a deleted user is not given out again.
        # text_pattern_ops: the same index serves = and the prefixes of a search, whatever the collation.
        Index("uq_users_username", text("lower(username) text_pattern_ops"), unique=True),
        Index("uq_users_email", text("lower(email) text_pattern_ops"), unique=True),
        # The list by role; and who the last active admin is.
        Index("ix_users_role", "role", "id"),
        # The list of the few who are frozen or deleted.
        Index("ix_users_not_active", "status", "id", postgresql_where=text("status <> 'active'")),
    )
