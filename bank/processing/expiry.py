"""The end of holds whose time is over. A tick lets them go; that they can be taken no more does not wait for it."""

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from bank.db import reader, unit_of_work
from bank.ledger import store
from bank.ledger.decide import Command, let_go
from bank.processing.processor import is_the_rows

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
    """Let the next go, and tell how many were found and how many of them nobody else had ended meanwhile.

    As with what a drain claims, a hold that the database refuses to end keeps no other from ending.
    """
    try:
        with unit_of_work() as session:
            commands = store.expiring(session.connection(), _AT_ONCE)
            return len(commands), _end(session.connection(), commands)
    except DBAPIError as error:
        if not is_the_rows(error):
            raise
        log.error("holds_not_expired", exc_info=error)
    with reader() as session:
        commands = store.expiring(session.connection(), _AT_ONCE)
    return len(commands), sum(_end_one(command) for command in commands)


def _end_one(command: Command) -> int:
    try:
        with unit_of_work() as session:
            return _end(session.connection(), [command])
    except DBAPIError as error:
        if not is_the_rows(error):
            raise
        log.error("hold_not_expired", hold_id=command.voids_id, exc_info=error)
        return 0


def _end(connection: Connection, commands: Sequence[Command]) -> int:
    if not commands:
        return 0
    states = store.load_states(connection, commands)
    due = [(states.originals[command.voids_id or ""], states.accounts[command.from_account_id]) for command in commands]
    ended = [let_go(hold, account) for hold, account in due if hold.held_amount and hold.expired]
    store.end_holds(connection, states.posted_at, ended)
    return len(ended)
