"""Who gets through the door, as the database knows them at this request."""

import re
import time
from collections.abc import Callable, Iterator
from itertools import product

import psycopg2
import pytest
from flask import Flask, Response
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank import create_app
from bank.auth.guard import login_required, origin, principal
from bank.config import Config
from bank.db import db, unit_of_work
from bank.errors import Unavailable
from bank.users.models import Role
from tests.conftest import Person

Call = Callable[..., TestResponse]


@pytest.fixture
def guarded(config: Config) -> Iterator[Call]:
    """Call a route for some roles with somebody's token."""
    app = create_app(config)

    def view() -> Response:
        who = principal()
        assert origin().actor_id == who.id
        return Response(f"{who.id} {who.role} {who.may_read_all}")

    for roles in ((), (Role.ADMIN,), (Role.TELLER, Role.AUDITOR)):
        name = "-".join(roles) or "anyone"
        app.add_url_rule(f"/{name}", name, login_required(*roles)(view))

    def call(who: Person, name: str) -> TestResponse:
        return app.test_client().get(f"/{name}", headers={"Authorization": f"Bearer {who.token}"})

    yield call
    with app.app_context():
        db.engine.dispose()


@pytest.mark.parametrize(("role", "name"), list(product(Role, ["anyone", "admin", "teller-auditor"])))
def test_a_role_opens_what_names_it(guarded: Call, person: Callable[..., Person], role: Role, name: str) -> None:
    response = guarded(person("somebody", role), name)
    if name == "anyone" or role in name.split("-"):
        assert response.status_code == 200
    else:
        assert (response.status_code, response.json["code"]) == (403, "forbidden")


def test_the_view_knows_who_asks(guarded: Call, alice: Person, teller: Person, auditor: Person, admin: Person) -> None:
    assert guarded(alice, "anyone").text == f"{alice.id} customer False"
    assert guarded(teller, "anyone").text == f"{teller.id} teller False"
    assert guarded(auditor, "anyone").text == f"{auditor.id} auditor True"
    assert guarded(admin, "anyone").text == f"{admin.id} admin True"


def test_a_demotion_and_a_promotion_hold_from_the_next_request(app: Flask, guarded: Call, teller: Person) -> None:
    assert guarded(teller, "teller-auditor").status_code == 200
    for role, status in ((Role.CUSTOMER, 403), (Role.AUDITOR, 200)):
        with app.app_context(), unit_of_work() as session:
            session.execute(text("UPDATE users SET role = :role WHERE id = :id"), {"role": role, "id": teller.id})
        assert guarded(teller, "teller-auditor").status_code == status


@pytest.mark.parametrize("status", ["frozen", "deleted"])
def test_who_is_frozen_or_deleted_is_out_at_the_next_request(app: Flask, guarded: Call, alice: Person, status: str) -> None:
    assert guarded(alice, "anyone").status_code == 200
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET status = :status WHERE id = :id"), {"status": status, "id": alice.id})
    assert guarded(alice, "anyone").status_code == 401


def test_an_ended_login_is_out_at_the_next_request(app: Flask, guarded: Call, alice: Person) -> None:
    assert guarded(alice, "anyone").status_code == 200
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE logins SET ended_at = now() WHERE user_id = :id"), {"id": alice.id})
    assert guarded(alice, "anyone").status_code == 401


def test_a_request_costs_one_query_by_keys(app: Flask, alice: Person) -> None:
    from bank.auth import guard

    with app.app_context(), unit_of_work() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        login = session.execute(text("SELECT id::text FROM logins WHERE user_id = :id"), {"id": alice.id}).scalar_one()
        query = guard._WHO % {"login_id": f"'{login}'", "user_id": f"'{alice.id}'"}
        plan = "\n".join(session.execute(text(f"EXPLAIN {query}")).scalars())
    # Which of the two indexes of a small table is cheaper is the planner's to say.
    assert "pk_logins" in plan or "ix_logins_user_id" in plan
    assert "pk_users" in plan
    assert "Seq Scan" not in plan


def test_a_database_that_went_away_is_a_503_once_and_then_forgotten(app: Flask, alice: Person) -> None:
    with app.app_context():
        # Several connections wait in the pool, and all of them die.
        waiting = [db.engines["reader"].raw_connection() for _ in range(3)]
        for connection in waiting:
            connection.close()
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        with psycopg2.connect(app.config["BANK"].database_url.replace("+psycopg2", "")) as other:
            other.cursor().execute(kill + " AND application_name = 'bank' AND state = 'idle'")
        other.close()
    time.sleep(0.2)
    answer = alice.get("/auth/me")
    assert (answer.status_code, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    # One request found it out for all: no other is given one of the dead.
    with app.app_context():
        waiting = [db.engines["reader"].raw_connection() for _ in range(3)]
        for connection in waiting:
            connection.cursor().execute("SELECT 1")
            connection.close()
    assert alice.get("/auth/me").status_code == 200


def test_a_database_that_is_not_there_is_a_503(config: Config, alice: Person) -> None:
    away = Config(**{**config.__dict__, "database_url": "postgresql+psycopg2://bank:x@127.0.0.1:1/bank"})
    app = create_app(away)
    response = app.test_client().get("/api/v1/auth/me", headers={"Authorization": f"Bearer {alice.token}"})
    assert (response.status_code, response.json["code"]) == (503, "unavailable")


@pytest.mark.usefixtures("context")
def test_reading_past_the_orm_does_not_disturb_units_of_work() -> None:
    from bank.db import fetch

    for _ in range(3):
        assert fetch("SELECT %(a)s::integer + 1", {"a": 1}) == [(2,)]
        assert fetch("SELECT 1 WHERE false", {}) == []
        with unit_of_work() as session:
            session.execute(text("CREATE TEMPORARY TABLE gone (a integer) ON COMMIT DROP"))
            # In autocommit the table would be gone by now.
            session.execute(text("INSERT INTO gone VALUES (1)"))
    with pytest.raises(Unavailable):
        fetch("SELECT pg_cancel_backend(pg_backend_pid()), pg_sleep(5)", {})


def test_every_route_is_guarded_or_open_on_purpose(app: Flask) -> None:
    document = app.test_client().get("/openapi.json").json
    open_to_all = {
        (method, path)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method != "parameters" and not operation.get("security")
    }
    assert open_to_all == {("post", "/api/v1/auth/register"), ("post", "/api/v1/auth/login")}
    client = app.test_client()
    for path, operations in document["paths"].items():
        for method in operations.keys() - {"parameters"}:
            if (method, path) not in open_to_all:
                concrete = re.sub(r"\{\w+\}", "00000000-0000-7000-8000-000000000000", path)
                response = client.open(concrete, method=method.upper(), json={} if method != "get" else None)
                assert response.status_code == 401, (method, path)
                assert "401" in operations[method]["responses"], (method, path)
