"""Who is let in to the console, for how long, and what is taken from whom."""

import re
from dataclasses import replace
from datetime import timedelta

import pyotp
import pytest
from itsdangerous import TimestampSigner
from sqlalchemy import text

from bank import create_app
from bank.config import Config
from bank.console import session
from bank.db import unit_of_work
from bank.errors import InvalidCredentials
from bank.users.models import Role
from bank.web.limits import limiter
from tests.conftest import PASSWORD, people
from tests.console.conftest import OWN, log_in
from tests.processes import fresh_database

COOKIE = "bank_console"
HTMX = {"HX-Request": "true"}


def later(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Put the clocks of the cookies forward."""
    now = session.time.time
    monkeypatch.setattr(session.time, "time", lambda: now() + by.total_seconds())
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda self: int(session.time.time()))


def test_a_login_gives_a_cookie_that_scripts_and_other_sites_have_no_use_of(app, alice):
    _, response = log_in(app, alice)
    assert (response.status_code, response.location) == (303, "/console/")
    name, _, attributes = response.headers["Set-Cookie"].partition("=")
    assert name == COOKIE
    assert {"HttpOnly", "SameSite=Strict", "Path=/console"} <= {each.strip() for each in attributes.split(";")}


def test_the_cookie_is_no_token_and_a_token_no_cookie(app, visit, alice):
    visitor = visit(alice)
    cookie = visitor.browser.get_cookie(COOKIE, path="/console").value
    assert visitor.browser.get("/api/v1/auth/me").status_code == 401
    assert app.test_client().get("/api/v1/auth/me", headers={"Authorization": f"Bearer {cookie}"}).status_code == 401
    assert alice.client.get("/console/accounts", headers={"Authorization": f"Bearer {alice.token}"}).status_code == 303
    other = app.test_client()
    other.set_cookie(COOKIE, alice.token, path="/console")
    assert other.get("/console/accounts").status_code == 303


@pytest.mark.parametrize("given", [{"password": "wrong, and long enough"}, {"username": "nobody-is-called-so"}])
def test_who_gives_a_wrong_name_or_password_is_told_the_same(app, alice, given):
    _, response = log_in(app, alice, **given)
    assert response.status_code == 401
    assert f'role="alert">{InvalidCredentials.title}' in response.text
    assert "Set-Cookie" not in response.headers


def test_wrong_passwords_are_slowed_down_as_in_the_api(app, alice):
    answers = [log_in(app, alice, password="wrong, and long enough")[1] for _ in range(6)]
    assert [answer.status_code for answer in answers] == [401] * 5 + [429]
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_half_an_hour_of_nothing_ends_it(visit, alice, monkeypatch):
    visitor = visit(alice)
    later(monkeypatch, timedelta(minutes=29))
    visitor.read("/accounts")
    later(monkeypatch, timedelta(minutes=29))
    visitor.read("/accounts")
    later(monkeypatch, timedelta(minutes=31))
    assert visitor.get("/accounts").location == "/console/login?next=/console/accounts"


def test_what_a_page_asks_for_by_itself_does_not_keep_it_alive(visit, admin, monkeypatch):
    visitor = visit(admin)
    later(monkeypatch, timedelta(minutes=29))
    assert visitor.get("/live", headers=HTMX).status_code == 200
    later(monkeypatch, timedelta(minutes=2))
    answer = visitor.get("/live", headers=HTMX)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/console/login")


def test_twelve_hours_end_it_whatever_is_done(visit, alice, monkeypatch):
    visitor = visit(alice)
    for _ in range(30):
        later(monkeypatch, timedelta(minutes=25))
        answer = visitor.get("/accounts")
    assert answer.status_code == 303


def test_logging_out_ends_the_login_and_not_only_the_cookie(app, visit, alice):
    visitor = visit(alice)
    stolen = app.test_client()
    stolen.set_cookie(COOKIE, visitor.browser.get_cookie(COOKIE, path="/console").value, path="/console")
    assert stolen.get("/console/accounts").status_code == 200
    form = visitor.hidden("/accounts")
    assert visitor.browser.post("/console/logout", data=form, headers=OWN).location == "/console/login"
    assert stolen.get("/console/accounts").status_code == 303
    assert visitor.get("/accounts").status_code == 303


def test_who_is_frozen_or_demoted_is_so_at_the_next_page(app, visit, person):
    boss, teller = visit(person("boss", Role.ADMIN)), visit(person("till", Role.TELLER))
    assert boss.get("/live").status_code == 200
    with app.app_context(), unit_of_work() as unit:
        unit.execute(text("UPDATE users SET role = 'teller' WHERE id = :id"), {"id": boss.person.id})
        unit.execute(text("UPDATE users SET status = 'frozen' WHERE id = :id"), {"id": teller.person.id})
    assert boss.get("/live").status_code == 403
    assert teller.get("/accounts").status_code == 303


@pytest.mark.parametrize(
    "headers", [{}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.example"}]
)
def test_forms_of_other_sites_are_refused(app, visit, alice, headers):
    visitor = visit(alice)
    form = visitor.hidden("/accounts")
    assert visitor.browser.post("/console/logout", data=form, headers=headers).status_code == 403
    given = {"username": alice.username, "password": PASSWORD}
    assert app.test_client().post("/console/login", data=given, headers=headers).status_code == 403
    assert visitor.get("/accounts").status_code == 200


def test_a_form_needs_the_mark_of_its_login(visit, alice, bob):
    visitor, other = visit(alice), visit(bob)
    for mark in ({}, {"csrf": ""}, {"csrf": "ünwahr"}, other.hidden("/accounts")):
        assert visitor.browser.post("/console/logout", data=mark, headers=OWN).status_code == 403
    assert visitor.get("/accounts").status_code == 200


@pytest.mark.parametrize(
    "asked",
    [
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "/console/\r\nX: 1",
        "/api/v1/auth/me",
        "/console/../api/v1/auth/me",
        "/console/.%2E//evil.example",
        "",
    ],
)
def test_a_login_leads_nowhere_else(app, alice, asked):
    assert log_in(app, alice, next=asked)[1].location == "/console/"


def test_a_login_leads_to_the_page_that_was_asked_for(app, client, alice):
    asked = client.get("/console/transactions?status=failed")
    assert asked.location.startswith("/console/login?next=")
    form = client.get(asked.location).text
    assert 'name="next" value="/console/transactions?status=failed"' in form
    assert log_in(app, alice, next="/console/transactions?status=failed")[1].location == "/console/transactions?status=failed"


def test_pages_are_kept_nowhere_and_load_nothing_from_elsewhere(visit, alice, client):
    for response in (visit(alice).get("/accounts"), client.get("/console/login"), client.get("/console/nowhere")):
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "style=" not in response.text and "onclick" not in response.text and "<script>" not in response.text


def test_who_has_a_second_factor_gives_a_code(app, alice):
    device = pyotp.TOTP(alice.post("/auth/totp", {"password": PASSWORD}).json["secret"])
    paper = alice.post("/auth/totp/confirm", {"code": device.now()}).json["recovery_codes"]
    for code in ("", "000000"):
        _, refused = log_in(app, alice, code=code)
        assert refused.status_code == 401 and "Set-Cookie" not in refused.headers
    _, response = log_in(app, alice, code=paper[0])
    assert response.status_code == 303, response.text


def test_an_administrator_who_must_have_a_second_factor_sees_nothing_without(app, visit, admin, monkeypatch):
    visitor = visit(admin)
    monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], totp_for_admins=True))
    for path in ("/", "/accounts", "/live"):
        assert visitor.get(path).status_code == 403, path
    form = dict(re.findall(r'name="(csrf)" value="(\w+)"', visitor.get("/").text))
    assert visitor.browser.post("/console/logout", data=form, headers=OWN).status_code == 303


def test_the_cookie_is_secure_in_production(app, alice, monkeypatch):
    monkeypatch.setitem(app.config, "BANK", replace(app.config["BANK"], env="production"))
    name, _, attributes = log_in(app, alice)[1].headers["Set-Cookie"].partition("=")
    assert name == "__Secure-bank_console" and "Secure" in attributes.split("; ")


def test_a_second_login_in_one_browser_ends_the_first(app, visit, alice, bob):
    visitor = visit(alice)
    first = visitor.browser.get_cookie(COOKIE, path="/console").value
    given = {"username": bob.username, "password": PASSWORD}
    assert visitor.browser.post("/console/login", data=given, headers=OWN).status_code == 303
    other = app.test_client()
    other.set_cookie(COOKIE, first, path="/console")
    assert other.get("/console/accounts").status_code == 303


def test_logins_of_pages_and_of_the_api_are_counted_together(environ, tmp_path, password_hash, monkeypatch):
    # The limiter belongs to the process; the other tests go on without.
    monkeypatch.setattr(limiter, "enabled", limiter.enabled)
    with fresh_database(environ, tmp_path) as own:
        app = create_app(Config.from_env({**own, "RATELIMIT_ENABLED": "true", "BANK_RATE_LIMIT_AUTH": "3 per minute"}))
        who = people(app, password_hash, {"limited": Role.CUSTOMER})["limited"]
        given = {"username": who.username, "password": PASSWORD}
        for _ in range(3):
            assert app.test_client().post("/api/v1/auth/login", json=given).status_code == 200
        assert log_in(app, who)[1].status_code == 429


@pytest.mark.parametrize("path", ["/console/accounts", "/console/login", "/console/find", "/api/v1/accounts"])
@pytest.mark.parametrize("query", [b"x=\xff", b"q=\xc3"])
def test_bytes_that_are_no_text_are_the_askers_mistake(client, path, query):
    # As curl sends them; gunicorn hands them on as they are.
    answer = client.get(path, environ_overrides={"QUERY_STRING": query.decode("latin-1")})
    assert answer.status_code == 400 and "is not UTF-8" in answer.text
    assert answer.mimetype == ("text/html" if "console" in path else "application/problem+json")
