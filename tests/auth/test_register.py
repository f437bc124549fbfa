"""Registering a customer, and nothing more."""

import json
import re
import secrets
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank import create_app
from bank.auth import passwords
from bank.config import Config
from bank.db import reader
from bank.web.limits import limiter
from tests.conftest import PASSWORD, Person

Register = Callable[..., TestResponse]


@pytest.fixture
def register(client: FlaskClient) -> Register:
    """Register somebody with some fields changed (missing: `...`)."""

    def post(**changes: Any) -> TestResponse:
        name = f"dora-{secrets.token_hex(5)}"
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD, **changes}
        body = {key: value for key, value in body.items() if value is not ...}
        return client.post("/api/v1/auth/register", data=json.dumps(body), content_type="application/json")

    return post


def count(app: Flask, table: str = "users") -> int:
    with app.app_context(), reader() as session:
        return int(session.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_user_is_made_and_shown_without_the_hash(app: Flask, register: Register) -> None:
    response = register(username="Eve.Adams-1", email="Eve@Example.com")
    assert response.status_code == 201
    user = response.json
    assert set(user) == {"id", "username", "email", "role", "status", "created_at", "updated_at"}
    assert (user["username"], user["email"], user["role"], user["status"]) == ("Eve.Adams-1", "Eve@Example.com", "customer", "active")
    assert user["created_at"] == user["updated_at"]
    assert user["created_at"].endswith("Z")
    assert len(user["created_at"]) == 27
    assert response.headers["Location"] == f"/api/v1/users/{user['id']}"
    assert response.headers["ETag"] == '"1"'


def test_it_opens_nothing_and_logs_nobody_in(app: Flask, register: Register) -> None:
    before = [count(app, table) for table in ("accounts", "logins", "transactions")]
    register()
    assert [count(app, table) for table in ("accounts", "logins", "transactions")] == before


def test_it_appends_an_event_and_an_audit_row(app: Flask, register: Register) -> None:
    user = register().json
    with app.app_context(), reader() as session:
        event = session.execute(text("SELECT * FROM events WHERE stream_id = :id"), {"id": user["id"]}).one()
        audit = session.execute(text("SELECT * FROM audit_logs WHERE entity_id = :id"), {"id": user["id"]}).one()
    assert (event.type, event.version, event.actor_id) == ("UserRegistered", 1, None)
    assert re.fullmatch("[0-9a-f]{32}", event.data.pop("salt"))
    assert event.data == {"username": user["username"], "email": user["email"], "role": "customer", "status": "active"}
    assert (audit.entity_type, audit.action, audit.details) == ("user", "user.registered", {"role": "customer"})
    assert audit.request_id == event.request_id is not None


@pytest.mark.parametrize("field", ["role", "status", "id", "balance", "user_id", "version", "password_hash", "created_at"])
def test_no_other_field_is_taken(app: Flask, register: Register, field: str) -> None:
    before = count(app)
    response = register(**{field: "admin"})
    assert response.status_code == 422
    assert response.json["errors"] == [{"pointer": f"/{field}", "message": "Unknown field."}]
    assert count(app) == before


def test_a_name_or_email_is_taken_in_any_case(app: Flask, register: Register) -> None:
    user = register().json
    before = count(app)
    for taken in (
        {"username": user["username"]},
        {"username": user["username"].upper()},
        {"email": user["email"]},
        {"email": user["email"].upper()},
        {"username": user["username"], "email": user["email"]},
    ):
        response = register(**taken)
        assert (response.status_code, response.json["code"]) == (409, "already_taken")
        # Which of the two it was is not said.
        assert response.json["detail"] == "The username or the email is already taken"
    assert count(app) == before


def test_a_taken_name_costs_the_same_work(register: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    user, hashed = register().json, []
    original = passwords.hash
    monkeypatch.setattr(passwords, "hash", lambda password: hashed.append(1) or original(password))
    assert register().status_code == 201
    assert register(username=user["username"]).status_code == 409
    assert len(hashed) == 2


def test_of_many_who_want_a_name_at_once_one_gets_it(app: Flask) -> None:
    name, barrier, answers = f"dora-{secrets.token_hex(5)}", threading.Barrier(8), []

    def go(number: int) -> None:
        barrier.wait()
        body = {"username": name, "email": f"{name}{number}@example.com", "password": PASSWORD}
        answers.append(app.test_client().post("/api/v1/auth/register", json=body).status_code)

    threads = [threading.Thread(target=go, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201] + [409] * 7


_NO_TEXT = [None, ..., 5, 1.5, True, [], {}, "", "a\x00b", "\ud800", "a\nb"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", value)
        for value in [*_NO_TEXT, "ab", "x" * 65, ".dot", "-dash", "_line", "a b", "a@b", "ali/ce", "\u0430lice", "alicé", "a\u202eb"]
    ]
    + [("email", value) for value in [*_NO_TEXT, "a", "a@b", "@example.com", "a@", "a b@example.com", "a@exam ple.com", "a@example..com"]]
    + [("email", value) for value in ["a@-example.com", "a@example-.com", "a@b@example.com", f"{'x' * 65}@example.com", "ä@example.com"]]
    + [("email", value) for value in [".a@example.com", "a.@example.com", "a..b@example.com"]]
    + [("email", f"a@{'x' * 60}.{'y' * 60}.{'z' * 60}.{'w' * 60}.{'v' * 20}.com"), ("email", "a@example.com\r\nBcc: b@example.com")]
    + [("password", value) for value in [*_NO_TEXT[:-1], "x" * 257, "short", "passwordpassword", "123456789012"]],
    ids=lambda value: repr(value)[:30],
)
def test_bad_input_is_a_422_that_names_the_field_and_writes_nothing(app: Flask, register: Register, field: str, value: Any) -> None:
    before = count(app)
    response = register(**{field: value})
    assert response.status_code == 422, response.json
    assert response.json["code"] == "validation_failed"
    assert [error["pointer"] for error in response.json["errors"]] == [f"/{field}"]
    if isinstance(value, str) and len(value) > 8 and value.isascii():
        assert value not in response.text
    assert count(app) == before


@pytest.mark.parametrize("value", ["abc", "x" * 64, "0start", "a.b_c-d"])
def test_names_at_the_edge_are_taken(register: Register, value: str) -> None:
    name = value if len(value) == 64 else f"{value}{secrets.token_hex(4)}"
    assert register(username=name).status_code == 201


@pytest.mark.parametrize("local", ["a.b.c", "!#$%&'*+-/=?^_`{|}~", "x" * 32])
def test_emails_at_the_edge_are_taken(register: Register, local: str) -> None:
    # 64 characters may stand before the @.
    email = f"{local}.{secrets.token_hex(32)}"[:64] + "@example.com"
    response = register(email=email)
    assert response.status_code == 201, response.json
    assert response.json["email"] == email


@pytest.mark.parametrize("body", ["[]", '"x"', "null", "5", "", "{", '{"username": "a", "username": "b"}', '{"password": NaN}'])
def test_what_is_no_object_is_refused(client: FlaskClient, body: str) -> None:
    response = client.post("/api/v1/auth/register", data=body, content_type="application/json")
    assert response.status_code in (400, 422)
    assert response.content_type == "application/problem+json"


def test_who_is_logged_in_gets_no_more_by_registering(alice: Person, admin: Person) -> None:
    name = f"dora-{secrets.token_hex(5)}"
    response = admin.post("/auth/register", {"username": name, "email": f"{name}@example.com", "password": PASSWORD})
    assert response.json["role"] == "customer"


def test_an_address_may_only_try_so_often(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    # The limiter belongs to the process; the other tests go on without.
    monkeypatch.setattr(limiter, "enabled", limiter.enabled)
    limited = Config.from_env({**environ, "RATELIMIT_ENABLED": "true", "BANK_RATE_LIMIT_AUTH": "3 per minute"})
    client = create_app(limited).test_client()
    address = {"REMOTE_ADDR": f"203.0.113.{secrets.randbelow(256)}"}
    # Another Authorization header does not make another caller, and both routes are for the same guesses.
    answers = [
        client.post(f"/api/v1/auth/{route}", json={}, environ_overrides=address, headers={"Authorization": f"Bearer {number}"})
        for route in ("login", "register")
        for number in range(5)
    ]
    assert [answer.status_code for answer in answers] == [422] * 3 + [429] * 7
    assert answers[3].json["code"] == "too_many_requests"
    assert 0 < int(answers[3].headers["Retry-After"]) <= 60
