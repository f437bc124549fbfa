"""Logins. A login is a family of refresh tokens, of which only the newest is good."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from bank.db import Base, Id, Instant


class Login(Base):
    """One login on one device, from the password to the logout.

    Access and refresh tokens carry its id (`sid`). Each request looks the row up, so a logout, a
    new password or a freeze ends the tokens at once.
    """

    __tablename__ = "logins"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"))
    # The `jti` of the one refresh token that may be spent; any other of this family is theft.
    refresh_jti: Mapped[str] = mapped_column(Id)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    refreshed_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    ended_at: Mapped[datetime | None] = mapped_column(Instant)
    # Why it ended: logout, refresh_reused, password_changed, user_frozen, user_deleted.
    end_reason: Mapped[str | None] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)

    # By user: to end all. With the address: has this user logged in from there before (bank.auth.throttle)?
    __table_args__ = (Index("ix_logins_user_id", "user_id", "address"),)


class LoginFailure(Base):
    """Wrong passwords by whom and by where, for the throttle. In Postgres, so that it holds over
    all processes and does not forget when Redis does."""

    __tablename__ = "login_failures"

    # What is counted; bank.auth.throttle says how it is made. Digests, since people type passwords
    # into the field for the name.
    subject: Mapped[str] = mapped_column(Text, primary_key=True)
    failures: Mapped[int] = mapped_column()
    # The failures are those since then, for a quarter of an hour; then counting starts anew.
    counted_since: Mapped[datetime] = mapped_column(Instant)
    last_failed_at: Mapped[datetime] = mapped_column(Instant)

    # By age, to sweep out what no longer counts.
    __table_args__ = (Index("ix_login_failures_counted_since", "counted_since"),)
