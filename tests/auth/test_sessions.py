"""Refresh tokens are spent once; a logout is a logout at once."""

import threading
from collections.abc import Callable

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.db import reader
from tests.auth.conftest import LogIn
from tests.conftest import Person

Call = Callable[..., TestResponse]


@pytest.fixture
def refresh(bearer: Call) -> Callable[[str], TestResponse]:
    return lambda token: bearer(token, "/auth/refresh", "POST")


def login_row(app: Flask, user_id: str) -> tuple[bool, str | None]:
    query = text("SELECT ended_at IS NOT NULL, end_reason FROM logins WHERE user_id = :id ORDER BY id DESC LIMIT 1")
    with app.app_context(), reader() as session:
        return tuple(session.execute(query, {"id": user_id}).one())  # type: ignore[return-value]


def test_a_refresh_gives_new_tokens_of_the_same_login(log_in: LogIn, bearer: Call, refresh: Call, alice: Person) -> None:
    tokens = log_in(alice).json
    for _ in range(3):
        response = refresh(tokens["refresh_token"])
        assert response.status_code == 200
        assert set(response.json) == set(tokens)
        assert response.json["refresh_token"] != tokens["refresh_token"]
        tokens = response.json
        assert bearer(tokens["access_token"]).status_code == 200


def test_a_spent_refresh_token_ends_the_whole_login(app: Flask, log_in: LogIn, bearer: Call, refresh: Call, alice: Person) -> None:
    elsewhere = log_in(alice).json
    first = log_in(alice).json
    second = refresh(first["refresh_token"]).json
    stolen = refresh(first["refresh_token"])
    assert (stolen.status_code, stolen.json["code"]) == (401, "unauthenticated")
    assert login_row(app, alice.id) == (True, "refresh_reused")
    for token in (first["access_token"], second["access_token"]):
        assert bearer(token).status_code == 401
    assert refresh(second["refresh_token"]).status_code == 401
    # Another login of the same user is another family.
    assert bearer(elsewhere["access_token"]).status_code == 200
    assert refresh(elsewhere["refresh_token"]).status_code == 200


def test_the_reuse_is_audited_once(app: Flask, log_in: LogIn, refresh: Call, alice: Person) -> None:
    token = log_in(alice).json["refresh_token"]
    for _ in range(4):
        refresh(token)
    query = text(
        """SELECT a.details, a.address FROM audit_logs a JOIN logins l ON l.id = a.entity_id
           WHERE l.user_id = :id AND a.action = 'login.refresh_reused'"""
    )
    with app.app_context(), reader() as session:
        rows = session.execute(query, {"id": alice.id}).all()
    assert [tuple(row) for row in rows] == [({"user_id": alice.id}, "127.0.0.1")]


def test_of_many_refreshes_at_once_one_wins_and_the_login_ends(app: Flask, log_in: LogIn, bearer: Call, alice: Person) -> None:
    token = log_in(alice).json["refresh_token"]
    barrier, answers = threading.Barrier(8), []

    def go() -> None:
        client = app.test_client()
        barrier.wait()
        answers.append(client.post("/api/v1/auth/refresh", headers={"Authorization": f"Bearer {token}"}))

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [200] + [401] * 7
    winner = next(answer.json for answer in answers if answer.status_code == 200)
    assert bearer(winner["access_token"]).status_code == 401
    assert login_row(app, alice.id) == (True, "refresh_reused")


def test_an_access_token_is_no_refresh_token_and_the_other_way_round(log_in: LogIn, bearer: Call, refresh: Call, alice: Person) -> None:
    tokens = log_in(alice).json
    assert refresh(tokens["access_token"]).status_code == 401
    assert bearer(tokens["refresh_token"]).status_code == 401
    assert bearer(tokens["refresh_token"], "/auth/logout", "POST").status_code == 401
    # Neither mistake costs the login.
    assert bearer(tokens["access_token"]).status_code == 200
    assert refresh(tokens["refresh_token"]).status_code == 200


def test_a_logout_kills_the_tokens_of_this_login_only(app: Flask, log_in: LogIn, bearer: Call, refresh: Call, alice: Person) -> None:
    other, tokens = log_in(alice).json, log_in(alice).json
    response = bearer(tokens["access_token"], "/auth/logout", "POST")
    assert (response.status_code, response.data) == (204, b"")
    assert login_row(app, alice.id) == (True, "logout")
    assert bearer(tokens["access_token"]).status_code == 401
    assert refresh(tokens["refresh_token"]).status_code == 401
    assert login_row(app, alice.id) == (True, "logout")
    assert bearer(tokens["access_token"], "/auth/logout", "POST").status_code == 401
    assert bearer(other["access_token"]).status_code == 200


@pytest.mark.parametrize("status", ["frozen", "deleted"])
def test_who_is_frozen_cannot_refresh(app: Flask, log_in: LogIn, refresh: Call, alice: Person, status: str) -> None:
    tokens = log_in(alice).json
    from tests.auth.test_login import set_status

    set_status(app, alice.id, status)
    assert refresh(tokens["refresh_token"]).status_code == 401
    # That was no theft: the login would still be good, were the user.
    assert login_row(app, alice.id) == (False, None)
    set_status(app, alice.id, "active")
    assert refresh(tokens["refresh_token"]).status_code == 200
