"""Second factors: an authenticator that a login asks for besides the password, for who wants one or must have one.

A user begins with the password and is shown a secret, once; confirms by a code of it, and from then on each login needs one.
What is shown once is never shown again and never logged. Whoever lost the authenticator has recovery codes, and whoever lost
both has an administrator.
"""

from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.auth import factors, service, throttle, totp
from bank.auth.guard import Principal
from bank.db import reader, unit_of_work
from bank.errors import Conflict, NotFound, Unprocessable
from bank.events.types import Origin
from bank.web.fields import timestamp

# Whatever is done to a second factor locks the user first, as a login does: one of the two comes wholly before the other.
_LOCK_USER = text("SELECT username, password_hash FROM users WHERE id = :user_id FOR NO KEY UPDATE")

_HASH = text("SELECT password_hash FROM users WHERE id = :user_id")

_STATE = text(
    """
    SELECT f.confirmed_at, (SELECT count(*) FROM recovery_codes c WHERE c.user_id = f.user_id) AS recovery_codes_left
    FROM second_factors f WHERE f.user_id = :user_id AND f.confirmed_at IS NOT NULL
    """
)

# A secret that was never confirmed protects nothing, and makes room for the next.
_BEGIN = text(
    """
    INSERT INTO second_factors (user_id, secret) VALUES (:user_id, :secret)
    ON CONFLICT (user_id) DO UPDATE SET secret = excluded.secret, created_at = now() WHERE second_factors.confirmed_at IS NULL
    """
)

_CONFIRM = text("UPDATE second_factors SET confirmed_at = now(), last_step = :step WHERE user_id = :user_id")

_KEEP_CODES = text("INSERT INTO recovery_codes (user_id, digest) SELECT :user_id, unnest(CAST(:digests AS text[]))")

_FORGET_CODES = text("DELETE FROM recovery_codes WHERE user_id = :user_id")

_FORGET = text("DELETE FROM second_factors WHERE user_id = :user_id AND confirmed_at IS NOT NULL")

_END_OTHERS = text(
    """
    UPDATE logins SET ended_at = now(), end_reason = 'second_factor_confirmed'
    WHERE user_id = :user_id AND id <> :login_id AND ended_at IS NULL
    """
)

_WRONG_CODE = "Is not a good code. Each is good once, and for half a minute."


def state(who: Principal) -> dict[str, Any]:
    """Whether the caller has a second factor, and what is left of its recovery codes."""
    with reader() as session:
        found = session.execute(_STATE, {"user_id": who.id}).one_or_none()
    return {
        "enabled": found is not None,
        "confirmed_at": timestamp(found.confirmed_at) if found else None,
        "recovery_codes_left": found.recovery_codes_left if found else 0,
    }


def start(who: Principal, password: str) -> dict[str, Any]:
    """A new secret for the caller's authenticator, which counts once it is confirmed.

    Raises Unprocessable (password), TooManyAttempts, and Conflict where there is a second factor.
    """
    guesses = throttle.subjects(who.id, None, known=True)
    hashed = _confirmed(who, password, guesses)
    secret = totp.new_secret()
    with unit_of_work() as session:
        user = _locked(session, who.id, hashed)
        throttle.settle(session, guesses, good=True)
        begun = session.connection().execute(_BEGIN, {"user_id": who.id, "secret": totp.sealed(secret, who.id, factors.key())})
        if not begun.rowcount:
            raise Conflict("There is a second factor; disable it first.")
    return {"secret": secret, "otpauth_url": totp.otpauth_url(secret, user.username)}


def confirm(who: Principal, code: str, origin: Origin) -> list[str]:
    """Turn the second factor on by a first code, and return the recovery codes, which are shown this once.

    The caller's other logins end: they were begun without a code. Raises Unprocessable (code), TooManyAttempts, and Conflict
    where nothing is to be confirmed.
    """
    guesses = throttle.subjects(who.id, None, known=True)
    codes = totp.new_recovery_codes()
    with unit_of_work() as session:
        _locked(session, who.id)
        factor = factors.read(session, who.id)
        if factor is None or factor.confirmed_at is not None:
            raise Conflict("Begin first: there is nothing to confirm.")
        step = factors.step_of(factor, who.id, code)
        throttle.settle(session, guesses, good=step is not None)
        if step is not None:
            session.execute(_CONFIRM, {"user_id": who.id, "step": step})
            session.execute(_KEEP_CODES, {"user_id": who.id, "digests": [totp.digest(who.id, each) for each in codes]})
            session.execute(_END_OTHERS, {"user_id": who.id, "login_id": who.login_id})
            audit.record(session, "user", who.id, "user.second_factor_confirmed", origin)
    if step is None:
        raise Unprocessable.at("/code", _WRONG_CODE)
    return codes


def disable(who: Principal, password: str, code: str, origin: Origin) -> None:
    """Turn the caller's second factor off; it takes the password and a code.

    Raises Unprocessable, TooManyAttempts, and Conflict where there is none.
    """
    guesses = throttle.subjects(who.id, None, known=True)
    hashed = _confirmed(who, password, guesses)
    with unit_of_work() as session:
        _locked(session, who.id, hashed)
        if not factors.is_on(session, who.id):
            raise Conflict("There is no second factor.")
        good = factors.spend(session, who.id, code)
        throttle.settle(session, guesses, good=good)
        if good:
            _forget(session, who.id)
            audit.record(session, "user", who.id, "user.second_factor_disabled", origin)
    if not good:
        raise Unprocessable.at("/code", _WRONG_CODE)


def reset(who: Principal, user_id: str, origin: Origin) -> None:
    """Take away the second factor of somebody who lost it, and end their logins: whoever found it may be in one.

    Raises NotFound where there is no such user or no second factor, and Conflict for one's own: who is at an admin's unlocked
    screen has no code.
    """
    if user_id == who.id:
        raise Conflict("Disable your own by a code.")
    with unit_of_work() as session:
        if session.execute(_LOCK_USER, {"user_id": user_id}).one_or_none() is None or not factors.is_on(session, user_id):
            raise NotFound
        _forget(session, user_id)
        service.end_all_of(session, user_id, "second_factor_reset")
        audit.record(session, "user", user_id, "user.second_factor_reset", origin)


def _confirmed(who: Principal, password: str, guesses: list[throttle.Subject]) -> str | None:
    """The hash of the password, which is the caller's."""
    with reader() as session:
        hashed: str | None = session.execute(_HASH, {"user_id": who.id}).scalar_one()
    service.confirm_password(hashed, password, guesses, "/password")
    return hashed


def _locked(session: Session, user_id: str, hashed: str | None = None) -> Any:
    user = session.execute(_LOCK_USER, {"user_id": user_id}).one()
    if hashed is not None and user.password_hash != hashed:
        raise Conflict("The password has just been changed by another request.")
    return user


def _forget(session: Session, user_id: str) -> None:
    session.execute(_FORGET_CODES, {"user_id": user_id})
    session.execute(_FORGET, {"user_id": user_id})
