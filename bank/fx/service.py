"""Rates as they count on a day, quotes, what an exchange is agreed at, and what the bank is exposed to."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

from flask import current_app
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from bank.audit import service as audit
from bank.config import Config
from bank.db import reader, unit_of_work
from bank.errors import NotFound, QuoteExpired, QuoteUsed, RatesTooOld, RateUnavailable, Unprocessable
from bank.events.types import Origin
from bank.fx.provider import DayOfRates
from bank.money import MAX_MINOR, currencies, exchanged, exponent, format_amount, nearest, plain
from bank.web.context import new_id
from bank.web.fields import timestamp

BASE = "EUR"
"""Every rate is told in units for one of this."""

QUOTE_SECONDS = 30
"""For how long a quote is firm."""

ADMIN = "admin"
"""The source of a rate that an administrator published."""

# As many digits as the reference rates' own precision can fill. From here on a rate is exact: what an exchange is booked at.
_RATE = Context(prec=12, rounding=ROUND_HALF_EVEN)

# The spread is in hundredths of a percent.
_WHOLE_RATE = 10_000

# How often those who publish rates are asked.
_REFRESH_SECONDS = 3_600

# Rates of a first load are written a few years at a time, in short transactions.
_DAYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Agreed:
    """What an exchange is made at: it goes into the transaction and is never computed again.

    `to_amount` is in minor units of `to_currency`, `rate` in units of that for one of the other, and `remainder` what the rounding
    of `to_amount` left, exactly, in its minor units.
    """

    to_amount: int
    to_currency: str
    rate: str
    remainder: str
    quote_id: str | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """The rate of a day for a customer, what it would be without the spread, and the day: the older of the two rates'."""

    to_currency: str
    rate: Decimal
    mid_rate: Decimal
    day: date


_ON_DAY = text(
    """
    SELECT r.* FROM unnest(CAST(:currencies AS text[])) AS wanted (currency)
     CROSS JOIN LATERAL (
         SELECT currency, rate, day, source, recorded_at FROM fx_rates
          WHERE currency = wanted.currency AND day BETWEEN COALESCE(CAST(:day AS date), CURRENT_DATE) - CAST(:age AS integer)
                                                       AND COALESCE(CAST(:day AS date), CURRENT_DATE)
          ORDER BY day DESC, revision DESC LIMIT 1) r
     ORDER BY r.currency
    """
)


def _rates(session: Session, wanted: Sequence[str], day: date | None) -> Sequence[Row[Any]]:
    """The rates of these currencies that count on `day` (None: today, by the database's clock); of some there may be none."""
    config: Config = current_app.config["BANK"]
    return session.execute(_ON_DAY, {"currencies": list(wanted), "day": day, "age": config.fx_max_age_days}).all()


def shown(days: Sequence[str], bind: str) -> dict[str, Any]:
    """For the cache: what counts on each of these days (ISO 8601), as the API shows it, read from `bind`."""
    with reader(bind) as session:
        return {day: _shown_on(session, date.fromisoformat(day)) for day in days}


def _shown_on(session: Session, day: date) -> list[dict[str, Any]]:
    return [_present_rate(row) for row in _rates(session, currencies(), day)]


def _present_rate(row: Row[Any]) -> dict[str, Any]:
    return {
        "currency": row.currency,
        "rate": plain(row.rate),
        "date": row.day.isoformat(),
        "source": row.source,
        "recorded_at": timestamp(row.recorded_at),
    }


_LAST_DAYS = text(
    """
    SELECT wanted.currency, r.day FROM unnest(CAST(:currencies AS text[])) AS wanted (currency)
     CROSS JOIN LATERAL (SELECT day FROM fx_rates WHERE currency = wanted.currency ORDER BY day DESC LIMIT 1) r
    """
)


def _silent(session: Session, missing: Sequence[str]) -> bool:
    """Whether what is missing is no more missing than everything else: its last rate is of the last day there is."""
    last = {row.currency: row.day for row in session.execute(_LAST_DAYS, {"currencies": list(currencies())})}
    return bool(last) and all(last.get(each) == max(last.values()) for each in missing)


def price(session: Session, currency: str, to_currency: str) -> Price:
    """The rate between two currencies today, by way of the euro, with the spread taken from it.

    Raises RateUnavailable when one of them has no rate of the last days, and RatesTooOld when that is since nothing new was
    published at all.
    """
    config: Config = current_app.config["BANK"]
    found = {row.currency: row for row in _rates(session, [currency, to_currency], None)}
    missing = [each for each in (currency, to_currency) if each != BASE and each not in found]
    if missing:
        if _silent(session, missing):
            raise RatesTooOld(f"Nothing was published for the last {config.fx_max_age_days} days.", retry_after=_REFRESH_SECONDS)
        raise RateUnavailable(f"No rate of {missing[0]} was published for the last {config.fx_max_age_days} days.")
    away, to = (found[each].rate if each != BASE else Decimal(1) for each in (currency, to_currency))
    return Price(
        to_currency=to_currency,
        rate=_RATE.divide(to * (_WHOLE_RATE - config.fx_spread), away * _WHOLE_RATE),
        mid_rate=_RATE.divide(to, away),
        day=min(row.day for row in found.values()),
    )


def agree(minor: int, currency: str, price: Price) -> Agreed:
    """What `minor` minor units of `currency` become at this price.

    Raises Unprocessable when that is nothing at all, or more than the ledger takes.
    """
    to_currency = price.to_currency
    exact = exchanged(minor, currency, to_currency, price.rate)
    to_amount = nearest(exact)
    if not 1 <= to_amount <= MAX_MINOR:
        raise Unprocessable.at(
            "/amount", f"Is {'less than a minor unit' if to_amount < 1 else 'past the range of the ledger'} in {to_currency}."
        )
    return Agreed(to_amount, to_currency, plain(price.rate), plain(exact - to_amount))


@dataclass(frozen=True, slots=True)
class Exchanged:
    """An exchange that was made: amounts in minor units of the currency beside each."""

    amount: int
    currency: str
    to_amount: int
    to_currency: str
    rate: str


def take_back(made: Exchanged, part: int, given: int, taken: int) -> tuple[int, Agreed]:
    """What is taken in minor units of `to_currency` for giving `part` minor units of `currency` back, at the rate it was made at.

    `given` was given back before and `taken` was taken for it. The share is of all that is given back so far, less what was taken, so
    that parts add up to exactly what was exchanged. The remainder that is agreed on is what the original's changes by, and of all parts
    together its opposite. More than the original is the ledger's to refuse. Raises Unprocessable where nothing would be taken.
    """
    share = made.to_amount if part > made.amount else nearest(Fraction(made.to_amount * (given + part), made.amount)) - taken
    if share < 1:
        raise Unprocessable.at("/amount", f"Is less than a minor unit in {made.to_currency}.")
    exact = exchanged(part, made.currency, made.to_currency, Decimal(made.rate))
    return share, Agreed(part, made.currency, made.rate, plain(share - exact))


_KEEP_QUOTE = text(
    """
    INSERT INTO fx_quotes (id, user_id, amount, currency, to_amount, to_currency, rate, mid_rate, spread, rate_day, remainder, expires_at)
    VALUES (:id, :user_id, :amount, :currency, :to_amount, :to_currency, :rate, :mid_rate, :spread, :rate_day, :remainder,
            now() + make_interval(secs => :seconds))
    RETURNING id::text, amount, currency, to_amount, to_currency, rate, mid_rate, spread, rate_day, created_at, expires_at
    """
)


def quote(user_id: str, minor: int, currency: str, to_currency: str) -> dict[str, Any]:
    """Promise the user today's rate for this amount (minor units of `currency`) for half a minute, as the API shows it.

    Raises RateUnavailable, and Unprocessable as `agree` does.
    """
    config: Config = current_app.config["BANK"]
    with unit_of_work() as session:
        today = price(session, currency, to_currency)
        agreed = agree(minor, currency, today)
        row = session.execute(
            _KEEP_QUOTE,
            {
                "id": new_id(),
                "user_id": user_id,
                "amount": minor,
                "currency": currency,
                "to_amount": agreed.to_amount,
                "to_currency": to_currency,
                "rate": agreed.rate,
                "mid_rate": plain(today.mid_rate),
                "spread": config.fx_spread,
                "rate_day": today.day,
                "remainder": agreed.remainder,
                "seconds": QUOTE_SECONDS,
            },
        ).one()
    return {
        "id": row.id,
        "amount": format_amount(row.amount, row.currency),
        "currency": row.currency,
        "to_amount": format_amount(row.to_amount, row.to_currency),
        "to_currency": row.to_currency,
        "rate": row.rate,
        "mid_rate": row.mid_rate,
        "spread": f"{row.spread // 100}.{row.spread % 100:02}",
        "rate_date": row.rate_day.isoformat(),
        "created_at": timestamp(row.created_at),
        "expires_at": timestamp(row.expires_at),
    }


# The row's lock lets one of two that use a quote at once wait for the other, and then see that it was used.
_USE_QUOTE = text(
    """
    UPDATE fx_quotes SET used_at = now()
     WHERE id = CAST(:id AS uuid) AND user_id = CAST(:user_id AS uuid) AND used_at IS NULL AND expires_at > now()
       AND amount = :amount AND currency = :currency AND to_currency = COALESCE(:to_currency, to_currency)
    RETURNING to_amount, to_currency, rate, remainder
    """
)
_QUOTE = text(
    """
    SELECT used_at IS NOT NULL AS used, expires_at <= now() AS expired, amount, currency, to_currency FROM fx_quotes
     WHERE id = CAST(:id AS uuid) AND user_id = CAST(:user_id AS uuid)
    """
)


def use_quote(session: Session, quote_id: str, user_id: str | None, minor: int, currency: str, to_currency: str | None) -> Agreed:
    """What the user was promised, taken in the caller's unit of work: it is used when that commits.

    `to_currency` None means that of the quote. Raises NotFound for a quote that is not there or another's, QuoteUsed, QuoteExpired,
    and Unprocessable when it is for another amount or other currencies.
    """
    asked = {"id": quote_id, "user_id": user_id, "amount": minor, "currency": currency, "to_currency": to_currency}
    taken = session.execute(_USE_QUOTE, asked).one_or_none()
    if taken is not None:
        return Agreed(taken.to_amount, taken.to_currency, taken.rate, taken.remainder, quote_id)
    quoted = session.execute(_QUOTE, asked).one_or_none()
    if quoted is None:
        raise NotFound("There is no such quote.")
    if quoted.used:
        raise QuoteUsed
    if quoted.expired:
        raise QuoteExpired
    promised = f"{format_amount(quoted.amount, quoted.currency)} {quoted.currency} to {quoted.to_currency}"
    raise Unprocessable.at("/quote_id", f"Is for {promised}.")


def forget_quotes() -> int:
    """Drop the quotes that nobody used and nobody will ask about any more; how many there were."""
    forget = text("DELETE FROM fx_quotes WHERE used_at IS NULL AND expires_at < now() - interval '1 day' RETURNING 1")
    with unit_of_work() as session:
        return len(session.execute(forget).all())


_PUBLISH = text(
    """
    INSERT INTO fx_rates (currency, day, revision, rate, source, recorded_by)
    SELECT :currency, CAST(:day AS date), COALESCE(max(revision), 0) + 1, :rate, :source, CAST(:user_id AS uuid)
      FROM fx_rates WHERE currency = :currency AND day = CAST(:day AS date)
    RETURNING currency, rate, day, source, recorded_at
    """
)


# Any number; it is the name of the lock of who publishes.
_PUBLISHING = 0x6678726174657321


def publish(currency: str, rate: Decimal, day: date | None, origin: Origin) -> dict[str, Any]:
    """An administrator's own rate (units of `currency` for one euro) for a day (None: today); it counts before all others of that day.

    Raises Unprocessable for a day to come.
    """
    with unit_of_work() as session:
        # Two at once must not take the same number; and who only reads waits for nobody.
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _PUBLISHING})
        today: date = session.execute(text("SELECT CURRENT_DATE")).scalar_one()
        if day is not None and day > today:
            raise Unprocessable.at("/date", "Lies in the future.")
        told = {"currency": currency, "day": day or today, "rate": rate, "source": ADMIN, "user_id": origin.actor_id}
        row = session.execute(_PUBLISH, told).one()
        published = _present_rate(row)
        audit.record(session, "rate", None, "rate.published", origin, {name: published[name] for name in ("currency", "rate", "date")})
    return published


_NEWEST = text("SELECT day FROM fx_rates WHERE revision = 0 ORDER BY day DESC LIMIT 1")

_RECORD = """
    INSERT INTO fx_rates (currency, day, revision, rate, source)
    SELECT currency, day, 0, rate, %(source)s
      FROM unnest(%(currencies)s::text[], %(days)s::date[], %(rates)s::numeric[]) AS told (currency, day, rate)
    ON CONFLICT DO NOTHING
"""


def newest_day() -> date | None:
    """The last day for which a provider's rates are here."""
    with reader() as session:
        return session.execute(_NEWEST).scalar_one_or_none()


def record(source: str, days: Sequence[DayOfRates]) -> None:
    """Keep what a provider published, in the order of the days; what is here already stays as it is.

    Currencies that money cannot be held in (any more) are left out.
    """
    known = set(currencies())
    for start in range(0, len(days), _DAYS_AT_ONCE):
        told = [
            (currency, day.day.isoformat(), str(rate))
            for day in days[start : start + _DAYS_AT_ONCE]
            for currency, rate in day.rates.items()
            if currency in known
        ]
        columns = {name: _array(row[number] for row in told) for number, name in enumerate(("currencies", "days", "rates"))}
        with unit_of_work() as session:
            session.connection().exec_driver_sql(_RECORD, {"source": source, **columns})


def _array(values: Iterable[str]) -> str:
    """A PostgreSQL array literal of codes, days and numbers, none of which needs quoting."""
    return "{" + ",".join(values) + "}"


# The bank's own accounts are few, and the index on the user finds them by having none.
_POSITIONS = text(
    """
    SELECT b.currency, CAST(sum(b.amount) AS bigint) AS amount, sum(b.remainder) AS remainder
      FROM balances b JOIN accounts a ON a.id = b.account_id
     WHERE b.user_id IS NULL AND a.kind = 'position' GROUP BY 1 ORDER BY 1
    """
)


def position() -> dict[str, Any]:
    """What exchanges have left the bank with in each currency, and what it is worth in euro today, as the API shows it.

    A position above zero is money that the bank holds, below zero such as it owes. `value` is None where there is no rate, and
    `total` leaves it out then.
    """
    with reader() as session:
        rows = session.execute(_POSITIONS).all()
        today = {row.currency: row.rate for row in _rates(session, [row.currency for row in rows], None)} | {BASE: Decimal(1)}
    values = {row.currency: _worth(row.amount, row.currency, today.get(row.currency)) for row in rows}
    return {
        "base": BASE,
        "data": [
            {
                "currency": row.currency,
                "position": format_amount(row.amount, row.currency),
                "remainder": plain(row.remainder.scaleb(-exponent(row.currency))),
                "value": None if (value := values[row.currency]) is None else format_amount(value, BASE),
            }
            for row in rows
        ],
        "total": format_amount(sum(value for value in values.values() if value is not None), BASE),
    }


def _worth(minor: int, currency: str, rate: Decimal | None) -> int | None:
    if rate is None:
        return None
    # Exactly, and not by way of a rate that was rounded: positions may be large.
    return nearest(Fraction(Fraction(exchanged(minor, currency, BASE, Decimal(1))), Fraction(rate)))
