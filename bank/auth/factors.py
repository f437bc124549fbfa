"""Whether a login needs a code besides the password, and whether a code is good. Turning that on and off is `bank.auth.enrolment`."""

from typing import Any

import structlog
from flask import current_app
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.auth import totp
from bank.config import Config

log = structlog.get_logger(__name__)

_IS_ON = text("SELECT FROM second_factors WHERE user_id = :user_id AND confirmed_at IS NOT NULL")

_READ = text("SELECT secret, confirmed_at, last_step FROM second_factors WHERE user_id = :user_id")

_USED = text("UPDATE second_factors SET last_step = :step WHERE user_id = :user_id")

_TAKE_CODE = text("DELETE FROM recovery_codes WHERE user_id = :user_id AND digest = :digest")


def is_on(session: Session, user_id: str) -> bool:
    """Whether the user's logins need a code. Asked by its own statement after the user is locked, or it is the answer of before."""
    return session.execute(_IS_ON, {"user_id": user_id}).one_or_none() is not None


def read(session: Session, user_id: str) -> Any:
    """The user's second factor, confirmed or not; None where there is none."""
    return session.execute(_READ, {"user_id": user_id}).one_or_none()


def spend(session: Session, user_id: str, code: str) -> bool:
    """Whether the code is good now, and then never again; the caller's unit of work holds the user's row locked."""
    if totp.is_recovery(code):
        taken = session.connection().execute(_TAKE_CODE, {"user_id": user_id, "digest": totp.digest(user_id, code)})
        return bool(taken.rowcount)
    factor = read(session, user_id)
    if factor is None or factor.confirmed_at is None:
        return False
    step = step_of(factor, user_id, code)
    if step is not None:
        session.execute(_USED, {"user_id": user_id, "step": step})
    return step is not None


def step_of(factor: Any, user_id: str, code: str) -> int | None:
    """The step of time that a code of this second factor is of; None when it is not good."""
    secret = totp.opened(bytes(factor.secret), user_id, key())
    if secret is None:
        # Recovery codes need no key, so the user gets in all the same.
        log.error("second_factor_unreadable", user_id=user_id, hint="It was encrypted by another BANK_TOTP_KEY, or JWT_SECRET_KEY.")
        return None
    return totp.step_of(secret, code, factor.last_step)


def key() -> str:
    """What secrets are encrypted by."""
    config: Config = current_app.config["BANK"]
    return config.totp_key or config.jwt_secret
