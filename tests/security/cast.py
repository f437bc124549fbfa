"""Customers and staff with one of everything that a path can name, for tests that ask for it as each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask

from bank.users.models import Role
from tests.conftest import Person, people

COLUMNS = ("nobody", "owner", "other", "teller", "auditor", "admin")


@dataclass(frozen=True)
class Cast:
    """`ids` are the owner's things by what a path calls them; `payer_id` is who paid the owner what `transaction_id` and `hold_id` name."""

    people: dict[str, Person]
    ids: dict[str, str]

    def fill(self, value: Any) -> Any:
        """A path, query or body with its {names} replaced by ids."""
        if isinstance(value, dict):
            return {key: self.fill(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self.fill(member) for member in value]
        if isinstance(value, str):
            for name, found in self.ids.items():
                value = value.replace("{" + name + "}", found)
        return value


def made(who: Person, path: str, body: dict[str, Any]) -> str:
    """What somebody has made by a request, by its id."""
    response = who.post(path, body)
    assert 200 <= response.status_code < 300, (path, response.text)
    return str(response.json["id"])


def cast(app: Flask, password_hash: str, post: Callable[[], None], owner: Role = Role.CUSTOMER) -> Cast:
    """A new cast. The owner is a customer, or of another role where that is what is asked about."""
    roles = {"owner": owner, "other": Role.CUSTOMER, "payer": owner, "teller": Role.TELLER, "auditor": Role.AUDITOR, "admin": Role.ADMIN}
    found = people(app, password_hash, roles)
    mine, payer, admin = found["owner"], found["payer"], found["admin"]
    account, payers = mine.open_account()["id"], payer.open_account()["id"]
    for each in (account, payers):
        made(admin, "/transactions/credit", {"account_id": each, "amount": "100.00", "currency": "USD"})
    post()
    ids = {"account_id": account, "payer_account_id": payers, "user_id": mine.id, "payer_id": payer.id, "username": mine.username}
    ids["login_id"] = mine.get("/auth/logins").json["data"][0]["id"]
    paid = {"to_account_id": account, "amount": "5.00", "currency": "USD"}
    ids["transaction_id"] = made(payer, "/transactions/transfer", paid)
    ids["hold_id"] = made(payer, "/transactions/transfer", {**paid, "hold": True})
    item = {"type": "transfer", "to_account_id": payers, "amount": "0.01", "currency": "USD"}
    ids["batch_id"] = made(mine, "/transactions/batch", {"mode": "independent", "transactions": [item]})
    later = {"transfer": {"to_account_id": payers, "amount": "1.00", "currency": "USD"}, "run_at": "2099-01-31T08:00:00Z"}
    ids["schedule_id"] = made(mine, "/schedules", later)
    ids["limit_id"] = made(admin, "/limits", {"user_id": mine.id, "currency": "USD", "kind": "sum", "amount": "1000.00", "window": "day"})
    post()
    rule = made(admin, "/rules", {"name": "Of one", "expression": f'user.id == "{payer.id}"', "effect": "review"})
    ids["review_id"] = made(payer, "/transactions/transfer", paid)
    post()
    # It has done what it is here for, and a bank has fifty at most.
    assert admin.request("DELETE", f"/rules/{rule}").status_code == 204
    return Cast(found, ids)


def add_rule(who: Cast) -> None:
    """A rule for those who ask for one: it is off, since it would be for everybody."""
    rule = {"name": "Off", "expression": "transaction.amount > 1", "effect": "deny", "enabled": False}
    who.ids["rule_id"] = made(who.people["admin"], "/rules", rule)
