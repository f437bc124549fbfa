"""When schedules run: by the calendar, around every change of clocks, and against two slow readings of RFC 5545."""

import time
from calendar import monthrange
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from dateutil.rrule import rrulestr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bank.schedules.rule import InvalidRule, Rule
from bank.schedules.timing import Timing, time_zones

# ruff: noqa: E501, DTZ001 - tables are read by the line, and wall time has no zone.

PRAGUE, NEW_YORK, SYDNEY, LORD_HOWE, APIA, KOLKATA = (
    "Europe/Prague", "America/New_York", "Australia/Sydney", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Kolkata",
)  # fmt: skip

# zone, start by its clocks, rule, the first runs by its clocks (with the offset only where it matters).
CALENDAR = [
    # Month ends and leap days.
    (PRAGUE, "2027-01-31T09:00", "FREQ=MONTHLY", "2027-01-31T09:00 2027-02-28T09:00 2027-03-31T09:00 2027-04-30T09:00"),
    (PRAGUE, "2028-01-30T09:00", "FREQ=MONTHLY", "2028-01-30T09:00 2028-02-29T09:00 2028-03-30T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYMONTHDAY=31", "2027-01-31T09:00 2027-02-28T09:00 2027-03-31T09:00 2027-04-30T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYMONTHDAY=30,31", "2027-01-30T09:00 2027-01-31T09:00 2027-02-28T09:00 2027-03-30T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYMONTHDAY=-1", "2027-01-31T09:00 2027-02-28T09:00 2027-03-31T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYMONTHDAY=-31", "2027-01-01T09:00 2027-03-01T09:00 2027-05-01T09:00"),
    (PRAGUE, "2028-02-29T09:00", "FREQ=YEARLY", "2028-02-29T09:00 2029-02-28T09:00 2030-02-28T09:00 2031-02-28T09:00 2032-02-29T09:00"),
    (PRAGUE, "2096-02-29T09:00", "FREQ=YEARLY;INTERVAL=4", "2096-02-29T09:00 2100-02-28T09:00 2104-02-29T09:00"),
    # Weekdays.
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYDAY=MO,TU,WE,TH,FR;BYSETPOS=-1", "2027-01-29T09:00 2027-02-26T09:00 2027-03-31T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYDAY=2TU", "2027-01-12T09:00 2027-02-09T09:00 2027-03-09T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYDAY=5MO", "2027-03-29T09:00 2027-05-31T09:00 2027-08-30T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=MONTHLY;BYDAY=FR;BYMONTHDAY=13", "2027-08-13T09:00 2028-10-13T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=YEARLY;BYDAY=20MO", "2027-05-17T09:00 2028-05-15T09:00"),
    (PRAGUE, "2027-01-01T09:00", "FREQ=YEARLY;BYMONTH=11;BYDAY=1TU", "2027-11-02T09:00 2028-11-07T09:00"),
    (PRAGUE, "2027-01-06T09:00", "FREQ=WEEKLY;BYDAY=MO,FR", "2027-01-08T09:00 2027-01-11T09:00 2027-01-15T09:00"),
    # RFC 5545's own example of what WKST changes.
    (NEW_YORK, "1997-08-05T09:00", "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=MO", "1997-08-05T09:00 1997-08-10T09:00 1997-08-19T09:00 1997-08-24T09:00"),
    (NEW_YORK, "1997-08-05T09:00", "FREQ=WEEKLY;INTERVAL=2;COUNT=4;BYDAY=TU,SU;WKST=SU", "1997-08-05T09:00 1997-08-17T09:00 1997-08-19T09:00 1997-08-31T09:00"),
    # INTERVAL, COUNT, UNTIL.
    (PRAGUE, "2027-01-31T09:00", "FREQ=MONTHLY;INTERVAL=3;COUNT=3", "2027-01-31T09:00 2027-04-30T09:00 2027-07-31T09:00"),
    (PRAGUE, "2027-03-27T09:00", "FREQ=DAILY;UNTIL=20270329T070000Z", "2027-03-27T09:00 2027-03-28T09:00 2027-03-29T09:00"),
    (PRAGUE, "2027-03-27T09:00", "FREQ=DAILY;UNTIL=20270329T065959Z", "2027-03-27T09:00 2027-03-28T09:00"),
    (PRAGUE, "2027-03-27T09:00", "FREQ=DAILY;COUNT=2;BYHOUR=6,18", "2027-03-27T18:00 2027-03-28T06:00"),
    (KOLKATA, "2027-01-01T09:15", "FREQ=HOURLY;INTERVAL=5;BYMINUTE=45", "2027-01-01T09:45 2027-01-01T14:45 2027-01-01T19:45 2027-01-02T00:45"),
    # Clocks go forward: the time is taken with the offset from before, so it is an hour later by the wall, and only that day.
    (PRAGUE, "2027-03-27T02:30", "FREQ=DAILY", "2027-03-27T02:30+01:00 2027-03-28T03:30+02:00 2027-03-29T02:30+02:00"),
    (NEW_YORK, "2027-03-13T02:30", "FREQ=DAILY", "2027-03-13T02:30-05:00 2027-03-14T03:30-04:00 2027-03-15T02:30-04:00"),
    (SYDNEY, "2027-10-02T02:30", "FREQ=DAILY", "2027-10-02T02:30+10:00 2027-10-03T03:30+11:00 2027-10-04T02:30+11:00"),
    (LORD_HOWE, "2027-10-02T02:15", "FREQ=DAILY", "2027-10-02T02:15+10:30 2027-10-03T02:45+11:00 2027-10-04T02:15+11:00"),
    # … and falls on the run of the hour behind it, with which it is one.
    (PRAGUE, "2027-03-28T00:30", "FREQ=HOURLY", "2027-03-28T00:30+01:00 2027-03-28T01:30+01:00 2027-03-28T03:30+02:00 2027-03-28T04:30+02:00"),
    # Clocks go back: the first of the two.
    (PRAGUE, "2027-10-30T02:30", "FREQ=DAILY", "2027-10-30T02:30+02:00 2027-10-31T02:30+02:00 2027-11-01T02:30+01:00"),
    (NEW_YORK, "2027-11-06T01:30", "FREQ=DAILY", "2027-11-06T01:30-04:00 2027-11-07T01:30-04:00 2027-11-08T01:30-05:00"),
    (SYDNEY, "2027-04-03T02:30", "FREQ=DAILY", "2027-04-03T02:30+11:00 2027-04-04T02:30+11:00 2027-04-05T02:30+10:00"),
    (PRAGUE, "2027-10-31T00:30", "FREQ=HOURLY", "2027-10-31T00:30+02:00 2027-10-31T01:30+02:00 2027-10-31T02:30+02:00 2027-10-31T03:30+01:00"),
    # A day that there was not: it falls on the next, and is one with it.
    (APIA, "2011-12-29T10:00", "FREQ=DAILY", "2011-12-29T10:00-10:00 2011-12-31T10:00+14:00 2012-01-01T10:00+14:00"),
    (APIA, "2011-12-29T22:00", "FREQ=HOURLY", "2011-12-29T22:00-10:00 2011-12-29T23:00-10:00 2011-12-31T00:00+14:00 2011-12-31T01:00+14:00"),
    # The hour stays the same by the wall, whatever the offset.
    (PRAGUE, "2027-01-15T08:00", "FREQ=MONTHLY;BYMONTH=1,7", "2027-01-15T08:00+01:00 2027-07-15T08:00+02:00 2028-01-15T08:00+01:00"),
]  # fmt: skip


def timing(zone: str, start: str, rrule: str, month_end: str = "last_day") -> Timing:
    return Timing.recurring(rrule, zone, datetime.fromisoformat(start).replace(tzinfo=ZoneInfo(zone)), month_end)


@pytest.mark.parametrize(("zone", "start", "rrule", "expected"), CALENDAR, ids=[f"{row[2]} {row[0]} {row[1]}" for row in CALENDAR])
def test_runs_are_those_of_the_calendar(zone: str, start: str, rrule: str, expected: str) -> None:
    made = timing(zone, start, rrule)
    assert made.starts_at is not None
    # One more than is told, where there is one.
    runs = list(islice(made.runs(made.starts_at, inclusive=True), len(expected.split()) + 1))
    ends = "COUNT" in rrule or "UNTIL" in rrule
    assert len(runs) == len(expected.split()) + (not ends)
    shown = [made.local(at).isoformat(timespec="minutes") for at in runs]
    assert all(told.startswith(each) for told, each in zip(shown, expected.split(), strict=False)), shown
    assert {at.utcoffset() for at in runs} == {timedelta(0)}
    # From the middle on they are the same.
    assert list(islice(made.runs(runs[0]), len(runs) - 1)) == runs[1:]
    assert next(made.runs(runs[1] - timedelta(microseconds=1))) == next(made.runs(runs[1], inclusive=True)) == runs[1]


def test_what_a_month_does_not_have_is_left_out_if_it_is_asked_for() -> None:
    made = timing(PRAGUE, "2027-01-31T09:00", "FREQ=MONTHLY", "skip")
    assert [made.local(at).month for at in islice(made.runs(datetime(2027, 1, 1, tzinfo=UTC)), 5)] == [1, 3, 5, 7, 8]
    made = timing(PRAGUE, "2096-02-29T09:00", "FREQ=YEARLY", "skip")
    assert [made.local(at).year for at in islice(made.runs(datetime(2090, 1, 1, tzinfo=UTC)), 2)] == [2096, 2104]


@pytest.mark.parametrize("month_end", ["last_day", "skip"])
@pytest.mark.parametrize(
    "rrule",
    [
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=30",
        "FREQ=HOURLY;INTERVAL=7;BYMONTH=4;BYMONTHDAY=31",
        "FREQ=HOURLY;INTERVAL=2;BYHOUR=0",
        "FREQ=DAILY;INTERVAL=7;BYDAY=TU",
        "FREQ=MONTHLY;BYDAY=MO;BYSETPOS=6",
        "FREQ=YEARLY;BYDAY=53MO;BYSETPOS=2",
        "FREQ=YEARLY;BYMONTH=1;BYDAY=6MO",
    ],
)
def test_a_rule_that_never_matches_is_refused_soon(rrule: str, month_end: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRule):
        timing(PRAGUE, "2027-01-31T09:00", rrule, month_end)
    assert time.process_time() - started < 2


def test_the_longest_rules_are_found_out_soon() -> None:
    for rrule in (
        "FREQ=HOURLY;COUNT=5000",
        "FREQ=WEEKLY;COUNT=5000",
        "FREQ=YEARLY;BYHOUR=" + ",".join(map(str, range(24))) + ";BYDAY=MO,TU;COUNT=5000",
    ):
        started = time.process_time()
        timing(PRAGUE, "2027-01-31T09:00", rrule)
        assert time.process_time() - started < 3


@pytest.mark.parametrize(
    "rrule",
    [
        "FREQ=YEARLY;COUNT=5000",
        "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=29;COUNT=5000",
        "FREQ=HOURLY;BYMONTH=2;BYMONTHDAY=29;BYHOUR=3;COUNT=5000",
    ],
)
def test_a_count_that_reaches_further_than_a_century_is_refused_soon(rrule: str) -> None:
    started = time.process_time()
    with pytest.raises(InvalidRule, match="hundred years"):
        timing(PRAGUE, "2027-01-31T09:00", rrule, "skip")
    assert time.process_time() - started < 3
    timing(PRAGUE, "2027-01-31T09:00", "FREQ=YEARLY;INTERVAL=10;COUNT=11")


def test_how_far_away_the_start_is_costs_nothing() -> None:
    made = timing(PRAGUE, "1950-01-31T09:00", "FREQ=HOURLY")
    started = time.process_time()
    assert next(made.runs(datetime(2049, 12, 31, 23, 59, tzinfo=UTC))) == datetime(2050, 1, 1, tzinfo=UTC)
    assert time.process_time() - started < 0.1


def test_a_gap_of_more_than_ten_years_is_refused_and_a_shorter_one_is_not() -> None:
    with pytest.raises(InvalidRule, match="ten years"):
        timing(PRAGUE, "2027-01-31T09:00", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29;BYDAY=TU", "skip")
    timing(PRAGUE, "2027-01-31T09:00", "FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=29", "skip")


def test_every_zone_of_iana_is_known_and_no_other() -> None:
    assert {PRAGUE, NEW_YORK, APIA, "UTC"} < time_zones() and len(time_zones()) > 400
    assert not {"localtime", "posixrules", "CET+1", "", "."} & time_zones()


# Two slow readings of the RFC. The first is the library that everybody uses, where it is right: in wall time, without what RFC 7529
# adds, and not where it begins a set of BYSETPOS in the middle of a week or a year.

WEEKDAYS = ["MO", "TU", "WE", "TH", "FR", "SA", "SU"]
signed = st.integers(-31, 31).filter(bool)


@st.composite
def rules(draw: Any) -> str:
    freq = draw(st.sampled_from(["HOURLY", "DAILY", "WEEKLY", "MONTHLY", "YEARLY"]))
    parts = [f"FREQ={freq}", f"INTERVAL={draw(st.integers(1, 40 if freq == 'HOURLY' else 4))}"]

    def some(name: str, values: Any, most: int = 3) -> None:
        if draw(st.integers(0, 2)) == 0:
            parts.append(f"{name}={','.join(map(str, draw(st.lists(values, min_size=1, max_size=most, unique=True))))}")

    some("BYMONTH", st.integers(1, 12), 6)
    if freq != "WEEKLY":
        some("BYMONTHDAY", signed)
    number = st.just("")
    if freq in ("MONTHLY", "YEARLY"):
        number = st.sampled_from(["", "", "1", "-1", "2", "5"])
    some("BYDAY", st.builds(str.__add__, number, st.sampled_from(WEEKDAYS)), 4)
    some("BYHOUR", st.integers(0, 23))
    if draw(st.booleans()):
        parts.append(f"BYMINUTE={draw(st.integers(0, 59))}")
    if len(parts) > 2:
        some("BYSETPOS", st.sampled_from([1, 2, 3, -1, -2]), 2)
    if freq == "WEEKLY":
        parts.append(f"WKST={draw(st.sampled_from(WEEKDAYS))}")
    return ";".join(parts)


starts = st.datetimes(datetime(2024, 1, 1), datetime(2032, 12, 31)).map(lambda at: at.replace(microsecond=0))
SLOW = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def ours(rrule: str, start: datetime, until: datetime, month_end: str = "skip") -> list[datetime]:
    return list(takewhile(lambda at: at < until, Rule.parse(rrule).occurrences(start, start, month_end)))


@SLOW
@given(rules(), starts)
def test_occurrences_are_those_of_dateutil(rrule: str, start: datetime) -> None:
    assume("BYSETPOS" not in rrule or "MONTHLY" in rrule)
    end = start + timedelta(days=1500)
    found = ours(rrule, start, end)
    # Where nothing matches it would go on to the year 9999; what is left is told by the other reading.
    assume(found)
    assert found == list(rrulestr(f"{rrule};UNTIL={end - timedelta(seconds=1):%Y%m%dT%H%M%S}", dtstart=start))


def days_of(parts: dict[str, str], day: date, start: datetime, month_end: str) -> bool:
    """Whether a day is one that the rule's parts name: RFC 5545 read as a list of conditions."""
    freq, length = parts["FREQ"], monthrange(day.year, day.month)[1]
    months = [int(n) for n in parts.get("BYMONTH", "").split(",") if n]
    month_days = [int(n) for n in parts.get("BYMONTHDAY", "").split(",") if n]
    weekdays = parts["BYDAY"].split(",") if "BYDAY" in parts else []
    if not (months or month_days or weekdays) and freq == "YEARLY":
        months = [start.month]
    if not (month_days or weekdays) and freq in ("MONTHLY", "YEARLY"):
        month_days = [start.day]
    if not weekdays and freq == "WEEKLY":
        weekdays = [WEEKDAYS[start.weekday()]]
    if months and day.month not in months:
        return False
    moved = month_end == "last_day" and freq in ("MONTHLY", "YEARLY") and day.day == length and any(n > length for n in month_days)
    if month_days and day.day not in month_days and day.day - length - 1 not in month_days and not moved:
        return False
    if not weekdays:
        return True
    of_year = freq == "YEARLY" and "BYMONTH" not in parts
    before, behind = (day.timetuple().tm_yday - 1, (date(day.year, 12, 31) - day).days) if of_year else (day.day - 1, length - day.day)
    names = {WEEKDAYS[day.weekday()], f"{before // 7 + 1}{WEEKDAYS[day.weekday()]}", f"-{behind // 7 + 1}{WEEKDAYS[day.weekday()]}"}
    return bool(names & set(weekdays))


def enumerated(rrule: str, start: datetime, end: datetime, month_end: str) -> list[datetime]:
    """Every hour of every day looked at, sorted into periods, and counted there."""
    parts = dict(part.split("=") for part in rrule.split(";"))
    freq, interval = parts["FREQ"], int(parts["INTERVAL"])
    hours = [int(n) for n in parts["BYHOUR"].split(",")] if "BYHOUR" in parts else range(24) if freq == "HOURLY" else [start.hour]
    minute = int(parts.get("BYMINUTE", start.minute))
    first_weekday = WEEKDAYS.index(parts.get("WKST", "MO"))

    def period(at: datetime) -> int:
        monday = (at.date().toordinal() - 1 - first_weekday) // 7
        hour = (at.replace(minute=0, second=0) - datetime(2000, 1, 1)) // timedelta(hours=1)
        return {"YEARLY": at.year, "MONTHLY": at.year * 12 + at.month, "WEEKLY": monday, "DAILY": at.toordinal(), "HOURLY": hour}[freq]

    periods: dict[int, list[datetime]] = defaultdict(list)
    day = date(start.year - 1, 12, 25)
    while day < end.date() + timedelta(days=370):
        if days_of(parts, day, start, month_end):
            for hour in hours:
                at = datetime(day.year, day.month, day.day, hour, minute, start.second)
                if (period(at) - period(start)) % interval == 0:
                    periods[period(at)].append(at)
        day += timedelta(days=1)
    chosen = []
    for moments in periods.values():
        moments.sort()
        if "BYSETPOS" in parts:
            positions = [int(n) for n in parts["BYSETPOS"].split(",")]
            moments = [at for n, at in enumerate(moments) if n + 1 in positions or n - len(moments) in positions]
        chosen += moments
    return [at for at in sorted(chosen) if start <= at < end]


@SLOW
@given(rules(), starts, st.sampled_from(["skip", "last_day"]))
def test_occurrences_are_those_of_a_look_at_every_hour(rrule: str, start: datetime, month_end: str) -> None:
    end = start + timedelta(days=500)
    assert ours(rrule, start, end, month_end) == enumerated(rrule, start, end, month_end)


@SLOW
@given(rules(), starts, st.sampled_from([PRAGUE, NEW_YORK, SYDNEY, LORD_HOWE, KOLKATA]), st.integers(0, 500 * 24 * 60))
def test_runs_are_the_instants_of_these_hours_each_once_and_in_order(rrule: str, start: datetime, zone: str, minutes: int) -> None:
    starts_at = start.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    wall = starts_at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    try:
        made = Timing.recurring(rrule, zone, starts_at, "last_day")
    except InvalidRule:
        assume(False)
        return
    after = starts_at + timedelta(minutes=minutes)
    instants = {at.replace(tzinfo=ZoneInfo(zone)).astimezone(UTC) for at in enumerated(rrule, wall, wall + timedelta(days=800), "last_day")}
    expected = sorted(at for at in instants if after < at < starts_at + timedelta(days=790))
    assert list(islice(made.runs(after), len(expected))) == expected
