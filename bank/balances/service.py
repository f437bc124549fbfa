"""Balances now, then, and at any time, on both time axes.

An entry has two times: from when it counts (`effective_at`) and when the bank learned of it
(`posted_at`). The closing balances of effective days answer the first axis; the versions of an
account's entries, which are in the order of posting, answer the second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from bank.accounts.access import customers_and
from bank.db import fetch, reader
from bank.errors import NotFound, Unprocessable
from bank.ledger.models import LATE, ON_TIME
from bank.money import format_amount
from bank.web.fields import timestamp

# The longest answer of `historical`, in steps.
MAX_STEPS = 1000


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose account it is, and what it holds."""

    account_id: str
    user_id: str
    currency: str


def holder(account_id: str, owner_id: str | None) -> Holder:
    """The account's holder. Raises NotFound when it is not there or not `owner_id`'s (None: anybody's)."""
    with reader() as session:
        row = session.execute(
            text("SELECT user_id::text, currency FROM accounts WHERE id = CAST(:id AS uuid) AND kind = 'customer'"),
            {"id": account_id},
        ).one_or_none()
    if row is None or owner_id not in (None, row.user_id):
        raise NotFound
    return Holder(account_id, row.user_id, row.currency)


_CURRENT = """
    SELECT account_id::text, user_id::text, currency, amount, held, overdraft_limit, last_updated_at, version
      FROM balances WHERE user_id {owner}
"""


def current(
    owner_id: str | None, account_id: str | None, currency: str | None, after: str | None, limit: int, seen_by: str | None = None
) -> list[tuple[Any, ...]]:
    """Balances of a user's accounts, or of all users' (`owner_id` None), ordered by account id.

    From behind the account `after`; one more than `limit` when more follow. For a teller, `seen_by`, those of customers and their own.
    """
    statement = _CURRENT.format(owner="IS NOT NULL" if owner_id is None else "= %(owner)s::uuid")
    if account_id is not None:
        statement += " AND account_id = %(account)s::uuid"
    if currency is not None:
        statement += " AND currency = %(currency)s"
    if after is not None:
        statement += " AND account_id > %(after)s::uuid"
    if seen_by is not None:
        statement += " AND " + customers_and("%(seen_by)s", "user_id")
    statement += " ORDER BY account_id LIMIT %(limit)s"
    parameters = {"owner": owner_id, "account": account_id, "currency": currency, "after": after, "limit": limit + 1, "seen_by": seen_by}
    return fetch(statement, parameters)


def shown(account_ids: Sequence[str], bind: str) -> dict[str, Any]:
    """For the cache: the balance of each of these customers' accounts that there is, as it is shown, read from `bind`."""
    statement = _CURRENT.format(owner="IS NOT NULL") + " AND account_id = ANY(%(accounts)s::uuid[])"
    return {row[0]: present(row) for row in fetch(statement, {"accounts": list(account_ids)}, bind)}


def present(row: tuple[Any, ...]) -> dict[str, Any]:
    """A balance as the API shows it. `available` is what can be spent: less holds, with the overdraft."""
    account_id, user_id, currency, amount, held, overdraft_limit, last_updated_at, version = row
    return {
        "account_id": account_id,
        "user_id": user_id,
        "currency": currency,
        "amount": format_amount(amount, currency),
        "available": format_amount(amount - held + (overdraft_limit or 0), currency),
        "held": format_amount(held, currency),
        "last_updated_at": timestamp(last_updated_at),
        "version": version,
    }


_COUNTED = """
    COALESCE((SELECT closing FROM daily_balances
               WHERE account_id = :account AND day < CAST(:day AS date) ORDER BY day DESC LIMIT 1), 0)
  + COALESCE((SELECT sum(amount) FROM entries
               WHERE account_id = :account AND effective_at >= :day AND effective_at <= :at), 0)
"""
"""What counted at :at: the closing balance of the day before :day, and the entries from then on."""

# A day of so many entries is summed, from the index alone, sooner than a statement that knows a better way is planned.
_SHORT_DAY = 5_000

_ENTRIES_OF_DAY = "COALESCE((SELECT count FROM daily_balances WHERE account_id = :account AND day = CAST(:day AS date)), 0)"

# NULL on a day with more entries.
_AT_ON_A_SHORT_DAY = f"SELECT CASE WHEN {_ENTRIES_OF_DAY} <= {_SHORT_DAY} THEN {_COUNTED} END"

# Those entries that were posted in time, after {after} and up to {until}, neither before :at, and count at :at: they are among the
# last that do.
_ON_TIME = f"""
    COALESCE((SELECT sum(amount) FROM entries
               WHERE account_id = :account AND effective_at > CAST(:at AS timestamptz) - {ON_TIME} AND effective_at <= :at
                 AND posted_at > {{after}} AND posted_at <= {{until}} AND NOT {LATE}), 0)
"""

# So many late entries are looked for at first: to count them takes no longer than to find out that there are none.
_FIRST_LOOK = 64

_LATE = f"FROM entries WHERE account_id = :account AND posted_at > {{after}} AND posted_at <= {{until}} AND {LATE}"
_LATE_BETWEEN, _LATE_SINCE = _LATE.format(after=":at", until=":known_at"), _LATE.format(after=":known_at", until="'infinity'")

# What counted at :at as it was known at :known_at, which is not before it. There are two ways to it:
# - The balance of the last entry that was posted by then is the sum of all that were, and nothing counts from later than it was
#   posted. What counts besides was learned since: the late entries between :at and :known_at are added up.
# - What counted by all that is known today, less what was learned after :known_at: the day's entries are added up, and the late ones
#   since :known_at.
# The one with less to add up is gone. To find it, late entries are counted on both sides of :known_at, up to four times as many each
# time, until one side has no more: so what is read is a few times what that way adds up, however much the other would. An entry of
# the day weighs an eighth of a late one, since it is not counted first.
# Not bounded is what is long both ways: with many late entries between :at and :known_at, a day that is long itself (as one that
# was imported whole), or many late entries after :known_at too. It takes time in proportion to the shorter way.
# Posting times rise with the versions, so that last entry is found by halving, with the primary key.
# One statement: between two, a backdated entry could be posted, and only one of them would see it.
_AT = f"""
    WITH RECURSIVE search (low, high) AS (
        SELECT CAST(0 AS bigint), version FROM balances WHERE account_id = :account
        UNION ALL
        SELECT CASE WHEN e.posted_at <= :at THEN e.version ELSE low END,
               CASE WHEN e.posted_at <= :at THEN high ELSE e.version - 1 END
          FROM search JOIN entries e ON e.account_id = :account AND e.version = (low + high + 1) / 2
         WHERE low < high
    ), day (weight) AS (
        SELECT {_ENTRIES_OF_DAY} / 8
    ), counts (most, one_way, other_way) AS (
        SELECT CAST(0 AS bigint), CAST(0 AS bigint), CAST(0 AS bigint)
        UNION ALL
        SELECT next.most,
               (SELECT count(*) FROM (SELECT {_LATE_BETWEEN} ORDER BY posted_at LIMIT next.most) l),
               (SELECT count(*) FROM (SELECT {_LATE_SINCE} ORDER BY posted_at LIMIT next.most) l) + weight
          FROM counts CROSS JOIN day CROSS JOIN LATERAL (SELECT greatest({_FIRST_LOOK}, 4 * counts.most) AS most) next
         WHERE one_way >= counts.most AND other_way >= counts.most
    )
    SELECT CASE WHEN (SELECT one_way <= other_way FROM counts ORDER BY most DESC LIMIT 1)
           THEN COALESCE((SELECT balance FROM entries
                           WHERE account_id = :account AND version = (SELECT max(low) FROM search)), 0)
              + COALESCE((SELECT sum(amount) {_LATE_BETWEEN} AND effective_at <= :at), 0)
              + {_ON_TIME.format(after=":at", until=":known_at")}
           ELSE {_COUNTED}
              - COALESCE((SELECT sum(amount) {_LATE_SINCE} AND effective_at <= :at), 0)
              - {_ON_TIME.format(after=":known_at", until="'infinity'")}
           END
"""


def at_time(account_id: str, at: datetime, known_at: datetime | None) -> int:
    """The balance that counted at `at`, as the bank knew it at `known_at` (None: now), in minor units.

    Both times are aware; each entry at its very microsecond counts. How long it takes does not depend on how many entries
    the account has, unless many late ones were learned between `at` and `known_at`, and the day of `at` has many entries or many
    late ones were learned after `known_at` as well: then it grows with the fewer of the two.
    """
    # Nothing counts from later than it was posted, so before `at` all that was known by `known_at` counted by then.
    at = at if known_at is None else min(at, known_at)
    parameters = {"account": account_id, "at": at, "day": _floor(at, "day"), "known_at": known_at or "infinity"}
    with reader() as session:
        balance = None if known_at else session.execute(text(_AT_ON_A_SHORT_DAY), parameters).scalar_one()
        if balance is None:
            balance = session.execute(text(_AT), parameters).scalar_one()
    return int(balance)


def historical(held: Holder, since: datetime, until: datetime, interval: str) -> list[dict[str, Any]]:
    """Opening, closing, credits, debits and count of each step from `since` to `until`, without gaps.

    Steps are whole hours, days, weeks (from Monday) or months in UTC: the first holds `since`, the
    last ends at or after `until`. Raises Unprocessable for more than MAX_STEPS.
    """
    steps = list(_steps(since, until, interval))
    first, last = steps[0], _next(steps[-1], interval)
    table, column = ("entries", "effective_at") if interval == "hour" else ("daily_balances", "day")
    sums = (
        "sum(amount) FILTER (WHERE amount > 0), -sum(amount) FILTER (WHERE amount < 0), count(*)"
        if interval == "hour"
        else "sum(credits), sum(debits), sum(count)"
    )
    # One statement: a batch that is posted between two would be in the steps and not in the opening.
    with reader() as session:
        rows = session.execute(
            text(
                f"""SELECT opening.balance, moved.* FROM (SELECT {_COUNTED}) AS opening (balance) LEFT JOIN (
                        SELECT date_trunc('{interval}', CAST({column} AS timestamptz)), {sums} FROM {table}
                         WHERE account_id = :account AND {column} >= CAST(:first AS timestamptz)
                           AND {column} < CAST(:last AS timestamptz) GROUP BY 1) AS moved (step, credits, debits, count) ON true"""
            ),
            {
                "account": held.account_id,
                "first": first,
                "last": last,
                "day": _floor(first, "day"),
                "at": first - timedelta(microseconds=1),
            },
        ).all()
    moved = {row.step: (int(row.credits or 0), int(row.debits or 0), int(row[4])) for row in rows if row.step is not None}
    balance = int(rows[0].balance)
    result = []
    for step in steps:
        credits, debits, count = moved.get(step, (0, 0, 0))
        opening, balance = balance, balance + credits - debits
        result.append(
            {
                "from": timestamp(step),
                "to": timestamp(_next(step, interval)),
                "opening": format_amount(opening, held.currency),
                "closing": format_amount(balance, held.currency),
                "credits": format_amount(credits, held.currency),
                "debits": format_amount(debits, held.currency),
                "count": count,
            }
        )
    return result


def _steps(since: datetime, until: datetime, interval: str) -> Iterator[datetime]:
    step = _floor(since, interval)
    for _ in range(MAX_STEPS):
        yield step
        step = _next(step, interval)
        if step >= until:
            return
    raise Unprocessable.at("/to", f"More than {MAX_STEPS} steps; take a longer interval or a shorter time.")


def _floor(moment: datetime, interval: str) -> datetime:
    moment = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if interval == "hour":
        return moment
    moment = moment.replace(hour=0)
    if interval == "week":
        return moment - timedelta(days=moment.weekday())
    return moment.replace(day=1) if interval == "month" else moment


def _next(step: datetime, interval: str) -> datetime:
    if interval == "month":
        return (step + timedelta(days=31)).replace(day=1)
    return step + {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(days=7)}[interval]
