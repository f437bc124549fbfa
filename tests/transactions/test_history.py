"""Reading what happened: history with its filters, pages that stay stable, one transaction, and who sees what."""

import pytest


def ids(response):
    assert response.status_code == 200, response.text
    return [row["id"] for row in response.json["data"]]


def pages(who, path, limit):
    """All ids of a list, page by page."""
    found, cursor = [], None
    while True:
        response = who.get(f"{path}{'&' if '?' in path else '?'}limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        found.append(ids(response))
        cursor = response.json["next_cursor"]
        assert response.json["has_more"] is (cursor is not None)
        assert ('rel="next"' in response.headers.get("Link", "")) is (cursor is not None)
        if cursor is None:
            return found


@pytest.fixture(scope="module")
def past(person, funded, post_all):
    """Two accounts of Alice's, one of Bob's, one of Carol's, and what happened between them, oldest first."""
    alice, bob, carol = person("alice"), person("bob"), person("carol")
    dollars, euros = funded(alice, None), funded(alice, None, "EUR")
    other = funded(bob, None)

    def go(who, path, **body):
        response = who.post(f"/transactions/{path}", {"currency": "USD", **body})
        assert response.status_code == 202, response.text
        post_all()
        return response.json["id"]

    happened = {
        "credit": go(alice, "credit", account_id=dollars, amount="100.00", reference="S-1"),
        "euro": go(alice, "credit", account_id=euros, amount="50.00", currency="EUR"),
        "paid": go(alice, "transfer", to_account_id=other, amount="40.00", reference="INV-1"),
        "failed": go(alice, "transfer", to_account_id=other, amount="400.00", reference="INV-1"),
        "debit": go(alice, "debit", account_id=dollars, amount="10.00"),
        "between": go(bob, "credit", account_id=other, amount="5.00"),
    }
    happened["back"] = go_back(bob, happened["paid"], post_all)
    return {"alice": alice, "bob": bob, "carol": carol, "dollars": dollars, "euros": euros, "other": other, **happened}


def go_back(who, transaction_id, post_all):
    response = who.post(f"/transactions/{transaction_id}/rollback", {"reason": "x"})
    post_all()
    return response.json["id"]


def test_a_customers_history_is_that_of_their_accounts_newest_first(past):
    own = ["back", "debit", "failed", "paid", "euro", "credit"]
    assert ids(past["alice"].get("/transactions/history")) == [past[name] for name in own]
    assert ids(past["bob"].get("/transactions/history")) == [past[name] for name in ("back", "between", "failed", "paid")]


FILTERS = {
    "type=credit": ["euro", "credit"],
    "type=debit": ["debit"],
    "type=transfer": ["failed", "paid"],
    "type=rollback": ["back"],
    "status=completed": ["back", "debit", "euro", "credit"],
    "status=failed": ["failed"],
    "status=rolled_back": ["paid"],
    "status=pending": [],
    "currency=EUR": ["euro"],
    "currency=JPY": [],
    "currency=USD&min_amount=40.00": ["back", "failed", "paid", "credit"],
    "currency=USD&max_amount=40.00": ["back", "debit", "paid"],
    "currency=USD&min_amount=40&max_amount=40": ["back", "paid"],
    "currency=USD&min_amount=40.01&max_amount=99.99": [],
    "currency=USD&min_amount=0": ["back", "debit", "failed", "paid", "credit"],
    "reference=INV-1": ["failed", "paid"],
    "reference=inv-1": [],
    "reference=INV-1&status=failed&type=transfer&currency=USD&min_amount=1": ["failed"],
}


@pytest.mark.parametrize("query", FILTERS)
def test_filters_narrow_it_and_join_by_and(past, query):
    assert ids(past["alice"].get(f"/transactions/history?{query}")) == [past[name] for name in FILTERS[query]]


def test_times_are_of_the_recording_from_inclusive_to_exclusive(past):
    alice = past["alice"]
    paid = alice.get(f"/transactions/{past['paid']}").json["created_at"]
    debit = alice.get(f"/transactions/{past['debit']}").json["created_at"]
    assert ids(alice.get(f"/transactions/history?from={paid}&to={debit}")) == [past["failed"], past["paid"]]
    assert ids(alice.get(f"/transactions/history?to={paid}")) == [past["euro"], past["credit"]]
    assert ids(alice.get(f"/transactions/history?from={debit}")) == [past["back"], past["debit"]]


def test_one_account_can_be_named(past):
    alice = past["alice"]
    assert ids(alice.get(f"/transactions/history?account_id={past['euros']}")) == [past["euro"]]
    assert len(ids(alice.get(f"/transactions/history?account_id={past['dollars']}"))) == 5


@pytest.mark.parametrize("who", ["teller", "auditor", "admin"])
def test_staff_read_the_history_of_anybody_and_of_all(past, request, who):
    staff = request.getfixturevalue(who)
    own = ids(past["alice"].get("/transactions/history"))
    assert ids(staff.get(f"/transactions/history?user_id={past['alice'].id}")) == own
    assert ids(staff.get(f"/transactions/history?account_id={past['euros']}")) == [past["euro"]]
    assert set(own) <= set(ids(staff.get("/transactions/history?limit=200")))
    assert staff.get(f"/transactions/history?user_id={past['bob'].id}&account_id={past['euros']}").status_code == 404


def test_a_customer_may_name_themselves_and_nobody_else(past):
    alice, bob = past["alice"], past["bob"]
    assert ids(alice.get(f"/transactions/history?user_id={alice.id}")) == ids(alice.get("/transactions/history"))
    assert alice.get(f"/transactions/history?user_id={bob.id}").status_code == 403
    assert alice.get(f"/transactions/history?account_id={past['other']}").status_code == 404


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 200])
def test_pages_hold_every_row_once(past, limit):
    for query in ("/transactions/history", "/transactions/history?currency=USD&min_amount=1", "/transactions/history?type=credit"):
        found = pages(past["alice"], query, limit)
        whole = ids(past["alice"].get(query))
        assert [row for page in found for row in page] == whole
        assert all(len(page) == limit for page in found[:-1])


def test_a_page_that_is_exactly_full_is_the_last(past):
    response = past["alice"].get("/transactions/history?limit=6")
    assert (len(response.json["data"]), response.json["has_more"], response.json["next_cursor"]) == (6, False, None)


def test_pages_stay_stable_while_rows_arrive(person, funded, post_all):
    alice = person("alice")
    account = funded(alice, None)

    def arrive():
        alice.post("/transactions/credit", {"account_id": account, "amount": "1.00", "currency": "USD"})
        post_all()

    for _ in range(7):
        arrive()
    before = ids(alice.get("/transactions/history"))
    for path, key in (("/transactions/history", "id"), (f"/accounts/{account}/entries", "version")):
        known = [row[key] for row in alice.get(path).json["data"]]
        seen, cursor = [], ""
        while True:
            response = alice.get(f"{path}?limit=2{cursor}").json
            seen += [row[key] for row in response["data"]]
            if not response["has_more"]:
                break
            cursor = f"&cursor={response['next_cursor']}"
            arrive()
        assert seen == known
    assert set(before) < set(ids(alice.get("/transactions/history")))


def test_the_link_leads_to_the_next_page_with_the_same_filters(past):
    response = past["alice"].get("/transactions/history?type=credit&limit=1")
    link = response.headers["Link"]
    path = link[link.index("<") + 1 : link.index(">")].removeprefix("/api/v1")
    assert ids(past["alice"].get(path)) == [past["credit"]]


def test_entries_are_listed_newest_first_with_the_balance_after_each(past):
    response = past["alice"].get(f"/accounts/{past['dollars']}/entries")
    told = [(row["transaction_id"], row["version"], row["amount"], row["balance"]) for row in response.json["data"]]
    assert told == [
        (past["back"], 4, "40.00", "90.00"),
        (past["debit"], 3, "-10.00", "50.00"),
        (past["paid"], 2, "-40.00", "60.00"),
        (past["credit"], 1, "100.00", "100.00"),
    ]
    first = past["alice"].get(f"/accounts/{past['dollars']}/entries?limit=3").json
    rest = past["alice"].get(f"/accounts/{past['dollars']}/entries?limit=3&cursor={first['next_cursor']}").json
    assert [row["version"] for row in rest["data"]] == [1]


READERS = ["alice", "bob", "carol", "teller", "auditor", "admin"]


@pytest.mark.parametrize("who", READERS)
def test_a_transaction_is_shown_to_its_parties_and_to_staff(past, request, who):
    reader_ = past.get(who) or request.getfixturevalue(who)
    response = reader_.get(f"/transactions/{past['paid']}")
    if who == "carol":
        assert (response.status_code, response.json["code"]) == (404, "not_found")
        return
    assert response.status_code == 200
    assert len(response.json["entries"]) == 2
    shown = {"alice": ["60.00", None], "bob": [None, "40.00"]}.get(who, ["60.00", "40.00"])
    assert [entry["balance"] for entry in response.json["entries"]] == shown


@pytest.mark.parametrize("who", READERS)
def test_entries_and_balances_are_shown_to_the_owner_and_to_staff(past, request, who):
    reader_ = past.get(who) or request.getfixturevalue(who)
    expected = 404 if who in ("bob", "carol") else 200
    for path in (
        f"/accounts/{past['dollars']}",
        f"/accounts/{past['dollars']}/entries",
        f"/transactions/history?account_id={past['dollars']}",
        f"/balances/current?account_id={past['dollars']}",
        f"/balances/historical?account_id={past['dollars']}",
        f"/balances/at-time?account_id={past['dollars']}&at=2026-01-31T12:00:00Z",
    ):
        assert reader_.get(path).status_code == expected, path


def test_a_transaction_that_has_not_changed_is_not_sent_again(past, post_all):
    alice = past["alice"]
    response = alice.get(f"/transactions/{past['credit']}")
    again = alice.get(f"/transactions/{past['credit']}", headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    pending = alice.post("/transactions/credit", {"account_id": past["euros"], "amount": "1.00", "currency": "EUR"}).json["id"]
    etag = alice.get(f"/transactions/{pending}").headers["ETag"]
    post_all()
    assert alice.get(f"/transactions/{pending}", headers={"If-None-Match": etag}).status_code == 200


def test_staff_find_what_waits_or_is_held_over_all_lanes(person, teller, funded, post_all):
    alice, bob, carol, dave = (person(name) for name in ("waits_a", "waits_b", "waits_c", "waits_d"))
    sources, target = [funded(who) for who in (alice, bob, carol)], funded(dave, None)
    post_all()

    def pay(who, source, **more):
        response = who.post(
            "/transactions/transfer",
            {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD", **more},
        )
        assert response.status_code == 202, response.text
        return response.json["id"]

    sent = [pay(who, source) for who, source in zip((alice, bob, carol), sources, strict=True)]
    held = pay(alice, sources[0], hold=True)
    waiting = "/transactions/history?status=pending"
    own = [*sent, held]
    # Others' of the suite may be there too: all of ours, newest first, on pages of any size.
    for limit in (2, 200):
        found = [each for page in pages(teller, waiting, limit) for each in page]
        assert [each for each in found if each in own] == own[::-1]
    assert ids(teller.get(f"{waiting}&type=rollback")) == []
    post_all()
    assert not set(own) & set(ids(teller.get(f"{waiting}&limit=200")))
    assert held in ids(teller.get("/transactions/history?status=held"))
    back = go_back(dave, sent[0], post_all)
    assert ids(teller.get("/transactions/history?type=rollback&limit=1")) == [back]
