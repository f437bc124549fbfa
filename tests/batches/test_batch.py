"""Batches: in order, all or none, or each by itself."""


def transfer(source, target, amount, **more):
    return {"type": "transfer", "from_account_id": source, "to_account_id": target, "amount": amount, "currency": "USD", **more}


def test_smoke(alice, bob, funded, post_all):
    a, b = funded(alice), funded(bob, None)
    r = alice.post("/transactions/batch", {"mode": "independent", "transactions": [transfer(a, b, "1.00", reference="x"), transfer(a, b, "1000.00")]})
    assert r.status_code == 202, r.text
    post_all()
    found = alice.get(r.headers["Location"].removeprefix("/api/v1"))
    print(found.text)
    assert found.json["counts"]["completed"] == 1
