"""What money lies in: customers' accounts, and the bank's own that stand for the outside and for what exchanges left with it."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Boolean, CheckConstraint, ForeignKey, Index, Integer, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class AccountKind(StrEnum):
    """Whose money an account holds."""

    CUSTOMER = "customer"  # a user's
    OUTSIDE = "outside"  # the bank's counterpart for money that enters or leaves; one a currency and lane
    POSITION = "position"  # what exchanges have brought the bank in a currency, and taken; the same


class Account(Base):
    """An account and what rarely changes about it.

    What a posting must see under one lock (balance, status, overdraft limit) is on its row of
    `balances`.
    """

    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    # NULL for the bank's own accounts.
    user_id: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    currency: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text, default=AccountKind.CUSTOMER)
    name: Mapped[str | None] = mapped_column(Text)
    # The account that money for the user in this currency reaches when none is named.
    is_default: Mapped[bool] = mapped_column(Boolean, default=False)
    # How many events the account's stream has.
    version: Mapped[int] = mapped_column(Integer, default=1)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())

    __table_args__ = (
        CheckConstraint("currency ~ '^[A-Z]{3}$'", name="currency"),
        CheckConstraint("kind IN ('customer', 'outside', 'position')", name="kind"),
        CheckConstraint("(kind = 'customer') = (user_id IS NOT NULL)", name="owner"),
        Index("uq_accounts_default", "user_id", "currency", unique=True, postgresql_where=text("is_default")),
        Index("ix_accounts_user_id_id", "user_id", "id"),
    )
