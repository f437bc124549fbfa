"""A part that fails again and again is left alone, and then tried by one caller at a time."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from bank.errors import NotFound, Unavailable
from bank.resilience import breaker as module
from bank.resilience.breaker import Breaker

MOST, REST = 3, 10.0


class Clock:
    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def part() -> Breaker:
    return Breaker("part", MOST, REST, lambda error: isinstance(error, OSError))


def use(part: Breaker, error: BaseException | None = None) -> Any:
    with part():
        if error is not None:
            raise error
        return "done"


def fail(part: Breaker, times: int = MOST) -> None:
    for _ in range(times):
        with pytest.raises(OSError, match="away"):
            use(part, OSError("away"))


def test_it_opens_after_so_many_failures_in_a_row_and_refuses_at_once(part: Breaker, clock: Clock) -> None:
    fail(part, MOST - 1)
    assert use(part) == "done"
    fail(part, MOST - 1)
    assert part.closed
    fail(part, 1)
    assert part.state == "open"
    with pytest.raises(Unavailable, match=r"Part is out of reach\.") as refused:
        use(part)
    assert refused.value.part == "part"
    assert REST <= int(refused.value.headers["Retry-After"]) <= REST + 2


def test_who_is_refused_is_told_different_times(part: Breaker, clock: Clock) -> None:
    fail(part)
    assert {part.retry_after for _ in range(100)} == {10, 11, 12}


def test_what_is_no_fault_of_the_part_shows_that_it_answers(part: Breaker) -> None:
    fail(part, MOST - 1)
    with pytest.raises(NotFound):
        use(part, NotFound())
    fail(part, MOST - 1)
    assert part.closed


def test_after_a_rest_a_success_closes_it_and_a_failure_gives_it_another_rest(part: Breaker, clock: Clock) -> None:
    told: list[str] = []
    part.listen("test", lambda name, state: told.append(f"{name} {state}"))
    fail(part)
    clock.now += REST + 0.1
    fail(part, 1)
    clock.now += REST - 0.1
    with pytest.raises(Unavailable):
        use(part)
    clock.now += 0.2
    assert use(part) == "done"
    assert part.closed
    assert told == ["part open", "part half-open", "part open", "part half-open", "part closed"]
    fail(part, MOST - 1)
    assert part.closed


def test_one_caller_at_a_time_tries_it_and_nobody_waits_for_him(part: Breaker, clock: Clock) -> None:
    fail(part)
    clock.now += REST + 0.1
    trying, go_on = Event(), Event()

    def trial() -> Any:
        with part():
            trying.set()
            assert go_on.wait(10)
            return "done"

    with ThreadPoolExecutor(1) as other:
        first = other.submit(trial)
        assert trying.wait(10)
        for _ in range(5):
            with pytest.raises(Unavailable):
                use(part)
        go_on.set()
        assert first.result(10) == "done"
    assert use(part) == "done"


def test_callers_do_not_stand_in_one_line_while_it_is_closed(part: Breaker) -> None:
    inside = [Event(), Event()]

    def call(number: int) -> bool:
        with part():
            inside[number].set()
            return inside[1 - number].wait(10)

    with ThreadPoolExecutor(2) as callers:
        assert all(callers.map(call, range(2)))


def test_what_began_before_it_opened_neither_closes_it_nor_gives_it_another_rest(part: Breaker, clock: Clock) -> None:
    late, late_failure = part(), part()
    late.__enter__()
    late_failure.__enter__()
    fail(part)
    clock.now += REST / 2
    late.__exit__(None, None, None)
    late_failure.__exit__(OSError, OSError("away"), None)
    assert part.state == "open"
    assert part.resting == REST / 2


def test_what_is_used_within_a_trial_is_part_of_it(part: Breaker, clock: Clock) -> None:
    fail(part)
    clock.now += REST
    with part():
        assert use(part) == "done"
    assert part.closed
