"""A currency in which nobody has an account, so that the bank has none in it either."""

import pytest


@pytest.mark.parametrize("kind", ["credit", "debit"])
def test_it_is_refused_like_any_other_mismatch_and_does_not_stop_the_lane(alice, post_all, kind):
    account = alice.open_account("EUR")
    body = {"account_id": account["id"], "amount": "5", "currency": "XAF"}
    preview = alice.post(f"/transactions/{kind}?dry_run=true", body)
    assert (preview.status_code, preview.json["failure_code"]) == (200, "currency_mismatch")
    odd = alice.post(f"/transactions/{kind}", body)
    good = alice.post("/transactions/credit", {**body, "currency": "EUR"})
    post_all()
    assert alice.get(f"/transactions/{odd.json['id']}").json["failure_code"] == "currency_mismatch"
    assert alice.get(f"/transactions/{good.json['id']}").json["status"] == "completed"
