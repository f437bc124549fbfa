"""Tokens that are not ours, not now or not of this kind open nothing."""

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from flask_jwt_extended import decode_token, jwt_required
from werkzeug.test import TestResponse

from bank import create_app
from bank.config import Config
from tests.auth.conftest import Call, Forge, b64, sign
from tests.conftest import Person


def refused(response: TestResponse) -> None:
    assert response.status_code == 401, response.data
    assert response.content_type == "application/problem+json"
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.json["code"] == "unauthenticated"
    assert response.json["request_id"] == response.headers["X-Request-ID"]


def test_the_forge_makes_good_tokens_when_it_changes_nothing(bearer: Call, forge: Forge) -> None:
    assert bearer(forge()).status_code == 200


def test_a_token_signed_by_another_key_is_refused(bearer: Call, forge: Forge) -> None:
    refused(bearer(forge(key="k" * 64)))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_another_algorithm_is_refused_even_with_the_right_key(bearer: Call, forge: Forge, algorithm: str) -> None:
    refused(bearer(forge(algorithm=algorithm)))


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "RS256", "ES256", "HS256 ", "", None, 5, ["HS256"]])
def test_an_unsigned_or_differently_signed_token_is_refused(bearer: Call, alice: Person, name: Any) -> None:
    _, payload, signature = alice.token.split(".")
    header = b64({"alg": name, "typ": "JWT"})
    for last in ("", signature):
        refused(bearer(f"{header}.{payload}.{last}"))


def test_a_changed_payload_is_refused(bearer: Call, alice: Person, bob: Person) -> None:
    header, payload, signature = alice.token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    refused(bearer(f"{header}.{b64({**claims, 'sub': bob.id})}.{signature}"))


@dataclass(frozen=True)
class FromNow:
    """A time, told when the test runs: the test's name must be the same in every process."""

    seconds: int


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"exp": FromNow(-31)},
        {"exp": "tomorrow"},
        {"exp": 1e400},
        {"nbf": FromNow(100_000)},
        {"nbf": None},
        {"iat": FromNow(100_000)},
        {"iat": None},
        {"iss": "another"},
        {"iss": None},
        {"iss": ["bank"]},
        {"aud": "another"},
        {"aud": None},
        {"sub": None},
        {"sub": "1"},
        {"sub": "' OR true --"},
        {"sid": None},
        {"sid": "1"},
        {"sid": 1},
        {"sid": {"$ne": ""}},
        {"sid": "00000000-0000-7000-8000-000000000000"},
        {"jti": None},
        {"jti": "x"},
        {"type": None},
        {"type": "refresh"},
        {"type": "admin"},
        {"type": ["access"]},
    ],
    ids=str,
)
def test_a_claim_that_is_missing_or_wrong_is_refused(bearer: Call, forge: Forge, changes: dict[str, Any]) -> None:
    now = int(time.time())
    refused(bearer(forge(**{name: now + value.seconds if isinstance(value, FromNow) else value for name, value in changes.items()})))


def test_a_login_of_another_user_is_refused(bearer: Call, forge: Forge, bob: Person) -> None:
    refused(bearer(forge(sub=bob.id)))


def test_clocks_may_differ_by_half_a_minute(bearer: Call, forge: Forge) -> None:
    assert bearer(forge(exp=int(time.time()) - 20)).status_code == 200
    assert bearer(forge(nbf=int(time.time()) + 20, iat=int(time.time()) + 20)).status_code == 200


def test_a_time_in_a_string_counts_as_what_it_says(bearer: Call, forge: Forge) -> None:
    token = forge(exp=str(int(time.time()) + 60))
    assert [bearer(token).status_code for _ in range(2)] == [200, 200]
    refused(bearer(forge(exp=str(int(time.time()) - 60))))


def test_a_token_that_was_good_a_moment_ago_still_expires(bearer: Call, forge: Forge) -> None:
    token = forge(exp=int(time.time()) - 28)
    assert bearer(token).status_code == 200
    time.sleep(2.1)
    refused(bearer(token))


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "x' UNION SELECT 'k"},
        {"jku": "https://evil.example/keys.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"jwk": {"kty": "oct", "k": b64(b"k" * 64)}},
    ],
    ids=str,
)
def test_the_header_never_chooses_the_key(bearer: Call, forge: Forge, header: dict[str, Any]) -> None:
    refused(bearer(forge(key="k" * 64, header=header)))
    refused(bearer(forge(key="", header=header)))
    # A `kid` is one of ours or nobody's; the others say nothing to us.
    assert bearer(forge(header=header)).status_code == (401 if "kid" in header else 200)


def test_a_critical_header_that_we_do_not_know_is_refused(bearer: Call, forge: Forge) -> None:
    refused(bearer(forge(header={"crit": ["exp-by-block"], "exp-by-block": 1})))


@pytest.mark.parametrize("part", [b"[" * 5_000, b'{"a":' * 5_000, b"9" * 5_000, b"null", b"[]", b"\xff", b"", b'"x"', b"NaN"])
def test_json_that_is_no_token_is_refused(app: Flask, bearer: Call, part: bytes) -> None:
    refused(bearer(sign(part, b"{}", app.config["JWT_SECRET_KEY"])))
    refused(bearer(sign(b'{"alg":"HS256","typ":"JWT"}', part, app.config["JWT_SECRET_KEY"])))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "Bearer a",
        "Bearer a.b",
        "Bearer a.b.c",
        "Bearer a.b.c.d",
        "Bearer a b",
        "Bearer ..",
        "Bearer x,Bearer y",
        "bearer:x",
        "Bearer\ta.b.c",
        "Bearer é.é.é",
        "Bearer " + "a" * 8_000,
        "Basic YTpi",
        "Token x",
        ",",
    ],
)
def test_a_malformed_header_is_refused(client: FlaskClient, value: str) -> None:
    refused(client.get("/api/v1/auth/me", headers={"Authorization": value}))


def test_no_header_is_refused(client: FlaskClient) -> None:
    refused(client.get("/api/v1/auth/me"))


def test_the_scheme_is_read_in_any_case(client: FlaskClient, alice: Person) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert client.get("/api/v1/auth/me", headers={"Authorization": f"{scheme} {alice.token}"}).status_code == 200


def test_a_token_anywhere_else_is_not_seen(client: FlaskClient, alice: Person) -> None:
    client.set_cookie("access_token_cookie", alice.token)
    refused(client.get("/api/v1/auth/me"))
    for name in ("jwt", "access_token"):
        assert client.get(f"/api/v1/auth/me?{name}={alice.token}").status_code in (401, 422)


def test_what_flask_jwt_extended_refuses_by_itself_is_the_same_problem(config: Config, forge: Forge, alice: Person) -> None:
    app = create_app(config)
    app.add_url_rule("/guarded", view_func=jwt_required()(lambda: "in"))
    client = app.test_client()
    assert client.get("/guarded", headers={"Authorization": f"Bearer {alice.token}"}).status_code == 200
    refused(client.get("/guarded"))
    for token in ("x", forge(key="k" * 64), forge(exp=1), forge(exp=None), forge(type="refresh"), forge(aud="x")):
        refused(client.get("/guarded", headers={"Authorization": f"Bearer {token}"}))


def test_tokens_say_no_more_than_whose_login_they_are(app: Flask, alice: Person) -> None:
    with app.test_request_context():
        claims = decode_token(alice.token)
    assert set(claims) == {"iss", "aud", "sub", "sid", "jti", "iat", "nbf", "exp", "type", "fresh"}
    assert claims["sub"] == alice.id
    assert claims["exp"] - claims["iat"] == app.config["BANK"].access_token_seconds
