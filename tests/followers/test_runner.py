"""Followers of the log: every event, in order, none skipped; once where their effects are in the database."""

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Event

import pytest
from click.testing import CliRunner
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from sqlalchemy.orm import Session

from bank.cli.followers import command
from bank.db import reader, unit_of_work
from bank.followers.runner import Gather, Inside, Outside, Runner, lags, register, seconds_behind, step
from bank.processing.tasks import sweep
from bank.web.context import new_id
from tests.conftest import open_transaction
from tests.events.test_horizon import append, append_and_commit
from tests.processes import wait_until

pytestmark = pytest.mark.usefixtures("context")


def read(session: Session, after: int, last: int) -> list[int]:
    """The positions of the events of a part of the log."""
    positions = text("SELECT position FROM events WHERE position > :after AND position <= :last ORDER BY position")
    return list(session.execute(positions, {"after": after, "last": last}).scalars())


@pytest.fixture
def name() -> Iterator[str]:
    """A follower of this test's own, which begins at the present end of the log."""
    name = f"test-{new_id()}"
    register(name)
    with unit_of_work() as session:
        session.execute(
            text("UPDATE followers SET position = (SELECT COALESCE(max(position), 0) FROM events) WHERE name = :name"), {"name": name}
        )
    yield name
    with unit_of_work() as session:
        session.execute(text("DELETE FROM followers WHERE name = :name"), {"name": name})


@dataclass
class Notes:
    """What a follower saw. Its effects in the database are rows of a table; `part` is how many positions it takes at once."""

    name: str
    seen: list[int] = field(default_factory=list)
    part: int = 1_000_000

    def take(self, session: Session, after: int, last: int) -> int:
        reached = min(after + self.part, last)
        for position in read(session, after, reached):
            session.execute(text("INSERT INTO noted VALUES (:name, :position)"), {"name": self.name, "position": position})
        return reached

    def send(self, after: int, last: int) -> int:
        reached = min(after + self.part, last)
        with reader() as session:
            self.seen += read(session, after, reached)
        return reached

    def noted(self) -> list[int]:
        with reader() as session:
            return list(
                session.execute(text("SELECT position FROM noted WHERE name = :name ORDER BY position"), {"name": self.name}).scalars()
            )


@pytest.fixture
def notes(name: str) -> Iterator[Notes]:
    with unit_of_work() as session:
        session.execute(text("CREATE TABLE IF NOT EXISTS noted (name text, position bigint)"))
    yield Notes(name)
    with unit_of_work() as session:
        session.execute(text("DROP TABLE noted"))


def position(name: str) -> int:
    with reader() as session:
        return int(session.execute(text("SELECT position FROM followers WHERE name = :name"), {"name": name}).scalar_one())


def follow(runner: Runner) -> None:
    runner.follow(Event())


@pytest.mark.parametrize("kind", ["inside", "outside"])
def test_every_event_is_taken_in_once_and_in_order(notes: Notes, kind: str) -> None:
    notes.part = 2
    runner = Runner([Inside(notes.name, notes.take) if kind == "inside" else Outside(notes.name, notes.send)])
    expected = []
    for count in (3, 0, 1, 5):
        expected += [append_and_commit() for _ in range(count)]
        follow(runner)
        assert (notes.noted() if kind == "inside" else notes.seen) == expected
    assert position(notes.name) == expected[-1]


@pytest.mark.parametrize("kind", ["inside", "outside"])
def test_an_event_that_commits_late_is_not_passed_by(notes: Notes, kind: str) -> None:
    runner = Runner([Inside(notes.name, notes.take) if kind == "inside" else Outside(notes.name, notes.send)])
    with open_transaction() as late:
        early = append(late)
        after = append_and_commit()
        for _ in range(3):
            follow(runner)
            assert (notes.noted() if kind == "inside" else notes.seen) == []
        late.commit()
    follow(runner)
    assert (notes.noted() if kind == "inside" else notes.seen) == [early, after]


def test_effects_in_the_database_and_the_position_are_there_together_or_not_at_all(notes: Notes) -> None:
    first = append_and_commit()
    before = position(notes.name)

    def fail_at_the_end(session: Session, after: int, last: int) -> int:
        notes.take(session, after, last)
        raise RuntimeError("after the effect, before the commit")

    with pytest.raises(RuntimeError):
        step(Inside(notes.name, fail_at_the_end), first)
    assert (notes.noted(), position(notes.name)) == ([], before)
    assert step(Inside(notes.name, notes.take), first) == first
    assert (notes.noted(), position(notes.name)) == ([first], first)


def test_effects_elsewhere_come_before_the_position_and_again_if_it_is_lost(notes: Notes) -> None:
    first = append_and_commit()

    def die_after_sending(after: int, last: int) -> int:
        notes.send(after, last)
        raise RuntimeError("after the effect, before the position")

    with pytest.raises(RuntimeError):
        step(Outside(notes.name, die_after_sending), first)
    assert step(Outside(notes.name, notes.send), first) == first
    assert notes.seen == [first, first]


def test_no_transaction_is_open_while_effects_elsewhere_happen(notes: Notes) -> None:
    append_and_commit()
    open_ones: list[int] = []

    def look(after: int, last: int) -> int:
        with reader() as session:
            held = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'")
            open_ones.append(session.execute(held).scalar_one())
        return last

    follow(Runner([Outside(notes.name, look)]))
    assert open_ones == [0]


def test_of_two_runners_one_takes_an_event_in(notes: Notes, app: Flask) -> None:
    expected = [append_and_commit() for _ in range(3)]
    began, goes_on = Event(), Event()

    def slowly(session: Session, after: int, last: int) -> int:
        began.set()
        assert goes_on.wait(20)
        return notes.take(session, after, last)

    results: list[int | None] = []

    def first() -> None:
        with app.app_context():
            results.append(step(Inside(notes.name, slowly), expected[-1]))

    thread = threading.Thread(target=first)
    thread.start()
    assert began.wait(20)
    # The other finds it taken and waits for nothing.
    assert step(Inside(notes.name, notes.take), expected[-1]) is None
    goes_on.set()
    thread.join(20)
    assert results == [expected[-1]]
    assert notes.noted() == expected
    assert step(Inside(notes.name, notes.take), expected[-1]) == expected[-1]
    assert notes.noted() == expected


def test_of_two_that_send_the_slower_does_not_take_the_position_back(notes: Notes) -> None:
    first, second = append_and_commit(), append_and_commit()

    def overtaken(after: int, last: int) -> int:
        assert step(Outside(notes.name, notes.send), second) == second
        return first

    assert step(Outside(notes.name, overtaken), first) is None
    assert position(notes.name) == second


def test_one_that_fails_does_not_hold_up_the_others(notes: Notes, name: str) -> None:
    first = append_and_commit()
    failures: list[int] = []

    def fail(session: Session, after: int, last: int) -> int:
        failures.append(last)
        raise RuntimeError

    broken = f"broken-{name}"
    runner = Runner([Inside(broken, fail), Inside(notes.name, notes.take)])
    for _ in range(3):
        follow(runner)
    assert notes.noted() == [first]
    # It rests before it is asked again.
    assert len(failures) == 1
    with unit_of_work() as session:
        session.execute(text("DELETE FROM followers WHERE name = :name"), {"name": broken})


def test_events_may_gather_for_a_follower_that_lets_them(notes: Notes) -> None:
    runner = Runner([Inside(notes.name, notes.take, gather=Gather(seconds=0.3, positions=1_000))])
    first = append_and_commit()
    follow(runner)
    second = append_and_commit()
    follow(runner)
    assert notes.noted() == [first]
    wait_until(lambda: (follow(runner), notes.noted() == [first, second])[1], "the second is taken in")


def test_one_that_was_put_behind_the_end_of_the_log_is_infinitely_late(notes: Notes) -> None:
    append_and_commit()
    with unit_of_work() as session:
        session.execute(text("UPDATE followers SET position = position + 1000000 WHERE name = :name"), {"name": notes.name})
    with reader() as session:
        assert seconds_behind(session)[notes.name] == math.inf


def test_as_many_events_as_are_enough_wait_for_nothing(notes: Notes) -> None:
    runner = Runner([Inside(notes.name, notes.take, gather=Gather(seconds=600, positions=2))])
    expected = [append_and_commit()]
    follow(runner)
    assert notes.noted() == expected
    expected.append(append_and_commit())
    follow(runner)
    assert notes.noted() == expected[:1]
    expected.append(append_and_commit())
    follow(runner)
    assert notes.noted() == expected


def test_the_lag_is_told_in_events_and_seconds(notes: Notes, environ: dict[str, str], client: FlaskClient) -> None:
    for _ in range(3):
        append_and_commit()
    with reader() as session:
        [lag] = [lag for lag in lags(session) if lag.name == notes.name]
    assert lag.events == 3 and lag.seconds > 0
    shown = CliRunner(env={**environ, "COLUMNS": "200"}).invoke(command)
    [line] = [line for line in shown.output.splitlines() if line.startswith(notes.name)]
    assert line.split()[2] == "3"
    sweep()
    [metric] = [
        line for line in client.get("/metrics").text.splitlines() if f'bank_follower_lag_seconds{{follower="{notes.name}"}}' in line
    ]
    assert float(metric.split()[1]) > 0
    follow(Runner([Inside(notes.name, notes.take)]))
    with reader() as session:
        [lag] = [lag for lag in lags(session) if lag.name == notes.name]
    assert (lag.events, lag.seconds) == (0, 0)
