"""What production refuses to start with, and what it tells the pages of other sites."""

import re
from dataclasses import replace
from typing import Any

import pytest
import yaml
from flask import Flask

from bank import create_app
from bank.config import Config, ConfigError
from tests.conftest import Person
from tests.test_house_rules import ROOT

SAFE = {
    "BANK_ENV": "production",
    "DATABASE_URL": "postgresql://bank:one@database/bank?sslmode=verify-full",
    "REDIS_URL": "rediss://:two@redis:6379/0",
    "JWT_SECRET_KEY": "a9c5e17b3d8f42061f7be0d35c94a8267e1b0d9f5a3c8e64",
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JWT_SECRET_KEY", ""),
        ("JWT_SECRET_KEY", "0123456789abcdef0123456789abcde"),
        ("JWT_SECRET_KEY", "change-me"),
        ("JWT_SECRET_KEY", "abcabcab" * 8),
        ("BANK_TOTP_KEY", "short"),
        ("BANK_TOTP_KEY", "x" * 64),
        ("BANK_METRICS_TOKEN", "short"),
        ("BANK_METRICS_TOKEN", "x" * 64),
        ("BANK_SEAL_KEY", "0" * 64),
        ("BANK_SEAL_KEY", "secret"),
        ("BANK_SELF_SERVICE_DEPOSITS", "true"),
        ("RATELIMIT_ENABLED", "false"),
        ("BANK_CORS_ORIGINS", "https://app.example, *"),
        ("BANK_FX_URL", "http://rates.example/"),
        ("BANK_LOG_LEVEL", "TRACE"),
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "sqlite:///bank.db"),
        ("REDIS_URL", ""),
        # The limiter counts where Redis is: there is no setting that would let each process count for itself.
        ("REDIS_URL", "memory://"),
    ],
)
def test_an_unsafe_value_stops_the_start_with_its_name(name: str, value: str) -> None:
    Config.from_env(SAFE)
    with pytest.raises(ConfigError, match=name) as error:
        Config.from_env({**SAFE, name: value})
    assert len(value) < 10 or value not in str(error.value)


def test_where_nothing_says_otherwise_it_is_production() -> None:
    assert Config.from_env({name: value for name, value in SAFE.items() if name != "BANK_ENV"}).env == "production"


def origin_let_in(app: Flask, person: Person, origin: str) -> tuple[str | None, str | None]:
    headers = {"Authorization": f"Bearer {person.token}", "Origin": origin}
    answer = app.test_client().get("/api/v1/auth/me", headers=headers)
    assert answer.status_code == 200
    return answer.headers.get("Access-Control-Allow-Origin"), answer.headers.get("Access-Control-Allow-Credentials")


@pytest.mark.parametrize("origin", ["https://evil.example", "https://app.example.evil.example", "http://app.example", "null"])
def test_another_sites_page_is_let_in_nowhere_and_nobody_with_credentials(app: Flask, config: Config, alice: Person, origin: str) -> None:
    named = create_app(replace(config, cors_origins=("https://app.example",)))
    assert origin_let_in(named, alice, "https://app.example") == ("https://app.example", None)
    assert origin_let_in(named, alice, origin) == (None, None)
    assert origin_let_in(app, alice, origin) == (None, None)


def test_an_origin_that_is_let_in_reads_what_a_client_goes_by_and_not_the_console(config: Config) -> None:
    named = create_app(replace(config, cors_origins=("https://app.example",))).test_client()
    answer = named.get("/api/v1/auth/me", headers={"Origin": "https://app.example"})
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"ETag", "Link", "Location", "Retry-After", "Bank-Position", "X-Request-ID", "RateLimit-Remaining"} <= {*exposed}
    page = named.get("/console/login", headers={"Origin": "https://app.example"})
    assert page.status_code == 200 and "Access-Control-Allow-Origin" not in page.headers


def test_with_flasks_debugging_switched_on_a_bug_still_tells_nothing(
    config: Config, alice: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setenv("FLASK_DEBUG", "1")
    monkeypatch.setattr("bank.accounts.service.search", broken)
    app = create_app(replace(config, env="production"))
    assert app.debug
    answer = app.test_client().get("/api/v1/accounts", headers={"Authorization": f"Bearer {alice.token}"})
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "secret" not in answer.text and "Traceback" not in answer.text


def asked(app: Flask, path: str, token: str = "") -> tuple[int, dict[str, Any] | None]:
    """What is answered, but for what is of that one request."""
    answer = app.test_client().get(path, headers={"Authorization": token} if token else {})
    problem = {**answer.json, "request_id": None, "instance": None} if answer.mimetype == "application/problem+json" else None
    return answer.status_code, problem


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json"])
def test_the_documentation_is_not_there_in_production_unless_it_is_opened(config: Config, path: str) -> None:
    def told(**settings: Any) -> tuple[int, dict[str, Any] | None]:
        return asked(create_app(replace(config, **settings)), path)

    nothing = asked(create_app(config), "/nothing")
    assert nothing[0] == 404
    assert told(env="production") == nothing
    assert told(env="production", public_docs=True) == told(env="development") == (200, None)
    assert told(env="development", public_docs=False) == nothing


TOKEN = "b7d02c9e41f6385ab19c7e04d2f5863a"


def test_the_metrics_are_not_there_in_production_but_for_who_has_the_token(config: Config, alice: Person) -> None:
    hidden = create_app(replace(config, env="production"))
    by_token = create_app(replace(config, env="production", metrics_token=TOKEN))
    nothing = asked(hidden, "/nothing")
    for given in ("", f"Bearer {TOKEN}", "Bearer ", f"Bearer {alice.token}"):
        assert asked(hidden, "/metrics", given) == nothing
    for wrong in (
        "",
        "Bearer ",
        "Bearer",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}0",
        f"Bearer {TOKEN[:-1]}",
        "Bearer \xe9",
        f"Bearer {alice.token}",
    ):
        assert asked(by_token, "/metrics", wrong) == nothing
    assert asked(by_token, "/metrics", f"Bearer {TOKEN}") == (200, None)
    assert by_token.test_client().options("/metrics").status_code == 404


def test_the_metrics_are_open_where_somebody_develops_unless_they_have_a_token(config: Config) -> None:
    assert asked(create_app(replace(config, env="development")), "/metrics") == (200, None)
    assert asked(create_app(replace(config, env="development", metrics_token=TOKEN)), "/metrics")[0] == 404


def test_prometheus_is_given_the_token_that_the_api_asks_for() -> None:
    (job,) = [
        job
        for job in yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())["scrape_configs"]
        if job["job_name"] == "api"
    ]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for api in ("api-1", "api-2"):
        assert services[api]["environment"]["BANK_METRICS_TOKEN_FILE"] == job["authorization"]["credentials_file"]


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "///metrics//"])
def test_the_proxy_lets_nobody_at_the_metrics(path: str) -> None:
    text = (ROOT / "docker" / "haproxy" / "api.cfg").read_text()
    (pattern,) = re.findall(r"http-request return status 404 if \{ path,url_dec -m reg (\S+) \}", text)
    assert re.search(pattern, path) and not re.search(pattern, "/api/v1/metrics")
