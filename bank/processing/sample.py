"""The invariants in production: each minute a sample of the books is checked, so that over time all of them are.

Among them, that what the sample holds is what a replay of its events would make.

Redis remembers where the last sample ended, and in which windows violations were found: those are looked at again
each time until they are whole, so that what the metrics say lasts as long as the violation does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import structlog
from flask import current_app
from sqlalchemy.exc import IntegrityError

from bank.accounts import service as accounts
from bank.config import Config
from bank.db import reader
from bank.errors import BankError, Unavailable
from bank.events.types import Origin, UnknownEventError
from bank.ledger.invariants import CHECKS, Check, Window, customers_accounts, window_after
from bank.processing.counters import InvariantsChecked, counters
from bank.processing.queue import redis

log = structlog.get_logger(__name__)

_KEY = "bank:invariants"

_OF_A_WINDOW = [check for check in CHECKS if check.by_window]
_OF_EVERYTHING = [check for check in CHECKS if not check.by_window]

# So many broken windows are kept in sight, so that a sample stays quick. `bank check` shows all.
_BROKEN_WINDOWS = 5

# A log line names no more ids than a person would read.
_SHOWN = 20

_QUERY_CANCELED = "57014"


def check_sample() -> dict[str, int]:
    """Check the next accounts and transactions, and again those where something was wrong; runs by rq-scheduler.

    Returns how many violate each check. Raises Unavailable when the database is, and RedisError; the
    next sample then begins where this one did.
    """
    last, broken = _remembered()
    with reader() as session:
        window = window_after(session.connection(), last)
    violations = _find(_OF_EVERYTHING, None)
    concerned: dict[str, set[str]] = {check.name: set() for check in _OF_A_WINDOW}
    still_broken = []
    for each in dict.fromkeys([*broken, window]):
        found = _find(_OF_A_WINDOW, each)
        if any(found.values()):
            still_broken.append(each)
        for name, ids in found.items():
            concerned[name].update(ids)
    violations |= {name: sorted(ids) for name, ids in concerned.items()}
    for name, ids in violations.items():
        if ids:
            log.error("invariant_violated", check=name, violations=len(ids), ids=ids[:_SHOWN])
    config: Config = current_app.config["BANK"]
    if config.freeze_on_violation:
        _freeze({name: sorted(ids) for name, ids in concerned.items() if ids})
    _remember(window, still_broken[:_BROKEN_WINDOWS])
    counts = {name: len(ids) for name, ids in violations.items()}
    counters.seen(InvariantsChecked(counts))
    return counts


def _remembered() -> tuple[Window | None, list[Window]]:
    """The window of the last sample, and those in which something was wrong."""
    text = redis().get(_KEY)
    if text is None:
        return None, []
    last, *broken = (Window(*bounds) for bounds in json.loads(text))
    return last, broken


def _remember(last: Window, broken: Sequence[Window]) -> None:
    redis().set(_KEY, json.dumps([astuple(window) for window in (last, *broken)]))


def _find(checks: Sequence[Check], window: Window | None) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for check in checks:
        try:
            with reader() as session:
                found[check.name] = check.find(session.connection(), window)
        except Unavailable as error:
            if error.sqlstate != _QUERY_CANCELED:
                raise
            # Some account has too many entries for the time a statement gets. The sample must not
            # stop there for ever; `bank check` has all the time it needs.
            log.error("invariant_not_checked", check=check.name, window=window)
            found[check.name] = []
    return found


def _freeze(violations: Mapping[str, Sequence[str]]) -> None:
    reasons: dict[str, list[str]] = {}
    for name, ids in violations.items():
        with reader() as session:
            for account_id in customers_accounts(session.connection(), ids):
                reasons.setdefault(account_id, []).append(name)
    for account_id, names in reasons.items():
        try:
            if accounts.freeze(account_id, f"invariant violated: {', '.join(names)}", Origin()):
                log.error("account_frozen", account_id=account_id, checks=names)
        except Unavailable:
            raise
        except (BankError, IntegrityError, UnknownEventError) as error:
            # The account, or its log, is so broken that nothing can be written to it; the others must not wait for that.
            log.error("account_not_frozen", account_id=account_id, checks=names, exc_info=error)
