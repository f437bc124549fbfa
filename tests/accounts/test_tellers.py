"""What a teller may do to accounts: to customers' only, never for themselves or a colleague."""

from collections.abc import Callable

from bank.users.models import Role
from tests.conftest import Person


def test_a_teller_does_not_grant_themselves_an_overdraft(teller: Person, admin: Person) -> None:
    account = teller.open_account()
    answers = [person.patch(f"/accounts/{account['id']}", {"overdraft_limit": "999.00"}) for person in (teller, admin)]
    assert [answer.status_code for answer in answers] == [403, 200]


def test_a_teller_does_not_rename_a_colleagues_account(teller: Person, alice: Person, person: Callable[..., Person]) -> None:
    colleague = person("colleague", Role.TELLER)
    accounts = [who.open_account()["id"] for who in (alice, colleague)]
    answers = [teller.patch(f"/accounts/{account_id}", {"name": "Renamed"}) for account_id in accounts]
    assert [answer.status_code for answer in answers] == [200, 404]


def test_a_teller_does_not_take_back_what_they_paid(teller: Person, alice: Person, admin: Person, post_all: Callable[[], None]) -> None:
    account = teller.open_account()
    admin.post("/transactions/credit", {"account_id": account["id"], "amount": "10.00", "currency": "USD"})
    post_all()
    paid = teller.post("/transactions/transfer", {"to_username": alice.username, "amount": "10.00", "currency": "USD"}).json
    post_all()
    answers = [person.post(f"/transactions/{paid['id']}/rollback", {"reason": "mine"}) for person in (teller, admin)]
    assert [answer.status_code for answer in answers] == [403, 202]


def test_a_teller_opens_accounts_for_customers_and_not_for_colleagues(teller: Person, alice: Person, person: Callable[..., Person]) -> None:
    colleague = person("colleague", Role.TELLER)
    answers = [teller.post("/accounts", {"currency": "USD", "user_id": who.id}) for who in (alice, colleague)]
    assert [answer.status_code for answer in answers] == [201, 404]


def test_a_currency_the_sender_does_not_hold_opens_nothing_for_the_recipient(alice: Person, bob: Person) -> None:
    account = alice.open_account("USD")
    body = {"from_account_id": account["id"], "to_username": bob.username, "amount": "1.00", "currency": "CHF"}
    refused = alice.post("/transactions/transfer", body)
    assert (refused.status_code, refused.json["code"]) == (422, "currency_mismatch")
    assert bob.get("/accounts").json["data"] == []
