"""Recurrence rules of iCalendar (RFC 5545, 3.3.10), in local wall time and with every search bounded.

Not `dateutil.rrule`: that walks from the start each time, walks on to the year 9999 when nothing matches, and knows nothing
of RFC 7529, by which «the 31st, monthly» runs on the last day of a shorter month. The tests hold what is here against it, and
against a plain enumeration of all hours.
"""

import re
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from math import gcd

LONGEST_GAP = timedelta(days=3653)
"""A rule that does not match for ten years is over: so every search ends soon, whatever the rule says."""

MONTH_ENDS = ("last_day", "skip")
"""What becomes of a day that a month does not have: the month's last day (SKIP=BACKWARD of RFC 7529), or nothing, as RFC 5545 has it."""

# What there is of each frequency in ten years; an interval that is longer leaves gaps past which nobody looks.
_LONGEST_INTERVAL = {"HOURLY": 87_600, "DAILY": 3_650, "WEEKLY": 520, "MONTHLY": 120, "YEARLY": 10}

_LAST_YEAR = 9_100

_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
_SIGNED = re.compile(r"[+-]?[0-9]{1,3}", re.ASCII)
_WEEKDAY = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)", re.ASCII)
_UNTIL = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)

MOST_COUNT = 5_000
"""How many runs COUNT may ask for: the last of them is looked for when the rule is taken in."""


class InvalidRule(ValueError):
    """The text is no recurrence rule that the bank runs; the message says why."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A recurrence rule. Lists are sorted; `weekdays` are (n, 0 for Monday … 6), n = 0 standing for every one of them.

    `until` is an instant in UTC. Occurrences are naive datetimes, in the wall time of whatever zone the start is in.
    """

    freq: str
    interval: int = 1
    count: int | None = None
    until: datetime | None = None
    months: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    weekdays: tuple[tuple[int, int], ...] = ()
    hours: tuple[int, ...] = ()
    minute: int | None = None
    set_positions: tuple[int, ...] = ()
    week_start: int = 0

    @classmethod
    @lru_cache(maxsize=1024)
    def parse(cls, text: str) -> "Rule":
        """The rule that `text` (`FREQ=MONTHLY;BYMONTHDAY=31`) says, without `RRULE:` before it.

        Raises InvalidRule for what RFC 5545 does not know or forbids, and for what would run more than once an hour.
        """
        parts: dict[str, str] = {}
        for part in text.split(";"):
            name, equals, value = part.partition("=")
            if not equals or not value:
                raise InvalidRule(f"{part[:40]!r} is not NAME=VALUE.")
            if name in parts:
                raise InvalidRule(f"{name} is given twice.")
            parts[name] = value
        unknown = [name for name in parts if name not in _PARTS]
        if unknown:
            raise InvalidRule(f"{unknown[0][:20]!r} is none of {', '.join(_PARTS)}.")
        freq = parts.get("FREQ", "")
        if freq not in _LONGEST_INTERVAL:
            raise InvalidRule(f"FREQ must be one of {', '.join(_LONGEST_INTERVAL)}.")
        rule = cls(
            freq=freq,
            interval=_number("INTERVAL", parts.get("INTERVAL", "1"), 1, _LONGEST_INTERVAL[freq]),
            count=_number("COUNT", parts["COUNT"], 1, MOST_COUNT) if "COUNT" in parts else None,
            until=_moment(parts["UNTIL"]) if "UNTIL" in parts else None,
            months=_numbers(parts, "BYMONTH", 1, 12),
            month_days=_numbers(parts, "BYMONTHDAY", 1, 31, signed=True),
            weekdays=_weekdays(parts.get("BYDAY")),
            hours=_numbers(parts, "BYHOUR", 0, 23),
            minute=_number("BYMINUTE", parts["BYMINUTE"], 0, 59) if "BYMINUTE" in parts else None,
            set_positions=_numbers(parts, "BYSETPOS", 1, 366, signed=True),
            week_start=_week_start(parts.get("WKST", "MO")),
        )
        rule._check(parts)
        return rule

    def _check(self, parts: dict[str, str]) -> None:
        if self.count is not None and self.until is not None:
            raise InvalidRule("COUNT and UNTIL exclude each other.")
        if self.month_days and self.freq == "WEEKLY":
            raise InvalidRule("BYMONTHDAY does not go with WEEKLY.")
        if any(n for n, _ in self.weekdays) and self.freq not in ("MONTHLY", "YEARLY"):
            raise InvalidRule("A number before a weekday goes with MONTHLY and YEARLY only.")
        if self.set_positions and not any(name.startswith("BY") and name != "BYSETPOS" for name in parts):
            raise InvalidRule("BYSETPOS needs another BY… to choose from.")

    def occurrences(self, start: datetime, after: datetime, month_end: str) -> Iterator[datetime]:
        """The occurrences from the local time `start` on that are not before `after`, in order; COUNT and UNTIL are not looked at.

        Costs the same however far `after` is from `start`. Ends at a gap of ten years.
        """
        if self.freq == "HOURLY" and self.hours and not self._meets_hours(start):
            return
        found = max(start, after)
        step = self._step_of(start, found)
        while True:
            first = self._first_day(start, step)
            if first is None or datetime.combine(first, time()) - found > LONGEST_GAP:
                return
            if self.freq == "HOURLY" and not self._has(first):
                # No hour of this day will do, so the next one to look at is the first of the next day.
                step = max(step + 1, self._step_of(start, datetime.combine(first + timedelta(days=1), time())))
                continue
            for moment in self._period(start, step, first, month_end):
                if moment >= start and moment >= after:
                    found = moment
                    yield moment
            step += 1

    def _meets_hours(self, start: datetime) -> bool:
        # Every second hour from an even one on never is an odd one; looking at ten years of hours for that takes a second.
        return any((hour - start.hour) % gcd(self.interval, 24) == 0 for hour in self.hours)

    def _step_of(self, start: datetime, moment: datetime) -> int:
        """The number of the last period that does not begin after the moment; the period of the start is number 0."""
        if self.freq == "YEARLY":
            periods = moment.year - start.year
        elif self.freq == "MONTHLY":
            periods = (moment.year - start.year) * 12 + moment.month - start.month
        elif self.freq == "WEEKLY":
            periods = (moment.date() - self._week(start.date())).days // 7
        elif self.freq == "DAILY":
            periods = (moment.date() - start.date()).days
        else:
            periods = (moment - start.replace(minute=0, second=0)) // timedelta(hours=1)
        return max(0, periods // self.interval)

    def _week(self, day: date) -> date:
        return day - timedelta(days=(day.weekday() - self.week_start) % 7)

    def _first_day(self, start: datetime, step: int) -> date | None:
        """The first day of a period, None past the end of all calendars: what PostgreSQL and Python hold, with room to move in."""
        periods = step * self.interval
        if self.freq in ("YEARLY", "MONTHLY"):
            years, month = divmod(start.month - 1 + periods, 12) if self.freq == "MONTHLY" else (periods, 0)
            return date(start.year + years, month + 1, 1) if start.year + years <= _LAST_YEAR else None
        days = {"WEEKLY": 7 * periods, "DAILY": periods, "HOURLY": (start.hour + periods) // 24}[self.freq]
        first = (self._week(start.date()) if self.freq == "WEEKLY" else start.date()) + timedelta(days=days)
        return first if first.year <= _LAST_YEAR else None

    def _period(self, start: datetime, step: int, first: date, month_end: str) -> list[datetime]:
        """The occurrences of one period, sorted."""
        minute = start.minute if self.minute is None else self.minute
        if self.freq == "HOURLY":
            hour = (start.hour + step * self.interval) % 24
            hours: tuple[int, ...] = (hour,) if not self.hours or hour in self.hours else ()
        else:
            hours = self.hours or (start.hour,)
        times = [time(hour, minute, start.second) for hour in hours]
        moments = [datetime.combine(day, at) for day in sorted(self._days(start, first, month_end)) for at in times]
        if not self.set_positions:
            return moments
        size = len(moments)
        chosen = {n - 1 if n > 0 else size + n for n in self.set_positions}
        return [moments[at] for at in sorted(chosen) if 0 <= at < size]

    def _days(self, start: datetime, first: date, month_end: str) -> set[date]:
        """The days of a period by the table of RFC 5545, 3.3.10: what a rule part names, or else what the start has."""
        if self.freq in ("DAILY", "HOURLY"):
            return {first} if self._has(first) else set()
        if self.freq == "WEEKLY":
            weekdays = {weekday for _, weekday in self.weekdays} or {start.weekday()}
            week = (first + timedelta(days=n) for n in range(7))
            return {day for day in week if day.weekday() in weekdays and (not self.months or day.month in self.months)}
        if self.freq == "MONTHLY":
            if self.months and first.month not in self.months:
                return set()
            months: tuple[int, ...] = (first.month,)
        elif self.months or self.month_days or self.weekdays:
            months = self.months or tuple(range(1, 13))
        else:
            months = (start.month,)
        if self.weekdays and not self.month_days:
            return self._weekdays_of(first.year, months)
        month_days = self.month_days or (start.day,)
        # RFC 7529, 4.1: what a month does not have is moved before BYDAY looks at it.
        days = {day for month in months for n in month_days if (day := _day(first.year, month, n, month_end))}
        return days & self._weekdays_of(first.year, months) if self.weekdays else days

    def _has(self, day: date) -> bool:
        """Whether the parts that limit DAILY and HOURLY let a day be."""
        length = monthrange(day.year, day.month)[1]
        return (
            (not self.months or day.month in self.months)
            and (not self.month_days or day.day in self.month_days or day.day - length - 1 in self.month_days)
            and (not self.weekdays or (0, day.weekday()) in self.weekdays)
        )

    def _weekdays_of(self, year: int, months: tuple[int, ...]) -> set[date]:
        """The days that BYDAY names: of each of the months, or of the year where none was named."""
        if self.freq == "YEARLY" and not self.months:
            spans = [(date(year, 1, 1), date(year, 12, 31))]
        else:
            spans = [(date(year, month, 1), date(year, month, monthrange(year, month)[1])) for month in months]
        days = set()
        for first, last in spans:
            for n, weekday in self.weekdays:
                begin = first + timedelta(days=(weekday - first.weekday()) % 7)
                all_of_them = [begin + timedelta(days=7 * week) for week in range((last - begin).days // 7 + 1)]
                if n == 0:
                    days |= set(all_of_them)
                elif abs(n) <= len(all_of_them):
                    days.add(all_of_them[n - 1 if n > 0 else n])
        return days


_PARTS = ("FREQ", "INTERVAL", "COUNT", "UNTIL", "BYMONTH", "BYMONTHDAY", "BYDAY", "BYHOUR", "BYMINUTE", "BYSETPOS", "WKST")


def _number(name: str, text: str, least: int, most: int, *, signed: bool = False) -> int:
    number = int(text) if (_SIGNED if signed else _NUMBER).fullmatch(text) else 0 if least else -1
    if not least <= (abs(number) if signed else number) <= most:
        raise InvalidRule(f"{name} must be {least} to {most}" + (", or the same below zero." if signed else "."))
    return number


def _numbers(parts: dict[str, str], name: str, least: int, most: int, *, signed: bool = False) -> tuple[int, ...]:
    if name not in parts:
        return ()
    return tuple(sorted({_number(name, text, least, most, signed=signed) for text in parts[name].split(",")}))


def _weekdays(text: str | None) -> tuple[tuple[int, int], ...]:
    found = set()
    for part in text.split(",") if text else ():
        match = _WEEKDAY.fullmatch(part)
        if match is None or (match[1] is not None and not 1 <= abs(int(match[1])) <= 53):
            raise InvalidRule("BYDAY must be weekdays such as MO, or 1MO and -1FR.")
        found.add((int(match[1] or 0), _WEEKDAYS.index(match[2])))
    return tuple(sorted(found))


def _week_start(text: str) -> int:
    if text not in _WEEKDAYS:
        raise InvalidRule("WKST must be a weekday such as MO.")
    return _WEEKDAYS.index(text)


def _moment(text: str) -> datetime:
    # RFC 5545: where the start is in a time zone, UNTIL is in UTC.
    try:
        if not _UNTIL.fullmatch(text):
            raise ValueError
        return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise InvalidRule("UNTIL must be a time in UTC such as 20261231T235959Z.") from None


def _day(year: int, month: int, n: int, month_end: str) -> date | None:
    """Day `n` of a month, counted from its end when negative; None where the month has none."""
    length = monthrange(year, month)[1]
    if n > length and month_end == "last_day":
        n = length
    elif n < 0:
        n += length + 1
    return date(year, month, n) if 1 <= n <= length else None
