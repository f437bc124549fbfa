"""rq-dashboard behind the bank's login."""

import base64
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyotp
import pytest
import redis
from flask import Flask
from flask.testing import FlaskClient
from rq import Queue, Worker
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from sqlalchemy import text

from bank import dashboard
from bank.config import Config
from bank.db import unit_of_work
from bank.users.models import Role
from tests.conftest import PASSWORD, Person

OWN = {"Origin": "http://localhost"}


def basic(username: str, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()}


@pytest.fixture(scope="module")
def board(config: Config, app: Flask) -> Flask:
    return dashboard.create_app(config)


@pytest.fixture
def browser(board: Flask) -> FlaskClient:
    return board.test_client()


@pytest.fixture
def queue(config: Config) -> Iterator[Queue]:
    with redis.Redis.from_url(config.redis_url) as connection:
        queue = Queue(f"test-{secrets.token_hex(4)}", connection=connection, serializer=JSONSerializer)
        yield queue
        queue.delete(delete_jobs=True)


def test_an_administrator_sees_json_jobs(browser: FlaskClient, admin: Person, queue: Queue) -> None:
    job = queue.enqueue("bank.processing.tasks.drain", 1, description="drain lane 1")
    who = basic(admin.username)
    assert browser.get("/rq/", headers=who).status_code == 200
    listed = browser.get(f"/rq/0/data/jobs/{queue.name}/queued/8/asc/1.json", headers=who).json
    assert [entry["description"] for entry in listed["jobs"]] == ["drain lane 1"]
    assert browser.get(f"/rq/0/view/job/{job.id}", headers=who).status_code == 200
    assert browser.get(f"/rq/0/data/job/{job.id}.json", headers=who).json["status"] == "queued"


def test_a_worker_at_work_is_shown(browser: FlaskClient, admin: Person, queue: Queue) -> None:
    job = queue.enqueue("bank.processing.tasks.drain", 1, description="drain lane 1")
    worker = Worker([queue], connection=queue.connection, serializer=JSONSerializer)
    worker.register_birth()
    try:
        worker.prepare_execution(job)
        workers = browser.get("/rq/0/data/workers.json", headers=basic(admin.username)).json["workers"]
        assert [w["current_job"]["call_string"] for w in workers if w["name"] == worker.name] == ["bank.processing.tasks.drain(1)"]
    finally:
        worker.register_death()


@pytest.mark.parametrize("path", ["/", "/rq/", "/rq/0/data/queues.json", "/rq/static/css/main.css", "/nothing"])
def test_nobody_gets_in_without_a_login(browser: FlaskClient, path: str) -> None:
    response = browser.get(path)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic " + base64.b64encode(b"no colon").decode(), "Bearer abc"])
def test_a_malformed_login_is_refused(browser: FlaskClient, header: str) -> None:
    assert browser.get("/rq/", headers={"Authorization": header}).status_code == 401


def test_names_that_postgres_cannot_hold_are_refused(browser: FlaskClient) -> None:
    assert browser.get("/rq/", headers=basic("a\x00b")).status_code == 401


@pytest.mark.parametrize("role", [Role.CUSTOMER, Role.TELLER, Role.AUDITOR])
def test_other_roles_stay_outside(browser: FlaskClient, person: Callable[..., Person], role: Role) -> None:
    assert browser.get("/rq/", headers=basic(person("visitor", role).username)).status_code == 401


def test_a_frozen_administrator_is_out_at_once(board: Flask, browser: FlaskClient, admin: Person) -> None:
    assert browser.get("/rq/", headers=basic(admin.username)).status_code == 200
    with board.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET status = 'frozen' WHERE id = :id"), {"id": admin.id})
    assert browser.get("/rq/", headers=basic(admin.username)).status_code == 401


def test_guesses_here_and_at_the_login_are_counted_together(browser: FlaskClient, admin: Person) -> None:
    for number in range(5):
        if number % 2:
            assert browser.get("/rq/", headers=basic(admin.username, f"guess {number}")).status_code == 401
        else:
            body = {"username": admin.username, "password": f"guess {number}"}
            assert admin.client.post("/api/v1/auth/login", json=body).status_code == 401
    assert browser.get("/rq/", headers=basic(admin.username)).status_code == 429


def test_guessing_is_slowed_down(browser: FlaskClient, admin: Person) -> None:
    answers = [browser.get("/rq/", headers=basic(admin.username, f"guess {n}")).status_code for n in range(8)]
    assert answers[0] == 401 and answers[-1] == 429
    assert "Retry-After" in browser.get("/rq/", headers=basic(admin.username, "guess")).headers
    # And told of, as where one logs in.
    failed = admin.get(f"/audit-logs?action=login.failed&entity_id={admin.id}&entity_type=user").json["data"]
    assert len(failed) == answers.count(401) and failed[0]["details"] == {"at": "rq-dashboard"} and failed[0]["address"] == "127.0.0.1"


def test_who_has_a_second_factor_writes_its_code_behind_the_password(browser: FlaskClient, admin: Person) -> None:
    secret = admin.post("/auth/totp", {"password": PASSWORD}).json["secret"]
    now = int(time.time()) // 30
    assert browser.get("/rq/", headers=basic(admin.username)).status_code == 200
    # The code of the step before this one, so that those of this one and the next are still to come.
    paper = admin.post("/auth/totp/confirm", {"code": pyotp.TOTP(secret).generate_otp(now - 1)}).json["recovery_codes"]
    good = basic(admin.username, PASSWORD + pyotp.TOTP(secret).generate_otp(now))
    for wrong in (PASSWORD, PASSWORD + "000000", PASSWORD + "١٢٣٤٥٦"):
        assert browser.get("/rq/", headers=basic(admin.username, wrong)).status_code == 401
    # The browser sends the same again and again.
    assert [browser.get("/rq/", headers=good).status_code for _ in range(3)] == [200] * 3
    # Another process remembers nothing of it, and there the code is used.
    assert dashboard.create_app(browser.application.config["BANK"]).test_client().get("/rq/", headers=good).status_code == 401
    both = {"password": PASSWORD, "code": paper[0]}
    assert admin.post("/auth/totp/disable", both).status_code == 204
    assert browser.get("/rq/", headers=good).status_code == 401
    assert browser.get("/rq/", headers=basic(admin.username)).status_code == 200
    # Nor is a code of the authenticator before remembered for the next one.
    other = admin.post("/auth/totp", {"password": PASSWORD}).json["secret"]
    assert admin.post("/auth/totp/confirm", {"code": pyotp.TOTP(other).now()}).status_code == 200
    assert browser.get("/rq/", headers=good).status_code == 401


def test_where_administrators_must_have_a_second_factor_the_password_is_not_enough(config: Config, admin: Person) -> None:
    strict = dashboard.create_app(replace(config, totp_for_admins=True)).test_client()
    assert strict.get("/rq/", headers=basic(admin.username)).status_code == 401
    secret = admin.post("/auth/totp", {"password": PASSWORD}).json["secret"]
    now = int(time.time()) // 30
    admin.post("/auth/totp/confirm", {"code": pyotp.TOTP(secret).generate_otp(now - 1)})
    good = basic(admin.username, PASSWORD + pyotp.TOTP(secret).generate_otp(now))
    assert strict.get("/rq/", headers=good).status_code == 200


@pytest.fixture
def failed(queue: Queue) -> Job:
    job = queue.enqueue("bank.processing.tasks.drain", 1)
    queue.remove(job)
    FailedJobRegistry(queue.name, connection=queue.connection, serializer=JSONSerializer).add(job, 600)
    return job


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_looking_changes_nothing(browser: FlaskClient, admin: Person, queue: Queue, failed: Job, method: str) -> None:
    response = browser.open(f"/rq/requeue/{queue.name}", method=method, headers={**basic(admin.username), **OWN})
    assert response.status_code == 405
    assert queue.count == 0


@pytest.mark.parametrize(
    "foreign",
    [{}, {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site", **OWN}, {"Sec-Fetch-Site": "same-site"}],
)
def test_another_sites_page_changes_nothing(
    browser: FlaskClient, admin: Person, queue: Queue, failed: Job, foreign: dict[str, str]
) -> None:
    response = browser.post(f"/rq/requeue/{queue.name}", headers={**basic(admin.username), **foreign})
    assert response.status_code == 403
    assert queue.count == 0


@pytest.mark.parametrize("path", ["/rq/requeue/{queue}", "/rq/job/{job}/requeue"])
@pytest.mark.parametrize("own", [OWN, {"Sec-Fetch-Site": "same-origin"}])
def test_the_own_page_requeues(browser: FlaskClient, admin: Person, queue: Queue, failed: Job, path: str, own: dict[str, str]) -> None:
    response = browser.post(path.format(job=failed.id, queue=queue.name), headers={**basic(admin.username), **own})
    assert response.json["status"] == "OK"
    assert queue.count == 1


def test_what_stands_in_redis_is_no_html(browser: FlaskClient, admin: Person, queue: Queue) -> None:
    queue.enqueue("bank.processing.tasks.drain", 1, description="<img src=x onerror='alert(1)'>")
    response = browser.get(f"/rq/0/data/jobs/{queue.name}/queued/8/asc/1.json", headers=basic(admin.username))
    description = response.json["jobs"][0]["description"]
    assert "img" in description and not set(description) & set("<>\"'")


class Trap:
    """Makes a directory wherever its pickle is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_in_redis_is_not_run(browser: FlaskClient, admin: Person, config: Config, tmp_path: Path) -> None:
    with redis.Redis.from_url(config.redis_url) as connection:
        pickled = Queue(f"test-{secrets.token_hex(4)}", connection=connection)
        job = pickled.enqueue("bank.processing.tasks.drain", Trap(tmp_path / "run"), description="pickled")
        worker = Worker([pickled], connection=connection)
        worker.register_birth()
        worker.prepare_execution(job)
        try:
            assert browser.get("/rq/0/data/workers.json", headers=basic(admin.username)).status_code == 500
            assert browser.get(f"/rq/0/data/jobs/{pickled.name}/queued/8/asc/1.json", headers=basic(admin.username)).status_code == 200
        finally:
            worker.register_death()
            pickled.delete(delete_jobs=True)
    assert not (tmp_path / "run").exists()


def test_only_the_dashboards_own_script_may_run_and_no_other_by_its_number(board: Flask, browser: FlaskClient, admin: Person) -> None:
    numbers = set()
    for path in ("/rq/", "/rq/0/view/workers", "/rq/0/view/jobs"):
        answer = browser.get(path, headers=basic(admin.username))
        policy = answer.headers["Content-Security-Policy"]
        (number,) = re.findall(r"script-src 'self' 'nonce-([\w-]{22})' 'unsafe-eval';", policy)
        assert answer.text.count(number) == answer.text.count(f'<script type="text/javascript" nonce="{number}">') == 1
        numbers.add(number)
    assert len(numbers) == 3
    # What comes into a page unescaped looks like it, and gets none.
    planted = '<script type="text/javascript">'
    with board.test_request_context():
        assert board.jinja_env.from_string("{{ planted|safe }}").render(planted=planted) == planted


def test_pages_cannot_be_framed(browser: FlaskClient, admin: Person) -> None:
    headers = browser.get("/rq/", headers=basic(admin.username)).headers
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
