"""Limits and rules: what admins have set, and what was added up of payments for them."""

from datetime import datetime

from sqlalchemy import ARRAY, BigInteger, Boolean, CheckConstraint, ForeignKey, Index, Integer, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant, Minor


class LimitRow(Base):
    """A limit that is in force. One that was removed is in the log of events only."""

    __tablename__ = "limits"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    scope: Mapped[str] = mapped_column(Text)
    # For whom: the one of the three that the scope names.
    role: Mapped[str | None] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    account_id: Mapped[str | None] = mapped_column(Id, ForeignKey("accounts.id"))
    # Of payments in this currency.
    currency: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    # Minor units: the most that is paid, at once or in a window, or the least that is left on the account.
    amount: Mapped[int | None] = mapped_column(Minor)
    # The most payments in a window: `count` in the API, which a row has a method of that name for.
    payments: Mapped[int | None] = mapped_column(Integer)
    # The window; `window` is a word of SQL's.
    span: Mapped[str | None] = mapped_column(Text)
    # Ids of users, and `outside`.
    counterparties: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    # Minutes of the day, in the zone's wall time.
    opens_at: Mapped[int | None] = mapped_column(SmallInteger)
    closes_at: Mapped[int | None] = mapped_column(SmallInteger)
    time_zone: Mapped[str | None] = mapped_column(Text)
    # How many events the limit's stream has; the ETag.
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint(
            "num_nonnulls(role, user_id, account_id) = 1 AND "
            "CASE scope WHEN 'role' THEN role IS NOT NULL WHEN 'user' THEN user_id IS NOT NULL "
            "WHEN 'account' THEN account_id IS NOT NULL ELSE false END",
            name="scope",
        ),
        CheckConstraint(
            "CASE kind WHEN 'single' THEN amount > 0 WHEN 'sum' THEN amount > 0 AND span IS NOT NULL "
            "WHEN 'count' THEN payments >= 0 AND span IS NOT NULL WHEN 'minimum_balance' THEN amount >= 0 "
            "WHEN 'counterparties' THEN counterparties IS NOT NULL "
            "WHEN 'hours' THEN num_nonnulls(opens_at, closes_at, time_zone) = 3 AND opens_at <> closes_at ELSE false END",
            name="kind",
        ),
        CheckConstraint("span IN ('hour', 'day', 'week', 'month')", name="span"),
        CheckConstraint("opens_at BETWEEN 0 AND 1439", name="opens_at"),
        CheckConstraint("closes_at BETWEEN 0 AND 1439", name="closes_at"),
        Index("ix_limits_user_id", "user_id", postgresql_where=text("user_id IS NOT NULL")),
        Index("ix_limits_account_id", "account_id", postgresql_where=text("account_id IS NOT NULL")),
        Index("ix_limits_role", "role", "currency", postgresql_where=text("role IS NOT NULL")),
    )


class RuleRow(Base):
    """A rule. One that was removed is in the log of events only."""

    __tablename__ = "rules"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    # In CEL, as `bank.limits.cel` reads it.
    expression: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(Text)
    enabled: Mapped[bool] = mapped_column(Boolean)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (CheckConstraint("effect IN ('deny', 'review', 'flag')", name="effect"),)


class Usage(Base):
    """What was paid from a busy account in a window that ended when it was written.

    No truth of its own: whoever asks takes what has left the window since, and adds what has come. Without the row the same is
    added up from the entries of the whole window, so the table may be emptied at any time.
    """

    __tablename__ = "usages"

    account_id: Mapped[str] = mapped_column(Id, primary_key=True)
    span: Mapped[str] = mapped_column(Text, primary_key=True)
    # The account's entries behind the first version, up to the last and with it, are in the window.
    first_version: Mapped[int] = mapped_column(BigInteger)
    last_version: Mapped[int] = mapped_column(BigInteger)
    # Of these the payments: in sum, in minor units, and how many.
    amount: Mapped[int] = mapped_column(Minor)
    count: Mapped[int] = mapped_column(Integer)
