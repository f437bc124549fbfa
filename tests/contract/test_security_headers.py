"""What every answer tells a browser and a cache."""

from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from bank import create_app
from bank.config import Config
from tests.conftest import Person
from tests.contract.conftest import Stage
from tests.contract.document import Document

NOTHING = "default-src 'none'; frame-ancestors 'none'"


def is_protected(response: TestResponse, policy: str = NOTHING) -> bool:
    """Whether the headers are there, each once."""
    told = {
        name: response.headers.getlist(name)
        for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control", "Strict-Transport-Security")
    }
    caching = told.pop("Cache-Control")
    assert told == {
        "Content-Security-Policy": [policy],
        "X-Content-Type-Options": ["nosniff"],
        "Referrer-Policy": ["no-referrer"],
        "Strict-Transport-Security": [],
    }
    asked_again = "ETag" in response.headers and response.request.method == "GET"
    return caching == ["private, no-cache" if asked_again else "no-store"]


def test_every_operation_answers_with_them_to_everybody(stage: Stage, client: FlaskClient) -> None:
    statuses = set()
    for method, path, _ in Document(client.get("/openapi.json").json).operations():
        for name in ("account", "transaction", "batch", "schedule", "limit", "rule", "login", "replay"):
            path = path.replace(f"{{{name}_id}}", getattr(stage, name))
        path = path.replace("{user_id}", stage.alice.id).removeprefix("/api/v1")
        # The body is no use, so that nothing is written and nobody is logged out.
        body = {} if method == "GET" else {"data": b"no JSON", "content_type": "application/json"}
        for caller in (stage.alice, stage.admin) if method == "GET" else ():
            response = caller.request(method, path, **body)
            statuses.add(response.status_code)
            assert is_protected(response), (method, path, response.headers)
        response = client.open(f"/api/v1{path}", method=method, **body)
        statuses.add(response.status_code)
        assert is_protected(response), (method, path, response.headers)
    response = stage.alice.get("/accounts/019b2f6e-8a00-7000-8000-000000000001")
    statuses.add(response.status_code)
    assert is_protected(response)
    assert {200, 401, 403, 404} <= statuses


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/live", 200),
        ("GET", "/health/ready", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/api/v1/accounts", 405),
        ("OPTIONS", "/api/v1/accounts", 200),
        ("GET", "/api/v1/accounts?x=%FF%00", 401),
    ],
)
def test_so_do_other_routes_and_errors(client: FlaskClient, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status and is_protected(response)


def test_so_does_a_mistake_of_ours(app: Flask, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bank.accounts.service.search", None)
    response = alice.get("/accounts")
    assert response.status_code == 500 and is_protected(response)


def test_what_has_an_etag_is_asked_for_again_and_not_kept_by_others(stage: Stage) -> None:
    path = f"/accounts/{stage.account}"
    first = stage.alice.get(path)
    again = stage.alice.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (first.status_code, again.status_code) == (200, 304)
    assert first.headers["Cache-Control"] == again.headers["Cache-Control"] == "private, no-cache"
    assert is_protected(again)


def test_a_stream_has_them_too(stage: Stage) -> None:
    for path, accept in (("/events", "application/x-ndjson"), ("/audit-logs", "text/csv")):
        response = stage.auditor.get(path, headers={"Accept": accept})
        assert response.status_code == 200 and is_protected(response)


def test_the_page_of_the_document_runs_its_own_scripts_and_no_others(client: FlaskClient) -> None:
    page = client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert is_protected(page, policy)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["script-src"], rules["style-src"]) == ("'none'", "'self'", "'self'")
    assert rules["frame-ancestors"] == "'none'" and "unsafe" not in policy
    assert "<script>" not in page.text and "style=" not in page.text
    # Its files are everybody's, and are kept.
    script = client.get("/docs/swagger-ui-bundle.js")
    assert "max-age=86400" in script.headers["Cache-Control"] and script.headers["X-Content-Type-Options"] == "nosniff"


def test_the_console_keeps_its_own(client: FlaskClient) -> None:
    response = client.get("/console/login")
    for name in ("Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control"):
        assert len(response.headers.getlist(name)) == 1, name
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    assert response.headers["Referrer-Policy"] == "same-origin"


def test_who_came_by_https_is_told_to_stay_there(client: FlaskClient) -> None:
    for path in ("/api/v1/accounts", "/console/login", "/docs"):
        assert client.get(path, base_url="https://bank.example").headers.getlist("Strict-Transport-Security") == ["max-age=31536000"]
        assert "Strict-Transport-Security" not in client.get(path).headers


@pytest.mark.parametrize("proxies", [0, 1])
def test_only_a_trusted_proxy_says_that_it_was_https(config: Config, proxies: int) -> None:
    other = create_app(replace(config, trusted_proxies=proxies)).test_client()
    response = other.get("/health/live", headers={"X-Forwarded-Proto": "https"})
    assert ("Strict-Transport-Security" in response.headers) == bool(proxies)
