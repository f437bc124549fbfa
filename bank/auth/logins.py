"""The devices that a user is logged in on: which there are, ending one of them, forgetting old ones."""

from datetime import datetime, timedelta
from typing import Any

from flask import current_app
from sqlalchemy import Row, text

from bank.audit import service as audit
from bank.auth.guard import Principal
from bank.config import Config
from bank.db import reader, unit_of_work
from bank.errors import NotFound
from bank.events.types import Origin
from bank.web.fields import timestamp

# What goes on: not ended, and with a refresh token that is still good.
_GOES_ON = "user_id = :user_id AND ended_at IS NULL AND refreshed_at > now() - :lifetime"

_LIST = text(
    f"""
    SELECT id::text AS id, created_at, refreshed_at, address, user_agent FROM logins
    WHERE {_GOES_ON} AND (CAST(:before AS uuid) IS NULL OR id < CAST(:before AS uuid)) ORDER BY id DESC LIMIT :limit
    """
)

_REVOKE = text(f"UPDATE logins SET ended_at = now(), end_reason = 'revoked' WHERE id = :login_id AND {_GOES_ON}")

# Who logged in from where is of use for a while after a theft was noticed, and is somebody's trail for ever. The throttle takes an
# address for a known one as long as a login from there is kept.
KEPT = timedelta(days=90)
_FORGOTTEN_AT_ONCE = 1_000

_FORGET = text(
    """
    DELETE FROM logins WHERE id IN (
        SELECT id FROM logins WHERE refreshed_at < now() - :age ORDER BY refreshed_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    """
)


def search(who: Principal, limit: int, before: str | None) -> list[Row[Any]]:
    """The caller's logins that go on, newest first, one more than `limit`; `before` is the id of the last of the page before."""
    with reader() as session:
        values = {"user_id": who.id, "lifetime": _lifetime(), "before": before, "limit": limit + 1}
        return list(session.execute(_LIST, values))


def present(login: Row[Any], who: Principal) -> dict[str, Any]:
    """A login as its user sees it."""
    refreshed_at: datetime = login.refreshed_at
    return {
        "id": login.id,
        "current": login.id == who.login_id,
        "address": login.address,
        "user_agent": login.user_agent,
        "created_at": timestamp(login.created_at),
        "refreshed_at": timestamp(refreshed_at),
        "expires_at": timestamp(refreshed_at + _lifetime()),
    }


def revoke(who: Principal, login_id: str, origin: Origin) -> None:
    """End one of the caller's logins, this one or another; its tokens are dead with the commit. Raises NotFound."""
    with unit_of_work() as session:
        ended = session.connection().execute(_REVOKE, {"login_id": login_id, "user_id": who.id, "lifetime": _lifetime()})
        if not ended.rowcount:
            raise NotFound
        audit.record(session, "login", login_id, "login.revoked", origin)


def forget_old() -> int:
    """Delete logins whose refresh token expired long ago. Returns how many; at most a thousand in one transaction."""
    forgotten = 0
    while True:
        with unit_of_work() as session:
            count = session.connection().execute(_FORGET, {"age": _lifetime() + KEPT, "limit": _FORGOTTEN_AT_ONCE}).rowcount
        forgotten += count
        if count < _FORGOTTEN_AT_ONCE:
            return forgotten


def _lifetime() -> timedelta:
    config: Config = current_app.config["BANK"]
    return timedelta(seconds=config.refresh_token_seconds)
