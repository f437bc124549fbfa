"""Deleting a user, and the admin who must remain."""

import threading
from collections.abc import Callable, Iterator

import pytest
from argon2 import PasswordHasher
from flask import Flask
from sqlalchemy import text

from bank.auth import passwords
from bank.db import unit_of_work
from bank.users.models import Role
from tests.conftest import PASSWORD, Person
from tests.users.test_changing_users import log_in, put, rows, untouched

Post = Callable[[], None]


@pytest.fixture(autouse=True)
def _cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "hasher", PasswordHasher(time_cost=1, memory_cost=64, parallelism=1))


@pytest.fixture
def no_other_admin(app: Flask) -> Iterator[None]:
    """Put every admin there is to sleep for the test."""
    with app.app_context(), unit_of_work() as session:
        asleep = (
            session.execute(text("UPDATE users SET status = 'frozen' WHERE role = 'admin' AND status = 'active' RETURNING id"))
            .scalars()
            .all()
        )
    yield
    with app.app_context(), unit_of_work() as session:
        session.execute(
            text("UPDATE users SET status = 'active' WHERE id = ANY(CAST(:ids AS uuid[]))"), {"ids": [str(id) for id in asleep]}
        )


def test_a_deleted_user_is_out_for_good_and_their_history_stays(app: Flask, alice: Person, admin: Person) -> None:
    account = alice.open_account()
    refresh = log_in(alice, PASSWORD).json["refresh_token"]
    response = alice.request("DELETE", f"/users/{alice.id}")
    assert (response.status_code, response.data) == (204, b"")
    assert alice.get("/auth/me").status_code == 401
    assert alice.client.post("/api/v1/auth/refresh", headers={"Authorization": f"Bearer {refresh}"}).status_code == 401
    assert log_in(alice, PASSWORD).json["code"] == "invalid_credentials"
    (ended,) = rows(app, "SELECT DISTINCT end_reason FROM logins WHERE user_id = :id", id=alice.id)
    assert ended.end_reason == "user_deleted"
    user = admin.get(f"/users/{alice.id}").json
    assert (user["status"], user["username"]) == ("deleted", alice.username)
    assert admin.get(f"/accounts/{account['id']}").json["status"] == "closed"
    assert [row.type for row in rows(app, "SELECT type FROM events WHERE stream_id = :id ORDER BY version", id=alice.id)] == [
        "UserRegistered",
        "UserChanged",
    ]
    (audit,) = rows(app, "SELECT * FROM audit_logs WHERE entity_id = :id AND action = 'user.deleted'", id=alice.id)
    assert (audit.details, str(audit.actor_id)) == ({"status": "deleted"}, alice.id)


def test_the_name_is_not_given_out_again(alice: Person, admin: Person) -> None:
    assert admin.request("DELETE", f"/users/{alice.id}").status_code == 204
    body = {"username": alice.username, "email": "new.alice@example.com", "password": PASSWORD}
    assert alice.client.post("/api/v1/auth/register", json=body).status_code == 409


def test_deleting_twice_is_as_good_as_once(app: Flask, alice: Person, admin: Person) -> None:
    assert admin.request("DELETE", f"/users/{alice.id}").status_code == 204
    before = untouched(app, alice.id)
    assert admin.request("DELETE", f"/users/{alice.id}").status_code == 204
    assert untouched(app, alice.id) == before


def test_a_deleted_user_stays_deleted(app: Flask, alice: Person, admin: Person) -> None:
    admin.request("DELETE", f"/users/{alice.id}")
    before = untouched(app, alice.id)
    for fields in ({"status": "active"}, {"role": "admin"}, {"username": "resurrected"}, {"password": "a few unrelated nouns"}):
        assert put(admin, alice.id, **fields).status_code == 409
    assert untouched(app, alice.id) == before


def test_who_holds_money_is_not_deleted_until_it_is_gone(app: Flask, alice: Person, admin: Person, post_all: Post) -> None:
    account = alice.open_account()
    money = {"account_id": account["id"], "amount": "10.00", "currency": "USD"}
    assert alice.post("/transactions/credit", money).status_code == 202
    before = untouched(app, alice.id)

    def refused() -> None:
        for who in (alice, admin):
            response = who.request("DELETE", f"/users/{alice.id}")
            assert (response.status_code, response.json["code"]) == (409, "balance_not_zero")
        assert untouched(app, alice.id) == before
        assert alice.get(f"/accounts/{account['id']}").json["status"] == "active"

    refused()  # the money is on its way
    post_all()
    refused()  # it is there
    assert admin.post("/transactions/debit", money).status_code == 202
    refused()  # it is about to go
    post_all()
    assert alice.request("DELETE", f"/users/{alice.id}").status_code == 204


def test_the_last_active_admin_stays_admin(app: Flask, no_other_admin: None, person: Callable[..., Person]) -> None:
    admin = person("admin", Role.ADMIN)
    before = untouched(app, admin.id)
    for fields in ({"role": "auditor"}, {"status": "frozen"}, {"role": "customer", "username": "hidden"}):
        response = put(admin, admin.id, **fields)
        assert (response.status_code, response.json["code"]) == (409, "conflict")
    assert admin.request("DELETE", f"/users/{admin.id}").status_code == 409
    assert untouched(app, admin.id) == before
    assert admin.get("/auth/me").status_code == 200
    second = person("admin", Role.ADMIN)
    assert put(admin, admin.id, role="auditor").status_code == 200
    assert put(second, second.id, role="auditor").status_code == 409


def test_two_admins_who_demote_each_other_at_once_leave_one(app: Flask, no_other_admin: None, person: Callable[..., Person]) -> None:
    for _ in range(5):
        pair = [person("admin", Role.ADMIN) for _ in range(2)]
        barrier, answers = threading.Barrier(2), []

        def go(who: Person, other: Person, barrier: threading.Barrier = barrier, answers: list[int] = answers) -> None:
            barrier.wait()
            answers.append(put(who, other.id, role="customer").status_code)

        threads = [threading.Thread(target=go, args=(who, other)) for who, other in (pair, pair[::-1])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The second may have been let in before it was demoted (409), or not any more (403).
        assert sorted(answers)[0] == 200
        assert sorted(answers)[1] in (403, 404, 409)
        assert rows(app, "SELECT count(*) FROM users WHERE role = 'admin' AND status = 'active'")[0][0] == 1
        with app.app_context(), unit_of_work() as session:
            session.execute(text("UPDATE users SET status = 'frozen' WHERE role = 'admin' AND status = 'active'"))
