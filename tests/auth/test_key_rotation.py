"""The key that signs is changed, and nobody is logged out by it."""

import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient

from bank import create_app
from bank.auth.tokens import key_id
from bank.config import Config, ConfigError
from bank.db import db
from tests.auth.conftest import Call, Forge
from tests.conftest import PASSWORD, Person
from tests.console.conftest import OWN, Visitor, log_in

NEW, OTHER = secrets.token_hex(32), secrets.token_hex(32)

Build = Callable[..., FlaskClient]


@pytest.fixture
def signed_by(config: Config) -> Iterator[Build]:
    """A client of the bank whose key is another, with the keys of before."""
    apps: list[Flask] = []

    def build(key: str, *old: str) -> FlaskClient:
        apps.append(create_app(replace(config, jwt_secret=key, old_jwt_secrets=old)))
        return apps[-1].test_client()

    yield build
    for app in apps:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def status(client: FlaskClient, token: str, path: str = "/auth/me") -> int:
    return client.get(f"/api/v1{path}", headers={"Authorization": f"Bearer {token}"}).status_code


def cookie_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("bank_console", path="/console")
    assert cookie is not None
    return cookie.value


def test_a_token_names_its_key_and_tells_nothing_of_it(config: Config, alice: Person) -> None:
    header = jwt.get_unverified_header(alice.token)
    assert header == {"alg": "HS256", "typ": "JWT", "kid": key_id(config.jwt_secret)}
    assert len(header["kid"]) == 8 and header["kid"] not in config.jwt_secret
    assert key_id(NEW) != key_id(OTHER)


def test_what_an_old_key_signed_is_taken_while_it_is_listed(config: Config, signed_by: Build, alice: Person) -> None:
    old = config.jwt_secret
    assert status(signed_by(NEW, OTHER, old), alice.token) == 200
    assert status(signed_by(NEW, OTHER), alice.token) == 401
    assert status(signed_by(NEW), alice.token) == 401


def test_a_token_without_an_id_is_tried_by_every_key(config: Config, forge: Forge, signed_by: Build) -> None:
    of_before = forge()
    assert "kid" not in jwt.get_unverified_header(of_before)
    assert status(signed_by(NEW, OTHER, config.jwt_secret), of_before) == 200
    assert status(signed_by(NEW, OTHER), of_before) == 401
    # What is wrong with its claims is wrong by the key that signed it.
    assert status(signed_by(NEW, config.jwt_secret), forge(exp=1)) == 401


def test_the_next_key_may_be_known_before_it_signs(config: Config, signed_by: Build, alice: Person) -> None:
    before, after = signed_by(config.jwt_secret, NEW), signed_by(NEW, config.jwt_secret)
    body = {"username": alice.username, "password": PASSWORD}
    for signer in (before, after):
        answer = signer.post("/api/v1/auth/login", json=body).json
        assert status(before, answer["access_token"]) == status(after, answer["access_token"]) == 200
    # A refresh signs by the present key, whichever signed what is exchanged.
    refreshed = before.post("/api/v1/auth/refresh", headers={"Authorization": f"Bearer {answer['refresh_token']}"}).json
    assert jwt.get_unverified_header(refreshed["access_token"])["kid"] == key_id(config.jwt_secret)


@pytest.mark.parametrize("kid", ["", "00000000", "../../../../dev/null", "x' UNION SELECT 'k", 5, None, ["a"], {"a": 1}])
def test_an_id_that_is_no_key_of_ours_is_refused_whatever_signed_it(bearer: Call, forge: Forge, kid: Any) -> None:
    assert bearer(forge(header={"kid": kid})).status_code == 401


def test_the_id_of_one_key_does_not_do_for_another(config: Config, forge: Forge, signed_by: Build) -> None:
    client = signed_by(NEW, config.jwt_secret)
    assert status(client, forge(header={"kid": key_id(config.jwt_secret)})) == 200
    assert status(client, forge(header={"kid": key_id(NEW)})) == 401
    assert status(client, forge(key=OTHER, header={"kid": key_id(config.jwt_secret)})) == 401
    # Who knows an id knows no key.
    assert status(client, forge(key=key_id(NEW), header={"kid": key_id(NEW)})) == 401


def test_a_page_goes_on_after_its_cursor_was_signed_by_an_old_key(config: Config, signed_by: Build, alice: Person) -> None:
    for _ in range(3):
        alice.open_account()
    cursor = alice.get("/accounts?limit=1").json["next_cursor"]
    path = f"/accounts?limit=1&cursor={cursor}"
    assert status(signed_by(NEW, config.jwt_secret), alice.token, path) == 200
    after = signed_by(NEW, config.jwt_secret)
    made = after.get("/api/v1/accounts?limit=1", headers={"Authorization": f"Bearer {alice.token}"}).json["next_cursor"]
    assert made != cursor
    assert alice.get(f"/accounts?limit=1&cursor={made}").status_code == 422


def test_who_looks_at_the_console_stays_and_their_open_form_is_taken(app: Flask, config: Config, signed_by: Build, alice: Person) -> None:
    browser, _ = log_in(app, alice)
    cookie = cookie_of(browser)
    form = Visitor(alice, browser).hidden("/accounts")
    gone, kept = signed_by(NEW), signed_by(NEW, config.jwt_secret)
    for client in (gone, kept):
        client.set_cookie("bank_console", cookie, path="/console")
    assert gone.get("/console/accounts").status_code == 303
    assert kept.get("/console/accounts").status_code == 200
    # The cookie is signed anew by each page, so that the old key is soon needed no more.
    assert cookie_of(kept) != cookie
    gone.set_cookie("bank_console", cookie_of(kept), path="/console")
    assert gone.post("/console/logout", data=form, headers=OWN).status_code == 403
    assert kept.post("/console/logout", data=form, headers=OWN).location == "/console/login"


@pytest.mark.parametrize("keys", ["short", f"{'a' * 32},short", f"{'a' * 32},{'ü' * 15}"])
def test_an_old_key_is_as_long_as_a_new_one(environ: dict[str, str], keys: str) -> None:
    with pytest.raises(ConfigError, match="JWT_OLD_SECRET_KEYS: must be keys of at least 32 bytes") as error:
        Config.from_env({**environ, "JWT_OLD_SECRET_KEYS": keys})
    assert keys not in str(error.value)


def test_old_keys_come_apart_at_their_commas(environ: dict[str, str]) -> None:
    config = Config.from_env({**environ, "JWT_OLD_SECRET_KEYS": f"{OTHER}, {NEW},"})
    assert config.old_jwt_secrets == (OTHER, NEW)
    # The one that signs is the last, as itsdangerous takes them.
    assert config.signing_keys == (OTHER, NEW, environ["JWT_SECRET_KEY"])
