"""Quotes: firm for half a minute, for one transfer, of who asked."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import text

from bank.db import unit_of_work
from bank.users.models import Role
from tests.conftest import Person

NOBODY = "019b2f6e-8a00-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def rates(publish: Callable[..., None]) -> None:
    """One euro is 1.25 dollars and 175.68 yen."""
    publish("USD", "1.25")
    publish("JPY", "175.68")


@pytest.fixture
def ask(alice: Person, bob: Person, funded: Callable[..., str], quote: Any) -> Callable[..., dict[str, Any]]:
    """Give Alice a hundred dollars and a quote for ten of them; the body of the transfer that uses it."""

    def body(**fields: Any) -> dict[str, Any]:
        account = funded(alice, "100.00", "USD")
        quoted = quote(alice, "10.00", "USD", "EUR")
        return {"from_account_id": account, "to_user_id": bob.id, "amount": "10.00", "currency": "USD", "quote_id": quoted["id"], **fields}

    return body


def expire(app: Any, quote_id: str) -> None:
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE fx_quotes SET expires_at = now() WHERE id = :id"), {"id": quote_id})


def test_a_quote_says_what_arrives_and_what_the_bank_keeps(alice, quote):
    quoted = quote(alice, "100.00", "USD", "JPY")
    assert (quoted["amount"], quoted["currency"], quoted["to_amount"], quoted["to_currency"]) == ("100.00", "USD", "13984", "JPY")
    assert (quoted["rate"], quoted["mid_rate"], quoted["spread"]) == ("139.84128", "140.544", "0.50")
    assert quoted["rate_date"] == quoted["created_at"][:10]
    lasts = datetime.fromisoformat(quoted["expires_at"]) - datetime.fromisoformat(quoted["created_at"])
    assert lasts.total_seconds() == 30


def test_a_quote_holds_whatever_rates_are_published(alice, bob, publish, ask, outcome):
    body = ask()
    publish("USD", "12.5")
    made = outcome(alice, alice.post("/transactions/transfer", body))
    assert (made["status"], made["to_amount"], made["to_currency"], made["rate"]) == ("completed", "7.96", "EUR", "0.796")
    assert made["quote_id"] == body["quote_id"]
    with_currency = ask(to_currency="EUR")
    assert alice.post("/transactions/transfer", with_currency).json["to_amount"] == "0.80"


def test_a_quote_is_good_for_one_transfer(alice, ask):
    body = ask()
    assert alice.post("/transactions/transfer", body).status_code == 202
    again = alice.post("/transactions/transfer", body)
    assert (again.status_code, again.json["code"]) == (409, "quote_used")
    # When it expires as well, it is the first thing that is told.
    assert alice.post("/transactions/transfer?dry_run=true", body).json["code"] == "quote_used"


def test_an_expired_quote_is_refused(app, alice, bob, ask):
    body = ask()
    expire(app, body["quote_id"])
    answer = alice.post("/transactions/transfer", body)
    assert (answer.status_code, answer.json["code"]) == (422, "quote_expired")
    assert "transaction" not in answer.json
    assert bob.get("/accounts").json["data"] == []


def test_a_dry_run_uses_no_quote(alice, ask):
    body = ask()
    said = alice.post("/transactions/transfer?dry_run=true", body).json
    assert (said["status"], said["to_amount"], said["quote_id"]) == ("completed", "7.96", body["quote_id"])
    assert alice.post("/transactions/transfer", body).status_code == 202


def test_what_is_refused_when_it_is_asked_for_uses_no_quote(alice, ask):
    body = ask()
    assert alice.post("/transactions/transfer", {**body, "to_user_id": NOBODY}).status_code == 404
    assert alice.post("/transactions/transfer", body).status_code == 202


@pytest.mark.parametrize("who", ["nobody", "bob", "admin"])
def test_anothers_quote_is_as_one_that_is_not_there(alice, bob, person, quote, ask, who):
    body = ask()
    owner = {"bob": bob, "admin": person("admin", Role.ADMIN)}.get(who)
    body["quote_id"] = quote(owner, "10.00", "USD", "EUR")["id"] if owner else NOBODY
    answer = alice.post("/transactions/transfer", body)
    assert (answer.status_code, answer.json["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    "other",
    [{"amount": "10.01"}, {"amount": "9.99"}, {"to_currency": "JPY"}, {"to_currency": "USD"}],
    ids=["more", "less", "yen", "dollars"],
)
def test_a_quote_for_something_else_is_refused_and_stays_good(alice, ask, other):
    body = ask()
    answer = alice.post("/transactions/transfer", {**body, **other})
    assert (answer.status_code, answer.json["errors"]) == (422, [{"pointer": "/quote_id", "message": "Is for 10.00 USD to EUR."}])
    assert alice.post("/transactions/transfer", body).status_code == 202


def test_the_quote_is_for_money_that_the_account_holds(alice, ask, funded):
    body = ask()
    answer = alice.post("/transactions/transfer", {**body, "from_account_id": funded(alice, "10.00", "EUR")})
    assert (answer.status_code, answer.json["code"]) == (422, "currency_mismatch")


def test_a_repetition_by_its_key_is_the_first_answer_again_after_the_quote_is_used_and_over(app, alice, ask):
    body, headers = ask(), {"Idempotency-Key": "quoted-1"}
    first = alice.post("/transactions/transfer", body, headers=headers)
    expire(app, body["quote_id"])
    again = alice.post("/transactions/transfer", body, headers=headers)
    assert (again.status_code, again.data, again.headers["Idempotent-Replayed"]) == (202, first.data, "true")


def at_once(who: Person, app: Any, bodies: list[tuple[dict[str, Any], dict[str, str]]]) -> list[tuple[int, bytes, str]]:
    """Let all ask in the same moment; status, answer and code of each."""
    start = Barrier(len(bodies))

    def ask(body: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes, str]:
        caller = Person(who.id, who.username, app.test_client(), who.token)
        start.wait()
        answer = caller.post("/transactions/transfer", body, headers=headers)
        return answer.status_code, answer.data, answer.json.get("code", "")

    with ThreadPoolExecutor(len(bodies)) as threads:
        return [future.result() for future in [threads.submit(ask, *each) for each in bodies]]


def test_of_many_uses_at_once_exactly_one_wins(app, alice, bob, ask, post_all):
    for _ in range(5):
        body = ask()
        answers = at_once(alice, app, [(body, {})] * 8)
        assert sorted((status, code) for status, _, code in answers) == [(202, "")] + [(409, "quote_used")] * 7
    post_all()
    (balance,) = bob.get("/balances/current?currency=EUR").json["data"]
    assert balance["amount"] == "39.80"


def test_of_many_at_once_with_one_key_all_get_the_one_answer(app, alice, bob, ask, post_all):
    for number in range(5):
        body, headers = ask(), {"Idempotency-Key": f"at-once-{number}"}
        answers = at_once(alice, app, [(body, headers)] * 8)
        assert {answer[:2] for answer in answers} == {(202, answers[0][1])}
    post_all()
    (balance,) = bob.get("/balances/current?currency=EUR").json["data"]
    assert balance["amount"] == "39.80"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"amount": "10.00", "currency": "USD", "to_currency": "USD"}, "/to_currency"),
        ({"amount": "0.01", "currency": "USD", "to_currency": "KWD"}, None),
        ({"amount": "1", "currency": "JPY", "to_currency": "EUR"}, None),
        ({"amount": "9999999999999999.99", "currency": "USD", "to_currency": "JPY"}, "/amount"),
    ],
)
def test_a_quote_is_for_other_money_and_an_amount_that_can_be(alice, publish, body, pointer):
    publish("KWD", "0.34")
    answer = alice.post("/fx/quotes", body)
    if pointer is None:
        assert answer.status_code == 201, answer.json
    else:
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, pointer)


def test_without_a_rate_there_is_no_quote(alice):
    answer = alice.post("/fx/quotes", {"amount": "10.00", "currency": "USD", "to_currency": "VUV"})
    assert (answer.status_code, answer.json["code"]) == (422, "rate_unavailable")


def test_an_auditor_moves_no_money(auditor):
    assert auditor.post("/fx/quotes", {"amount": "10.00", "currency": "USD", "to_currency": "EUR"}).status_code == 403
