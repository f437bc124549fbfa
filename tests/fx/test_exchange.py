"""Transfers by which other money arrives than left."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import text

from bank.db import reader
from bank.ledger.system import BATCH_LANE, lane_of, position_account_id
from bank.money import exchanged, exponent
from bank.processing import processor
from tests.conftest import Person

NOBODY = "019b2f6e-8a00-7000-8000-000000000001"


@pytest.fixture(autouse=True)
def rates(publish: Callable[..., None]) -> None:
    """One euro is 1.25 dollars, 175.68 yen and 0.35 Bahraini dinars. The bank keeps half a percent."""
    for currency, rate in {"USD": "1.25", "JPY": "175.68", "BHD": "0.35"}.items():
        publish(currency, rate)


@pytest.fixture
def exchange(alice: Person, bob: Person, funded: Callable[..., str], outcome: Any) -> Callable[..., dict[str, Any]]:
    """Let Alice send Bob other money than she has, and read what became of it."""

    def send(amount: str, currency: str = "USD", to_currency: str = "EUR", **fields: Any) -> dict[str, Any]:
        account = funded(alice, amount, currency)
        body = {"from_account_id": account, "to_user_id": bob.id, "amount": amount, "currency": currency, "to_currency": to_currency}
        return outcome(alice, alice.post("/transactions/transfer", {**body, **fields}))

    return send


def balances(who: Person) -> dict[str, str]:
    return {row["currency"]: row["amount"] for row in who.get("/balances/current").json["data"]}


def position(who: Person, currency: str) -> tuple[Decimal, Decimal]:
    """What the bank has in a currency, and what roundings left of it."""
    found = {row["currency"]: row for row in who.get("/fx/position").json["data"]}
    if currency not in found:
        return Decimal(0), Decimal(0)
    return Decimal(found[currency]["position"]), Decimal(found[currency]["remainder"])


def test_an_exchange_has_four_entries_and_each_currency_sums_to_zero(alice, bob, exchange):
    made = exchange("100.00")
    # 100 / 1.25, less half a percent.
    assert (made["status"], made["to_amount"], made["to_currency"], made["rate"]) == ("completed", "79.60", "EUR", "0.796")
    assert made["quote_id"] is None
    sides = [(entry["amount"], entry["currency"], entry["account_id"]) for entry in made["entries"]]
    assert [side[:2] for side in sides] == [("-100.00", "USD"), ("-79.60", "EUR"), ("79.60", "EUR"), ("100.00", "USD")]
    assert (sides[0][2], sides[2][2]) == (made["from_account_id"], made["to_account_id"])
    # What is in the bank's own accounts nobody is told.
    assert [entry["balance"] for entry in made["entries"]] == ["0.00", None, None, None]
    assert balances(bob) == {"EUR": "79.60"}


def test_a_currency_that_is_the_same_is_no_exchange(exchange):
    made = exchange("10.00", to_currency="USD")
    assert (made["to_amount"], made["rate"], len(made["entries"])) == ("10.00", None, 2)


def test_it_arrives_on_an_account_that_is_named_or_on_the_default_which_is_opened(alice, bob, exchange):
    account = bob.open_account("EUR")["id"]
    second = bob.open_account("EUR")["id"]
    assert exchange("1.00")["to_account_id"] == account
    named = {"to_user_id": None, "to_account_id": second}
    assert alice.post("/transactions/transfer", {"amount": "1", "currency": "USD", "to_currency": "EUR", **named}).status_code == 422
    body = {"to_account_id": second, "amount": "1.00", "currency": "USD", "to_currency": "EUR"}
    assert alice.post("/transactions/transfer", body).json["to_account_id"] == second


def test_the_customers_own_accounts_can_be_exchanged_between(alice, funded, outcome):
    source, target = funded(alice, "50.00", "USD"), alice.open_account("JPY")["id"]
    body = {"from_account_id": source, "to_account_id": target, "amount": "50.00", "currency": "USD", "to_currency": "JPY"}
    assert outcome(alice, alice.post("/transactions/transfer", body))["status"] == "completed"
    # 50 / 1.25 x 175.68, less half a percent.
    assert balances(alice) == {"USD": "0.00", "JPY": "6992"}


@pytest.mark.parametrize(
    ("currency", "to_currency", "account", "expected"),
    [
        # What leaves is not what the account holds; that the bank makes no rate for.
        ("EUR", "USD", "dollars", 422),
        # What arrives is not what the other account holds: the ledger says so, as of any transfer.
        ("USD", "JPY", "euros", "currency_mismatch"),
    ],
)
def test_money_of_another_currency_than_the_account_holds_is_refused(alice, bob, funded, outcome, currency, to_currency, account, expected):
    source, target = funded(alice, "50.00", "USD"), bob.open_account("USD" if account == "dollars" else "EUR")["id"]
    body = {"from_account_id": source, "to_account_id": target, "amount": "5.00", "currency": currency, "to_currency": to_currency}
    answer = alice.post("/transactions/transfer", body)
    if expected == 422:
        assert (answer.status_code, answer.json["code"]) == (422, "currency_mismatch")
    else:
        assert outcome(alice, answer)["failure_code"] == expected
    assert balances(alice)["USD"] == "50.00"


def test_where_there_is_no_rate_nothing_is_accepted(alice, bob, funded):
    account = funded(alice, "50.00", "USD")
    body = {"from_account_id": account, "to_user_id": bob.id, "amount": "5.00", "currency": "USD", "to_currency": "WST"}
    for path in ("/transactions/transfer", "/transactions/transfer?dry_run=true"):
        answer = alice.post(path, body)
        assert (answer.status_code, answer.json["code"]) == (422, "rate_unavailable")
    assert bob.get("/accounts").json["data"] == []


@pytest.mark.parametrize(("amount", "currency", "to_currency"), [("0.001", "BHD", "EUR"), ("9999999999999999.99", "USD", "JPY")])
def test_an_amount_that_is_nothing_or_too_much_in_the_other_currency_is_refused(alice, bob, amount, currency, to_currency):
    account = alice.open_account(currency)["id"]
    body = {"from_account_id": account, "to_user_id": bob.id, "amount": amount, "currency": currency, "to_currency": to_currency}
    answer = alice.post("/transactions/transfer", body)
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/amount")


def test_a_hold_is_in_one_currency(alice, bob, quote):
    body = {"to_user_id": bob.id, "amount": "5.00", "currency": "USD", "hold": True}
    for name, value in (("to_currency", "EUR"), ("quote_id", NOBODY)):
        answer = alice.post("/transactions/transfer", {**body, name: value})
        assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, f"/{name}")


def test_without_the_money_the_ledger_refuses_and_no_currency_moves(alice, bob, teller, funded, outcome):
    before = position(teller, "USD"), position(teller, "EUR")
    account = funded(alice, "5.00", "USD")
    body = {"from_account_id": account, "to_user_id": bob.id, "amount": "5.01", "currency": "USD", "to_currency": "EUR"}
    refused = outcome(alice, alice.post("/transactions/transfer", body))
    assert (refused["failure_code"], refused["entries"]) == ("insufficient_funds", [])
    assert (position(teller, "USD"), position(teller, "EUR")) == before


def test_a_dry_run_says_what_would_come_of_it(alice, bob, funded, outcome):
    account = funded(alice, "100.00", "USD")
    body = {"from_account_id": account, "to_user_id": bob.id, "amount": "33.33", "currency": "USD", "to_currency": "EUR"}
    said = alice.post("/transactions/transfer?dry_run=true", body).json
    assert balances(bob) == {}
    made = outcome(alice, alice.post("/transactions/transfer", body))
    for name in ("status", "amount", "currency", "to_amount", "to_currency", "rate"):
        assert said[name] == made[name], name
    amounts = sorted((entry["amount"], entry["currency"]) for entry in made["entries"])
    assert sorted((entry["amount"], entry["currency"]) for entry in said["entries"]) == amounts


def test_what_rounding_leaves_is_kept_with_the_position_and_goes_with_the_rollback(app, alice, bob, teller, exchange, outcome):
    (euros, left_over), (dollars, _) = position(teller, "EUR"), position(teller, "USD")
    made = exchange("33.33")
    exact = Decimal("33.33") * Decimal(made["rate"])
    assert exact - Decimal(made["to_amount"]) == Decimal("0.00068")
    assert position(teller, "EUR") == (euros - Decimal(made["to_amount"]), left_over + Decimal("0.00068"))
    assert position(teller, "USD")[0] == dollars + Decimal("33.33")
    back = outcome(teller, teller.post(f"/transactions/{made['id']}/rollback", {"reason": "By mistake"}))
    assert back["status"] == "completed"
    assert position(teller, "EUR") == (euros, left_over)
    assert position(teller, "USD")[0] == dollars


def test_a_rollback_goes_the_other_way_at_the_rate_of_then(alice, bob, teller, publish, exchange, outcome):
    made = exchange("100.00")
    publish("USD", "2.5")
    back = outcome(bob, bob.post(f"/transactions/{made['id']}/rollback", {"reason": "Refund"}))
    assert (back["from_account_id"], back["to_account_id"]) == (made["to_account_id"], made["from_account_id"])
    assert (back["amount"], back["currency"], back["to_amount"], back["to_currency"]) == ("79.60", "EUR", "100.00", "USD")
    assert back["rate"] == made["rate"] == "0.796"
    assert [(entry["amount"], entry["currency"]) for entry in back["entries"]] == [
        ("-100.00", "USD"), ("-79.60", "EUR"), ("79.60", "EUR"), ("100.00", "USD"),
    ]  # fmt: skip
    assert (balances(alice), balances(bob)) == ({"USD": "100.00"}, {"EUR": "0.00"})
    original = alice.get(f"/transactions/{made['id']}").json
    assert (original["status"], original["rolled_back_amount"]) == ("rolled_back", "100.00")


def test_parts_that_go_back_add_up(alice, bob, teller, exchange, post_all):
    (euros, left_over), (dollars, _) = position(teller, "EUR"), position(teller, "USD")
    made = exchange("100.01")
    assert made["to_amount"] == "79.61"
    parts = ["33.33", "0.01", "33.33", "33.33", "0.01"]
    paths = [
        teller.post(f"/transactions/{made['id']}/rollback", {"amount": part, "reason": "In parts"}).headers["Location"] for part in parts
    ]
    post_all()
    backs = [teller.get(path.removeprefix("/api/v1")).json for path in paths]
    assert [(back["status"], back["to_amount"]) for back in backs] == [("completed", part) for part in parts]
    assert sum(Decimal(back["amount"]) for back in backs) == Decimal("79.61")
    assert balances(bob) == {"EUR": "0.00"}
    assert alice.get(f"/transactions/{made['id']}").json["status"] == "rolled_back"
    assert (position(teller, "EUR"), position(teller, "USD")[0]) == ((euros, left_over), dollars)


def test_parts_that_are_asked_for_at_once_add_up_too(app, bob, teller, publish, exchange, post_all):
    # Three dollars are a hundred yen; each dollar by itself would be 33.
    publish("JPY", "41.876")
    for _ in range(5):
        made = exchange("3.00", "USD", "JPY")
        assert made["to_amount"] == "100"
        start = Barrier(3)

        def ask(made: dict[str, Any] = made, start: Barrier = start) -> int:
            caller = Person(teller.id, teller.username, app.test_client(), teller.token)
            start.wait()
            return caller.post(f"/transactions/{made['id']}/rollback", {"amount": "1.00", "reason": "In parts"}).status_code

        with ThreadPoolExecutor(3) as threads:
            assert [future.result() for future in [threads.submit(ask) for _ in range(3)]] == [202] * 3
        post_all()
        assert balances(bob) == {"JPY": "0"}


def test_the_whole_goes_back_where_a_part_that_was_asked_for_before_fails(app, bob, admin, teller, publish, exchange, post_all):
    # A dollar is half a yen: of five yen three dollars are 1.5, so two, and thirteen would be 6.5, so six, which is four more.
    publish("JPY", "0.628141")
    made = exchange("10.00", "USD", "JPY")
    assert made["to_amount"] == "5"
    part, whole = (
        teller.post(f"/transactions/{made['id']}/rollback", {"amount": amount, "reason": "In parts"}).json["id"]
        for amount in ("3.00", "10.00")
    )
    account = f"/accounts/{made['to_account_id']}"
    assert admin.patch(account, {"status": "frozen"}).status_code == 200
    with app.app_context():
        processor._write(lane_of(made["to_account_id"], app.config["BANK"].lanes), 1, processor._decide)
    assert admin.patch(account, {"status": "active"}).status_code == 200
    post_all()
    assert teller.get(f"/transactions/{part}").json["failure_code"] == "account_frozen"
    back = teller.get(f"/transactions/{whole}").json
    assert (back["status"], back["to_amount"], back["amount"]) == ("completed", "10.00", "5")
    assert balances(bob) == {"JPY": "0"}


@pytest.mark.parametrize(("amount", "code"), [("100.01", "amount_exceeds_original"), ("9999999999999999.99", "amount_exceeds_original")])
def test_more_than_was_exchanged_does_not_go_back(teller, exchange, outcome, amount, code):
    made = exchange("100.00")
    back = outcome(teller, teller.post(f"/transactions/{made['id']}/rollback", {"amount": amount, "reason": "Too much"}))
    assert back["failure_code"] == code
    outcome(teller, teller.post(f"/transactions/{made['id']}/rollback", {"reason": "All"}))
    again = outcome(teller, teller.post(f"/transactions/{made['id']}/rollback", {"reason": "Again"}))
    assert again["failure_code"] == "already_rolled_back"


def test_a_part_for_which_nothing_would_be_taken_is_refused(teller, exchange):
    tiny = exchange("2", "JPY", "EUR")
    assert tiny["to_amount"] == "0.01"
    answer = teller.post(f"/transactions/{tiny['id']}/rollback", {"amount": "1", "reason": "Half a cent"})
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/amount")


def test_in_a_batch_money_is_exchanged_at_one_rate(app, alice, bob, teller, funded, post_all):
    account = funded(alice, "100.00", "USD")
    item = {"type": "transfer", "from_account_id": account, "to_user_id": bob.id, "amount": "10.00", "currency": "USD"}
    items = [{**item, "to_currency": "EUR"}, item, {**item, "to_currency": "JPY"}, {**item, "to_currency": "EUR"}]
    said = alice.post("/transactions/batch?dry_run=true", {"mode": "atomic", "transactions": items})
    assert said.json["counts"]["completed"] == 4
    answer = alice.post("/transactions/batch", {"mode": "atomic", "transactions": items})
    assert answer.status_code == 202, answer.json
    post_all()
    rows = alice.get(f"/transactions/batch/{answer.json['id']}").json["data"]
    assert [(row["status"], row["to_amount"], row["rate"]) for row in rows] == [
        ("completed", "7.96", "0.796"), ("completed", "10.00", None), ("completed", "1398", "139.84128"), ("completed", "7.96", "0.796"),
    ]  # fmt: skip
    assert balances(bob) == {"EUR": "15.92", "USD": "10.00", "JPY": "1398"}
    with app.app_context(), reader() as session:
        own = {"id": position_account_id("EUR", BATCH_LANE)}
        assert session.execute(text("SELECT amount FROM balances WHERE account_id = :id"), own).scalar_one() == -1592


def test_a_bad_exchange_in_a_batch_is_named(alice, bob, funded):
    account = funded(alice, "100.00", "USD")
    item = {
        "type": "transfer",
        "from_account_id": account,
        "to_user_id": bob.id,
        "amount": "10.00",
        "currency": "USD",
        "to_currency": "EUR",
    }
    euros = bob.open_account("EUR")["id"]
    bad = [
        {**item, "to_currency": "WST"},
        {**item, "currency": "EUR", "to_currency": "USD"},
        {**{name: value for name, value in item.items() if name != "to_user_id"}, "to_account_id": euros, "to_currency": "JPY"},
    ]
    answer = alice.post("/transactions/batch", {"mode": "atomic", "transactions": [item, *bad]})
    pointers = [error["pointer"] for error in answer.json["errors"]]
    assert (answer.status_code, pointers) == (422, ["/transactions/1", "/transactions/2/currency", "/transactions/3/currency"])
    # A quote lives for half a minute, and is for one transfer.
    answer = alice.post("/transactions/batch", {"mode": "atomic", "transactions": [{**item, "quote_id": NOBODY}]})
    assert [error["pointer"] for error in answer.json["errors"]] == ["/transactions/0/quote_id"]


def test_exchanges_and_transfers_are_posted_together(alice, bob, funded, post_all):
    account = funded(alice, "100.00", "USD")
    body = {"from_account_id": account, "to_user_id": bob.id, "amount": "1.00", "currency": "USD"}
    for number in range(30):
        more = {} if number % 3 else {"to_currency": "EUR" if number % 2 else "JPY"}
        assert alice.post("/transactions/transfer", {**body, **more}).status_code == 202
    refused = alice.post("/transactions/transfer", {**body, "amount": "1000.00", "to_currency": "EUR"}).headers["Location"]
    post_all()
    assert balances(alice) == {"USD": "70.00"}
    assert balances(bob) == {"USD": "20.00", "EUR": "4.00", "JPY": "700"}
    assert alice.get(refused.removeprefix("/api/v1")).json["status"] == "failed"


def test_history_and_a_balance_at_a_time_are_right_of_exchanges(alice, bob, exchange):
    made = exchange("100.00")
    account = made["to_account_id"]
    entry = bob.get(f"/accounts/{account}/entries").json["data"][0]
    assert (entry["amount"], entry["currency"], entry["balance"]) == ("79.60", "EUR", "79.60")
    at = bob.get(f"/balances/at-time?account_id={account}&at={made['completed_at']}").json
    assert at["amount"] == "79.60"
    (day,) = [step for step in bob.get(f"/balances/historical?account_id={account}").json["data"] if step["count"]]
    assert (day["credits"], day["closing"]) == ("79.60", "79.60")
    (row,) = bob.get("/transactions/history").json["data"]
    assert (row["amount"], row["currency"], row["to_amount"], row["to_currency"]) == ("100.00", "USD", "79.60", "EUR")


def test_the_position_is_what_all_exchanges_left_and_what_it_is_worth(app, teller, auditor, admin, alice, exchange):
    before = position(teller, "JPY")
    exchange("33.33", "USD", "JPY")
    answer = auditor.get("/fx/position").json
    assert answer["base"] == "EUR" and answer == admin.get("/fx/position").json
    yen = next(row for row in answer["data"] if row["currency"] == "JPY")
    # 33.33 / 1.25 x 175.68 less half a percent is 4,660.9099... yen.
    assert Decimal(yen["position"]) == before[0] - 4661
    assert yen["value"] == str((Decimal(yen["position"]) / Decimal("175.68")).quantize(Decimal("0.01")))
    assert Decimal(answer["total"]) == sum(Decimal(row["value"]) for row in answer["data"])
    # What the events say it must be, added up one by one.
    with app.app_context(), reader() as session:
        rows = session.execute(
            text(
                """SELECT type, amount, currency, to_amount, to_currency, rate FROM transactions
                    WHERE rate IS NOT NULL AND status <> 'failed'"""
            )
        ).all()
    left_over = Decimal(0)
    for row in rows:
        if row.type != "rollback" and row.to_currency == "JPY":
            left_over += exchanged(row.amount, row.currency, "JPY", Decimal(row.rate)) - row.to_amount
        if row.type == "rollback" and row.currency == "JPY":
            left_over -= exchanged(row.to_amount, row.to_currency, "JPY", Decimal(row.rate)) - row.amount
    assert Decimal(yen["remainder"]) == left_over.scaleb(-exponent("JPY"))


def test_a_position_without_a_rate_has_no_value(app, alice, teller, publish, exchange, monkeypatch):
    publish("XPF", "119.33")
    assert exchange("100.00", "USD", "XPF")["status"] == "completed"
    with monkeypatch.context() as patch:
        # As if some days had gone by on which nobody has published one.
        patch.setattr("bank.fx.service._rates", lambda session, wanted, day: [])
        answer = teller.get("/fx/position").json
    values = {row["currency"]: row["value"] for row in answer["data"]}
    assert values["XPF"] is None and values["EUR"] is not None
    assert answer["total"] == values["EUR"]


def test_customers_do_not_see_what_the_bank_is_exposed_to(alice):
    assert alice.get("/fx/position").status_code == 403
