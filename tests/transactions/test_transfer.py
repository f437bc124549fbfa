"""A transfer, from the request to the entries."""


def test_a_deposit_and_a_transfer_are_posted_with_two_sides(alice, bob, post_all):
    account = alice.open_account()
    response = alice.post("/transactions/credit", {"account_id": account["id"], "amount": "100.00", "currency": "USD"})
    assert response.status_code == 202, response.json
    assert response.json["status"] == "pending"
    post_all()
    response = alice.post("/transactions/transfer", {"to_username": bob.username, "amount": "12.34", "currency": "USD"})
    assert response.status_code == 202, response.json
    post_all()
    found = alice.get(response.headers["Location"].removeprefix("/api/v1")).json
    assert found["status"] == "completed"
    assert [entry["amount"] for entry in found["entries"]] == ["-12.34", "12.34"]
    assert alice.get("/balances/current").json["data"][0]["amount"] == "87.66"
    assert bob.get("/balances/current").json["data"][0]["amount"] == "12.34"
