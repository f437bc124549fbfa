"""The ledger's tables: entries that never change, and balances that are their sum."""

from datetime import date, datetime
from decimal import Decimal

from sqlalchemy import BigInteger, CheckConstraint, Date, ForeignKey, Index, Integer, Numeric, SmallInteger, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant, Minor

ON_TIME = "interval '10 seconds'"
LATE = f"(posted_at - effective_at > {ON_TIME})"
"""An entry that was posted longer after it counts than posting takes: a backdated one, as a rule. Reading a balance at a time
looks for the others among those of the last ten seconds, and for these in an index that posting as a rule need not touch."""


class Balance(Base):
    """What an account holds now, and the rules that a posting must see under the same lock.

    Written only by the drain and, for `status` and `overdraft_limit`, by the accounts service,
    both with the row locked.
    """

    __tablename__ = "balances"

    account_id: Mapped[str] = mapped_column(Id, ForeignKey("accounts.id"), primary_key=True)
    user_id: Mapped[str | None] = mapped_column(Id, ForeignKey("users.id"))
    currency: Mapped[str] = mapped_column(Text)
    # The sum of the account's entries, in minor units. Negative: the customer owes the bank.
    amount: Mapped[int] = mapped_column(Minor, server_default="0")
    # Reserved by holds, in minor units; a part of `amount` that cannot be spent.
    held: Mapped[int] = mapped_column(Minor, server_default="0")
    # How far below zero `amount - held` may go, in minor units; NULL: without limit (the bank's own).
    overdraft_limit: Mapped[int | None] = mapped_column(Minor)
    status: Mapped[str] = mapped_column(Text, server_default="active")
    # Of a position of the bank's: what roundings left, summed exactly, in minor units. What customers were due is so much more than
    # what was booked to them. Always 0 elsewhere.
    remainder: Mapped[Decimal] = mapped_column(Numeric, server_default="0")
    # How many entries the account has: the version of its last entry.
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")
    last_updated_at: Mapped[datetime] = mapped_column(Instant, server_default=text("now()"))

    __table_args__ = (
        CheckConstraint("held >= 0", name="held"),
        CheckConstraint("overdraft_limit >= 0", name="overdraft_limit"),
        # The last line of defence: no balance under its limit, whatever the code above does.
        CheckConstraint("amount - held >= -overdraft_limit", name="not_under_limit"),
        CheckConstraint("status IN ('active', 'frozen', 'closed')", name="status"),
        CheckConstraint("status <> 'closed' OR (amount = 0 AND held = 0)", name="closed_is_empty"),
        Index("ix_balances_user_id", "user_id", "account_id"),
        # Updated at each posting and indexed by nothing that changes: half-empty pages (the fillfactor
        # is set by the migration) keep the updates on their page (HOT).
    )


class Entry(Base):
    """One side of a transaction on one account. Never updated, never deleted.

    That its account and its transaction are there, and that the sides of a transaction sum to zero,
    is checked by a trigger of the migration for all rows of a statement at once: foreign keys look
    row by row and lock each row they find, which was 40 % of the cost of posting.
    """

    __tablename__ = "entries"

    account_id: Mapped[str] = mapped_column(Id, primary_key=True)
    # 1, 2, 3, … without a gap for each account.
    version: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    transaction_id: Mapped[str] = mapped_column(Id)
    currency: Mapped[str] = mapped_column(Text)
    # Minor units; positive: into the account, negative: out of it. Sums to zero over a transaction.
    amount: Mapped[int] = mapped_column(Minor)
    # The account's balance right after this entry, in minor units.
    balance: Mapped[int] = mapped_column(Minor)
    # From when the entry counts (value date and time).
    effective_at: Mapped[datetime] = mapped_column(Instant)
    # When it was posted. Never earlier than that of the account's entry before.
    posted_at: Mapped[datetime] = mapped_column(Instant)

    __table_args__ = (
        CheckConstraint("amount <> 0", name="amount"),
        # Money may count from earlier, never from later, than it was posted.
        CheckConstraint("effective_at <= posted_at", name="effective_at"),
        Index("ix_entries_transaction_id", "transaction_id"),
        Index("ix_entries_account_id_effective_at", "account_id", "effective_at", postgresql_include=["amount"]),
        Index("ix_entries_late", "account_id", "posted_at", postgresql_include=["effective_at", "amount"], postgresql_where=text(LATE)),
    )


class DailyBalance(Base):
    """An account's closing balance on each effective day (UTC) that has entries.

    It answers history and at-time without summing entries. A backdated entry moves its day and
    all days after it.
    """

    __tablename__ = "daily_balances"

    account_id: Mapped[str] = mapped_column(Id, primary_key=True)
    day: Mapped[date] = mapped_column(Date, primary_key=True)
    # Minor units: the sum of all entries that are effective on this day or before. Numeric, since these
    # sums may leave the range that every balance keeps to: what came and went on one day, or what
    # was there before a debit that counts from later.
    closing: Mapped[Decimal] = mapped_column(Numeric(38, 0))
    # Sums of this day's entries in minor units, both positive, and how many there are.
    credits: Mapped[Decimal] = mapped_column(Numeric(38, 0))
    debits: Mapped[Decimal] = mapped_column(Numeric(38, 0))
    count: Mapped[int] = mapped_column(Integer)


class Lane(Base):
    """A queue of pending transactions, and the lock that lets one drain at a time work on it."""

    __tablename__ = "lanes"

    lane: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    # Every transaction of the lane up to this `seq` is final: a claim starts here.
    position: Mapped[int] = mapped_column(BigInteger, server_default="0")
    # The position to be, as soon as all transactions below `candidate_xid` have ended. Sequence
    # order is not commit order: until then a smaller `seq` may still appear. NULL: the bound is
    # not taken yet, a later claim takes it.
    candidate: Mapped[int] = mapped_column(BigInteger, server_default="0")
    candidate_xid: Mapped[int | None] = mapped_column(BigInteger)
