"""A second factor: turning it on, logging in by it, losing it."""

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank import create_app
from bank.auth import passwords, throttle, totp
from bank.config import Config
from bank.db import db, reader, unit_of_work
from tests.conftest import PASSWORD, Person
from tests.processes import wait_until

STEP = totp.STEP_SECONDS


class Clock:
    """The time, as the test puts it."""

    def __init__(self) -> None:
        self.now = 1_900_000_000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(totp, "time", clock)
    return clock


@dataclass
class Authenticator:
    """What somebody has in the pocket: the secret, and the recovery codes on paper."""

    clock: Clock
    secret: str
    paper: list[str]

    def code(self, steps: int = 0) -> str:
        """The code of now, or of so many steps later."""
        return pyotp.TOTP(self.secret).generate_otp(int(self.clock.now) // STEP + steps)

    def fresh(self) -> str:
        """A code that cannot have been used."""
        self.clock.now += STEP
        return self.code()


Enrol = Callable[[Person], Authenticator]


@pytest.fixture
def enrol(clock: Clock) -> Enrol:
    def turn_on(who: Person) -> Authenticator:
        begun = who.post("/auth/totp", {"password": PASSWORD})
        assert begun.status_code == 201, begun.json
        device = Authenticator(clock, begun.json["secret"], [])
        confirmed = who.post("/auth/totp/confirm", {"code": device.fresh()})
        assert confirmed.status_code == 200, confirmed.json
        device.paper = confirmed.json["recovery_codes"]
        return device

    return turn_on


Enter = Callable[..., TestResponse]


@pytest.fixture
def enter(client: FlaskClient) -> Enter:
    """Log in with a code, or without."""

    def post(who: Person, code: str | None = None, password: str = PASSWORD, address: str = "192.0.2.1") -> TestResponse:
        body = {"username": who.username, "password": password, **({"code": code} if code is not None else {})}
        return client.post("/api/v1/auth/login", json=body, environ_overrides={"REMOTE_ADDR": address})

    return post


def rows(app: Flask, query: str, **values: Any) -> list[Any]:
    with app.app_context(), reader() as session:
        return list(session.execute(text(query), values))


def failures_forgotten(app: Flask) -> None:
    with app.app_context(), unit_of_work() as session:
        session.execute(text("DELETE FROM login_failures"))


def test_the_codes_are_those_of_rfc_6238() -> None:
    # Appendix B: the secret is "12345678901234567890", and of eight digits these are the last six.
    secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
    vectors = {59: "287082", 1111111109: "081804", 1111111111: "050471", 1234567890: "005924", 2000000000: "279037"}
    for seconds, code in vectors.items():
        assert pyotp.TOTP(secret).generate_otp(seconds // STEP) == code


def test_enrolling_shows_what_an_authenticator_reads(alice: Person, clock: Clock) -> None:
    assert alice.get("/auth/totp").json == {"enabled": False, "confirmed_at": None, "recovery_codes_left": 0}
    response = alice.post("/auth/totp", {"password": PASSWORD})
    assert (response.status_code, response.headers["Cache-Control"]) == (201, "no-store")
    url = urlsplit(response.json["otpauth_url"])
    assert (url.scheme, url.netloc, url.path) == ("otpauth", "totp", f"/bank:{alice.username}")
    assert parse_qs(url.query) == {"secret": [response.json["secret"]], "issuer": ["bank"]}
    assert len(response.json["secret"]) == 32
    assert pyotp.parse_uri(response.json["otpauth_url"]).secret == response.json["secret"]  # type: ignore[union-attr]


def test_nothing_changes_until_it_is_confirmed(alice: Person, enter: Enter, clock: Clock) -> None:
    first = alice.post("/auth/totp", {"password": PASSWORD}).json["secret"]
    assert alice.get("/auth/totp").json["enabled"] is False
    assert enter(alice).status_code == 200
    # Beginning again takes the place of what was begun.
    second = alice.post("/auth/totp", {"password": PASSWORD}).json["secret"]
    assert alice.post("/auth/totp/confirm", {"code": Authenticator(clock, first, []).code()}).status_code == 422
    assert alice.post("/auth/totp/confirm", {"code": Authenticator(clock, second, []).code()}).status_code == 200


def test_once_it_is_on_a_login_needs_a_code(app: Flask, alice: Person, enrol: Enrol, enter: Enter) -> None:
    device = enrol(alice)
    state = alice.get("/auth/totp").json
    assert (state["enabled"], state["recovery_codes_left"]) == (True, totp.RECOVERY_CODES) and state["confirmed_at"]
    without = enter(alice)
    assert (without.status_code, without.json["code"]) == (401, "second_factor_required")
    assert without.headers["WWW-Authenticate"] == "Bearer"
    wrong = enter(alice, "000000" if device.code() != "000000" else "111111")
    assert (wrong.status_code, wrong.json["code"]) == (401, "invalid_credentials")
    assert enter(alice, device.fresh()).status_code == 200
    failed = rows(app, "SELECT details FROM audit_logs WHERE entity_id = :id AND action = 'login.failed'", id=alice.id)
    assert [row.details for row in failed] == [{"second_factor": "wrong"}]
    assert enter(alice, device.paper[0]).status_code == 200
    began = rows(app, "SELECT details FROM audit_logs WHERE actor_id = :id AND action = 'login.began' ORDER BY id", id=alice.id)
    assert [row.details for row in began] == [{"second_factor": "authenticator"}, {"second_factor": "recovery_code"}]


def test_only_who_has_the_password_hears_of_the_second_factor(alice: Person, bob: Person, enrol: Enrol, enter: Enter) -> None:
    device = enrol(alice)
    nobody = replace(bob, username=f"nobody-{secrets.token_hex(5)}")
    answers = []
    for who, code in ((alice, None), (alice, device.fresh()), (bob, None), (bob, "123456"), (nobody, None), (nobody, "123456")):
        response = enter(who, code, password="not the password")
        answers.append((response.status_code, {**response.json, "request_id": None}))
    assert answers == [answers[0]] * len(answers)
    assert answers[0][1]["code"] == "invalid_credentials"


def test_a_code_of_who_has_no_second_factor_is_not_looked_at(alice: Person, enter: Enter) -> None:
    assert enter(alice, "123456").status_code == 200


def test_no_code_is_good_twice(alice: Person, enrol: Enrol, enter: Enter) -> None:
    device = enrol(alice)
    # The one that confirmed is used.
    assert enter(alice, device.code()).status_code == 401
    code = device.fresh()
    assert enter(alice, code).status_code == 200
    assert enter(alice, code).status_code == 401
    # Nor is one of an earlier step than the last, which somebody may have seen.
    assert enter(alice, device.code(1)).status_code == 200
    assert enter(alice, device.code(0)).status_code == 401
    assert enter(alice, device.code(-1)).status_code == 401


def test_of_many_logins_at_once_with_one_code_one_gets_in(app: Flask, alice: Person, enrol: Enrol) -> None:
    code = enrol(alice).fresh()
    barrier, answers = threading.Barrier(4), []

    def go() -> None:
        client = app.test_client()
        barrier.wait()
        body = {"username": alice.username, "password": PASSWORD, "code": code}
        answers.append(client.post("/api/v1/auth/login", json=body).status_code)

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 401, 401, 401]


def test_a_login_that_waits_for_a_second_factor_to_be_confirmed_needs_a_code(app: Flask, alice: Person, enter: Enter, clock: Clock) -> None:
    assert alice.post("/auth/totp", {"password": PASSWORD}).status_code == 201
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    answers: list[TestResponse] = []
    thread = threading.Thread(target=lambda: answers.append(enter(alice)))
    with app.app_context(), unit_of_work() as session:
        session.execute(text("SELECT FROM users WHERE id = :id FOR NO KEY UPDATE"), {"id": alice.id})
        thread.start()
        wait_until(lambda: rows(app, waiting)[0][0] > 0, "the login waits", 20)
        session.execute(text("UPDATE second_factors SET confirmed_at = now() WHERE user_id = :id"), {"id": alice.id})
    thread.join()
    assert answers[0].json["code"] == "second_factor_required"


@pytest.mark.parametrize(("steps", "status"), [(-2, 401), (-1, 200), (0, 200), (1, 200), (2, 401)])
def test_clocks_may_differ_by_one_step(alice: Person, enrol: Enrol, enter: Enter, steps: int, status: int) -> None:
    device = enrol(alice)
    device.clock.now += 10 * STEP
    assert enter(alice, device.code(steps)).status_code == status


@pytest.mark.parametrize(
    "code", ["12345", "1234567", "١٢٣٤٥٦", "12 456", "abcdef", "", "aaaa-bbbb-cccc", "AAAA-BBBB-CCCC-DDD1", "a1aa-aaaa-aaaa-aaaa"]
)
def test_what_is_no_code_is_a_422_and_no_guess(app: Flask, alice: Person, enter: Enter, code: str) -> None:
    failures_forgotten(app)
    response = enter(alice, code)
    assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/code")
    assert rows(app, "SELECT FROM login_failures") == []


def test_a_recovery_code_is_good_once(alice: Person, bob: Person, enrol: Enrol, enter: Enter) -> None:
    device, others = enrol(alice), enrol(bob)
    assert len({*device.paper, *others.paper}) == 2 * totp.RECOVERY_CODES
    assert enter(alice, others.paper[0]).status_code == 401
    assert enter(alice, device.paper[0]).status_code == 200
    assert enter(alice, device.paper[0]).status_code == 401
    # As somebody types it from paper.
    assert enter(alice, device.paper[1].upper().replace("-", " ")).status_code == 200
    assert enter(alice, device.paper[2].replace("-", "")).status_code == 200
    assert alice.get("/auth/totp").json["recovery_codes_left"] == totp.RECOVERY_CODES - 3
    assert bob.get("/auth/totp").json["recovery_codes_left"] == totp.RECOVERY_CODES


def test_wrong_codes_have_to_wait_and_a_right_password_forgets_none(app: Flask, alice: Person, enrol: Enrol, enter: Enter) -> None:
    device = enrol(alice)
    failures_forgotten(app)
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        assert enter(alice, device.paper[0][::-1].replace("-", "a", 1)[:4] + "-aaaa-aaaa-aaaa").status_code == 401
        # Who has the password asks as often as they like, and guesses at codes no faster by it.
        assert enter(alice).status_code in (401, 429)
    waits = enter(alice, device.fresh())
    assert waits.status_code == 429
    assert int(waits.headers["Retry-After"]) >= 1
    assert enter(alice).status_code == 429


def test_a_right_password_without_a_code_is_answered_no_faster_than_wrong_ones_allow(app: Flask, alice: Person) -> None:
    counted = throttle.subjects(secrets.token_hex(8), "192.0.2.98", known=True)
    with app.app_context():
        for _ in range(throttle.FREE_FOR_ACCOUNT):
            with unit_of_work() as session:
                throttle.settle(session, counted, good=False)
        with pytest.raises(throttle.TooManyAttempts), unit_of_work() as session:
            throttle.settle(session, counted, good=None)


def test_a_good_code_forgets_the_failures(app: Flask, alice: Person, enrol: Enrol, enter: Enter) -> None:
    device = enrol(alice)
    for _ in range(3):
        for _ in range(throttle.FREE_FOR_ACCOUNT - 1):
            assert enter(alice, "aaaa-aaaa-aaaa-aaaa").status_code == 401
        assert enter(alice, device.fresh()).status_code == 200


def test_confirming_ends_the_logins_that_were_begun_without_a_code(app: Flask, alice: Person, enrol: Enrol, enter: Enter) -> None:
    other = replace(alice, token=enter(alice).json["access_token"])
    enrol(alice)
    assert other.get("/auth/me").status_code == 401
    assert alice.get("/auth/me").status_code == 200
    audited = rows(
        app, "SELECT actor_id::text, details FROM audit_logs WHERE action = 'user.second_factor_confirmed' AND entity_id = :id", id=alice.id
    )
    assert [tuple(row) for row in audited] == [(alice.id, {})]


def test_turning_it_on_needs_the_password_and_guessing_it_waits(app: Flask, alice: Person, clock: Clock) -> None:
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        response = alice.post("/auth/totp", {"password": "not the password"})
        assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/password")
    assert alice.post("/auth/totp", {"password": PASSWORD}).status_code == 429
    assert rows(app, "SELECT FROM second_factors WHERE user_id = :id", id=alice.id) == []


def test_guessing_the_first_code_waits_too(alice: Person, clock: Clock) -> None:
    secret = alice.post("/auth/totp", {"password": PASSWORD}).json["secret"]
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        response = alice.post("/auth/totp/confirm", {"code": "aaaa-aaaa-aaaa-aaaa"})
        assert (response.status_code, response.json["errors"][0]["pointer"]) == (422, "/code")
    assert alice.post("/auth/totp/confirm", {"code": Authenticator(clock, secret, []).code()}).status_code == 429
    assert alice.get("/auth/totp").json["enabled"] is False


def test_what_is_on_is_neither_begun_nor_confirmed_again(alice: Person, enrol: Enrol, enter: Enter) -> None:
    assert alice.post("/auth/totp/confirm", {"code": "123456"}).status_code == 409
    device = enrol(alice)
    assert alice.post("/auth/totp", {"password": PASSWORD}).status_code == 409
    assert alice.post("/auth/totp/confirm", {"code": device.fresh()}).status_code == 409
    assert enter(alice, device.fresh()).status_code == 200


@pytest.mark.parametrize("by", ["device", "paper"])
def test_it_is_disabled_by_the_password_and_a_code(app: Flask, alice: Person, enrol: Enrol, enter: Enter, by: str) -> None:
    device = enrol(alice)
    code = device.fresh() if by == "device" else device.paper[3]
    wrong = alice.post("/auth/totp/disable", {"password": "not the password", "code": code})
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/password")
    wrong = alice.post("/auth/totp/disable", {"password": PASSWORD, "code": "aaaa-aaaa-aaaa-aaaa"})
    assert (wrong.status_code, wrong.json["errors"][0]["pointer"]) == (422, "/code")
    assert enter(alice).status_code == 401
    assert alice.post("/auth/totp/disable", {"password": PASSWORD, "code": code}).status_code == 204
    assert enter(alice).status_code == 200
    assert alice.get("/auth/totp").json == {"enabled": False, "confirmed_at": None, "recovery_codes_left": 0}
    for table in ("second_factors", "recovery_codes"):
        assert rows(app, f"SELECT FROM {table} WHERE user_id = :id", id=alice.id) == []
    assert alice.post("/auth/totp/disable", {"password": PASSWORD, "code": device.paper[4]}).status_code == 409
    # It can be turned on again, with another secret.
    assert enrol(alice).secret != device.secret


def test_disabling_counts_wrong_codes(alice: Person, enrol: Enrol) -> None:
    device = enrol(alice)
    for _ in range(throttle.FREE_FOR_ACCOUNT):
        # The right password on the way clears nothing.
        assert alice.post("/auth/totp/disable", {"password": PASSWORD, "code": "aaaa-aaaa-aaaa-aaaa"}).status_code == 422
    assert alice.post("/auth/totp/disable", {"password": PASSWORD, "code": device.fresh()}).status_code == 429


def test_an_admin_resets_it_for_who_lost_it(app: Flask, alice: Person, admin: Person, teller: Person, enrol: Enrol, enter: Enter) -> None:
    enrol(alice)
    assert teller.request("DELETE", f"/users/{alice.id}/totp").status_code == 403
    assert admin.request("DELETE", f"/users/{teller.id}/totp").status_code == 404
    assert admin.request("DELETE", f"/users/{alice.id}/totp").status_code == 204
    assert alice.get("/auth/me").status_code == 401
    assert enter(alice).status_code == 200
    audited = rows(app, "SELECT actor_id::text FROM audit_logs WHERE action = 'user.second_factor_reset' AND entity_id = :id", id=alice.id)
    assert [row[0] for row in audited] == [admin.id]


def test_an_admin_does_not_reset_their_own(admin: Person, enrol: Enrol, enter: Enter) -> None:
    enrol(admin)
    assert admin.request("DELETE", f"/users/{admin.id}/totp").status_code == 409
    assert enter(admin).json["code"] == "second_factor_required"


def test_no_secret_and_no_code_is_kept(app: Flask, alice: Person, enrol: Enrol, enter: Enter) -> None:
    device = enrol(alice)
    enter(alice, device.fresh())
    enter(alice, device.paper[0])
    alice.post("/auth/totp/disable", {"password": PASSWORD, "code": device.paper[1]})
    other = enrol(alice)
    kept = " ".join(
        str(row[0])
        for table in ("second_factors", "recovery_codes", "audit_logs", "events", "logins")
        for row in rows(app, f"SELECT CAST(t AS text) FROM {table} t")
    )
    kept += "".join(bytes(row[0]).decode("latin-1") for row in rows(app, "SELECT secret FROM second_factors"))
    for secret in (device.secret, other.secret, *device.paper, *other.paper):
        assert secret not in kept


def test_a_stored_secret_is_good_for_its_user_and_its_key_only(alice: Person, bob: Person) -> None:
    key, secret = secrets.token_hex(32), totp.new_secret()
    stored = totp.sealed(secret, alice.id, key)
    assert secret.encode() not in stored
    assert totp.sealed(secret, alice.id, key) != stored
    assert totp.opened(stored, alice.id, key) == secret
    assert totp.opened(stored, bob.id, key) is None
    assert totp.opened(stored, alice.id, secrets.token_hex(32)) is None
    assert totp.opened(stored[:-1] + bytes([stored[-1] ^ 1]), alice.id, key) is None


@pytest.fixture
def other(config: Config) -> Iterator[Callable[..., FlaskClient]]:
    """A client of the bank with other settings."""
    apps = []

    def build(**settings: Any) -> FlaskClient:
        apps.append(create_app(replace(config, **settings)))
        return apps[-1].test_client()

    yield build
    for app in apps:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def test_a_key_of_its_own_outlives_the_one_that_signs_tokens(
    config: Config, alice: Person, enrol: Enrol, other: Callable[..., FlaskClient]
) -> None:
    device = enrol(alice)
    body = {"username": alice.username, "password": PASSWORD}
    changed = secrets.token_hex(32)
    with_old = other(jwt_secret=changed, totp_key=config.jwt_secret)
    assert with_old.post("/api/v1/auth/login", json={**body, "code": device.fresh()}).status_code == 200
    without = other(jwt_secret=changed)
    assert without.post("/api/v1/auth/login", json={**body, "code": device.fresh()}).status_code == 401
    assert without.post("/api/v1/auth/login", json={**body, "code": device.paper[0]}).status_code == 200


def test_an_admin_who_must_have_one_can_only_enrol(
    app: Flask, admin: Person, alice: Person, enrol: Enrol, enter: Enter, other: Callable[..., FlaskClient]
) -> None:
    strict = other(totp_for_admins=True)
    admin, alice = replace(admin, client=strict), replace(alice, client=strict)
    document = strict.get("/openapi.json").json
    open_to_them = {"auth_get_totp", "auth_begin_totp", "auth_confirm_totp", "auth_logout", "auth_refresh"}
    refused = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method == "parameters" or not operation.get("security") or operation["operationId"] in open_to_them:
                continue
            url = path.removeprefix("/api/v1")
            while "{" in url:
                url = url[: url.index("{")] + alice.id + url[url.index("}") + 1 :]
            response = admin.request(method.upper(), url, json={})
            assert (response.status_code, response.json["code"]) == (403, "enrolment_required"), (method, path)
            refused += 1
    assert refused >= 40
    # Others need none.
    assert alice.get("/auth/me").status_code == 200
    device = enrol(admin)
    assert admin.get("/users").status_code == 200
    again = replace(admin, token=enter(admin, device.fresh()).json["access_token"])
    assert again.get("/users").status_code == 200
    assert admin.post("/auth/totp/disable", {"password": PASSWORD, "code": device.fresh()}).status_code == 204
    assert admin.get("/users").json["code"] == "enrolment_required"
    assert admin.post("/auth/logout").status_code == 204


def test_a_promotion_to_admin_wants_a_second_factor_from_the_next_request(
    app: Flask, alice: Person, other: Callable[..., FlaskClient]
) -> None:
    alice = replace(alice, client=other(totp_for_admins=True))
    assert alice.get("/auth/me").status_code == 200
    with app.app_context(), unit_of_work() as session:
        session.execute(text("UPDATE users SET role = 'admin' WHERE id = :id"), {"id": alice.id})
    assert alice.get("/auth/me").json["code"] == "enrolment_required"


def test_a_password_that_is_changed_meanwhile_turns_nothing_on(
    app: Flask, alice: Person, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = passwords.verify

    def overtaken(hashed: str | None, password: str) -> bool:
        good = verify(hashed, password)
        with unit_of_work() as session:
            new = passwords.hash("another password")
            session.execute(text("UPDATE users SET password_hash = :new WHERE id = :id"), {"new": new, "id": alice.id})
        return good

    monkeypatch.setattr(passwords, "verify", overtaken)
    assert alice.post("/auth/totp", {"password": PASSWORD}).status_code == 409
    assert rows(app, "SELECT FROM second_factors WHERE user_id = :id", id=alice.id) == []
