"""A reader of the log skips no event, in whatever order transactions commit."""

import pytest
from sqlalchemy import Connection, text

from bank.db import reader, unit_of_work
from bank.events import store
from bank.events.horizon import Horizon
from bank.events.types import AccountChanged, Origin
from bank.web.context import new_id
from tests.conftest import open_transaction

pytestmark = pytest.mark.usefixtures("context")


def append(connection: Connection) -> int:
    """Add an event in the transaction of `connection`; its position."""
    stream_id = new_id()
    store.append(connection, stream_id, 1, AccountChanged(name=None, status="active", overdraft_limit=0), Origin())  # type: ignore[arg-type]
    return connection.execute(text("SELECT position FROM events WHERE stream_id = :id"), {"id": stream_id}).scalar_one()


def append_and_commit() -> int:
    with unit_of_work() as session:
        return append(session.connection())


def settled(horizon: Horizon) -> int:
    with reader() as session:
        return horizon.advance(session)


def test_in_a_quiet_bank_all_is_settled_at_once() -> None:
    horizon = Horizon()
    for _ in range(3):
        assert settled(horizon) < (last := append_and_commit())
        assert settled(horizon) == last
    assert not horizon.waits


def test_an_event_that_commits_late_is_waited_for() -> None:
    horizon = Horizon()
    settled(horizon)
    with open_transaction() as late:
        position = append(late)
        seen = append_and_commit()
        for _ in range(3):
            assert settled(horizon) < position
        assert horizon.waits
        late.commit()
    assert settled(horizon) == seen > position


def test_an_event_that_commits_late_is_waited_for_although_its_transaction_began_last() -> None:
    """Its id is then larger than any that has ended, and no snapshot names it as running."""
    horizon = Horizon()
    settled(horizon)
    with open_transaction() as early:
        early.execute(text("SELECT pg_current_xact_id()"))
        with open_transaction() as late:
            position = append(late)
            seen = append(early)
            early.commit()
            for _ in range(3):
                assert settled(horizon) < position
            late.commit()
    assert settled(horizon) == seen > position


def test_what_is_rolled_back_holds_nobody_up() -> None:
    horizon = Horizon()
    with open_transaction() as late:
        append(late)
        seen = append_and_commit()
        assert settled(horizon) < seen
        late.rollback()
    assert settled(horizon) == seen


def test_events_that_keep_coming_do_not_keep_the_horizon_from_moving() -> None:
    horizon = Horizon()
    with open_transaction() as first:
        append(first)
        seen = append_and_commit()
        settled(horizon)
        with open_transaction() as second:
            append(second)
            first.commit()
            assert settled(horizon) == seen


def test_a_transaction_has_its_id_before_it_draws_a_position() -> None:
    # An INSERT would take one only with its first row, and its position before that: here no row ever comes.
    with open_transaction() as connection:
        nothing = "INSERT INTO events (stream_id, version, type, data) SELECT gen_random_uuid(), 1, 'X', '{}' WHERE false"
        connection.execute(text(nothing))
        assert connection.execute(text("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")).scalar_one()
