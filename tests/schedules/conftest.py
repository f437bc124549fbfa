"""Schedules that are run at whatever moment a test wants, on the suite's database."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from bank.db import reader, unit_of_work
from bank.schedules import jobs
from tests.conftest import Person

Run = Callable[[str], int]


def moment(told: str) -> datetime:
    """The time that RFC 3339 tells."""
    return datetime.fromisoformat(told)


@pytest.fixture
def run(app: Flask, post_all: Callable[[], None]) -> Run:
    """Let the tick run all that is due by a time, and the ledger decide it; how many runs that were."""

    def run_until(now: str) -> int:
        done = 0
        with app.app_context():
            while count := jobs.run_due(moment(now)):
                done += count
                post_all()
        return done

    return run_until


@pytest.fixture(autouse=True)
def _alone(app: Flask) -> None:
    """Nothing of the tests before is due any more."""
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE schedules SET status = 'paused', next_run_at = NULL WHERE status = 'active'"))
        session.execute(text("UPDATE schedule_runs SET look_at = NULL WHERE look_at IS NOT NULL"))


@pytest.fixture
def rows(app: Flask) -> Callable[..., list[tuple[Any, ...]]]:
    """The rows of a statement."""

    def ask(statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with app.app_context(), reader() as session:
            return [tuple(row) for row in session.execute(text(statement), parameters)]

    return ask


def monthly(
    to: str, *, amount: str = "10.00", rrule: str = "FREQ=MONTHLY", start: str = "2030-01-31T08:00:00Z", **more: Any
) -> dict[str, Any]:
    """A body: `amount` dollars to an account, monthly on the last day at nine in Prague unless told otherwise."""
    recurrence = {"rrule": rrule, "time_zone": more.pop("time_zone", "Europe/Prague"), "start": start}
    if "month_end" in more:
        recurrence["month_end"] = more.pop("month_end")
    return {"transfer": {"to_account_id": to, "amount": amount, "currency": "USD"}, "recurrence": recurrence, **more}


def create(who: Person, body: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
    """Create the schedule and return it."""
    answer = who.post("/schedules", body, **kwargs)
    assert answer.status_code == 201, answer.json
    return dict(answer.json)


def history(who: Person, schedule: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of a schedule, oldest first."""
    answer = who.get(f"/schedules/{schedule['id']}/runs?limit=200")
    assert answer.status_code == 200, answer.json
    return list(answer.json["data"])[::-1]
