"""Slowing down who guesses passwords, without locking out whose password it is.

Only wrong passwords count, and wrong codes of a second factor, for each of these apart:

- the account, over all addresses that never logged in to it,
- the address, over all accounts that it never logged in to,
- each pair of an account and an address that did log in to it before.

So a stranger who guesses at Alice's account makes other strangers wait, and not Alice at home
(OWASP, "Slow Down Online Guessing Attacks with Device Cookies", with the address in place of the
cookie). After the free failures the wait doubles with each one up to a minute; it ends by itself, a
try during the wait is refused unread and does not prolong it, and every quarter of an hour the
counting starts anew.
"""

from dataclasses import dataclass
from hashlib import sha256
from math import ceil

from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.errors import TooManyAttempts
from bank.web.addresses import place

# How many wrong passwords cost no wait. An address may be a whole office behind one router.
FREE_FOR_ACCOUNT, FREE_FOR_ADDRESS = 5, 100
LONGEST_WAIT_SECONDS = 60
WINDOW_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that failures are counted for. The key is a digest: an unknown name may be a mistyped password."""

    key: str
    free: int


def subjects(name: str, address: str | None, *, known: bool) -> list[Subject]:
    """What a try counts for: `name` is the user's id, or what was typed when there is no such user.

    `known` tells that the user has logged in from this address before.
    """
    where = place(address)
    if known:
        return [Subject(_digest("pair", name, where), FREE_FOR_ACCOUNT)]
    return [Subject(_digest("account", name), FREE_FOR_ACCOUNT), Subject(_digest("address", where), FREE_FOR_ADDRESS)]


def _digest(*parts: str) -> str:
    kind, *rest = parts
    return f"{kind}:{sha256(repr(rest).encode()).hexdigest()}"


# Whether a row still counts.
_FRESH = f"f.counted_since > clock_timestamp() - interval '{WINDOW_SECONDS} seconds'"

_ASK = text(
    f"""
    SELECT COALESCE(MAX(LEAST({LONGEST_WAIT_SECONDS}, 2 ^ LEAST(f.failures - s.free, 10))
                        - EXTRACT(EPOCH FROM clock_timestamp() - f.last_failed_at)), 0)
    FROM unnest(CAST(:keys AS text[]), CAST(:free AS integer[])) AS s (key, free)
    JOIN login_failures f ON f.subject = s.key
    WHERE f.failures >= s.free AND {_FRESH}
    """
)

_PREPARE = text(
    """
    INSERT INTO login_failures (subject, failures, counted_since, last_failed_at)
    SELECT key, 0, clock_timestamp(), clock_timestamp() FROM unnest(CAST(:keys AS text[])) AS s (key) ORDER BY key
    ON CONFLICT DO NOTHING
    """
)

_LOCK = text("SELECT FROM login_failures WHERE subject = ANY(CAST(:keys AS text[])) ORDER BY subject FOR UPDATE")

_COUNT = text(
    f"""
    UPDATE login_failures f SET
        failures = CASE WHEN {_FRESH} THEN f.failures + 1 ELSE 1 END,
        counted_since = CASE WHEN {_FRESH} THEN f.counted_since ELSE clock_timestamp() END,
        last_failed_at = clock_timestamp()
    WHERE subject = ANY(CAST(:keys AS text[]))
    """
)

_FORGET = text("DELETE FROM login_failures WHERE subject = ANY(CAST(:keys AS text[]))")

# Each failure adds two rows at most and takes ten old ones away, so the table does not grow for ever.
_SWEEP = text(
    f"""
    DELETE FROM login_failures WHERE subject IN (
        SELECT f.subject FROM login_failures f WHERE NOT {_FRESH}
        ORDER BY f.counted_since LIMIT 10 FOR UPDATE SKIP LOCKED
    )
    """
)


def check(session: Session, counted: list[Subject]) -> None:
    """Raise TooManyAttempts while any of the subjects has to wait."""
    wait = session.execute(_ASK, {"keys": [s.key for s in counted], "free": [s.free for s in counted]}).scalar_one()
    if wait > 0:
        raise TooManyAttempts(ceil(wait))


def settle(session: Session, counted: list[Subject], *, good: bool | None) -> None:
    """Count a wrong password or code, or forget the earlier ones after a right one, in the caller's unit of work.

    None stands for a right password without the code that it needs: that is no failure, and it forgets none, or who knows
    the password would guess at codes without end.

    Raises TooManyAttempts, and tells nothing of the password, when others failed so often since
    `check` that this try came too early: a thousand tries at once are not a thousand answers.
    """
    keys = [s.key for s in counted]
    if good is False:
        # There must be rows to lock, or many first failures at once would not see each other.
        session.execute(_PREPARE, {"keys": keys})
    # In the order of the keys, so that two who lock the same rows meet without deadlock.
    session.execute(_LOCK, {"keys": keys})
    check(session, counted)
    if good:
        # The address goes on being counted: whoever guesses at many accounts may have one of their own.
        session.execute(_FORGET, {"keys": [s.key for s in counted if not s.key.startswith("address:")]})
    elif good is False:
        session.execute(_COUNT, {"keys": keys})
        session.execute(_SWEEP)
