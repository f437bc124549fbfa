"""Rate limits: who is counted, and what an answer says of them."""

import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
from flask import Flask

from bank import create_app
from bank.config import Config
from bank.processing.queue import redis
from bank.web.limits import limiter
from tests.conftest import PASSWORD, Person


@pytest.fixture
def limited(app: Flask, config: Config, monkeypatch: pytest.MonkeyPatch) -> Flask:
    """A second application in this process, with a limit that is soon reached, on the same database."""
    monkeypatch.setattr(limiter, "enabled", True)  # put back at the end: the limiter is the process's, and `app` has none
    return create_app(replace(config, rate_limit_enabled=True, rate_limit_default="5 per hour"))


def get(app: Flask, token: str, address: str) -> tuple[int, dict[str, str]]:
    response = app.test_client().get("/api/v1/auth/me", headers={"Authorization": f"Bearer {token}"}, environ_base={"REMOTE_ADDR": address})
    return response.status_code, dict(response.headers)


def test_a_user_is_limited_wherever_they_ask_from(limited: Flask, alice: Person, bob: Person) -> None:
    answers = [get(limited, alice.token, f"192.0.2.{number}")[0] for number in range(7)]
    assert answers == [200] * 5 + [429] * 2
    assert get(limited, bob.token, "192.0.2.1")[0] == 200


def test_made_up_tokens_do_not_make_new_callers(limited: Flask) -> None:
    answers = [get(limited, f"made.up.{number}", "198.51.100.7")[0] for number in range(7)]
    assert answers == [401] * 5 + [429] * 2


def test_a_network_of_ipv6_is_one_caller(limited: Flask) -> None:
    answers = [get(limited, f"made.up.{number}", f"2001:db8:7:7::{number}")[0] for number in range(7)]
    assert answers == [401] * 5 + [429] * 2
    assert get(limited, "made.up", "2001:db8:7:8::1")[0] == 401


def test_who_is_logged_in_has_passwords_hashed_so_often_only(
    app: Flask, config: Config, person: Callable[..., Person], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limiter, "enabled", True)
    limited = create_app(replace(config, rate_limit_enabled=True, rate_limit_auth="2 per hour"))
    dora = replace(person("dora"), client=limited.test_client())
    answers = [dora.post("/auth/totp", {"password": PASSWORD}), dora.request("PUT", f"/users/{dora.id}", json={"email": "d@example.org"})]
    assert [answer.status_code for answer in answers] == [201, 200]
    for path, body in (("/auth/totp", {}), ("/auth/totp/disable", {}), (f"/users/{dora.id}/erasure", {})):
        assert dora.post(path, body).status_code == 429
    assert dora.request("PUT", f"/users/{dora.id}", json={}).status_code == 429
    assert dora.get("/auth/me").status_code == 200


def test_the_limit_is_told_in_headers_and_as_a_problem(limited: Flask, carol: Person) -> None:
    _, headers = get(limited, carol.token, "192.0.2.9")
    assert (headers["RateLimit-Limit"], headers["RateLimit-Remaining"]) == ("5", "4")
    # Seconds from now; and nobody need wait who was not refused.
    assert 0 < int(headers["RateLimit-Reset"]) <= 3600 and "Retry-After" not in headers
    for _ in range(4):
        get(limited, carol.token, "192.0.2.9")
    status, headers = get(limited, carol.token, "192.0.2.9")
    assert status == 429 and headers["Retry-After"] == headers["RateLimit-Reset"]
    assert headers["Content-Type"] == "application/problem+json"


def test_no_more_than_the_limit_fits_around_the_end_of_a_window(limited: Flask, alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    began, passed = time.time(), 0

    def ask(after: int) -> tuple[int, dict[str, str]]:
        nonlocal passed
        passed = after
        return get(limited, alice.token, "192.0.2.9")

    clock = SimpleNamespace(time=lambda: began + passed)
    for module in ("limits.storage.redis", "bank.web.limits"):
        monkeypatch.setattr(f"{module}.time", clock)
    assert [ask(after)[0] for after in (0, 3000, 3000, 3000, 3000)] == [200] * 5
    status, headers = ask(3000)
    assert (status, headers["Retry-After"]) == (429, "600")
    # Past the hour only the first of them is so long ago.
    assert [ask(3601)[0] for _ in range(2)] == [200, 429]
    assert ask(3601)[1]["Retry-After"] == "2999"
    assert [ask(6601)[0] for _ in range(5)] == [200] * 4 + [429]


def test_what_a_version_before_has_counted_is_in_nobodys_way(limited: Flask, alice: Person) -> None:
    # It counts in strings under the same names, of which a list is made here.
    with limited.app_context():
        get(limited, alice.token, "192.0.2.9")
        kept = [name.decode() for name in redis().scan_iter(f"*{alice.id}*", count=1_000) if b"LIMITS:" in name]
        assert kept and all("/moving/" in name and redis().type(name) == b"list" for name in kept)
        for name in kept:
            redis().set(name.replace("/moving/", "/"), 5, ex=60)
    assert get(limited, alice.token, "192.0.2.9")[1]["RateLimit-Remaining"] == "3"


@pytest.mark.parametrize(("proxies", "address"), [(0, "192.0.2.1"), (1, "203.0.113.5")])
def test_the_address_is_that_of_the_peer_or_what_trusted_proxies_say(
    config: Config, alice: Person, auditor: Person, proxies: int, address: str
) -> None:
    app = create_app(replace(config, trusted_proxies=proxies))
    headers = {"Authorization": f"Bearer {alice.token}", "X-Forwarded-For": "198.51.100.1, 203.0.113.5"}
    opened = app.test_client().post(
        "/api/v1/accounts", json={"currency": "USD"}, headers=headers, environ_base={"REMOTE_ADDR": "192.0.2.1"}
    )
    rows = auditor.get(f"/audit-logs?entity_type=account&entity_id={opened.json['id']}").json["data"]
    assert [row["address"] for row in rows] == [address]
