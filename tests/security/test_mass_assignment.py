"""What is not a field of a change changes nothing, and a role that is taken away is gone at once."""

from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import text

from bank.db import reader
from bank.users.models import Role
from tests.conftest import Person
from tests.security.cast import Cast, cast

FIELDS = (
    "id",
    "role",
    "status",
    "user_id",
    "from_user_id",
    "balance",
    "amount",
    "held",
    "version",
    "created_at",
    "password_hash",
    "is_default",
)

# Each change, as its owner asks for it, with what it may name; and the rows it would be seen in.
CHANGES = {
    "PUT /users/{user_id}": ({"username", "email", "password", "current_password", "role", "status"}, "users WHERE id = '{user_id}'"),
    "PATCH /accounts/{account_id}": (
        {"name", "status", "overdraft_limit"},
        "accounts a JOIN balances b ON b.account_id = a.id WHERE a.id = '{account_id}'",
    ),
    "PATCH /schedules/{schedule_id}": (
        {"name", "amount", "description", "run_at", "recurrence", "misfire", "retry", "status"},
        "schedules WHERE id = '{schedule_id}'",
    ),
}
GOOD = {"PUT /users/{user_id}": {"email": "other@example.com"}}


@pytest.fixture(scope="module")
def who(app: Flask, password_hash: str, post_all: Callable[[], None]) -> Cast:
    return cast(app, password_hash, post_all)


def rows(app: Flask, tables: str) -> list[str]:
    with app.app_context(), reader() as session:
        return [str(row) for row in session.execute(text(f"SELECT * FROM {tables}"))]


@pytest.mark.parametrize(
    ("change", "field"), [(change, field) for change in CHANGES for field in FIELDS if field not in CHANGES[change][0]]
)
def test_what_is_no_field_of_a_change_is_refused_and_the_row_stays(app: Flask, who: Cast, change: str, field: str) -> None:
    tables = CHANGES[change][1]
    method, path = who.fill(change).split()
    before = rows(app, who.fill(tables))
    good = GOOD.get(change, {"name": "Mine"})
    for column in ("owner", "admin"):
        response = who.people[column].request(method, path, json={**good, field: "1"})
        assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, f"/{field}")
    assert rows(app, who.fill(tables)) == before


@pytest.mark.parametrize("fields", [{"status": "active"}, {"overdraft_limit": "1000.00"}, {"name": "Mine", "status": "closed"}], ids=str)
def test_what_only_staff_may_set_is_refused_to_the_owner_and_the_row_stays(app: Flask, who: Cast, fields: dict[str, str]) -> None:
    tables = who.fill(CHANGES["PATCH /accounts/{account_id}"][1])
    before = rows(app, tables)
    assert who.people["owner"].patch(who.fill("/accounts/{account_id}"), fields).status_code == 403
    assert rows(app, tables) == before


def test_a_demotion_holds_from_the_next_request_on(admin: Person, person: Callable[..., Person], alice: Person) -> None:
    demoted = person("demoted", Role.TELLER)
    assert demoted.get(f"/users/{alice.id}").status_code == 200
    assert admin.request("PUT", f"/users/{demoted.id}", json={"role": "customer"}).status_code == 200
    # By the same token, which was made for a teller.
    assert [demoted.get(path).status_code for path in (f"/users/{alice.id}", "/users")] == [404, 403]
