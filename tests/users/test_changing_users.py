"""Who may change what of whom, and what a change ends."""

import json
import re
import secrets
import threading
from collections.abc import Callable
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.auth import passwords, throttle
from bank.db import reader, unit_of_work
from bank.users.models import Role
from tests.conftest import PASSWORD, Person

NEW = "a few unrelated nouns"


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


def put(who: Person, user_id: str, headers: dict[str, str] | None = None, /, **fields: Any) -> TestResponse:
    body = json.dumps(fields)
    return who.request("PUT", f"/users/{user_id}", data=body, content_type="application/json", headers=headers or {})


def rows(app: Flask, query: str, **parameters: Any) -> list[Any]:
    with app.app_context(), reader() as session:
        return list(session.execute(text(query), parameters))


def untouched(app: Flask, user_id: str) -> str:
    """Everything that is stored of a user, to compare."""
    (row,) = rows(app, "SELECT CAST(u AS text) FROM users u WHERE id = :id", id=user_id)
    return f"{row[0]} {rows(app, 'SELECT count(*) FROM events WHERE stream_id = :id', id=user_id)}"


def log_in(who: Person, password: str, name: str | None = None) -> TestResponse:
    return who.client.post("/api/v1/auth/login", json={"username": name or who.username, "password": password})


def test_a_user_changes_their_own_name_and_email(app: Flask, alice: Person) -> None:
    before = alice.get("/auth/me").json
    name = f"anna-{secrets.token_hex(5)}"
    response = put(alice, alice.id, username=name, email=f"{name}@example.com")
    assert response.status_code == 200
    assert response.json == {**before, "username": name, "email": f"{name}@example.com", "updated_at": response.json["updated_at"]}
    assert response.json["updated_at"] > before["updated_at"]
    assert response.headers["ETag"] == '"2"'
    assert alice.get("/auth/me").json == response.json
    assert log_in(alice, PASSWORD, name).status_code == 200
    assert log_in(alice, PASSWORD).status_code == 401


def test_what_is_left_out_stays(alice: Person) -> None:
    name = f"anna-{secrets.token_hex(5)}"
    assert put(alice, alice.id, username=name).json["email"] == f"{alice.username}@example.com"
    assert put(alice, alice.id, email=f"{name}@example.com").json["username"] == name


def test_a_change_appends_its_event_and_its_audit_row(app: Flask, alice: Person, admin: Person) -> None:
    name = f"anna-{secrets.token_hex(5)}"
    put(alice, alice.id, username=name)
    put(admin, alice.id, role="teller", status="frozen")
    events = rows(app, "SELECT * FROM events WHERE stream_id = :id ORDER BY version", id=alice.id)
    assert [(event.type, event.version) for event in events] == [("UserRegistered", 1), ("UserChanged", 2), ("UserChanged", 3)]
    salts = [event.data.pop("salt") for event in events]
    assert len({*salts}) == 3 and all(re.fullmatch("[0-9a-f]{32}", salt) for salt in salts)
    assert events[1].data == {
        "username": name, "email": f"{alice.username}@example.com", "role": "customer", "status": "active", "password": False
    }  # fmt: skip
    assert events[2].data == {**events[1].data, "role": "teller", "status": "frozen"}
    assert [str(event.actor_id) for event in events[1:]] == [alice.id, admin.id]
    audits = rows(app, "SELECT * FROM audit_logs WHERE entity_id = :id AND action = 'user.changed' ORDER BY id", id=alice.id)
    assert [(audit.details, str(audit.actor_id), audit.address) for audit in audits] == [
        ({"changed": ["username"]}, alice.id, "127.0.0.1"),
        ({"role": "teller", "status": "frozen"}, admin.id, "127.0.0.1"),
    ]
    assert audits[0].request_id == events[1].request_id is not None


def test_a_change_to_what_it_is_already_changes_nothing(app: Flask, alice: Person, admin: Person) -> None:
    before = untouched(app, alice.id)
    assert put(alice, alice.id, username=alice.username, email=f"{alice.username}@example.com").headers["ETag"] == '"1"'
    assert put(admin, alice.id, role="customer", status="active").status_code == 200
    assert untouched(app, alice.id) == before


def test_the_case_of_ones_own_name_may_change(alice: Person) -> None:
    assert put(alice, alice.id, username=alice.username.upper()).json["username"] == alice.username.upper()


def test_a_taken_name_or_email_is_a_409(app: Flask, alice: Person, bob: Person) -> None:
    before = untouched(app, alice.id)
    for taken in ({"username": bob.username.upper()}, {"email": f"{bob.username}@EXAMPLE.com"}):
        response = put(alice, alice.id, **taken)
        assert (response.status_code, response.json["code"]) == (409, "already_taken")
    assert untouched(app, alice.id) == before


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.TELLER, Role.AUDITOR])
@pytest.mark.parametrize(
    "fields", [{"role": "admin"}, {"status": "active"}, {"role": "customer"}, {"role": "admin", "username": "x1x"}], ids=str
)
def test_nobody_but_an_admin_changes_a_role_or_status(
    app: Flask, person: Callable[..., Person], role: Role, fields: dict[str, str]
) -> None:
    who = person("somebody", role)
    before = untouched(app, who.id)
    response = put(who, who.id, **fields)
    assert (response.status_code, response.json["code"]) == (403, "forbidden")
    assert untouched(app, who.id) == before


@pytest.mark.parametrize("role", [Role.TELLER, Role.AUDITOR])
def test_staff_who_may_read_a_customer_may_not_change_them(app: Flask, alice: Person, person: Callable[..., Person], role: Role) -> None:
    who, before = person("staff", role), untouched(app, alice.id)
    assert put(who, alice.id, username="mallory").status_code == 403
    assert who.request("DELETE", f"/users/{alice.id}").status_code == 403
    assert untouched(app, alice.id) == before


@pytest.mark.parametrize("field", ["id", "version", "password_hash", "created_at", "updated_at", "balance", "user_id", "is_admin"])
def test_no_other_field_is_taken_not_even_of_an_admin(app: Flask, alice: Person, admin: Person, field: str) -> None:
    before = untouched(app, alice.id)
    for who in (alice, admin):
        response = put(who, alice.id, email="other@example.com", **{field: "1"})
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json["errors"]] == [f"/{field}"]
    assert untouched(app, alice.id) == before


@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field in ("username", "email", "password", "role", "status") for value in (None, 5, 1.5, True, [], {}, "", "a\x00")]
    + [("username", "ab"), ("username", "x" * 65), ("username", "a b"), ("email", "nobody"), ("email", "a@b"), ("role", "root")]
    + [("role", "ADMIN"), ("status", "deleted"), ("status", "gone"), ("password", "short"), ("password", "x" * 257)]
    + [("password", "passwordpassword")],
    ids=lambda value: repr(value)[:30],
)
def test_bad_input_is_a_422_that_names_the_field(app: Flask, admin: Person, field: str, value: Any) -> None:
    before = untouched(app, admin.id)
    current = {"current_password": PASSWORD} if field == "password" else {}
    response = put(admin, admin.id, **{field: value}, **current)
    assert response.status_code == 422, response.json
    assert [error["pointer"] for error in response.json["errors"]] == [f"/{field}"]
    assert untouched(app, admin.id) == before


@pytest.mark.parametrize("fields", [{}, {"current_password": PASSWORD}], ids=str)
def test_a_change_of_nothing_is_refused(alice: Person, fields: dict[str, Any]) -> None:
    assert put(alice, alice.id, **fields).status_code == 422


def test_a_new_password_needs_the_current_one(app: Flask, alice: Person) -> None:
    before = untouched(app, alice.id)
    for current in ({}, {"current_password": "wrong"}, {"current_password": NEW}):
        response = put(alice, alice.id, password=NEW, **current)
        assert response.status_code == 422
        assert [error["pointer"] for error in response.json["errors"]] == ["/current_password"]
    assert untouched(app, alice.id) == before
    assert alice.get("/auth/me").status_code == 200


def test_a_new_password_ends_every_login_at_once(app: Flask, alice: Person) -> None:
    other = log_in(alice, PASSWORD).json
    response = put(alice, alice.id, password=NEW, current_password=PASSWORD)
    assert response.status_code == 200
    assert "password" not in response.text
    assert response.headers["ETag"] == '"2"'
    assert alice.get("/auth/me").status_code == 401
    for token, path in ((other["access_token"], "/me"), (other["refresh_token"], "/refresh")):
        method = "POST" if path == "/refresh" else "GET"
        assert alice.client.open(f"/api/v1/auth{path}", method=method, headers={"Authorization": f"Bearer {token}"}).status_code == 401
    reasons = rows(app, "SELECT DISTINCT end_reason FROM logins WHERE user_id = :id", id=alice.id)
    assert [tuple(row) for row in reasons] == [("password_changed",)]
    assert log_in(alice, PASSWORD).status_code == 401
    assert log_in(alice, NEW).status_code == 200
    (event,) = rows(app, "SELECT data FROM events WHERE stream_id = :id AND version = 2", id=alice.id)
    assert event.data["password"] is True
    assert NEW not in str(event.data)


def test_of_two_new_passwords_at_once_the_second_is_refused(app: Flask, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    verify = passwords.verify

    def overtaken(hashed: str | None, password: str) -> bool:
        good = verify(hashed, password)
        with unit_of_work() as session:
            other = passwords.hash("the password of the first")
            session.execute(text("UPDATE users SET password_hash = :other WHERE id = :id"), {"other": other, "id": alice.id})
        return good

    monkeypatch.setattr(passwords, "verify", overtaken)
    assert put(alice, alice.id, password=NEW, current_password=PASSWORD).status_code == 409
    monkeypatch.setattr(passwords, "verify", verify)
    assert log_in(alice, NEW).status_code == 401
    assert log_in(alice, "the password of the first").status_code == 200


def test_guessing_the_current_password_has_to_wait(alice: Person) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert put(alice, alice.id, password=NEW, current_password="wrong").status_code == 422
    # A slow machine needs some more, since the first wait is a second.
    refused = next(
        response for _ in range(5) if (response := put(alice, alice.id, password=NEW, current_password="wrong")).status_code == 429
    )
    assert refused.headers["Retry-After"]
    assert put(alice, alice.id, password=NEW, current_password=PASSWORD).status_code == 429
    # That is no reason to keep the user from logging in.
    assert log_in(alice, PASSWORD).status_code == 200


def test_an_admin_sets_anothers_password_and_must_know_their_own(app: Flask, alice: Person, admin: Person) -> None:
    assert put(admin, alice.id, password=NEW).status_code == 200
    assert log_in(alice, NEW).status_code == 200
    assert alice.get("/auth/me").status_code == 401
    assert put(admin, admin.id, password=NEW).status_code == 422
    assert put(admin, alice.id, password="short").status_code == 422


def test_an_admin_gives_a_password_to_who_has_none(app: Flask, alice: Person, admin: Person) -> None:
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET password_hash = NULL WHERE id = :id"), {"id": alice.id})
    assert put(alice, alice.id, password=NEW, current_password="").status_code == 422
    assert put(alice, alice.id, password=NEW, current_password="the password of nobody").status_code == 422
    assert put(admin, alice.id, password=NEW).status_code == 200
    assert log_in(alice, NEW).status_code == 200


def test_the_new_name_counts_when_the_password_is_judged(alice: Person) -> None:
    response = put(alice, alice.id, username="threepwood-guy", password="threepwood-guy1", current_password=PASSWORD)
    assert [error["pointer"] for error in response.json["errors"]] == ["/password"]


def test_a_freeze_ends_every_login_and_its_lifting_brings_none_back(app: Flask, alice: Person, admin: Person) -> None:
    refresh = log_in(alice, PASSWORD).json["refresh_token"]
    assert put(admin, alice.id, status="frozen").json["status"] == "frozen"
    assert alice.get("/auth/me").status_code == 401
    assert log_in(alice, PASSWORD).json["code"] == "invalid_credentials"
    assert put(admin, alice.id, status="active").status_code == 200
    assert alice.get("/auth/me").status_code == 401
    assert alice.client.post("/api/v1/auth/refresh", headers={"Authorization": f"Bearer {refresh}"}).status_code == 401
    assert log_in(alice, PASSWORD).status_code == 200
    (row,) = rows(app, "SELECT DISTINCT end_reason FROM logins WHERE user_id = :id AND ended_at IS NOT NULL", id=alice.id)
    assert row.end_reason == "user_frozen"


def test_a_role_holds_from_the_next_request_and_ends_no_login(alice: Person, admin: Person) -> None:
    assert alice.get("/users").status_code == 403
    assert put(admin, alice.id, role="auditor").status_code == 200
    assert alice.get("/users").status_code == 200
    assert put(admin, alice.id, role="customer").status_code == 200
    assert alice.get("/users").status_code == 403


def test_if_match_protects_a_change_from_anothers(app: Flask, alice: Person, admin: Person) -> None:
    etag = alice.get(f"/users/{alice.id}").headers["ETag"]
    name = f"anna-{secrets.token_hex(5)}"
    assert put(alice, alice.id, {"If-Match": etag}, username=name).status_code == 200
    before = untouched(app, alice.id)
    for stale in (etag, '"0"', '"x"', f"W/{etag}", 'W/"2"'):
        response = put(admin, alice.id, {"If-Match": stale}, role="teller")
        assert (response.status_code, response.json["code"]) == (412, "precondition_failed"), stale
    assert alice.request("DELETE", f"/users/{alice.id}", headers={"If-Match": etag}).status_code == 412
    assert untouched(app, alice.id) == before
    assert put(admin, alice.id, {"If-Match": '"1", "2"'}, role="teller").status_code == 200
    assert put(admin, alice.id, {"If-Match": "*"}, role="customer").status_code == 200


def test_of_many_changes_at_once_of_one_version_one_wins(app: Flask, alice: Person) -> None:
    barrier, answers = threading.Barrier(8), []

    def go(number: int) -> None:
        mine = Person(alice.id, alice.username, app.test_client(), alice.token)
        barrier.wait()
        answers.append(put(mine, alice.id, {"If-Match": '"1"'}, email=f"{alice.username}{number}@example.com").status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200] + [412] * 7
    assert len(rows(app, "SELECT version FROM events WHERE stream_id = :id", id=alice.id)) == 2


def test_many_changes_at_once_are_numbered_without_a_gap(app: Flask, alice: Person) -> None:
    barrier, answers = threading.Barrier(8), []

    def go(number: int) -> None:
        mine = Person(alice.id, alice.username, app.test_client(), alice.token)
        barrier.wait()
        answers.append(put(mine, alice.id, email=f"{alice.username}{number}@example.com").status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 8
    assert [row.version for row in rows(app, "SELECT version FROM events WHERE stream_id = :id ORDER BY 1", id=alice.id)] == list(
        range(1, 10)
    )
