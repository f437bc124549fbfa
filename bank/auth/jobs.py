"""Forgetting what no login needs any more, as RQ runs it."""

import structlog

from bank.auth import logins

log = structlog.get_logger(__name__)


def forget_logins() -> int:
    """Delete the logins that ended or expired long ago; runs by rq-scheduler. Returns how many."""
    forgotten = logins.forget_old()
    if forgotten:
        log.info("logins_forgotten", count=forgotten)
    return forgotten
