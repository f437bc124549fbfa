"""Scheduled transfers by which other money arrives than leaves: each run at the rate of its day."""

import pytest

from tests.schedules.conftest import create, history, monthly


@pytest.fixture
def publish(admin):
    def publish(currency: str, rate: str) -> None:
        assert admin.post("/fx/rates", {"currency": currency, "rate": rate}).status_code == 201

    return publish


def abroad(to: str, to_currency: str = "EUR", **more):
    body = monthly(to, **more)
    body["transfer"]["to_currency"] = to_currency
    return body


def test_each_run_is_at_the_rate_of_its_day(alice, bob, funded, publish, run):
    publish("USD", "1.25")
    funded(alice, "100.00")
    schedule = create(alice, abroad(bob.open_account("EUR")["id"]))
    assert (schedule["transfer"]["currency"], schedule["transfer"]["to_currency"]) == ("USD", "EUR")
    run("2030-01-31T08:00:00Z")
    publish("USD", "2.50")
    run("2030-02-28T08:00:00Z")
    made = [alice.get(f"/transactions/{each['transaction_id']}").json for each in history(alice, schedule)]
    assert [(each["status"], each["to_amount"], each["rate"]) for each in made] == [
        ("completed", "7.96", "0.796"),
        ("completed", "3.98", "0.398"),
    ]
    assert bob.get("/balances/current").json["data"][0]["amount"] == "11.94"


def test_the_account_that_it_arrives_on_is_opened_when_the_schedule_is_made(alice, bob, funded, publish):
    publish("USD", "1.25")
    funded(alice, "100.00")
    body = abroad("", run_at="2031-01-31T08:00:00Z")
    body["transfer"] = {**body["transfer"], "to_user_id": bob.id}
    del body["transfer"]["to_account_id"], body["recurrence"]
    schedule = create(alice, body)
    (account,) = bob.get("/accounts").json["data"]
    assert (account["currency"], account["id"]) == ("EUR", schedule["transfer"]["to_account_id"])


def test_a_run_on_a_day_without_a_rate_fails_and_is_tried_again(app, alice, bob, funded, publish, run, monkeypatch):
    publish("XPF", "119.33")
    publish("USD", "1.25")
    funded(alice, "100.00")
    schedule = create(alice, abroad(bob.open_account("XPF")["id"], "XPF", retry={"attempts": 2, "delay_seconds": 3600}))
    with monkeypatch.context() as patch:
        # As if nobody had published one for days.
        patch.setattr("bank.fx.service._rates", lambda session, wanted, day: [])
        run("2030-01-31T08:00:00Z")
        (failed,) = history(alice, schedule)
        assert (failed["status"], failed["failure_code"], failed["transaction_id"]) == ("retrying", "rate_unavailable", None)
    run("2030-01-31T09:00:00Z")
    (done,) = history(alice, schedule)
    assert (done["status"], done["attempts"]) == ("completed", 2)


def test_a_schedule_cannot_be_made_where_there_is_no_rate_or_by_a_quote(alice, bob, funded, publish):
    publish("USD", "1.25")
    funded(alice, "100.00")
    answer = alice.post("/schedules", abroad(bob.open_account("VUV")["id"], "VUV"))
    assert (answer.status_code, answer.json["code"]) == (422, "rate_unavailable")
    body = abroad(bob.open_account("EUR")["id"])
    body["transfer"]["quote_id"] = "019b2f6e-8a00-7000-8000-000000000001"
    answer = alice.post("/schedules", body)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/transfer/quote_id")


def test_a_schedule_in_one_currency_says_so(alice, bob, funded):
    funded(alice, "100.00")
    schedule = create(alice, monthly(bob.open_account("USD")["id"]))
    assert schedule["transfer"]["to_currency"] == "USD"
