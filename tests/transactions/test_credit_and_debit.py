"""Money that comes from the outside and goes there."""

from dataclasses import replace

import pytest


def body(account_id, amount="10.00", currency="USD", **more):
    return {"account_id": account_id, "amount": amount, "currency": currency, **more}


def test_a_credit_is_posted_with_the_outside_as_its_other_side(alice, funded, outcome, balance):
    account = funded(alice, None)
    found = outcome(alice, alice.post("/transactions/credit", body(account, "12.34", description="Salary", reference="S-1")))
    assert found["status"] == "completed"
    assert (found["from_account_id"], found["from_user_id"]) == (None, None)
    assert (found["to_account_id"], found["to_user_id"]) == (account, alice.id)
    assert (found["amount"], found["to_amount"]) == ("12.34", "12.34")
    assert (found["description"], found["reference"]) == ("Salary", "S-1")
    assert [entry["amount"] for entry in found["entries"]] == ["-12.34", "12.34"]
    assert balance(alice, account) == "12.34"


def test_the_balance_of_the_banks_own_account_is_shown_to_staff_only(alice, auditor, funded, outcome):
    account = funded(alice, None)
    found = outcome(alice, alice.post("/transactions/credit", body(account)))
    assert [entry["balance"] for entry in found["entries"]] == [None, "10.00"]
    for_staff = auditor.get(f"/transactions/{found['id']}").json
    assert None not in [entry["balance"] for entry in for_staff["entries"]]


def test_a_debit_takes_what_is_there_to_the_last_cent_and_not_more(alice, funded, outcome, balance):
    account = funded(alice, "100.00")
    assert outcome(alice, alice.post("/transactions/debit", body(account, "100.00")))["status"] == "completed"
    refused = outcome(alice, alice.post("/transactions/debit", body(account, "0.01")))
    assert (refused["status"], refused["failure_code"]) == ("failed", "insufficient_funds")
    assert refused["entries"] == []
    assert balance(alice, account) == "0.00"


def test_an_overdraft_can_be_used_to_its_limit(alice, teller, funded, outcome, balance):
    account = funded(alice, "10.00")
    assert teller.patch(f"/accounts/{account}", {"overdraft_limit": "50.00"}).json["available"] == "60.00"
    assert outcome(alice, alice.post("/transactions/debit", body(account, "60.00")))["status"] == "completed"
    assert balance(alice, account) == "-50.00"
    assert outcome(alice, alice.post("/transactions/debit", body(account, "0.01")))["failure_code"] == "insufficient_funds"


@pytest.mark.parametrize(
    ("currency", "given", "printed"),
    [
        ("USD", "5", "5.00"),
        ("USD", 5, "5.00"),
        ("USD", "5.5", "5.50"),
        ("JPY", "500", "500"),
        ("JPY", 500, "500"),
        ("BHD", "1.25", "1.250"),
    ],
)
def test_amounts_are_printed_with_all_decimals_of_their_currency(alice, funded, outcome, balance, currency, given, printed):
    account = funded(alice, None, currency)
    found = outcome(alice, alice.post("/transactions/credit", body(account, given, currency)))
    assert (found["amount"], found["entries"][1]["amount"], found["entries"][1]["balance"]) == (printed, printed, printed)
    assert balance(alice, account) == printed


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_another_currency_than_the_accounts_is_refused(alice, funded, outcome, kind):
    account = funded(alice, "100.00", "EUR")
    found = outcome(alice, alice.post(f"/transactions/{kind}", body(account, "1.00", "USD")))
    assert (found["status"], found["failure_code"]) == ("failed", "currency_mismatch")


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_a_frozen_account_neither_gives_nor_takes_until_it_is_active_again(alice, teller, funded, outcome, kind):
    account = funded(alice)
    teller.patch(f"/accounts/{account}", {"status": "frozen"})
    assert outcome(alice, alice.post(f"/transactions/{kind}", body(account)))["failure_code"] == "account_frozen"
    teller.patch(f"/accounts/{account}", {"status": "active"})
    assert outcome(alice, alice.post(f"/transactions/{kind}", body(account)))["status"] == "completed"


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_a_closed_account_neither_gives_nor_takes(alice, teller, funded, outcome, kind):
    account = funded(alice, None)
    teller.patch(f"/accounts/{account}", {"status": "closed"})
    assert outcome(alice, alice.post(f"/transactions/{kind}", body(account)))["failure_code"] == "account_closed"


def test_a_status_that_changes_while_a_transaction_waits_decides_it(alice, teller, funded, outcome):
    account = funded(alice)
    accepted = alice.post("/transactions/debit", body(account))
    teller.patch(f"/accounts/{account}", {"status": "frozen"})
    assert outcome(alice, accepted)["failure_code"] == "account_frozen"


def test_a_credit_by_user_opens_the_account_that_is_missing(alice, teller, outcome):
    found = outcome(teller, teller.post("/transactions/credit", {"user_id": alice.id, "amount": "7.00", "currency": "CHF"}))
    assert found["status"] == "completed"
    (account,) = alice.get("/accounts?currency=CHF").json["data"]
    assert (account["id"], account["balance"]) == (found["to_account_id"], "7.00")


def test_a_debit_by_user_uses_the_default_account(alice, teller, funded, outcome):
    first = funded(alice)
    funded(alice)
    found = outcome(teller, teller.post("/transactions/debit", {"user_id": alice.id, "amount": "7.00", "currency": "USD"}))
    assert (found["status"], found["from_account_id"]) == ("completed", first)


def test_what_counts_from_earlier_keeps_both_times(alice, funded, outcome):
    account = funded(alice, None)
    accepted = alice.post("/transactions/credit", body(account, effective_at="2020-02-29T13:30:00.5+01:00"))
    assert accepted.json["effective_at"] == "2020-02-29T12:30:00.500000Z"
    found = outcome(alice, accepted)
    assert found["effective_at"] == found["entries"][1]["effective_at"] == "2020-02-29T12:30:00.500000Z"
    assert found["created_at"] == accepted.json["created_at"] > "2026"
    assert found["completed_at"] == found["entries"][1]["created_at"] >= found["created_at"]


def test_without_a_time_it_counts_from_when_it_was_recorded(alice, funded, outcome):
    found = outcome(alice, alice.post("/transactions/credit", body(funded(alice, None))))
    assert found["effective_at"] == found["created_at"] == found["entries"][1]["effective_at"]


def test_customers_deposit_for_themselves_only_where_the_bank_lets_them(app, alice, teller, funded, outcome, monkeypatch):
    account = funded(alice)
    monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], self_service_deposits=False))
    response = alice.post("/transactions/credit", body(account))
    assert (response.status_code, response.json["code"]) == (403, "forbidden")
    assert alice.post("/transactions/credit?dry_run=true", body(account)).status_code == 403
    assert outcome(alice, alice.post("/transactions/debit", body(account)))["status"] == "completed"
    assert outcome(teller, teller.post("/transactions/credit", body(account)))["status"] == "completed"


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_tellers_and_admins_act_on_any_customer_and_nobody_else_does(alice, bob, teller, auditor, admin, funded, outcome, kind):
    account = funded(alice)
    assert outcome(teller, teller.post(f"/transactions/{kind}", body(account)))["status"] == "completed"
    assert outcome(admin, admin.post(f"/transactions/{kind}", body(account)))["status"] == "completed"
    assert auditor.post(f"/transactions/{kind}", body(account)).status_code == 403
    assert bob.post(f"/transactions/{kind}", body(account)).status_code == 404
    assert bob.post(f"/transactions/{kind}", {"user_id": alice.id, "amount": 1, "currency": "USD"}).status_code == 404


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_a_teller_makes_no_money_for_themselves_or_a_colleague(teller, admin, person, kind):
    for colleague in (teller, admin, person("teller", "teller")):
        account = colleague.open_account()["id"]
        for response in (
            teller.post(f"/transactions/{kind}", body(account)),
            teller.post(f"/transactions/{kind}?dry_run=true", body(account)),
            teller.post(f"/transactions/{kind}", {"user_id": colleague.id, "amount": 1, "currency": "USD"}),
        ):
            # What is a colleague's is not there for a teller.
            refused = (403, "forbidden") if colleague is teller else (404, "not_found")
            assert (response.status_code, response.json["code"]) == refused
        assert colleague.get(f"/accounts/{account}").json["balance"] == "0.00"


def test_a_balance_past_the_range_of_the_ledger_is_refused_and_the_lane_goes_on(alice, bob, admin, funded, outcome, balance):
    # The outside accounts of a currency stand on the other side of all its tests: this one is used nowhere else.
    largest, currency = "999999999999999999", "KRW"
    account, other = funded(alice, None, currency), funded(bob, None, currency)
    for _ in range(9):
        assert outcome(alice, alice.post("/transactions/credit", body(account, largest, currency)))["status"] == "completed"
    refused = outcome(alice, alice.post("/transactions/credit", body(account, largest, currency)))
    assert (refused["status"], refused["failure_code"]) == ("failed", "amount_out_of_range")

    # To and fro: no balance leaves the range, but the day's sums of what came and went do.
    for _ in range(2):
        for _ in range(9):
            alice.post("/transactions/transfer", {"to_account_id": other, "amount": largest, "currency": currency})
        assert balance_after(outcome, alice, account, currency) == "0"
        for _ in range(9):
            bob.post("/transactions/transfer", {"to_account_id": account, "amount": largest, "currency": currency})
        assert balance_after(outcome, bob, other, currency) == "0"
    for _ in range(9):
        found = outcome(alice, alice.post("/transactions/debit", body(account, largest, currency)))
    assert found["status"] == "completed"
    assert balance(alice, account) == "0"

    (day,) = alice.get(f"/balances/historical?account_id={account}&from={found['created_at']}").json["data"]
    assert (day["credits"], day["debits"], day["closing"]) == ("26999999999999999973", "26999999999999999973", "0")
    stats = admin.get("/admin/stats")
    assert stats.status_code == 200
    assert int(stats.json["volume"][currency]) >= 54 * int(largest)


def balance_after(outcome, who, account_id, currency):
    """The balance when everything that waited is posted; a refused debit of nothing is asked for to see it."""
    return (
        outcome(who, who.post("/transactions/debit", body(account_id, "1", currency)))["failure_code"]
        and (who.get(f"/accounts/{account_id}").json["balance"])
    )
