"""The OpenAPI document: complete, and true of the answers that routes really give."""

import json
import re
from datetime import datetime
from typing import Any

import pyotp
import pytest
from sqlalchemy import text

from bank.db import unit_of_work
from bank.schedules.jobs import run_due
from tests.conftest import PASSWORD
from tests.contract.document import Document
from tests.contract.problems import check_problem
from tests.proof.conftest import last_position, seal_up_to


@pytest.fixture(scope="module")
def document(app) -> Document:
    return Document(app.test_client().get("/openapi.json").json)


OPERATIONAL = {"/health/live", "/health/ready", "/metrics", "/docs", "/docs/start.js", "/docs/<path:name>", "/openapi.json"}


def test_every_route_of_the_application_is_in_the_document(app, document):
    rules = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        # The console is pages for people.
        if rule.rule not in OPERATIONAL and not rule.rule.startswith("/console/")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert rules == {(method, path) for method, path, _ in document.operations()}
    assert all(path.startswith("/api/v1/") for _, path in rules)


def test_every_operation_says_what_it_does_and_has_an_id_of_its_own(document):
    ids = []
    for method, path, operation in document.operations():
        assert operation.get("summary"), (method, path)
        assert operation.get("tags"), (method, path)
        ids.append(operation["operationId"])
    assert len(set(ids)) == len(ids)


# Client libraries are generated from these: a name that changes breaks whoever calls it.
PROMISED = {
    "fx_list_rates", "fx_publish_rate", "fx_ask_quote", "fx_read_position",
    "auth_register", "auth_login", "auth_refresh", "auth_logout", "auth_me", "auth_list_logins", "auth_revoke_login", "auth_get_totp",
    "auth_begin_totp", "auth_confirm_totp", "auth_disable_totp", "users_reset_totp", "users_list_users",
    "users_get_user", "users_change_user", "users_delete_user", "privacy_export_user", "privacy_erase_user",
    "accounts_open_account", "accounts_list_accounts", "accounts_get_account", "accounts_change_account",
    "accounts_list_entries", "statements_get_statement",
    "transactions_credit", "transactions_debit", "transactions_transfer", "transactions_rollback",
    "transactions_capture", "transactions_void", "transactions_history",
    "transactions_get_transaction", "balances_current", "balances_historical", "balances_at_time",
    "batches_submit_batch", "batches_get_batch", "admin_read_stats", "replays_start_replay", "replays_get_replay", "replays_list_accounts",
    "schedules_create_schedule", "schedules_list_schedules", "schedules_get_schedule", "schedules_list_runs", "schedules_change_schedule",
    "schedules_delete_schedule", "limits_set_limit", "limits_list_limits", "limits_get_limit", "limits_change_limit", "limits_remove_limit",
    "rules_set_rule", "rules_list_rules", "rules_get_rule", "rules_change_rule", "rules_remove_rule", "transactions_approve",
    "transactions_reject", "transactions_get_explanation",
}  # fmt: skip


def test_operation_ids_are_stable(document):
    assert {operation["operationId"] for _, _, operation in document.operations()} >= PROMISED


MONEY = {
    "amount", "to_amount", "balance", "available", "held", "overdraft_limit", "opening", "closing", "credits", "debits",
    "rolled_back_amount", "held_amount", "captured_amount", "min_amount", "max_amount", "value",
}  # fmt: skip


def test_money_is_documented_with_an_example(document):
    found = 0
    for name, schema in document.root["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            if field in MONEY:
                found += 1
                assert described.get("example"), (name, field)
                assert described.get("type") == "string" or "oneOf" in described, (name, field)
    assert found > 15


def test_every_field_of_a_request_has_an_example_or_says_what_it_is(document):
    for method, path, operation in document.operations():
        for parameter in operation.get("parameters", []):
            described = {**parameter, **parameter.get("schema", {})}
            told = {"description", "example", "enum", "format", "pattern", "minimum"} & described.keys()
            assert told, (method, path, parameter["name"])
        if "requestBody" in operation:
            schema = document.resolve(operation["requestBody"]["content"]["application/json"]["schema"])
            for field, described in schema["properties"].items():
                told = {"description", "example", "enum", "format", "additionalProperties"} & described.keys()
                assert told, (method, path, field)


def test_a_body_is_optional_where_a_request_without_one_does_something(document):
    optional = {
        operation["operationId"]
        for _, _, operation in document.operations()
        if "requestBody" in operation and not operation["requestBody"].get("required", False)
    }
    # Whoever changes something must say what, and these say it by their paths, or mean all there is.
    ending = {f"transactions_{act}" for act in ("capture", "void", "approve", "reject")}
    assert optional == {*ending, "replays_start_replay"}


def test_every_operation_documents_the_problems_it_can_answer(document):
    for method, path, operation in document.operations():
        expected = {"422", "429", "503", "default"}
        if operation.get("security"):
            expected |= {"401"}
        if "requestBody" in operation:
            expected |= {"400", "413", "415"}
        if "{" in path:
            expected |= {"404"}
        if any(parameter["name"] == "If-Match" for parameter in operation.get("parameters", [])):
            expected |= {"412"}
        if any(parameter["name"] == "Idempotency-Key" for parameter in operation.get("parameters", [])):
            expected |= {"404", "409"}
        assert expected <= operation["responses"].keys(), (method, path)
        for status in operation["responses"]:
            if status == "default" or int(status) >= 400:
                answer = document.resolve(operation["responses"][status])
                assert answer["description"], (method, path, status)
                assert answer["content"].keys() == {"application/problem+json"}, (method, path, status)
                schema = document.resolve(answer["content"]["application/problem+json"]["schema"])
                assert {"type", "title", "status", "detail", "instance", "code", "request_id", "errors"} <= schema["properties"].keys()


def test_routes_that_move_money_document_their_headers_and_the_dry_run(document):
    for method, path, operation in document.operations():
        if method == "POST" and path.startswith("/api/v1/transactions"):
            parameters = {parameter["name"]: parameter for parameter in operation["parameters"]}
            assert {"Idempotency-Key", "dry_run"} <= parameters.keys(), path
            assert parameters["Idempotency-Key"]["in"] == "header"
            if path.endswith(("/approve", "/reject")):
                # What ends a review is done when it is answered.
                continue
            assert {"200", "202"} <= operation["responses"].keys(), path
            # Nobody holds a connection for a batch: who asked reads how far it is.
            if not path.endswith("/batch"):
                assert parameters["Prefer"]["in"] == "header", path
                assert "201" in operation["responses"], path


def test_answers_are_what_the_document_says(app, document, stage, person, post_all, nothing_written):
    """One real answer for each operation and success status, held against its schema."""
    seen = set()

    def check(response, method, path, status):
        operation = document.root["paths"][path][method.lower()]
        assert response.status_code == status, response.text
        answer = document.answer(operation, status)
        seen.add((method, path, status))
        if status == 204:
            assert response.data == b""
            return
        schema = answer["content"][response.mimetype]["schema"]
        body = json.loads(response.data) if response.mimetype == "application/json" else response.text
        assert document.objections(schema, body) == [], (method, path)
        for header in answer.get("headers", {}):
            if header not in ("Link", "Idempotent-Replayed", "Preference-Applied"):
                assert header in response.headers, (method, path, header)

    alice, bob, admin = stage.alice, stage.bob, stage.admin
    api = "/api/v1"
    account = {"account_id": stage.account, "amount": "10.00", "currency": "USD"}
    transfer = {"to_account_id": stage.bobs_account, "amount": "2.00", "currency": "USD", "metadata": {"order": "4711"}, "reference": "A-1"}

    check(alice.get("/auth/me"), "GET", f"{api}/auth/me", 200)
    check(admin.get("/users"), "GET", f"{api}/users", 200)
    check(admin.get(f"/users/{alice.id}"), "GET", f"{api}/users/{{user_id}}", 200)
    check(alice.get(f"/users/{alice.id}/export"), "GET", f"{api}/users/{{user_id}}/export", 200)
    leaving = person("leaving")
    erasing = leaving.post(f"/users/{leaving.id}/erasure", {"current_password": PASSWORD})
    check(erasing, "POST", f"{api}/users/{{user_id}}/erasure", 204)
    opened = alice.post("/accounts", {"currency": "EUR", "name": "Trips"})
    check(opened, "POST", f"{api}/accounts", 201)
    euros = opened.json["id"]
    check(alice.get("/accounts"), "GET", f"{api}/accounts", 200)
    check(alice.get(f"/accounts/{stage.account}"), "GET", f"{api}/accounts/{{account_id}}", 200)
    check(alice.patch(f"/accounts/{stage.account}", {"name": "Main"}), "PATCH", f"{api}/accounts/{{account_id}}", 200)
    check(alice.post("/transactions/credit", account), "POST", f"{api}/transactions/credit", 202)
    check(alice.post("/transactions/debit", account), "POST", f"{api}/transactions/debit", 202)
    moved = alice.post("/transactions/transfer", transfer)
    check(moved, "POST", f"{api}/transactions/transfer", 202)
    post_all()
    for kind, body in (("credit", account), ("debit", account), ("transfer", transfer)):
        check(alice.post(f"/transactions/{kind}?dry_run=true", body), "POST", f"{api}/transactions/{kind}", 200)
    rollback = f"{api}/transactions/{{transaction_id}}/rollback"
    check(bob.post(f"/transactions/{moved.json['id']}/rollback?dry_run=true", {"reason": "Returned"}), "POST", rollback, 200)
    check(bob.post(f"/transactions/{moved.json['id']}/rollback", {"amount": "1.00", "reason": "Returned"}), "POST", rollback, 202)
    held = stage.hold
    for act, body in (("capture", {"amount": "1.00"}), ("void", {})):
        for query, status in (("?dry_run=true", 200), ("", 202)):
            response = alice.post(f"/transactions/{held}/{act}{query}", body)
            check(response, "POST", f"{api}/transactions/{{transaction_id}}/{act}", status)
    post_all()
    batch = {"mode": "independent", "transactions": [{"type": "credit", **account}, {"type": "transfer", **transfer, "reference": "A-2"}]}
    check(alice.post("/transactions/batch?dry_run=true", batch), "POST", f"{api}/transactions/batch", 200)
    check(alice.post("/transactions/batch", batch), "POST", f"{api}/transactions/batch", 202)
    post_all()
    refused = [{"type": "credit", **account}, {"type": "debit", **account, "amount": "1000000.00"}]
    failed = alice.post("/transactions/batch", {"mode": "atomic", "transactions": refused})
    post_all()
    for each in (stage.batch, failed.json["id"]):
        check(alice.get(f"/transactions/batch/{each}"), "GET", f"{api}/transactions/batch/{{batch_id}}", 200)
    check(alice.get("/transactions/history"), "GET", f"{api}/transactions/history", 200)
    check(alice.get(f"/transactions/{moved.json['id']}"), "GET", f"{api}/transactions/{{transaction_id}}", 200)
    check(alice.get(f"/accounts/{stage.account}/entries"), "GET", f"{api}/accounts/{{account_id}}/entries", 200)
    statement = f"/accounts/{stage.account}/statement?from=2026-01-01&to=2200-01-01"
    check(alice.get(statement), "GET", f"{api}/accounts/{{account_id}}/statement", 200)
    check(alice.get("/balances/current"), "GET", f"{api}/balances/current", 200)
    check(alice.get(f"/balances/historical?account_id={stage.account}"), "GET", f"{api}/balances/historical", 200)
    check(alice.get(f"/balances/at-time?account_id={stage.account}&at=2026-01-31T12:00:00Z"), "GET", f"{api}/balances/at-time", 200)
    check(admin.get("/events?limit=200"), "GET", f"{api}/events", 200)
    seal_up_to(app, last_position(app))
    check(alice.get(f"/transactions/{moved.json['id']}/receipt"), "GET", f"{api}/transactions/{{transaction_id}}/receipt", 200)
    check(admin.get("/events/head"), "GET", f"{api}/events/head", 200)
    check(admin.get("/audit-logs?limit=200"), "GET", f"{api}/audit-logs", 200)
    check(admin.get("/admin/stats"), "GET", f"{api}/admin/stats", 200)
    check(admin.post("/admin/replays", {"until_position": 0, "account_id": stage.account}), "POST", f"{api}/admin/replays", 202)
    check(admin.get(f"/admin/replays/{stage.replay}"), "GET", f"{api}/admin/replays/{{replay_id}}", 200)
    with app.app_context(), unit_of_work() as session:
        session.execute(
            text(
                """INSERT INTO replayed_accounts (replay_id, account_id, currency, kind, status, balance, version)
                   VALUES (:replay, :account, 'USD', 'outside', 'active', -1234, 1)"""
            ),
            {"replay": stage.replay, "account": stage.account},
        )
    accounts = f"{api}/admin/replays/{{replay_id}}/accounts"
    check(admin.get(f"/admin/replays/{stage.replay}/accounts"), "GET", accounts, 200)

    check(admin.post("/fx/rates", {"currency": "USD", "rate": "1.25"}), "POST", f"{api}/fx/rates", 201)
    check(alice.get("/fx/rates"), "GET", f"{api}/fx/rates", 200)
    quoted = alice.post("/fx/quotes", {"amount": "2.00", "currency": "USD", "to_currency": "EUR"})
    check(quoted, "POST", f"{api}/fx/quotes", 201)
    exchanged = alice.post(
        "/transactions/transfer", {**transfer, "to_account_id": euros, "reference": "A-3", "quote_id": quoted.json["id"]}
    )
    check(exchanged, "POST", f"{api}/transactions/transfer", 202)
    post_all()
    check(alice.get(f"/transactions/{exchanged.json['id']}"), "GET", f"{api}/transactions/{{transaction_id}}", 200)
    check(admin.get("/fx/position"), "GET", f"{api}/fx/position", 200)

    schedule = {"transfer": transfer, "recurrence": {"rrule": "FREQ=DAILY", "time_zone": "Europe/Prague", "start": "2030-01-31T08:00:00Z"}}
    check(alice.post("/schedules?dry_run=true", schedule), "POST", f"{api}/schedules", 200)
    made = alice.post("/schedules", {**schedule, "retry": {"attempts": 2, "delay_seconds": 60}})
    check(made, "POST", f"{api}/schedules", 201)
    with app.app_context():
        # Other tests may have left schedules that are due by then too.
        while run_due(datetime.fromisoformat("2030-02-01T08:00:00Z")):
            pass
    one = f"{api}/schedules/{{schedule_id}}"
    check(alice.get("/schedules"), "GET", f"{api}/schedules", 200)
    check(alice.get(f"/schedules/{made.json['id']}"), "GET", one, 200)
    check(alice.get(f"/schedules/{made.json['id']}/runs"), "GET", f"{one}/runs", 200)
    check(alice.patch(f"/schedules/{made.json['id']}", {"amount": "2.00"}), "PATCH", one, 200)
    check(alice.request("DELETE", f"/schedules/{made.json['id']}"), "DELETE", one, 204)

    limit = {"account_id": stage.bobs_account, "currency": "USD", "kind": "hours"}
    limit |= {"hours": {"opens": "08:00", "closes": "07:59", "time_zone": "Europe/Prague"}}
    rule = {"name": "Reviewed", "expression": f'user.id == "{bob.id}"', "effect": "review"}
    for path, body, change, name in (("limits", limit, {"hours": limit["hours"]}, "limit"), ("rules", rule, {"name": "Seen"}, "rule")):
        made = admin.post(f"/{path}", body)
        check(made, "POST", f"{api}/{path}", 201)
        one = f"{api}/{path}/{{{name}_id}}"
        check(admin.get(f"/{path}"), "GET", f"{api}/{path}", 200)
        check(admin.get(f"/{path}/{made.json['id']}"), "GET", one, 200)
        check(admin.patch(f"/{path}/{made.json['id']}", change), "PATCH", one, 200)
        if path == "rules":
            payment = {"to_account_id": stage.account, "amount": "0.01", "currency": "USD"}
            reviewed = [bob.post("/transactions/transfer", payment).json["id"] for _ in range(2)]
            post_all()
            explanation = f"{api}/transactions/{{transaction_id}}/explanation"
            check(admin.get(f"/transactions/{reviewed[0]}/explanation"), "GET", explanation, 200)
            for act, each in zip(("approve", "reject"), reviewed, strict=True):
                check(admin.post(f"/transactions/{each}/{act}", {}), "POST", f"{api}/transactions/{{transaction_id}}/{act}", 200)
                check(bob.get(f"/transactions/{each}/explanation"), "GET", explanation, 200)
        check(admin.request("DELETE", f"/{path}/{made.json['id']}"), "DELETE", one, 204)

    dora = person("dora")
    check(dora.get("/auth/totp"), "GET", f"{api}/auth/totp", 200)
    for by_admin in (False, True):
        begun = dora.post("/auth/totp", {"password": PASSWORD})
        check(begun, "POST", f"{api}/auth/totp", 201)
        confirmed = dora.post("/auth/totp/confirm", {"code": pyotp.TOTP(begun.json["secret"]).now()})
        check(confirmed, "POST", f"{api}/auth/totp/confirm", 200)
        check(dora.get("/auth/totp"), "GET", f"{api}/auth/totp", 200)
        if by_admin:
            check(admin.request("DELETE", f"/users/{dora.id}/totp"), "DELETE", f"{api}/users/{{user_id}}/totp", 204)
        else:
            both = {"password": PASSWORD, "code": confirmed.json["recovery_codes"][0]}
            check(dora.post("/auth/totp/disable", both), "POST", f"{api}/auth/totp/disable", 204)
    erin = person("erin")
    listed = erin.get("/auth/logins")
    check(listed, "GET", f"{api}/auth/logins", 200)
    check(erin.request("DELETE", f"/auth/logins/{listed.json['data'][0]['id']}"), "DELETE", f"{api}/auth/logins/{{login_id}}", 204)

    elsewhere = {"auth_register", "auth_login", "auth_refresh", "auth_logout", "users_change_user", "users_delete_user"}
    made_at_once = {f"{api}/accounts", f"{api}/schedules", f"{api}/auth/totp"}
    expected = {
        (method, path, int(status))
        for method, path, operation in document.operations()
        if operation["operationId"] not in elsewhere
        for status in operation["responses"]
        # 201 needs somebody who posts while the request waits: see the tests of waiting.
        if (status.startswith("2") and status != "201") or (status == "201" and path in made_at_once)
    }
    assert seen >= expected


def test_every_media_type_of_an_answer_is_documented_with_what_it_looks_like(document, stage):
    found = 0
    for method, path, operation in document.operations():
        for status, answer in operation["responses"].items():
            for media_type, content in document.resolve(answer).get("content", {}).items():
                if media_type in ("application/json", "application/problem+json"):
                    continue
                found += 1
                asked = path.removeprefix("/api/v1").replace("{account_id}", stage.account)
                asked = asked.replace("{user_id}", stage.auditor.id)
                if path.endswith("/statement"):
                    asked += "?from=2026-01-01&to=2026-02-01"
                response = stage.auditor.request(method, asked, headers={"Accept": media_type})
                assert (response.status_code, response.mimetype) == (int(status), media_type)
                if media_type == "text/csv":
                    assert response.text.splitlines()[0] == content["example"].splitlines()[0]
                elif media_type == "application/x-ndjson":
                    page = document.resolve(answer["content"].get("application/json", {}).get("schema", {}))
                    for line in map(json.loads, (content["example"], response.text.splitlines()[0])):
                        if page:
                            assert document.objections(page["properties"]["data"]["items"], line) == []
                        else:
                            assert document.objections({"$ref": "#/components/schemas/UserAnswer"}, line["data"]) == []
    assert found == 7


def test_a_read_on_conditions_is_answered_as_documented(document, stage):
    for path in (f"/accounts/{stage.account}", f"/users/{stage.alice.id}", f"/transactions/{stage.transaction}", f"/limits/{stage.limit}"):
        etag = stage.admin.get(path).headers["ETag"]
        known = stage.admin.get(path, headers={"If-None-Match": f'"another", W/{etag}'})
        assert (known.status_code, known.data, known.headers["ETag"]) == (304, b"", etag)
        assert stage.admin.get(path, headers={"If-None-Match": '"another"'}).status_code == 200
        for same in (etag, "*"):
            assert stage.admin.get(path, headers={"If-Match": same}).status_code == 200
        check_problem(stage.admin.get(path, headers={"If-Match": '"another"'}), 412)
    for method, path, operation in document.operations():
        reads_one = method == "GET" and "ETag" in document.resolve(operation["responses"].get("200", {})).get("headers", {})
        assert ("304" in operation["responses"]) == reads_one, path
        assert not reads_one or "412" in operation["responses"], path


def test_problems_are_what_the_document_says(document, stage):
    problem = check_problem(stage.alice.post("/transactions/credit", {}), 422)
    operation = document.root["paths"]["/api/v1/transactions/credit"]["post"]
    schema = document.answer(operation, 422)["content"]["application/problem+json"]["schema"]
    assert document.objections(schema, problem) == []


def test_a_bug_is_a_problem_that_tells_nothing_of_the_inside(app, stage, monkeypatch):
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr("bank.accounts.service.search", broken)
    response = stage.alice.get("/accounts")
    problem = check_problem(response, 500)
    assert "secret" not in response.text
    assert "Runtime" not in response.text
    assert problem["detail"] == "Something went wrong on our side."


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/nothing", "/api/v2/accounts", "/api/v1/accounts/", "/.env", "/api/v1"])
def test_what_is_not_there_is_a_problem_for_everybody(client, stage, path):
    check_problem(client.get(path), 404)
    check_problem(stage.admin.client.get(path, headers={"Authorization": f"Bearer {stage.admin.token}"}), 404)


def test_a_request_id_is_taken_if_it_is_sane_and_made_if_not(client):
    assert client.get("/health/live", headers={"X-Request-ID": "order-4711.a_b"}).headers["X-Request-ID"] == "order-4711.a_b"
    for insane in ("", "a b", "x" * 129, "a\tb", "<script>", "é"):
        made = client.get("/health/live", headers={"X-Request-ID": insane}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f-]{36}", made), insane
