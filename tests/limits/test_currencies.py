"""Limits are for what an account holds, whatever currency a request names."""

from tests.limits.test_limits import failures


def test_a_payment_that_names_a_currency_of_which_the_payer_has_nothing_is_refused_for_that(alice, accounts, set_limit, pay):
    ours, theirs = accounts
    set_limit(user_id=alice.id, currency="SEK", kind="sum", window="day", amount="1.00")
    body = {"from_account_id": ours, "to_account_id": theirs, "amount": "5.00", "currency": "SEK"}
    answer = alice.post("/transactions/transfer?dry_run=true", body)
    assert (answer.status_code, answer.json["failure_code"]) == (200, "currency_mismatch")
    assert failures(pay(alice, ours, theirs, "5.00", currency="SEK"), pay(alice, ours, theirs, "5.00")) == ["currency_mismatch", None]


def test_naming_another_currency_beside_a_payment_does_not_take_its_limits_away(alice, accounts, set_limit, post_all):
    ours, theirs = accounts
    set_limit(account_id=ours, kind="single", amount="1.00")

    def ask(currency: str) -> str:
        body = {"from_account_id": ours, "to_account_id": theirs, "amount": "5.00", "currency": currency}
        answer = alice.post("/transactions/transfer", body)
        assert answer.status_code == 202, answer.json
        return answer.json["id"]

    # Decided together, in whatever order they are looked up.
    asked = [ask(currency) for currency in ("SEK", "USD", "SEK")]
    post_all()
    told = failures(*(alice.get(f"/transactions/{each}").json for each in asked))
    assert told == ["currency_mismatch", "limit_exceeded", "currency_mismatch"]
