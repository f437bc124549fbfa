"""What is in a log, in which format, and what never is."""

import json
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyotp
import pytest

from bank.config import Config
from bank.observability.redaction import HIDDEN, Redactor
from tests.observability.conftest import SEAL_KEY, TRACE, Watched
from tests.processes import python, query, wait_until

# ---- What is in it ----


def test_a_transfer_is_found_in_the_logs_of_api_and_worker(transferred: tuple[Watched, str]) -> None:
    watched, transaction = transferred
    ids = {"request_id": "order-4711", "trace_id": TRACE, "transaction_id": transaction}
    [asked] = [line for line in watched.lines("web") if line.get("request_id") == "order-4711"]
    [(user,)] = query(watched.bank.environ, "SELECT id::text FROM users WHERE username = 'admin'")
    assert asked.items() >= {"event": "request", "method": "POST", "status": 201, "level": "info", "user_id": user, **ids}.items()
    assert asked["path"] == "/api/v1/transactions/transfer" and 0 < asked["milliseconds"] < 60_000
    [posted] = [line for line in watched.lines("worker-1") if line.get("transaction_id") == transaction]
    assert posted.items() >= {"event": "transaction_posted", "type": "transfer", **ids}.items()


def test_one_line_a_request_and_nothing_of_the_one_before(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    watched.transfer("first")
    watched.client.request("GET", "/api/v1/nowhere", headers={"X-Request-ID": "second"})
    [first] = [line for line in watched.lines("web") if line.get("request_id") == "first"]
    [second] = [line for line in watched.lines("web") if line.get("request_id") == "second"]
    assert first["transaction_id"] and first["trace_id"] != TRACE
    assert second["status"] == 404 and "transaction_id" not in second and "user_id" not in second


def test_every_process_writes_lines_of_the_same_shape(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    for name in ("web", "worker-1", "scheduler"):
        lines = watched.lines(name)
        assert lines and all({"event", "level", "timestamp"} <= line.keys() for line in lines), name
    assert {"Starting", "Booting"} <= {line["event"].split()[0] for line in watched.lines("web") if line.get("logger") == "gunicorn.error"}


def test_a_job_that_fails_tells_of_itself_and_of_no_secret(watched: Watched) -> None:
    from redis import Redis
    from rq import Queue
    from rq.serializers import JSONSerializer

    with Redis.from_url(watched.bank.environ["REDIS_URL"]) as client:
        Queue("bank", connection=client, serializer=JSONSerializer).enqueue("bank.processing.tasks.drain", "no lane", description="broken")
        found: list[dict[str, Any]] = []

        def told() -> list[dict[str, Any]]:
            found[:] = [line for line in watched.lines("worker-1") if line.get("job") == "broken" and line["level"] == "error"]
            return found

        wait_until(told, "the failure is logged")
    assert found[0]["logger"] == "rq.worker" and "Traceback" in json.dumps(found[0])


def test_alembic_tells_in_our_lines(environ: dict[str, str], tmp_path: Path) -> None:
    told = {
        **environ,
        "BANK_ENV": "production",
        "RATELIMIT_ENABLED": "true",
        "BANK_SELF_SERVICE_DEPOSITS": "false",
        "BANK_LOG_LEVEL": "INFO",
    }
    log = tmp_path / "alembic.log"
    assert python(["-c", _MIGRATE], told, log).wait(60) == 0, log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["logger"] for line in lines} >= {"alembic.runtime.migration"}


_MIGRATE = """
from flask_migrate import upgrade
from bank import create_app
from bank.cli.migrate import bind
app = create_app()
with app.app_context():
    bind(app)
    upgrade()
"""

# A process in production that SQLAlchemy, a thread and the interpreter itself have something to tell of.
_FAILS = """
import sys, threading, warnings
from sqlalchemy import create_engine, text
from bank import create_app
from bank.config import Config
config = Config.from_env()
app = create_app(config)
engine = create_engine(config.database_url, echo_pool="debug")
with engine.connect() as connection:
    try:
        connection.execute(text("SELECT 1/0 WHERE 'planted-parameter' = :password"), {"password": "planted-parameter"})
    except Exception:
        app.logger.exception("It failed.")
warnings.warn("of planted-warning: password=planted-warning")
def fail():
    raise RuntimeError("Authorization: Bearer planted-thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
raise RuntimeError(f"cannot connect to {config.database_url} and {config.redis_url} with {config.seal_key} and {config.jwt_secret}")
"""


def test_what_nobody_caught_is_a_line_without_secrets(environ: dict[str, str]) -> None:
    told = {
        **environ,
        "BANK_ENV": "production",
        "RATELIMIT_ENABLED": "true",
        "BANK_SELF_SERVICE_DEPOSITS": "false",
        "BANK_SEAL_KEY": SEAL_KEY,
        "REDIS_URL": "redis://:planted-redis@127.0.0.1:1/0",
    }
    done = subprocess.run([sys.executable, "-c", _FAILS], env=told, capture_output=True, text=True, timeout=60, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1 and lines[-1]["event"] == "uncaught" and "RuntimeError: cannot connect to" in lines[-1]["exception"]
    assert any("DivisionByZero" in line.get("exception", "") for line in lines)
    assert [line for line in lines if line["event"] == "uncaught" and line.get("thread")]
    password = told["DATABASE_URL"].split("://")[1].split("@")[0].partition(":")[2]
    secret = [password, "planted-redis", SEAL_KEY, told["JWT_SECRET_KEY"], "planted-thread"]
    assert [each for each in secret if each and each in done.stderr] == []
    assert "password=planted-warning" not in done.stderr


# ---- What never is ----


def test_planted_secrets_reach_no_log(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    word, client = f"planted{secrets.token_hex(8)}", watched.client
    email = f"{word}.person@example.com"
    for path in (f"/api/v1/nowhere/token={word}", f"/api/v1/nowhere/{email}", f"/api/v1/accounts?token={word}&email={email}"):
        client.request("GET", path.replace("@", "%40"))
    client.request("POST", "/api/v1/auth/login", {"username": f"{word}-user", "password": f"{word}-pass"})
    client.request("POST", "/api/v1/auth/register", {"username": 1, "email": email, "password": f"{word}-pass"})
    client.request("POST", "/api/v1/auth/login", headers={"Content-Type": "application/json"}, data=f'{{"password":"{word}'.encode())
    client.request("GET", "/api/v1/accounts", headers={"Authorization": f"Bearer {word}"})
    client.request("GET", "/api/v1/nowhere/end", headers={"X-Request-ID": "the-last"})
    wait_until(lambda: [line for line in watched.lines("web") if line.get("request_id") == "the-last"], "the last is logged")
    logged = "".join(path.read_text() for path in watched.bank.directory.glob("*.log"))
    assert word not in logged.replace(f"{word}-user", "")
    assert "p***@example.com" in logged or "p***%40example.com" in logged
    environ = watched.bank.environ
    assert [secret for secret in (client.token or "", environ["JWT_SECRET_KEY"], SEAL_KEY) if secret in logged] == []


def test_no_secret_of_a_second_factor_reaches_a_log(watched: Watched) -> None:
    name, password = f"dora-{secrets.token_hex(4)}", "a tall ship and a star"
    nobody = watched.bank.client()
    assert nobody.post("/auth/register", {"username": name, "email": f"{name}@example.com", "password": password}).status == 201
    client = watched.bank.client(watched.bank.log_in(name, password))
    begun = client.post("/auth/totp", {"password": password}).json
    code = pyotp.TOTP(begun["secret"]).now()
    paper = client.post("/auth/totp/confirm", {"code": code}).json["recovery_codes"]
    for each in (code, paper[0], paper[0], f"{paper[1]}x", None):
        nobody.post("/auth/login", {"username": name, "password": password, "code": each})
    client.post("/auth/totp/disable", {"password": password, "code": paper[1]})
    nobody.request("GET", f"/api/v1/auth/totp?secret={begun['secret']}")
    client.request("GET", "/api/v1/nowhere/end", headers={"X-Request-ID": f"the-last-of-{name}"})
    wait_until(lambda: [line for line in watched.lines("web") if line.get("request_id") == f"the-last-of-{name}"], "the last is logged")
    logged = "".join(path.read_text() for path in watched.bank.directory.glob("*.log"))
    assert [secret for secret in (begun["secret"], begun["otpauth_url"], *paper) if secret in logged] == []
    # Six digits stand in any number: a code would stand alone.
    assert not re.search(rf"(?<![0-9a-f.]){code}(?![0-9a-f])", logged)


REDACTED = {
    "Bob wrote from bob.smith+x@mail.example.com.": "Bob wrote from b***@mail.example.com.",
    "/users/bob%40example.com": "/users/b***%40example.com",
    "postgresql+psycopg2://bank:pa:ss@w/ord@db:5432/bank": "postgresql+psycopg2://***@db:5432/bank",
    "redis://:hunter22@redis:6379/0": "redis://***@redis:6379/0",
    "https://token@example.com/x": "https://***@example.com/x",
    "?page=2&access_token=abc.def&limit=1": "?page=2&access_token=***&limit=1",
    "password%3Dhunter22": "password%3D***",
    "{'Password': 'correct horse', 'amount': '1.00'}": "{'Password': ***, 'amount': '1.00'}",
    '{"new_password":"a\\"b c","n":1}': '{"new_password":***,"n":1}',
    '"{\\"password\\": \\"correct horse\\", \\"n\\": 1}"': '"{\\"password\\": ***, \\"n\\": 1}"',
    "{'password': 'cut off in the midd": "{'password': ***",
    "password=correct horse battery staple": "password=***",
    "host=db password=x user=bank": "host=db password=***",
    "Authorization: Basic YWRtaW46aHVudGVyMg==": "Authorization: ***",
    "sent Bearer abcdefgh.ijk-l": "sent Bearer ***",
    "the token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.c2ln was bad": "the token *** was bad",
    "hash $argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA of it": "hash *** of it",
    "[SQL: UPDATE users SET x = %(x)s]\n[parameters: {'x': 'hunter22'}]\n(Background)": (
        "[SQL: UPDATE users SET x = %(x)s]\n[parameters: ***]\n(Background)"
    ),
    "DETAIL:  Failing row contains (7, bob, hunter22).": "DETAIL:  Failing row contains (***)",
    "DETAIL:  Failing row contains (7, hunter\n22), 8).\nCONTEXT:  COPY": "DETAIL:  Failing row contains (***)\nCONTEXT:  COPY",
    "DETAIL:  Failing row contains (7, hunter\n22).\n\n[SQL: INSERT]": "DETAIL:  Failing row contains (***)\n[SQL: INSERT]",
    "DETAIL:  Failing row contains (7, hunter22": "DETAIL:  Failing row contains (***)",
    "Key (lower(email))=(bob@example.com) already exists.": "Key (lower(email))=(b***@example.com) already exists.",
}


@pytest.mark.parametrize("text", REDACTED)
def test_what_is_taken_out_of_a_text(text: str) -> None:
    assert Redactor(()).text(text) == REDACTED[text]


@pytest.mark.parametrize(
    "text",
    [
        "Running upgrade 0003 -> 0004, what is held",
        "/api/v1/transactions/0199c2f0-7a6e-7cc3-98c4-dc0c0c07398f",
        "2026-11-25T16:00:00.000000Z",
        "a49c63fd65c0593844dbe7efbf5ad3d627365e215dd247c01fcd988ca31132f9",
        "lane 3: 500 transactions in 0.25 s = 2000/s",
    ],
)
def test_what_an_operator_needs_stays(text: str) -> None:
    assert Redactor(()).text(text) == text


def test_secrets_are_hidden_wherever_they_stand_in_a_line() -> None:
    redact = Redactor({"s3cr3t-value", "s3cr3t-value-that-is-longer"})
    hidden = {"password": "x", "Authorization": "y", "nested": {"refresh_token": ["z"], "list": ["a s3cr3t-value", ("b@example.com",)]}}
    event = {"event": "at s3cr3t-value-that-is-longer", "count": 3, "tokens": 5, "ok": True, "none": None, **hidden}
    assert redact(None, "info", event) == {
        "event": f"at {HIDDEN}",
        "count": 3,
        "tokens": 5,
        "ok": True,
        "none": None,
        "password": HIDDEN,
        "Authorization": HIDDEN,
        "nested": {"refresh_token": HIDDEN, "list": [f"a {HIDDEN}", ["b***@example.com"]]},
    }


def test_what_is_no_text_is_looked_through_before_it_is_written() -> None:
    class Said:
        def __repr__(self) -> str:
            return "Said(password='hunter22')"

    assert "hunter22" not in str(Redactor(())(None, "info", {"event": "x", "said": Said(), "bytes": b"token=hunter22"}))


def test_a_long_text_costs_no_more_than_its_length() -> None:
    redact = Redactor({"s3cr3t-value"})
    started = time.perf_counter()
    for text in ("a" * 20_000 + "@", "password" * 2_500, "://a:" * 4_000, "\\" * 20_000 + "token", 'token=\\"' * 2_500):
        redact.text(text)
    assert time.perf_counter() - started < 3


def test_the_secrets_of_the_configuration_are_known(environ: dict[str, str]) -> None:
    from bank.config import secrets_of

    config = Config.from_env({**environ, "BANK_SEAL_KEY": SEAL_KEY, "JWT_OLD_SECRET_KEYS": f"{'a' * 32},{'b' * 32}"})
    assert {config.jwt_secret, *config.old_jwt_secrets, SEAL_KEY, config.database_url} <= secrets_of(config)
    assert "" not in secrets_of(config)
