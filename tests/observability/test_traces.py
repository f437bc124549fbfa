"""A transfer is one trace, from the request through the queue to the statements that post it."""

import secrets
import socket
import subprocess
import sys
import time

import pytest

from bank.config import Config, ConfigError
from tests.observability.conftest import SPAN, TRACE, Watched
from tests.observability.sink import Sink
from tests.processes import HOST, query, wait_until


def test_a_transfer_is_one_trace(transferred: tuple[Watched, str]) -> None:
    watched, transaction = transferred
    spans = watched.sink.of(TRACE)
    [http], [enqueue], [drain] = spans["POST /api/v1/transactions/transfer"], spans["enqueue"], spans["drain"]
    assert (http.kind, http.parent_id) == ("SERVER", SPAN)
    assert http.attributes["bank.request_id"] == "order-4711" and http.attributes["http.response.status_code"] == 201
    assert (enqueue.kind, enqueue.parent_id) == ("PRODUCER", http.span_id)
    assert (drain.kind, drain.parent_id) == ("CONSUMER", enqueue.span_id)
    assert drain.attributes["bank.transaction_id"] == transaction and drain.attributes["bank.request_id"] == "order-4711"
    # What takes the transfer in, a statement of the request.
    taken = [
        sql for sql in spans["WITH"] if "INSERT INTO transactions" in sql.attributes["db.query.text"] and sql.parent_id == http.span_id
    ]
    [commit] = spans["COMMIT"]
    assert commit.parent_id == http.span_id and taken[0].end <= commit.start <= commit.end <= enqueue.start


def test_the_batch_has_the_statements_and_is_linked_with_its_transactions(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    [drain] = watched.sink.of(TRACE)["drain"]
    [(batch_trace, batch_id)] = drain.links
    wait_until(lambda: "drain batch" in watched.sink.of(batch_trace), "the batch arrives")
    spans = watched.sink.of(batch_trace)
    [batch] = spans["drain batch"]
    assert batch.span_id == batch_id and batch.parent_id == "" and batch_trace != TRACE
    assert batch.links == ((TRACE, drain.span_id),)
    statements = [span for name, found in spans.items() if name != "drain batch" for span in found]
    assert {sql.parent_id for sql in statements} == {batch_id} and all(sql.kind == "CLIENT" for sql in statements)
    # From the claim, before which nobody knew of the transfer, to where the lane stands.
    texts = [sql.attributes["db.query.text"] for sql in sorted(statements, key=lambda sql: sql.start)]
    assert "FROM lanes WHERE lane = %s FOR UPDATE SKIP LOCKED" in texts[0]
    assert any("INSERT INTO entries" in text for text in texts) and any(text.startswith("UPDATE lanes") for text in texts)
    assert texts[-1] == "COMMIT" and texts.count("COMMIT") == 1
    assert all(batch.start <= sql.start <= sql.end <= batch.end for sql in statements)


def test_the_log_of_events_has_the_trace(transferred: tuple[Watched, str]) -> None:
    watched, transaction = transferred
    found = query(watched.bank.environ, "SELECT DISTINCT request_id, trace_id FROM events WHERE stream_id = %s::uuid", transaction)
    assert found == [("order-4711", TRACE)]


def test_what_a_client_does_not_want_kept_is_kept_nowhere_but_has_its_id(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    unwanted, wanted = secrets.token_hex(16), secrets.token_hex(16)
    transaction = watched.transfer("unwanted", traceparent=f"00-{unwanted}-{SPAN}-00")["id"]
    # Without its own trace, none of a hundred is kept here, and it has an id all the same.
    nameless = watched.transfer("nameless")["id"]
    watched.transfer("wanted", traceparent=f"00-{wanted}-{SPAN}-01")
    # Spans of a process arrive in their order.
    wait_until(lambda: "drain" in watched.sink.of(wanted), "a later one arrives")
    wait_until(lambda: "POST /api/v1/transactions/transfer" in watched.sink.of(wanted), "a later one arrives")
    assert watched.sink.of(unwanted) == {}
    rows = query(watched.bank.environ, "SELECT trace_id FROM transactions WHERE id = ANY(%s::uuid[]) ORDER BY seq", [transaction, nameless])
    assert rows[0] == (unwanted,) and len(rows[1][0]) == 32 and watched.sink.of(rows[1][0]) == {}


def test_a_batch_of_the_api_is_one_trace_too(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    watched.bank.batch_worker = watched.bank.add("worker-batch", "worker.py", "batch")
    watched.bank.wait_until_ready()
    source, target = watched.accounts
    transfer = {"type": "transfer", "from_account_id": source, "to_account_id": target, "amount": "0.01", "currency": "USD"}
    trace_id = secrets.token_hex(16)
    body = {"mode": "atomic", "transactions": [transfer] * 3}
    answer = watched.client.post("/transactions/batch", body, traceparent=f"00-{trace_id}-{SPAN}-01")
    assert answer.status == 202, answer.body
    wait_until(lambda: {"enqueue", "drain"} <= watched.sink.of(trace_id).keys(), "the trace arrives")
    spans = watched.sink.of(trace_id)
    [enqueue], [drain] = spans["enqueue"], spans["drain"]
    assert drain.parent_id == enqueue.span_id and drain.attributes["messaging.batch.message_count"] == 3


def test_no_secret_is_in_a_trace(transferred: tuple[Watched, str]) -> None:
    watched, _ = transferred
    planted, trace_id = f"planted-{secrets.token_hex(8)}", secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace_id}-{SPAN}-01", "Content-Type": "application/json"}
    watched.client.request("GET", f"/api/v1/nowhere/{planted}?token={planted}&email={planted}@example.com", headers=headers)
    watched.client.request("GET", f"/api/v1/transactions/history?reference={planted}", headers=headers)
    login = {"username": planted, "password": planted}
    assert watched.client.request("POST", "/api/v1/auth/login", login, headers).status == 401
    wait_until(lambda: "POST /api/v1/auth/login" in watched.sink.of(trace_id), "the trace arrives")
    assert {"GET", "GET /api/v1/transactions/history"} <= watched.sink.of(trace_id).keys()
    token = watched.client.token or ""
    for secret in (planted, token, watched.bank.environ["JWT_SECRET_KEY"], watched.bank.environ["DATABASE_URL"]):
        assert not any(secret.encode() in body for body in watched.sink.raw), secret


# Every request is traced, and then the process ends.
_ASKED = """
import time
from bank import create_app
app = create_app()
with app.app_context():
    for _ in range(100):
        assert app.test_client().get("/health/live").status_code == 200
print(time.time(), flush=True)
"""


def test_a_collector_that_hangs_fails_no_request_and_holds_up_no_end(environ: dict[str, str]) -> None:
    with socket.socket() as hanging:
        hanging.bind((HOST, 0))
        hanging.listen()
        told = {**environ, "BANK_TRACES_URL": f"http://{HOST}:{hanging.getsockname()[1]}", "BANK_TRACES_PERCENT": "100"}
        done = subprocess.run([sys.executable, "-c", _ASKED], env=told, capture_output=True, text=True, timeout=60, check=False)
        ended = time.time()
    assert done.returncode == 0, done.stderr
    # One second, and what the end of a process takes on a busy machine. OpenTelemetry's own patience is ten and thirty.
    assert 1 <= ended - float(done.stdout) < 5


_INSTALLED = """
import sys
from sqlalchemy import event
from sqlalchemy import Engine
from bank import create_app
from bank.observability import traces
app = create_app()
print("bank.observability.otlp" in sys.modules, event.contains(Engine, "do_connect", traces._watch))
print(sum(each.__module__ == traces.__name__ for each in app.before_request_funcs[None]))
"""


@pytest.mark.parametrize(("url", "installed"), [("", ["False False", "0"]), ("http://127.0.0.1:9", ["True True", "1"])])
def test_nothing_is_installed_where_nothing_is_traced(environ: dict[str, str], url: str, installed: list[str]) -> None:
    told = {**environ, "BANK_TRACES_URL": url}
    done = subprocess.run([sys.executable, "-c", _INSTALLED], env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == installed, done.stderr


@pytest.mark.parametrize("url", ["collector:4318", "http://user:pass@collector:4318", "http://collector:4318?token=x"])
def test_an_address_is_a_url_without_secrets(environ: dict[str, str], url: str) -> None:
    with pytest.raises(ConfigError, match="BANK_TRACES_URL"):
        Config.from_env({**environ, "BANK_TRACES_URL": url})


_TICKED = """
import sys
from datetime import datetime
from bank import create_app
from bank.processing.processor import drain_once
from bank.schedules import jobs
app = create_app()
with app.app_context():
    print(jobs.run_due(datetime.fromisoformat(sys.argv[1])), flush=True)
    for lane in range(4):
        drain_once(lane)
    # Nothing is due any more.
    jobs.run_due(datetime.fromisoformat(sys.argv[1]))
"""


@pytest.mark.parametrize(("percent", "kept"), [("100", True), ("0", False)])
def test_what_a_schedule_submits_is_traced_from_the_look_at_what_is_due(environ, app, person, funded, percent: str, kept: bool) -> None:
    alice = person("traced_alice")
    source, target = funded(alice, "100.00"), funded(alice, None)
    transfer = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD"}
    due = "2031-01-31T08:00:00Z"
    made = alice.post("/schedules", {"transfer": transfer, "recurrence": {"rrule": "FREQ=DAILY;COUNT=1", "time_zone": "UTC", "start": due}})
    assert made.status_code == 201, made.json
    with Sink() as sink:
        told = {**environ, "BANK_TRACES_URL": sink.url, "BANK_TRACES_PERCENT": percent}
        done = subprocess.run([sys.executable, "-c", _TICKED, due], env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 and int(done.stdout) >= 1, done.stderr
    rows = query(environ, "SELECT id::text, trace_id FROM transactions WHERE schedule_id = %s::uuid", made.json["id"])
    [(transaction, trace_id)] = rows
    assert len(trace_id) == 32
    spans = sink.of(trace_id)
    if not kept:
        assert sink.spans == []
        return
    [look] = spans["run schedules"]
    [enqueue] = [span for span in spans["enqueue"] if span.attributes["bank.submitted_id"] == transaction]
    [drain] = [span for span in spans["drain"] if span.attributes["bank.transaction_id"] == transaction]
    assert (look.parent_id, enqueue.parent_id, drain.parent_id) == ("", look.span_id, enqueue.span_id)
    assert {sql.parent_id for sql in spans["COMMIT"]} == {look.span_id}
    assert any("INSERT INTO transactions" in sql.attributes["db.query.text"] for sql in spans["WITH"])
    # The looks that found nothing are not there; what others have scheduled may have been found by one more.
    assert all("enqueue" in sink.of(span.trace_id) for span in sink.spans if span.name == "run schedules")
