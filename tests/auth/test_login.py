"""Logging in: what opens the door, and what is the same closed door."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.auth import passwords
from bank.db import reader, unit_of_work
from tests.auth.conftest import LogIn
from tests.conftest import PASSWORD, Person

Call = Callable[..., TestResponse]


def audit_of(app: Flask, user_id: str | None, action: str) -> list[Any]:
    query = text("SELECT * FROM audit_logs WHERE entity_id IS NOT DISTINCT FROM CAST(:id AS uuid) AND action = :action ORDER BY id")
    with app.app_context(), reader() as session:
        return list(session.execute(query, {"id": user_id, "action": action}))


def set_status(app: Flask, user_id: str, status: str) -> None:
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET status = :status WHERE id = :id"), {"status": status, "id": user_id})


def test_the_right_password_gives_tokens(log_in: LogIn, bearer: Call, alice: Person) -> None:
    response = log_in(alice)
    assert response.status_code == 200
    assert set(response.json) == {"access_token", "refresh_token", "token_type", "expires_in"}
    assert (response.json["token_type"], response.json["expires_in"]) == ("Bearer", 900)
    assert response.headers["Cache-Control"] == "no-store"
    assert bearer(response.json["access_token"]).json["id"] == alice.id


def test_the_name_is_read_in_any_case_and_may_be_the_email(log_in: LogIn, alice: Person) -> None:
    for name in (alice.username.upper(), f"{alice.username}@example.com", f"{alice.username}@EXAMPLE.com"):
        assert log_in(name).status_code == 200, name


@pytest.mark.parametrize("wrong", [PASSWORD + " ", " " + PASSWORD, PASSWORD[:-1], PASSWORD.upper(), PASSWORD + "\x01", "x" * 256])
def test_a_password_that_is_nearly_right_is_wrong(log_in: LogIn, alice: Person, wrong: str) -> None:
    assert log_in(alice, wrong).status_code == 401


def test_every_reason_to_refuse_is_the_same_answer_after_the_same_work(
    app: Flask, log_in: LogIn, person: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    alice, frozen, deleted = person("alice"), person("frozen"), person("deleted")
    set_status(app, frozen.id, "frozen")
    set_status(app, deleted.id, "deleted")
    imported = person("imported")
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET password_hash = NULL WHERE id = :id"), {"id": imported.id})
    log_in("warm-up")
    checked: list[str] = []

    class Counting(PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:
            checked.append("verify")
            return super().verify(hash, password)

        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            checked.append("hash")
            return super().hash(password, salt=salt)

    monkeypatch.setattr(passwords, "hasher", Counting(time_cost=1, memory_cost=64, parallelism=1))
    log_in("warm-up")

    answers, work = [], []
    cases = [(alice.username, "wrong password"), ("nobody-is-called-so", PASSWORD), ("nobody@example.com", PASSWORD)]
    cases += [(frozen.username, PASSWORD), (deleted.username, PASSWORD), (imported.username, PASSWORD)]
    for name, password in cases:
        checked.clear()
        response = log_in(name, password)
        answers.append((response.status_code, {**response.json, "request_id": None}, set(response.headers.keys())))
        work.append(list(checked))
    assert all(answer == answers[0] for answer in answers)
    assert (answers[0][0], answers[0][1]["code"]) == (401, "invalid_credentials")
    assert work == [["verify"]] * len(work)


def test_both_outcomes_are_audited_without_the_name_or_the_password(app: Flask, log_in: LogIn, alice: Person) -> None:
    log_in(alice, "a wrong password")
    failed = audit_of(app, alice.id, "login.failed")
    assert [(row.entity_type, row.actor_id, row.address, row.details) for row in failed] == [("user", None, "192.0.2.1", {})]
    before = len(audit_of(app, None, "login.failed"))
    log_in("a password in the field for the name")
    unknown = audit_of(app, None, "login.failed")
    assert len(unknown) == before + 1
    assert unknown[-1].details == {}
    log_in(alice)
    with app.app_context(), reader() as session:
        began = text("SELECT a.* FROM audit_logs a JOIN logins l ON l.id = a.entity_id WHERE l.user_id = :id AND action = 'login.began'")
        row = session.execute(began, {"id": alice.id}).one()
    assert (row.entity_type, str(row.actor_id), row.address) == ("login", alice.id, "192.0.2.1")


def test_no_password_and_no_token_is_kept_anywhere(app: Flask, log_in: LogIn, alice: Person) -> None:
    tokens = log_in(alice).json
    log_in(alice, "this secret is nowhere")
    log_in("this secret is nowhere either", "x")
    with app.app_context(), reader() as session:
        for table in ("users", "logins", "login_failures", "audit_logs", "events"):
            kept = " ".join(session.execute(text(f"SELECT CAST(t AS text) FROM {table} t")).scalars())
            for secret in (PASSWORD, "this secret is nowhere", tokens["access_token"], tokens["refresh_token"]):
                assert secret not in kept, table


def test_a_hash_of_weaker_parameters_is_replaced_at_the_next_login(
    app: Flask, log_in: LogIn, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored() -> str:
        with app.app_context(), reader() as session:
            return str(session.execute(text("SELECT password_hash FROM users WHERE id = :id"), {"id": alice.id}).scalar_one())

    log_in(alice)
    weak = stored()
    assert "m=64,t=1,p=1" in weak
    monkeypatch.setattr(passwords, "hasher", PasswordHasher(time_cost=2, memory_cost=128, parallelism=1))
    assert log_in(alice, "wrong").status_code == 401
    assert stored() == weak
    assert log_in(alice).status_code == 200
    assert "m=128,t=2,p=1" in stored()
    assert log_in(alice).status_code == 200


def test_a_login_that_a_password_change_overtakes_is_refused(
    app: Flask, log_in: LogIn, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = passwords.verify

    def overtaken(hashed: str | None, password: str) -> bool:
        good = verify(hashed, password)
        with unit_of_work() as session:
            other = passwords.hash("another password")
            session.execute(text("UPDATE users SET password_hash = :other WHERE id = :id"), {"other": other, "id": alice.id})
        return good

    monkeypatch.setattr(passwords, "verify", overtaken)
    assert log_in(alice).status_code == 401


def test_an_accent_is_the_same_however_it_is_typed(client: FlaskClient, log_in: LogIn, alice: Person) -> None:
    name = alice.username + "x"
    body = {"username": name, "email": f"{name}@example.com", "password": "caf\u00e9 au lait, bitte"}
    assert client.post("/api/v1/auth/register", json=body).status_code == 201
    assert log_in(name, "cafe\u0301 au lait, bitte").status_code == 200
    assert log_in(name, "\uff43afe\u0301 au lait, bitte").status_code == 200
    assert log_in(name, "cafe au lait, bitte").status_code == 401


@pytest.mark.parametrize("field", ["username", "password"])
@pytest.mark.parametrize("value", [None, 5, 1.5, True, [], {}, "", "x" * 257, "a\x00b", "\ud800"], ids=repr)
def test_bad_input_is_a_422_that_names_the_field(client: FlaskClient, field: str, value: Any) -> None:
    body = json.dumps({"username": "alice", "password": PASSWORD, field: value})
    response = client.post("/api/v1/auth/login", data=body, content_type="application/json")
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json["errors"]] == [f"/{field}"]
    missing = {"username": "alice", "password": PASSWORD}
    del missing[field]
    response = client.post("/api/v1/auth/login", json=missing)
    assert [error["pointer"] for error in response.json["errors"]] == [f"/{field}"]


def test_an_unknown_field_is_refused(client: FlaskClient, alice: Person) -> None:
    response = client.post("/api/v1/auth/login", json={"username": alice.username, "password": PASSWORD, "role": "admin"})
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/role")


@pytest.mark.parametrize(("body", "kind", "status"), [(b"{", "application/json", 400), (b"x=1", "application/x-www-form-urlencoded", 415)])
def test_what_is_not_json_is_refused(client: FlaskClient, body: bytes, kind: str, status: int) -> None:
    assert client.post("/api/v1/auth/login", data=body, content_type=kind).status_code == status
