"""Rates: what a provider publishes, what an administrator does, and which of them counts on a day."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import pytest
from flask import Flask
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from bank import create_app
from bank.cli.scheduler import Clock, JsonJob
from bank.config import Config, ConfigError
from bank.db import db, reader, unit_of_work
from bank.errors import RateUnavailable, Unavailable
from bank.fx import jobs, provider, service
from bank.fx.provider import DayOfRates, EuropeanCentralBank
from bank.processing.queue import QUEUE, SLOW_QUEUE
from bank.users.models import Role
from tests.conftest import Person, people
from tests.processes import empty_redis, fresh_database

FRIDAY = date(2019, 3, 8)


@pytest.fixture
def configured(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let settings be others for the test."""

    def configure(**settings: Any) -> None:
        monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], **settings))

    return configure


def rates(who: Person, day: date | str) -> dict[str, tuple[str, str, str]]:
    """Rate, day and source by currency."""
    answer = who.get(f"/fx/rates?date={day}")
    assert answer.status_code == 200, answer.json
    assert answer.json["base"] == "EUR"
    return {row["currency"]: (row["rate"], row["date"], row["source"]) for row in answer.json["data"]}


@pytest.fixture(scope="module")
def history() -> list[DayOfRates]:
    """All that the European Central Bank has published, in the copy that is installed."""
    return EuropeanCentralBank().days_after(None)


def test_the_copy_that_is_installed_goes_back_to_1999(history):
    assert history[0].day == date(1999, 1, 4) and history[-1].day > date(2026, 1, 1)
    assert history[0].rates["USD"] == Decimal("1.1789")
    days = {day.day: day.rates for day in history}
    assert days[date(2020, 12, 23)]["USD"] == Decimal("1.2166")
    assert "N/A" not in {str(rate) for rate in days[date(2020, 12, 23)].values()} and "HRK" in days[date(2020, 12, 23)]


def test_the_default_age_is_the_longest_time_without_new_rates(history):
    # Those of Maundy Thursday count until the afternoon of the Tuesday after Easter.
    assert max(after.day - before.day for before, after in pairwise(history)) == timedelta(days=Config().fx_max_age_days)


def test_only_what_is_new_is_asked_for(history):
    newest = history[-3].day
    assert [day.day for day in EuropeanCentralBank().days_after(newest)] == [day.day for day in history[-2:]]
    assert EuropeanCentralBank().days_after(history[-1].day) == []


def packed(table: str, name: str = "eurofxref-hist.csv") -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, table)
        return file.getvalue()


GOOD = "Date,USD,JPY,CYP,\n2026-11-24,1.1,170.5,N/A,\n2026-11-23,1.2,171,N/A,\n"


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | Exception], list[tuple[str, float]]]:
    """Let this be what a server answers; the URLs that were asked, and how long was waited for each."""
    asked: list[tuple[str, float]] = []

    def publish(answer: bytes | Exception) -> list[tuple[str, float]]:
        def urlopen(url: str, timeout: float) -> io.BytesIO:
            asked.append((url, timeout))
            if isinstance(answer, Exception):
                raise answer
            return io.BytesIO(answer)

        monkeypatch.setattr(provider, "_opener", lambda _: SimpleNamespace(open=urlopen))
        return asked

    return publish


def test_with_a_url_what_is_published_there_is_read(published):
    asked = published(packed(GOOD))
    days = EuropeanCentralBank("https://rates.example/hist.zip").days_after(None)
    assert [(day.day.isoformat(), day.rates) for day in days] == [
        ("2026-11-23", {"USD": Decimal("1.2"), "JPY": Decimal("171")}),
        ("2026-11-24", {"USD": Decimal("1.1"), "JPY": Decimal("170.5")}),
    ]
    assert asked == [("https://rates.example/hist.zip", 10)]


@pytest.mark.parametrize(
    "answer",
    [
        URLError("no route"),
        TimeoutError("timed out"),
        b"",
        b"<html>Moved</html>",
        packed("")[:-10],
        packed(""),
        packed("<html>Moved</html>"),
        packed("Date,USD,\n2026-11-24,1.1,1.2,\n"),
        packed("Date,USD,\n2026-11-31,1.1,\n"),
        packed("Date,USD,\n2026-11-24,-1.1,\n"),
        packed("Date,USD,\n2026-11-24,0.0,\n"),
        packed("Date,USD,\n2026-11-24,1e5,\n"),
        packed("Date,USD,\n2026-11-24,NaN,\n"),
        packed("Date,USD,\n2026-11-24,12345678901,\n"),
        packed("Date,USD,\n2026-11-24,\u0661,\n"),
        packed("Date," + "\n" * 16_000_001),
    ],
)
def test_what_nobody_can_read_is_a_provider_out_of_reach(published, answer):
    published(answer)
    with pytest.raises(Unavailable):
        EuropeanCentralBank("https://rates.example/hist.zip").days_after(None)


def test_rates_are_fetched_over_https_only(environ):
    with pytest.raises(ConfigError, match="BANK_FX_URL"):
        Config.from_env({**environ, "BANK_FX_URL": "http://rates.example/hist.zip"})


def test_rates_of_long_ago_are_for_play(environ):
    production = {**environ, "BANK_ENV": "production", "BANK_SELF_SERVICE_DEPOSITS": "false", "RATELIMIT_ENABLED": "true"}
    Config.from_env({**production, "BANK_FX_MAX_AGE_DAYS": "14"})
    with pytest.raises(ConfigError, match="BANK_FX_MAX_AGE_DAYS"):
        Config.from_env({**production, "BANK_FX_MAX_AGE_DAYS": "15"})


def test_the_job_takes_in_what_is_new_and_nothing_twice(app, context, alice, monkeypatch, published, configured):
    configured(fx_url="https://rates.example/hist.zip")
    opened: list[bool] = []
    days_after = EuropeanCentralBank.days_after

    def watched(self: EuropeanCentralBank, day: date | None) -> list[DayOfRates]:
        # Nobody waits for another's server with a transaction open.
        opened.append(db.engine.pool.checkedout() > 0 or db.engines["reader"].pool.checkedout() > 0)
        return days_after(self, day)

    monkeypatch.setattr(EuropeanCentralBank, "days_after", watched)
    table = "Date,USD,CYP,EEK,\n2025-01-03,1.03,0.58,N/A,\n2025-01-02,1.02,0.58,15.6,\n"
    published(packed(table))
    assert jobs.refresh_rates() == 2
    assert jobs.refresh_rates() == 0
    published(packed(table.replace("Date,USD,CYP,EEK,\n", "Date,USD,CYP,EEK,\n2025-01-06,1.06,0.58,N/A,\n")))
    assert jobs.refresh_rates() == 1
    assert opened == [False] * 3
    assert rates(alice, "2025-01-06")["USD"] == ("1.06", "2025-01-06", "ecb")
    assert rates(alice, "2025-01-03")["USD"] == ("1.03", "2025-01-03", "ecb")
    # A pound that Cyprus has no more is no money to hold.
    assert "CYP" not in rates(alice, "2025-01-06")


def test_two_who_take_in_the_same_take_it_in_once(context, alice):
    day = DayOfRates(date(2018, 5, 4), {"USD": Decimal("1.5")})
    service.record("ecb", [day])
    service.record("ecb", [DayOfRates(day.day, {"USD": Decimal("9.9")})])
    assert rates(alice, day.day)["USD"][0] == "1.5"


def test_what_a_year_published_is_taken_in_within_a_second_or_so(context, alice, history):
    year = [day for day in history if day.day.year == 2008]
    service.record("ecb", year)
    assert rates(alice, "2008-10-10")["USD"] == ("1.3579", "2008-10-10", "ecb")


def test_over_a_weekend_the_rates_of_friday_count_and_in_the_end_no_more(context, alice):
    service.record("ecb", [DayOfRates(FRIDAY, {"USD": Decimal("1.12"), "GBP": Decimal("0.86")})])
    for days in range(6):
        assert rates(alice, FRIDAY + timedelta(days=days))["USD"] == ("1.12", "2019-03-08", "ecb")
    assert rates(alice, FRIDAY + timedelta(days=6)) == {}
    # Nor do they count before they were published.
    assert rates(alice, FRIDAY - timedelta(days=1)) == {}
    monday = FRIDAY + timedelta(days=3)
    service.record("ecb", [DayOfRates(monday, {"USD": Decimal("1.13")})])
    assert rates(alice, monday) == {"GBP": ("0.86", "2019-03-08", "ecb"), "USD": ("1.13", "2019-03-11", "ecb")}


def test_of_one_day_an_administrators_rate_counts_and_of_these_the_last(context, alice, publish):
    day = date(2017, 6, 1)
    service.record("ecb", [DayOfRates(day, {"USD": Decimal("1.11")})])
    for rate in ("1.2", "1.3"):
        publish("USD", rate, "2017-06-01")
        assert rates(alice, day)["USD"] == (rate, "2017-06-01", "admin")
    # It was for that day. Nor does the provider take the day back by telling it again.
    service.record("ecb", [DayOfRates(day, {"USD": Decimal("1.11")}), DayOfRates(day + timedelta(days=1), {"USD": Decimal("1.12")})])
    assert rates(alice, day)["USD"][2] == "admin"
    assert rates(alice, day + timedelta(days=1))["USD"] == ("1.12", "2017-06-02", "ecb")


def test_an_administrator_publishes_what_no_provider_does(alice, publish, auditor):
    publish("KES", "144.35")
    answer = alice.get("/fx/rates").json
    (found,) = [row for row in answer["data"] if row["currency"] == "KES"]
    assert (found["rate"], found["source"]) == ("144.35", "admin")
    row = auditor.get("/audit-logs?action=rate.published&limit=1").json["data"][0]
    assert row["details"] == {"currency": "KES", "rate": "144.35", "date": found["date"]}


@pytest.mark.parametrize("who", ["alice", "teller", "auditor"])
def test_only_an_administrator_publishes(request, who):
    answer = request.getfixturevalue(who).post("/fx/rates", {"currency": "USD", "rate": "1"})
    assert answer.status_code == 403


def test_a_rate_of_the_future_and_of_the_base_is_none(admin):
    tomorrow = (date(9000, 1, 1)).isoformat()
    answer = admin.post("/fx/rates", {"currency": "USD", "rate": "1.1", "date": tomorrow})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/date")
    answer = admin.post("/fx/rates", {"currency": "EUR", "rate": "1"})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/currency")


@pytest.mark.parametrize("statement", ["UPDATE fx_rates SET rate = 2", "DELETE FROM fx_rates", "TRUNCATE fx_rates"])
def test_the_database_refuses_to_change_a_rate(context, publish, statement):
    publish("USD", "1.25")
    with pytest.raises(IntegrityError, match="append-only"), unit_of_work() as session:
        session.execute(text(statement))


def test_a_price_goes_by_way_of_the_euro_and_the_spread_is_the_banks(context, publish, configured):
    publish("USD", "1.25")
    publish("JPY", "150")
    configured(fx_spread=0)
    with reader() as session:
        assert service.price(session, "EUR", "USD").rate == Decimal("1.25")
        assert service.price(session, "USD", "EUR").rate == Decimal("0.8")
        assert service.price(session, "USD", "JPY").rate == Decimal("120")
        assert service.price(session, "JPY", "USD").rate == Decimal("0.00833333333333")
        configured(fx_spread=100)
        price = service.price(session, "USD", "JPY")
    assert (price.rate, price.mid_rate) == (Decimal("118.8"), Decimal("120"))


@pytest.mark.parametrize(("currency", "to_currency", "missing"), [("EUR", "TOP", "TOP"), ("TOP", "EUR", "TOP"), ("TOP", "SBD", "TOP")])
def test_where_nobody_has_published_a_rate_there_is_no_price(context, publish, currency, to_currency, missing):
    # One that is too old is none.
    publish("TOP", "119.33", "2016-01-01")
    with reader() as session, pytest.raises(RateUnavailable, match=f"No rate of {missing}"):
        service.price(session, currency, to_currency)


def test_quotes_that_nobody_used_are_forgotten_after_a_day(context, alice, publish, quote):
    publish("USD", "1.25")
    kept, old, used = (quote(alice, "10.00", "USD", "EUR")["id"] for _ in range(3))
    with unit_of_work() as session:
        session.execute(
            text("UPDATE fx_quotes SET expires_at = now() - interval '25 hours' WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": [old, used]}
        )
        session.execute(text("UPDATE fx_quotes SET used_at = now() WHERE id = :id"), {"id": used})
    assert service.forget_quotes() == 1
    with reader() as session:
        assert set(
            session.execute(
                text("SELECT id::text FROM fx_quotes WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": [kept, old, used]}
            ).scalars()
        ) == {kept, used}


def test_the_clock_lets_the_slow_worker_fetch_rates(environ, monkeypatch):
    connection = Redis.from_url(empty_redis(environ))
    # rq-scheduler looks for what is due by a clock that was put back meanwhile.
    earlier = datetime.now(UTC) - timedelta(minutes=1)
    monkeypatch.setattr("rq_scheduler.scheduler.datetime", Mock(utcnow=lambda: earlier))
    Clock(queue_name=QUEUE, connection=connection, job_class=JsonJob, interval=1).enqueue_jobs()
    waiting = {name: Queue(name, connection=connection, serializer=JSONSerializer).job_ids for name in (QUEUE, SLOW_QUEUE)}
    assert sorted(waiting[SLOW_QUEUE]) == ["tick-forget_logins", "tick-refresh_rates"]
    assert "tick-sweep" in waiting[QUEUE]
    job = Queue(SLOW_QUEUE, connection=connection, serializer=JSONSerializer).fetch_job("tick-refresh_rates")
    assert job.func is jobs.refresh_rates


def test_a_provider_that_has_been_silent_for_days_is_a_part_out_of_reach(environ, tmp_path, password_hash):
    with fresh_database(environ, tmp_path) as own:
        app = create_app(Config.from_env(own))
        cast = people(app, password_hash, {"admin": Role.ADMIN, "alice": Role.CUSTOMER})
        for currency, rate in (("USD", "1.25"), ("JPY", "150")):
            body = {"currency": currency, "rate": rate, "date": "2020-01-03"}
            assert cast["admin"].post("/fx/rates", body).status_code == 201
        body = {"currency": "CHF", "rate": "0.9", "date": "2019-12-27"}
        assert cast["admin"].post("/fx/rates", body).status_code == 201

        def ask(currency, to_currency):
            return cast["alice"].post("/fx/quotes", {"amount": "10", "currency": currency, "to_currency": to_currency})

        for pair in (("USD", "JPY"), ("EUR", "USD")):
            answer = ask(*pair)
            assert (answer.status_code, answer.json["code"]) == (503, "rates_too_old")
            assert answer.headers["Retry-After"] == "3600"
        # One that ended before the others is not published any more; one that never was, is not either.
        for pair in (("CHF", "EUR"), ("USD", "VUV")):
            answer = ask(*pair)
            assert (answer.status_code, answer.json["code"]) == (422, "rate_unavailable")
        assert cast["admin"].post("/fx/rates", {"currency": "USD", "rate": "1.25"}).status_code == 201
        assert ask("EUR", "USD").status_code == 201
        assert ask("EUR", "JPY").json["code"] == "rate_unavailable"
