"""When a schedule runs: once, or by a rule in the wall time of a zone; every answer is an instant in UTC."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from itertools import islice
from zoneinfo import ZoneInfo

from bank.schedules.rule import InvalidRule, Rule

# No clock was ever put forward by more: Samoa left a whole day out. So what is later by the wall is at most this much earlier.
_LONGEST_JUMP = timedelta(days=1)

# How far COUNT may reach. Its runs are walked through when the rule is taken in: every 29th of February until the end of all
# calendars would keep a process busy for half a minute.
_LONGEST_COUNT = timedelta(days=36_525)


@cache
def time_zones() -> frozenset[str]:
    """The names of the IANA time zones, as the pinned tzdata has them: what the machine knows besides is no promise."""
    return frozenset(files("tzdata").joinpath("zones").read_text().split())


@dataclass(frozen=True, slots=True)
class Timing:
    """The runs of a schedule: one at `run_at`, or those of the rule `rrule` from `starts_at` on.

    `starts_at` is an instant; its wall time in `time_zone` is what the rule repeats. `ends_at` is the last run of a rule
    with COUNT, and what UNTIL says; None: it has no end.
    """

    run_at: datetime | None = None
    rrule: str | None = None
    time_zone: str | None = None
    starts_at: datetime | None = None
    month_end: str | None = None
    ends_at: datetime | None = None

    @classmethod
    def recurring(cls, rrule: str, time_zone: str, starts_at: datetime, month_end: str) -> "Timing":
        """The timing of a rule, with its end found. Raises InvalidRule; also for a rule that does not match every ten years."""
        rule = Rule.parse(rrule)
        endless = cls(None, rrule, time_zone, starts_at, month_end)
        if next(endless.runs(starts_at, inclusive=True), None) is None:
            raise InvalidRule("It matches nothing within ten years of its start.")
        ends_at = rule.until
        if rule.count is not None:
            ends_at = _last_of(islice(endless.runs(starts_at, inclusive=True), rule.count), starts_at + _LONGEST_COUNT)
        elif ends_at is None and len(list(islice(endless.runs(starts_at, inclusive=True), 2))) < 2:
            raise InvalidRule("It leaves gaps of more than ten years.")
        return cls(None, rrule, time_zone, starts_at, month_end, ends_at)

    def runs(self, after: datetime, *, inclusive: bool = False) -> Iterator[datetime]:
        """The runs after an instant, in order and each once; with `inclusive` one at that instant too.

        RFC 5545, 3.3.10 and 3.3.5: a wall time that occurs twice is the first of them, and one that does not occur, since clocks
        were put forward, is taken with the offset from before, so that 02:30 becomes 03:30. It may then fall on, or behind, a
        later one's instant; runs are put in order and two at one instant are one.
        """
        if self.run_at is not None:
            if self.run_at > after or (inclusive and self.run_at == after):
                yield self.run_at
            return
        if self.rrule is None or self.time_zone is None or self.starts_at is None or self.month_end is None:
            raise ValueError("A timing is one run or a rule with its zone and start.")
        zone = ZoneInfo(self.time_zone)
        start = self.starts_at.astimezone(zone).replace(tzinfo=None)
        # A day before by the wall: what lies there may be later than what it precedes.
        near = after.astimezone(zone).replace(tzinfo=None) - _LONGEST_JUMP
        waiting: list[datetime] = []
        last: datetime | None = None
        for local in Rule.parse(self.rrule).occurrences(start, near, self.month_end):
            # fold=0 is what both of RFC 5545's rules ask for (PEP 495).
            instant = local.replace(tzinfo=zone, fold=0).astimezone(UTC)
            while waiting and waiting[0] < instant - _LONGEST_JUMP:
                first = heapq.heappop(waiting)
                if first != last:
                    yield first
                last = first
            if self.ends_at is not None and instant - _LONGEST_JUMP > self.ends_at:
                break
            if (instant > after or (inclusive and instant == after)) and (self.ends_at is None or instant <= self.ends_at):
                heapq.heappush(waiting, instant)
        while waiting:
            first = heapq.heappop(waiting)
            if first != last:
                yield first
            last = first

    def local(self, instant: datetime) -> datetime:
        """The instant as the clocks of the schedule's zone show it; in UTC where it has none."""
        return instant.astimezone(ZoneInfo(self.time_zone) if self.time_zone else UTC)


def _last_of(runs: Iterable[datetime], latest: datetime) -> datetime | None:
    """The last of the runs. Raises InvalidRule where it comes after `latest`, and looks no further then."""
    last: datetime | None = None
    for last in runs:
        if last > latest:
            raise InvalidRule("COUNT reaches further than a hundred years.")
    return last
