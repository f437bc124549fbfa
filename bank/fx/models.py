"""Rates as they were published, and quotes that hold one for half a minute."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import CheckConstraint, Date, ForeignKey, Index, Integer, Numeric, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant, Minor


class FxRate(Base):
    """How many units of a currency one euro was on a day. Never updated, never deleted: the database refuses.

    The key read backwards is the order in which rates count: the newest day, and on it the last that was told.
    """

    __tablename__ = "fx_rates"

    currency: Mapped[str] = mapped_column(Text, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    # 0 is the provider's rate; each that an administrator publishes for the same day is the next.
    revision: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    rate: Mapped[Decimal] = mapped_column(Numeric(20, 10))
    # The provider's name, or `admin`.
    source: Mapped[str] = mapped_column(Text)
    # The administrator; NULL for a provider's.
    recorded_by: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    recorded_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("currency ~ '^[A-Z]{3}$' AND currency <> 'EUR'", name="currency"),
        CheckConstraint("rate > 0", name="rate"),
        CheckConstraint("revision >= 0 AND (revision = 0) = (recorded_by IS NULL)", name="revision"),
        # From which day on a provider has something new to tell.
        Index("ix_fx_rates_day", "day", postgresql_where=text("revision = 0")),
    )


class FxQuote(Base):
    """A firm rate for one transfer of one user: these amounts, until it expires, once."""

    __tablename__ = "fx_quotes"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    # What leaves, in minor units of `currency`, and what arrives for it, in minor units of `to_currency`.
    amount: Mapped[int] = mapped_column(Minor)
    currency: Mapped[str] = mapped_column(Text)
    to_amount: Mapped[int] = mapped_column(Minor)
    to_currency: Mapped[str] = mapped_column(Text)
    # Units of `to_currency` for one of `currency`: what is agreed, and what the published rates make it without the spread.
    rate: Mapped[str] = mapped_column(Text)
    mid_rate: Mapped[str] = mapped_column(Text)
    # What the bank keeps of the rate, in hundredths of a percent.
    spread: Mapped[int] = mapped_column(Integer)
    # Of which day the rates are: the older of the two.
    rate_day: Mapped[date] = mapped_column(Date)
    # `amount` at `rate` less `to_amount`, exactly, in minor units of `to_currency`.
    remainder: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(Instant)
    # When a transfer took it; NULL: it may still be used until it expires.
    used_at: Mapped[datetime | None] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("amount > 0 AND to_amount > 0", name="amount"),
        CheckConstraint("currency <> to_currency", name="to_currency"),
        # Those that nobody used are forgotten.
        Index("ix_fx_quotes_expires_at", "expires_at", postgresql_where=text("used_at IS NULL")),
    )
