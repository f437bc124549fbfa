"""What the tests of logins share."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from flask_jwt_extended import decode_token
from werkzeug.test import TestResponse

from bank.auth import passwords
from tests.conftest import PASSWORD, Person

LogIn = Callable[..., TestResponse]
Call = Callable[..., TestResponse]
Forge = Callable[..., str]


def b64(part: Any) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(header: bytes, payload: bytes, key: str, algorithm: str = "HS256") -> str:
    """By hand: a library would not make what must be refused."""
    signed = f"{b64(header)}.{b64(payload)}"
    digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
    return f"{signed}.{b64(hmac.digest(key.encode(), signed.encode(), digest))}"


@pytest.fixture
def forge(app: Flask, alice: Person) -> Forge:
    """Alice's token with some claims or header fields changed (None: left out), signed by the right key unless told."""

    def make(*, key: str | None = None, header: dict[str, Any] | None = None, algorithm: str = "HS256", **changes: Any) -> str:
        with app.test_request_context():
            claims = {**decode_token(alice.token), **changes}
        payload = json.dumps({name: value for name, value in claims.items() if value is not None})
        top = json.dumps({"alg": algorithm, "typ": "JWT", **(header or {})})
        return sign(top.encode(), payload.encode(), app.config["JWT_SECRET_KEY"] if key is None else key, algorithm)

    return make


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
