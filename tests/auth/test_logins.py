"""Where somebody is logged in: seeing it, ending it, forgetting it."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank import create_app
from bank.auth import jobs, logins
from bank.auth.tokens import pair
from bank.config import Config
from bank.db import db, reader, unit_of_work
from bank.processing.ticks import TICKS
from bank.web.context import new_id
from tests.auth.conftest import LogIn
from tests.conftest import Person

Call = Callable[..., TestResponse]


def age(app: Flask, login_id: str, by: timedelta) -> None:
    statement = "UPDATE logins SET created_at = created_at - :by, refreshed_at = refreshed_at - :by WHERE id = :id"
    with app.app_context(), unit_of_work() as session:
        session.execute(text(statement), {"by": by, "id": login_id})


def of(app: Flask, user_id: str) -> list[tuple[str, str | None]]:
    query = text("SELECT id::text, end_reason FROM logins WHERE user_id = :id ORDER BY id")
    with app.app_context(), reader() as session:
        return [tuple(row) for row in session.execute(query, {"id": user_id})]  # type: ignore[misc]


def test_the_list_shows_where_one_is_logged_in_and_marks_the_one_that_asks(log_in: LogIn, bearer: Call, alice: Person, bob: Person) -> None:
    telephone = alice.client.post(
        "/api/v1/auth/login",
        json={"username": alice.username, "password": "correct horse battery staple"},
        headers={"User-Agent": "Bank for telephones/1.0"},
        environ_overrides={"REMOTE_ADDR": "198.51.100.9"},
    ).json
    laptop = log_in(alice, address="192.0.2.7").json
    log_in(bob)
    for tokens, current in ((laptop, [True, False, False]), (telephone, [False, True, False])):
        found = bearer(tokens["access_token"], "/auth/logins").json
        assert (found["has_more"], found["next_cursor"]) == (False, None)
        assert [login["current"] for login in found["data"]] == current
    newest, second, _ = found["data"]
    assert (newest["address"], second["address"], second["user_agent"]) == ("192.0.2.7", "198.51.100.9", "Bank for telephones/1.0")
    assert newest["created_at"] == newest["refreshed_at"] < newest["expires_at"]
    assert newest.keys() == {"id", "current", "address", "user_agent", "created_at", "refreshed_at", "expires_at"}


def test_a_refresh_is_seen_in_the_list(log_in: LogIn, bearer: Call, alice: Person) -> None:
    tokens = log_in(alice).json
    before = bearer(tokens["access_token"], "/auth/logins").json["data"][0]
    bearer(tokens["refresh_token"], "/auth/refresh", "POST")
    after = bearer(tokens["access_token"], "/auth/logins").json["data"][0]
    assert (after["id"], after["created_at"]) == (before["id"], before["created_at"])
    assert after["refreshed_at"] > before["refreshed_at"] and after["expires_at"] > before["expires_at"]


def test_what_is_over_is_not_in_the_list_and_cannot_be_ended(app: Flask, log_in: LogIn, bearer: Call, alice: Person) -> None:
    out, expired = log_in(alice).json, log_in(alice).json
    ids = [login["id"] for login in alice.get("/auth/logins").json["data"]]
    bearer(out["access_token"], "/auth/logout", "POST")
    age(app, ids[0], timedelta(seconds=app.config["BANK"].refresh_token_seconds))
    assert [login["id"] for login in alice.get("/auth/logins").json["data"]] == ids[2:]
    assert expired
    for over in ids[:2]:
        assert alice.request("DELETE", f"/auth/logins/{over}").status_code == 404


def test_pages_of_logins_stay_stable(log_in: LogIn, alice: Person) -> None:
    for _ in range(3):
        log_in(alice)
    everything = [login["id"] for login in alice.get("/auth/logins").json["data"]]
    first = alice.get("/auth/logins?limit=2").json
    log_in(alice)
    second = alice.get(f"/auth/logins?limit=2&cursor={first['next_cursor']}").json
    assert [login["id"] for page in (first, second) for login in page["data"]] == everything
    assert (first["has_more"], second["has_more"]) == (True, False)


def test_a_revoked_login_is_dead_at_once_and_the_others_go_on(app: Flask, log_in: LogIn, bearer: Call, alice: Person) -> None:
    stolen = log_in(alice).json
    [login, *_] = alice.get("/auth/logins").json["data"]
    response = alice.request("DELETE", f"/auth/logins/{login['id']}")
    assert (response.status_code, response.data) == (204, b"")
    assert bearer(stolen["access_token"]).status_code == 401
    assert bearer(stolen["refresh_token"], "/auth/refresh", "POST").status_code == 401
    assert (login["id"], "revoked") in of(app, alice.id)
    assert alice.get("/auth/me").status_code == 200
    assert alice.request("DELETE", f"/auth/logins/{login['id']}").status_code == 404
    audited = text("SELECT actor_id::text FROM audit_logs WHERE entity_id = :id AND action = 'login.revoked'")
    with app.app_context(), reader() as session:
        assert session.execute(audited, {"id": login["id"]}).scalars().all() == [alice.id]


def test_revoking_ones_own_login_logs_out(alice: Person) -> None:
    [login] = alice.get("/auth/logins").json["data"]
    assert alice.request("DELETE", f"/auth/logins/{login['id']}").status_code == 204
    assert alice.get("/auth/me").status_code == 401


def test_nobody_ends_anothers_login_not_even_an_admin(app: Flask, alice: Person, bob: Person, admin: Person) -> None:
    [login] = bob.get("/auth/logins").json["data"]

    def answer(who: Person, login_id: str) -> Any:
        response = who.request("DELETE", f"/auth/logins/{login_id}", headers={"X-Request-ID": "same"})
        return response.status_code, response.data.replace(login_id.encode(), b"")

    for who in (alice, admin):
        assert answer(who, login["id"]) == answer(who, new_id())
        assert answer(who, login["id"])[0] == 404
    assert bob.get("/auth/me").status_code == 200


def test_logins_are_forgotten_long_after_they_expired_and_no_sooner(app: Flask, person: Callable[..., Person]) -> None:
    lifetime = timedelta(seconds=app.config["BANK"].refresh_token_seconds)
    old, newer = person("old"), person("newer")
    age(app, of(app, old.id)[0][0], lifetime + logins.KEPT)
    age(app, of(app, newer.id)[0][0], lifetime + logins.KEPT - timedelta(minutes=1))
    with app.app_context():
        assert jobs.forget_logins() == 1
        assert jobs.forget_logins() == 0
    assert of(app, old.id) == []
    assert len(of(app, newer.id)) == 1


def test_many_old_logins_are_forgotten_in_transactions_of_bounded_size(app: Flask, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    many = """INSERT INTO logins (id, user_id, refresh_jti, refreshed_at)
              SELECT gen_random_uuid(), :id, gen_random_uuid(), now() - interval '20 years' FROM generate_series(1, 7)"""
    with app.app_context(), unit_of_work() as session:
        session.execute(text(many), {"id": alice.id})
    monkeypatch.setattr(logins, "_FORGOTTEN_AT_ONCE", 3)
    with app.app_context():
        assert jobs.forget_logins() == 7
    assert len(of(app, alice.id)) == 1


def test_the_clock_rings_for_it() -> None:
    assert TICKS["bank.auth.jobs.forget_logins"] == 3_600


def test_listing_and_forgetting_use_an_index(app: Flask, alice: Person) -> None:
    def plan(statement: Any, **values: Any) -> str:
        with app.app_context(), unit_of_work() as session:
            session.execute(text("SET LOCAL enable_seqscan = off"))
            return "\n".join(session.execute(text(f"EXPLAIN {statement.text}"), values).scalars())

    month = timedelta(days=30)
    assert "logins" in (listed := plan(logins._LIST, user_id=alice.id, lifetime=month, before=None, limit=51))
    forgotten = plan(logins._FORGET, age=month, limit=1_000)
    assert "Seq Scan" not in listed
    assert "ix_logins_refreshed_at" in forgotten


@pytest.fixture
def without_a_database(config: Config) -> Iterator[Flask]:
    """The bank, where its database does not answer: nobody can tell which logins have ended."""
    app = create_app(Config(**{**config.__dict__, "database_url": "postgresql+psycopg2://bank:x@127.0.0.1:1/bank"}))
    yield app
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()


def test_where_nobody_can_tell_whether_a_login_has_ended_no_route_takes_it(app: Flask, without_a_database: Flask, alice: Person) -> None:
    """OWASP ASVS 5.0, 16.5.3: what cannot be checked is refused, and no money moves meanwhile."""
    with app.app_context():
        token = pair(alice.id, of(app, alice.id)[0][0], new_id())["access_token"]
    document = app.test_client().get("/openapi.json").json
    client, asked = without_a_database.test_client(), []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters" or not operation.get("security") or path.endswith("/refresh"):
                continue
            url = path
            for name in ("account", "transaction", "user", "replay", "batch", "schedule", "limit", "rule", "login"):
                url = url.replace(f"{{{name}_id}}", new_id())
            response = client.open(url, method=method.upper(), json={}, headers={"Authorization": f"Bearer {token}"})
            assert (response.status_code, response.json["code"]) == (503, "unavailable"), (method, path, response.text)
            assert response.headers["Retry-After"]
            asked.append(path)
    assert {"/api/v1/transactions/transfer", "/api/v1/transactions/credit", "/api/v1/transactions/{transaction_id}/capture"} <= {*asked}
    refresh = client.post("/api/v1/auth/refresh", headers={"Authorization": f"Bearer {token}"})
    assert refresh.status_code == 401
