"""Balances at any time, on both axes, against the plain sum of the entries."""

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import event, text

from bank.balances import service
from bank.db import db, reader

FIRST, LAST = datetime(2023, 12, 20, tzinfo=UTC), datetime(2024, 3, 10, tzinfo=UTC)

# Midnights, full hours and the microsecond before, at the ends of months and weeks: where a step begins and ends.
edges = st.builds(
    lambda day, hour, before: FIRST + timedelta(days=day, hours=hour) - timedelta(microseconds=before),
    st.integers(1, 80),
    st.sampled_from([0, 0, 1, 23]),
    st.integers(0, 1),
)
moments = edges | st.datetimes(FIRST.replace(tzinfo=None), LAST.replace(tzinfo=None), timezones=st.just(UTC))
# From a moment (None: when it is recorded), in cents (negative: out of the account), and whether all that waits is posted then.
movements = st.tuples(st.none() | moments, st.integers(-3_000, 5_000).filter(bool), st.booleans())


@pytest.fixture(scope="module")
def history(app, person, post_all):
    """Make an account with this history; return its owner, its id, and its entries as plain numbers."""
    alice, teller = person("alice"), person("teller", "teller")

    def make(script):
        account = alice.open_account()["id"]
        # Backdating may take an account below zero in the past and does so here in the present too.
        teller.patch(f"/accounts/{account}", {"overdraft_limit": "1000000.00"})
        for effective_at, cents, post in script:
            body = {"account_id": account, "amount": f"{abs(cents) // 100}.{abs(cents) % 100:02}", "currency": "USD"}
            if effective_at is not None:
                body["effective_at"] = effective_at.isoformat()
            response = alice.post(f"/transactions/{'credit' if cents > 0 else 'debit'}", body)
            assert response.status_code == 202, response.text
            if post:
                post_all()
        post_all()
        with app.app_context(), reader() as session:
            query = text("SELECT effective_at, posted_at, amount FROM entries WHERE account_id = :id ORDER BY version")
            entries = [tuple(row) for row in session.execute(query, {"id": account})]
        assert [amount for *_, amount in entries] == [cents for _, cents, _ in script]
        return alice, account, entries

    return make


def told(moment):
    return quote(moment.isoformat())


def cents(amount):
    return int(amount.replace(".", ""))


# Every example writes to a database: making a failing one smaller would take minutes.
examples = settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow], phases=(Phase.explicit, Phase.reuse, Phase.generate))


@examples
@given(st.lists(movements, max_size=14), st.lists(moments, max_size=6), st.lists(moments, max_size=2))
def test_at_time_is_the_sum_of_what_counted_and_was_known(history, script, times, known_times):
    alice, account, entries = history(script)
    microsecond = timedelta(microseconds=1)
    turns = {turn for effective_at, posted_at, _ in entries for turn in (effective_at, posted_at)}
    now = datetime.now(UTC)
    for at in {*times, *turns, *(turn - microsecond for turn in turns), now}:
        expected = sum(amount for effective_at, _, amount in entries if effective_at <= at)
        response = alice.get(f"/balances/at-time?account_id={account}&at={told(at)}")
        assert cents(response.json["amount"]) == expected, at
        assert response.json["at"] == at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    posted = {posted_at for _, posted_at, _ in entries}
    for known_at in {*known_times, *posted, *(moment - microsecond for moment in posted)}:
        for at in {*times[:2], *list(turns)[:4], known_at}:
            expected = sum(amount for effective_at, posted_at, amount in entries if effective_at <= at and posted_at <= known_at)
            response = alice.get(f"/balances/at-time?account_id={account}&at={told(at)}&known_at={told(known_at)}")
            assert cents(response.json["amount"]) == expected, (at, known_at)


def floor(moment, interval):
    day = datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    return {
        "hour": day + timedelta(hours=moment.hour),
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
    }[interval]


def following(step, interval):
    if interval == "month":
        return datetime(step.year + step.month // 12, step.month % 12 + 1, 1, tzinfo=UTC)
    return step + {"hour": timedelta(hours=1), "day": timedelta(days=1), "week": timedelta(weeks=1)}[interval]


@examples
@given(
    st.lists(movements, max_size=14),
    st.sampled_from(["hour", "day", "week", "month"]),
    moments,
    st.integers(1, 40 * 24) | st.sampled_from([1, 24, 7 * 24]),
    st.integers(0, 1),
)
def test_historical_is_the_sum_step_by_step_without_gaps(history, script, interval, since, hours, more):
    alice, account, entries = history(script)
    until = since + timedelta(hours=hours, microseconds=more)
    response = alice.get(f"/balances/historical?account_id={account}&from={told(since)}&to={told(until)}&interval={interval}")
    assert response.status_code == 200, response.text
    step, expected = floor(since, interval), []
    while True:
        end = following(step, interval)
        inside = [amount for effective_at, _, amount in entries if step <= effective_at < end]
        opening = sum(amount for effective_at, _, amount in entries if effective_at < step)
        expected.append(
            (
                step.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                end.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
                opening,
                opening + sum(inside),
                sum(amount for amount in inside if amount > 0),
                -sum(amount for amount in inside if amount < 0),
                len(inside),
            )
        )
        step = end
        if step >= until:
            break
    shown = [
        (row["from"], row["to"], *(cents(row[name]) for name in ("opening", "closing", "credits", "debits")), row["count"])
        for row in response.json["data"]
    ]
    assert shown == expected


def test_the_closing_balance_of_every_day_of_every_account_is_the_sum_of_its_entries(app, history):
    history([(datetime(2024, 1, day, tzinfo=UTC), 100 * day, day % 3 == 0) for day in (5, 3, 9, 3, 1, 7)])
    with app.app_context(), reader() as session:
        wrong = session.execute(
            text(
                """SELECT d.account_id, d.day, d.closing, s.closing FROM daily_balances d
                     FULL JOIN (SELECT account_id, CAST(effective_at AS date) AS day,
                                       sum(sum(amount)) OVER (PARTITION BY account_id ORDER BY CAST(effective_at AS date)) AS closing,
                                       COALESCE(sum(amount) FILTER (WHERE amount > 0), 0) AS credits,
                                       COALESCE(-sum(amount) FILTER (WHERE amount < 0), 0) AS debits, count(*) AS count
                                  FROM entries GROUP BY 1, 2) s USING (account_id, day)
                    WHERE (d.closing, d.credits, d.debits, d.count) IS DISTINCT FROM (s.closing, s.credits, s.debits, s.count)"""
            )
        ).all()
    assert wrong == []


def test_what_is_posted_in_the_middle_of_a_read_is_in_it_or_not_and_never_half(app, history, post_all):
    """A backdated entry is posted after each of the statements that the read makes."""
    alice, account, entries = history([(datetime(2024, 1, 1, tzinfo=UTC), 10_000, True), (datetime(2024, 1, 2, tzinfo=UTC), 500, True)])
    known_at, at = entries[1][1], datetime(2024, 1, 3, tzinfo=UTC)
    body = {"account_id": account, "amount": "1.00", "currency": "USD", "effective_at": "2024-01-01T00:00:00Z"}
    posting = False

    def post_another(*_):
        nonlocal posting
        if not posting:
            posting = True
            alice.post("/transactions/credit", body)
            post_all()
            posting = False

    with app.app_context():
        event.listen(db.engine, "after_cursor_execute", post_another)
        try:
            amount = service.at_time(account, at, known_at)
        finally:
            event.remove(db.engine, "after_cursor_execute", post_another)
    # What was known at a time in the past does not change, whatever is posted now.
    assert amount == 10_500


def test_before_the_first_entry_there_is_nothing(alice, funded):
    account = funded(alice)
    for query in ("at=2000-01-01T00:00:00Z", "at=2999-01-01T00:00:00Z&known_at=2000-01-01T00:00:00Z"):
        assert alice.get(f"/balances/at-time?account_id={account}&{query}").json["amount"] == "0.00"
    assert alice.get(f"/balances/at-time?account_id={account}&at=2999-01-01T00:00:00Z").json["amount"] == "100.00"


def test_what_was_learned_later_counts_from_when_it_counts(alice, funded, post_all):
    account = funded(alice, "100.00")
    (entry,) = alice.get(f"/accounts/{account}/entries").json["data"]
    alice.post("/transactions/credit", {"account_id": account, "amount": "7.00", "currency": "USD", "effective_at": "2024-01-15T12:00:00Z"})
    post_all()

    def at(when, known=None):
        query = f"account_id={account}&at={when}" + (f"&known_at={known}" if known else "")
        return alice.get(f"/balances/at-time?{query}").json["amount"]

    assert at("2024-01-15T11:59:59.999999Z") == "0.00"
    assert at("2024-01-15T12:00:00Z") == "7.00"
    assert at("2024-01-15T13:00:00%2B01:00") == "7.00"
    assert at("2024-02-01T00:00:00Z", known=entry["created_at"]) == "0.00"
    assert at("2999-01-01T00:00:00Z", known=entry["created_at"]) == "100.00"


@pytest.mark.parametrize("interval", ["hour", "day", "week", "month"])
def test_what_counts_from_the_very_beginning_of_a_step_is_in_it_and_not_in_its_opening(alice, funded, post_all, interval):
    account = funded(alice, None)
    # A Monday, and the first of a month.
    for when in ("2024-03-31T23:59:59.999999Z", "2024-04-01T00:00:00Z"):
        alice.post("/transactions/credit", {"account_id": account, "amount": "7.00", "currency": "USD", "effective_at": when})
    post_all()
    query = f"account_id={account}&from=2024-04-01T00:00:00Z&to=2024-04-01T00:00:00.000001Z&interval={interval}"
    (step,) = alice.get(f"/balances/historical?{query}").json["data"]
    assert (step["opening"], step["credits"], step["closing"], step["count"]) == ("7.00", "7.00", "14.00", 1)


def test_without_times_it_is_the_last_30_days_by_day(alice, funded):
    account = funded(alice)
    response = alice.get(f"/balances/historical?account_id={account}").json
    assert (response["interval"], response["currency"], response["user_id"]) == ("day", "USD", alice.id)
    steps = response["data"]
    assert len(steps) in (31, 32)
    assert steps[-1]["from"][:10] == datetime.now(UTC).date().isoformat()
    assert (steps[-1]["opening"], steps[-1]["closing"], steps[-1]["credits"], steps[-1]["count"]) == ("0.00", "100.00", "100.00", 1)
    assert {(step["closing"], step["count"]) for step in steps[:-1]} == {("0.00", 0)}
    assert [step["to"] for step in steps[:-1]] == [step["from"] for step in steps[1:]]


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("from=2024-01-02T00:00:00Z&to=2024-01-01T00:00:00Z", "/from"),
        ("from=2024-01-01T00:00:00Z&to=2024-01-01T00:00:00Z", "/from"),
        ("from=2999-01-01T00:00:00Z", "/from"),
        ("from=1900-01-01T00:00:00Z&to=2024-01-01T00:00:00Z", "/to"),
        ("from=1900-01-01T00:00:00Z&to=9000-01-01T00:00:00Z&interval=month", "/to"),
        ("from=2024-01-01T00:00:00Z&to=2024-03-01T00:00:00Z&interval=hour", "/to"),
    ],
)
def test_a_stretch_that_runs_backwards_or_too_long_is_refused(alice, funded, query, pointer):
    account = funded(alice)
    response = alice.get(f"/balances/historical?account_id={account}&{query}")
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, pointer)


@pytest.mark.parametrize("moment", ["1900-01-01T00:00:00Z", "9000-12-31T23:59:59.999999Z"])
def test_the_ends_of_time_can_be_asked_for(alice, funded, moment):
    account = funded(alice)
    for interval in ("hour", "day", "week", "month"):
        when = datetime.fromisoformat(moment)
        query = f"from={told(when - timedelta(hours=1))}" if when.year > 2000 else f"from={told(when)}"
        until = when if when.year > 2000 else when + timedelta(hours=1)
        response = alice.get(f"/balances/historical?account_id={account}&{query}&to={told(until)}&interval={interval}")
        assert response.status_code == 200, response.text
    assert alice.get(f"/balances/at-time?account_id={account}&at={moment}&known_at={moment}").status_code == 200
