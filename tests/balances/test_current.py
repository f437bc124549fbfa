"""What accounts hold now."""

import pytest


def test_it_shows_what_is_there_and_what_can_be_spent(alice, teller, funded):
    account = funded(alice, "12.34")
    teller.patch(f"/accounts/{account}", {"overdraft_limit": "50.00"})
    (row,) = alice.get("/balances/current").json["data"]
    assert {**row, "last_updated_at": None} == {
        "account_id": account,
        "user_id": alice.id,
        "currency": "USD",
        "amount": "12.34",
        "available": "62.34",
        "held": "0.00",
        "last_updated_at": None,
        "version": 1,
    }
    (entry,) = alice.get(f"/accounts/{account}/entries").json["data"]
    assert row["last_updated_at"] == entry["created_at"]


def test_it_can_be_narrowed_to_an_account_and_a_currency(alice, funded):
    dollars, euros, more = funded(alice), funded(alice, "1.00", "EUR"), funded(alice, "2.00")

    def shown(query):
        return [row["account_id"] for row in alice.get(f"/balances/current?{query}").json["data"]]

    assert shown("") == [dollars, euros, more]
    assert shown("currency=USD") == [dollars, more]
    assert shown(f"account_id={euros}") == [euros]
    assert shown(f"account_id={euros}&currency=EUR") == [euros]
    assert shown(f"account_id={euros}&currency=USD") == []


def test_pages_hold_every_account_once(alice, funded):
    accounts = [funded(alice, None, currency) for currency in ("USD", "EUR", "CHF", "JPY", "GBP")]
    seen, cursor = [], ""
    while True:
        response = alice.get(f"/balances/current?limit=2{cursor}").json
        seen += [row["account_id"] for row in response["data"]]
        if not response["has_more"]:
            break
        cursor = f"&cursor={response['next_cursor']}"
    assert seen == accounts


@pytest.mark.parametrize("who", ["teller", "auditor", "admin"])
def test_staff_read_those_of_a_customer(alice, bob, funded, request, who):
    staff = request.getfixturevalue(who)
    account, other = funded(alice), funded(bob)
    for query in (f"user_id={alice.id}", f"account_id={account}"):
        assert [row["account_id"] for row in staff.get(f"/balances/current?{query}").json["data"]] == [account]
    assert staff.get(f"/balances/current?user_id={alice.id}&account_id={other}").status_code == 404


def test_a_customer_reads_their_own_and_nobody_elses(alice, bob, funded):
    account, other = funded(alice), funded(bob)
    assert [row["account_id"] for row in alice.get("/balances/current").json["data"]] == [account]
    assert alice.get(f"/balances/current?user_id={alice.id}").status_code == 200
    assert alice.get(f"/balances/current?user_id={bob.id}").status_code == 403
    assert alice.get(f"/balances/current?account_id={other}").status_code == 404


def test_the_banks_own_accounts_are_nobodys_to_read(alice, admin, funded, app):
    from bank.ledger.system import outside_account_id

    funded(alice)
    outside = outside_account_id("USD", 0)
    for path in (f"/accounts/{outside}", f"/accounts/{outside}/entries", f"/balances/current?account_id={outside}"):
        assert admin.get(path).status_code == 404
