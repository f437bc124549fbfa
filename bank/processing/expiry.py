"""The end of holds whose time is over. A tick lets them go; that they can be taken no more does not wait for it."""

import structlog

from bank.db import unit_of_work
from bank.ledger import store
from bank.ledger.decide import let_go

log = structlog.get_logger(__name__)

# How many are let go by one commit, which keeps their accounts from posting, and by one tick. The others come with the next.
_AT_ONCE = 500
_ROUNDS = 20


def expire_holds() -> int:
    """Let the holds go whose time is over, by the database's clock. Returns how many; runs by rq-scheduler."""
    done = 0
    for _ in range(_ROUNDS):
        found, ended = _expire_some()
        done += ended
        if found < _AT_ONCE:
            break
    if done:
        log.info("holds_expired", count=done)
    return done


def _expire_some() -> tuple[int, int]:
    """Let the next go, and tell how many were found and how many of them nobody else had ended meanwhile."""
    with unit_of_work() as session:
        connection = session.connection()
        commands = store.expiring(connection, _AT_ONCE)
        if not commands:
            return 0, 0
        states = store.load_states(connection, commands)
        due = [(states.originals[command.voids_id or ""], states.accounts[command.from_account_id]) for command in commands]
        ended = [let_go(hold, account) for hold, account in due if hold.held_amount and hold.expired]
        store.end_holds(connection, states.posted_at, ended)
    return len(commands), len(ended)
