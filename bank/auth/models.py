"""Logins and second factors. A login is a family of refresh tokens, of which only the newest is good."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, Text, func
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
    # Why it ended: logout, revoked, refresh_reused, password_changed, second_factor_confirmed, second_factor_reset, user_frozen,
    # user_deleted.
    end_reason: Mapped[str | None] = mapped_column(Text)
    address: Mapped[str | None] = mapped_column(Text)
    user_agent: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        # By user: to end all. With the address: has this user logged in from there before (bank.auth.throttle)?
        Index("ix_logins_user_id", "user_id", "address"),
        # By age, to forget old ones.
        Index("ix_logins_refreshed_at", "refreshed_at"),
    )


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


class SecondFactor(Base):
    """A user's authenticator (RFC 6238). Where it is confirmed, each login needs a code of it."""

    __tablename__ = "second_factors"

    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), primary_key=True)
    # Encrypted for this user; bank.auth.totp says how.
    secret: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(Instant, server_default=func.now())
    # NULL while the user has shown no code of it.
    confirmed_at: Mapped[datetime | None] = mapped_column(Instant)
    # The step of time of the last code that was used: neither that one nor an earlier one is good again.
    last_step: Mapped[int | None] = mapped_column(BigInteger)


class RecoveryCode(Base):
    """A code for who lost the authenticator. Using it deletes the row."""

    __tablename__ = "recovery_codes"

    user_id: Mapped[str] = mapped_column(Id, ForeignKey("users.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(Text, primary_key=True)
