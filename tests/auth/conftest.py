"""What the tests of logins share."""

from collections.abc import Callable
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from bank.auth import passwords
from tests.conftest import PASSWORD, Person

LogIn = Callable[..., TestResponse]


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real parameters are slow by intent; one test holds them to the RFC."""
    monkeypatch.setattr(passwords, "hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def log_in(client: FlaskClient) -> LogIn:
    """Log in with a password, from any address."""

    def post(who: Person | str, password: Any = PASSWORD, address: str = "192.0.2.1") -> TestResponse:
        name = who if isinstance(who, str) else who.username
        body = {"username": name, "password": password}
        return client.post("/api/v1/auth/login", json=body, environ_overrides={"REMOTE_ADDR": address})

    return post


@pytest.fixture
def bearer(client: FlaskClient) -> Callable[..., TestResponse]:
    """Call a route with a token."""

    def call(token: str, path: str = "/auth/me", method: str = "GET") -> TestResponse:
        return client.open(f"/api/v1{path}", method=method, headers={"Authorization": f"Bearer {token}"})

    return call
