"""What production refuses to start with, and what it tells the pages of other sites."""

import re
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask

from bank import create_app
from bank.config import Config, ConfigError
from tests.conftest import Person
from tests.test_house_rules import ROOT

SAFE = {
    "BANK_ENV": "production",
    "DATABASE_URL": "postgresql://bank:one@database/bank?sslmode=verify-full",
    "REDIS_URL": "redis://:two@redis:6379/0",
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


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "//metrics", "///metrics//"])
def test_the_proxy_lets_nobody_at_the_metrics(path: str) -> None:
    text = (ROOT / "docker" / "haproxy" / "api.cfg").read_text()
    (pattern,) = re.findall(r"http-request return status 404 if \{ path,url_dec -m reg (\S+) \}", text)
    assert re.search(pattern, path) and not re.search(pattern, "/api/v1/metrics")
