"""Who may read whom."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text

from bank.db import unit_of_work
from bank.users.models import Role
from tests.conftest import Person

NOBODY = "00000000-0000-7000-8000-000000000000"


def test_a_user_reads_themselves_in_both_places(alice: Person) -> None:
    me, by_id = alice.get("/auth/me"), alice.get(f"/users/{alice.id}")
    assert me.status_code == by_id.status_code == 200
    assert me.json == by_id.json
    assert set(me.json) == {"id", "username", "email", "role", "status", "created_at", "updated_at"}
    assert me.headers["ETag"] == by_id.headers["ETag"] == '"1"'
    assert alice.get("/auth/me", headers={"If-None-Match": '"1"'}).status_code == 304


@pytest.mark.parametrize(
    ("reader", "readable"),
    [
        (Role.CUSTOMER, set()),
        (Role.TELLER, {Role.CUSTOMER}),
        (Role.AUDITOR, set(Role)),
        (Role.ADMIN, set(Role)),
    ],
)
def test_a_role_reads_these_others(person: Callable[..., Person], reader: Role, readable: set[Role]) -> None:
    who = person("reader", reader)
    for role in Role:
        other = person("other", role)
        assert who.get(f"/users/{other.id}").status_code == (200 if role in readable else 404), role


def test_not_yours_is_the_same_answer_as_not_there(alice: Person, bob: Person, admin: Person, teller: Person) -> None:
    def answer(who: Person, method: str, user_id: str, **kwargs: Any) -> tuple[int, Any, set[str]]:
        response = who.request(method, f"/users/{user_id}", **kwargs)
        return response.status_code, {**response.json, "request_id": None, "instance": None}, set(response.headers.keys())

    for method, kwargs in (("GET", {}), ("PUT", {"json": {"username": "mallory"}}), ("PUT", {"json": {"role": "admin"}}), ("DELETE", {})):
        there, nowhere = answer(alice, method, bob.id, **kwargs), answer(alice, method, NOBODY, **kwargs)
        assert there == nowhere
        assert there[0] == 404
        assert answer(teller, method, admin.id, **kwargs) == answer(teller, method, NOBODY, **kwargs)


@pytest.mark.parametrize("user_id", ["1", "x", "me", f"{NOBODY}0", "00000000", "%00", "' OR 1=1"])
def test_an_id_that_is_none_is_a_404(admin: Person, user_id: str) -> None:
    response = admin.get(f"/users/{user_id}")
    assert (response.status_code, response.content_type) == (404, "application/problem+json")


def test_customers_do_not_list(alice: Person) -> None:
    assert alice.get("/users").status_code == 403


def listed(who: Person, **query: Any) -> list[dict[str, Any]]:
    """All pages of two."""
    found: list[dict[str, Any]] = []
    query = {"limit": 2, **query}
    while True:
        response = who.get("/users", query_string=query)
        assert response.status_code == 200, response.json
        found += response.json["data"]
        assert len(response.json["data"]) <= query["limit"]
        if not response.json["has_more"]:
            assert response.json["next_cursor"] is None
            return found
        assert 'rel="next"' in response.headers["Link"]
        query["cursor"] = response.json["next_cursor"]


def test_the_list_is_newest_first_and_stable_while_users_arrive(admin: Person, person: Callable[..., Person]) -> None:
    name = f"lst{secrets.token_hex(4)}"
    ids = [person(name).id for _ in range(5)]
    assert [user["id"] for user in listed(admin, q=name)] == ids[::-1]
    first = admin.get("/users", query_string={"q": name, "limit": 2}).json
    person(name)
    rest = admin.get("/users", query_string={"q": name, "limit": 10, "cursor": first["next_cursor"]}).json
    assert [user["id"] for user in first["data"] + rest["data"]] == ids[::-1]


def test_the_list_filters_by_role_status_and_beginning(app: Flask, admin: Person, auditor: Person, person: Callable[..., Person]) -> None:
    name = f"flt{secrets.token_hex(4)}"
    people = {role: person(name, role) for role in Role}
    frozen = person(name)
    with app.app_context(), unit_of_work() as session:
        session.execute(
            text("UPDATE users SET status = 'frozen', email = :email WHERE id = :id"), {"email": f"x_{name}@b.c", "id": frozen.id}
        )

    def ids(**query: Any) -> set[str]:
        return {user["id"] for user in listed(auditor, **query)}

    everybody = {who.id for who in people.values()} | {frozen.id}
    assert ids(q=name) == ids(q=name.upper()) == everybody
    assert ids(q=name, role="teller") == {people[Role.TELLER].id}
    assert ids(q=name, status="frozen") == {frozen.id}
    assert ids(q=name, status="active") == everybody - {frozen.id}
    assert ids(q=name, status="deleted") == set()
    assert ids(q=people[Role.ADMIN].username) == {people[Role.ADMIN].id}
    # By the email too; and what is special to LIKE is not special here.
    assert ids(q=f"x_{name}@") == {frozen.id}
    assert ids(q=f"xy{name}@") == set()
    for wild in ("%", "_", "\\", f"{name[:-1]}_", f"%{name}"):
        assert not ids(q=wild) & everybody


def test_a_teller_lists_customers_only(teller: Person, person: Callable[..., Person]) -> None:
    name = f"tel{secrets.token_hex(4)}"
    customer, _ = person(name), person(name, Role.AUDITOR)
    assert [user["id"] for user in listed(teller, q=name)] == [customer.id]
    assert listed(teller, q=name, role="auditor") == []


@pytest.mark.parametrize(
    "query",
    [
        *({"role": role} for role in ("root", "", "ADMIN")),
        *({"status": status} for status in ("closed", "")),
        *({"limit": limit} for limit in ("0", "201", "x", "-1", "1.5", "")),
        *({"q": q} for q in ("", "x" * 255, "a\x00b")),
        *({"cursor": cursor} for cursor in ("x", "")),
        {"offset": "5"},
        {"ROLE": "admin"},
    ],
    ids=str,
)
def test_a_bad_query_is_a_422_that_names_the_parameter(admin: Person, query: dict[str, str]) -> None:
    response = admin.get("/users", query_string=query)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json["errors"]] == [f"/{next(iter(query))}"]


def test_a_cursor_belongs_to_its_filters(admin: Person, person: Callable[..., Person]) -> None:
    name = f"cur{secrets.token_hex(4)}"
    for _ in range(3):
        person(name)
    cursor = admin.get("/users", query_string={"q": name, "limit": 1}).json["next_cursor"]
    response = admin.get("/users", query_string={"role": "admin", "limit": 1, "cursor": cursor})
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/cursor")


def test_the_beginning_is_found_by_index(app: Flask) -> None:
    with app.app_context(), unit_of_work() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        query = r"SELECT * FROM users WHERE lower(username) LIKE 'ali\_c%' OR lower(email) LIKE 'ali\_c%' ORDER BY id DESC LIMIT 51"
        session.execute(text("SET LOCAL enable_indexscan = off"))
        plan = "\n".join(session.execute(text(f"EXPLAIN {query}")).scalars())
        assert "uq_users_username" in plan
        assert "uq_users_email" in plan
        assert "~>=~" in plan
