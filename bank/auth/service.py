"""Logging in, staying logged in, logging out."""

from typing import Any, NamedTuple

from flask import g
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.auth import factors, passwords, throttle, tokens, totp
from bank.auth.guard import Principal
from bank.db import reader, unit_of_work
from bank.errors import InvalidCredentials, SecondFactorRequired, Unauthenticated, Unprocessable
from bank.events.types import Origin
from bank.users.models import UserStatus
from bank.web.context import new_id

# A username has no @ and an email has one, so what was typed is looked for in one index only.
_FIND = """
    SELECT u.id::text AS id, u.password_hash, u.status,
           EXISTS (SELECT FROM logins l WHERE l.user_id = u.id AND l.address = :address) AS known
    FROM users u WHERE lower(u.{column}) = :name
"""
_FIND_BY_USERNAME, _FIND_BY_EMAIL = text(_FIND.format(column="username")), text(_FIND.format(column="email"))

# Locked, so that a change of the password or the status comes wholly before this login or wholly
# after it. NO KEY: new accounts and transactions of the user need not wait.
_LOCK_USER = text("SELECT status, password_hash FROM users WHERE id = :id FOR NO KEY UPDATE")

_REHASH = text("UPDATE users SET password_hash = :hashed WHERE id = :id")

_BEGIN = text(
    """
    INSERT INTO logins (id, user_id, refresh_jti, address, user_agent)
    VALUES (:id, :user_id, :refresh_id, :address, :user_agent)
    """
)

# One statement decides: of two refreshes with one token the second waits for the first one's row,
# then finds another `refresh_jti` and changes nothing.
_ROTATE = text(
    """
    UPDATE logins l SET refresh_jti = :next_id, refreshed_at = now()
    FROM users u
    WHERE l.id = :login_id AND l.user_id = :user_id AND l.refresh_jti = :refresh_id AND l.ended_at IS NULL
      AND u.id = l.user_id AND u.status = 'active'
    """
)

_END = text(
    """
    UPDATE logins SET ended_at = now(), end_reason = :reason
    WHERE id = :login_id AND user_id = :user_id AND ended_at IS NULL
    """
)

_END_UNLESS_NEWEST = text(
    """
    UPDATE logins SET ended_at = now(), end_reason = 'refresh_reused'
    WHERE id = :login_id AND user_id = :user_id AND ended_at IS NULL AND refresh_jti <> :refresh_id
    """
)

_END_ALL = text("UPDATE logins SET ended_at = now(), end_reason = :reason WHERE user_id = :user_id AND ended_at IS NULL")


class Begun(NamedTuple):
    """A login that has begun: whose it is, its id, and that of the first refresh token that may be made for it."""

    user_id: str
    login_id: str
    refresh_id: str


def login(name: str, password: str, code: str | None, user_agent: str | None, origin: Origin) -> dict[str, Any]:
    """Tokens for the user with these. Raises what `begin_login` raises."""
    return tokens.pair(*begin_login(name, password, code, user_agent, origin))


def begin_login(name: str, password: str, code: str | None, user_agent: str | None, origin: Origin) -> Begun:
    """A new login of the user with this username or email and password, and a code where there is a second factor.

    A wrong password, an unknown name, a frozen and a deleted user are the same InvalidCredentials
    after the same work (OWASP ASVS 5.0, 6.3.8), and so is a wrong code. Raises TooManyAttempts after
    too many of these, and SecondFactorRequired when all that is wrong is that there is no code.
    """
    with reader() as session:
        find = _FIND_BY_EMAIL if "@" in name else _FIND_BY_USERNAME
        user = session.execute(find, {"name": name.lower(), "address": origin.address}).one_or_none()
        counted = throttle.subjects(user.id if user else name.lower(), origin.address, known=bool(user and user.known))
        throttle.check(session, counted)

    good = passwords.verify(user.password_hash if user else None, password)
    rehashed = None
    if user and good and user.status == UserStatus.ACTIVE and passwords.needs_rehash(user.password_hash):
        rehashed = passwords.hash(password)

    login_id, refresh_id = new_id(), new_id()
    # For the audit log: a wrong code after a right password is somebody who has the password, and paper may have been found.
    told: dict[str, Any] = {}
    code_missing = False
    with unit_of_work() as session:
        if user and good:
            now = session.execute(_LOCK_USER, {"id": user.id}).one()
            good = now.status == UserStatus.ACTIVE and now.password_hash == user.password_hash
        if user and good and factors.is_on(session, user.id):
            code_missing = code is None
            if code is not None:
                good = factors.spend(session, user.id, code)
                told = {"second_factor": ("recovery_code" if totp.is_recovery(code) else "authenticator") if good else "wrong"}
        throttle.settle(session, counted, good=None if code_missing else good)
        if user and good and not code_missing:
            if rehashed:
                session.execute(_REHASH, {"id": user.id, "hashed": rehashed})
            session.execute(
                _BEGIN,
                {
                    "id": login_id,
                    "user_id": user.id,
                    "refresh_id": refresh_id,
                    "address": origin.address,
                    "user_agent": user_agent,
                },
            )
            by_user = Origin(user.id, origin.request_id, origin.trace_id, origin.address)
            audit.record(session, "login", login_id, "login.began", by_user, told)
        elif not code_missing:
            # Not the name: what nobody is called may be a password in the wrong field.
            audit.record(session, "user", user.id if user else None, "login.failed", origin, told)
    if code_missing:
        raise SecondFactorRequired
    if not (user and good):
        raise InvalidCredentials
    g.writer = user.id
    return Begun(user.id, login_id, refresh_id)


def refresh(origin: Origin) -> dict[str, Any]:
    """New tokens for the refresh token of the request, which is spent by it (RFC 9700, 4.14.2).

    A spent one that comes again was copied by somebody, and nobody can tell who of the two is the
    thief: the login ends for both. A client that sends two at once gets one answer and ends its
    own login by the other. Raises Unauthenticated.
    """
    claims = tokens.verify("refresh")
    these = {"login_id": claims.login_id, "user_id": claims.user_id, "refresh_id": claims.token_id}
    next_id = new_id()
    with unit_of_work() as session:
        rotated = session.connection().execute(_ROTATE, {**these, "next_id": next_id}).rowcount == 1
        if not rotated and session.connection().execute(_END_UNLESS_NEWEST, these).rowcount == 1:
            audit.record(session, "login", claims.login_id, "login.refresh_reused", origin, {"user_id": claims.user_id})
    if not rotated:
        raise Unauthenticated("This login has ended.")
    g.writer = claims.user_id
    return tokens.pair(claims.user_id, claims.login_id, next_id)


def logout(who: Principal, origin: Origin) -> None:
    """End the login that the caller asks by; its tokens are dead with the commit."""
    with unit_of_work() as session:
        session.execute(_END, {"login_id": who.login_id, "user_id": who.id, "reason": "logout"})
        audit.record(session, "login", who.login_id, "login.ended", origin)


def end_all_of(session: Session, user_id: str, reason: str) -> None:
    """End all logins of a user in the caller's unit of work, which holds the user's row locked."""
    session.execute(_END_ALL, {"user_id": user_id, "reason": reason})


def confirm_password(hashed: str | None, password: str, guesses: list[throttle.Subject], pointer: str) -> None:
    """Make sure that it is the user who asks, and not somebody at their unlocked screen.

    Raises TooManyAttempts, and Unprocessable that points at `pointer` for a wrong password, which is counted for `guesses`.
    """
    with reader() as session:
        throttle.check(session, guesses)
    if not passwords.verify(hashed, password):
        with unit_of_work() as session:
            throttle.settle(session, guesses, good=False)
        raise Unprocessable.at(pointer, "Is not the current password.")
