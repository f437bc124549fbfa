"""What the pages show to whom, and what people do by them."""

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from bank.db import reader
from bank.errors import Unavailable
from bank.proof.receipts import NotAsSealed
from bank.schedules import jobs
from bank.users.models import Role
from tests.console.conftest import OWN
from tests.proof.conftest import last_position, seal_up_to


@pytest.fixture
def paid(alice, bob, funded, post_all):
    """A transfer from Alice to Bob, and their accounts."""
    source, target = funded(alice), funded(bob)
    body = {"from_account_id": source, "to_account_id": target, "amount": "12.34", "currency": "USD", "description": "<b>Rent & more</b>"}
    request_id = f"paid-{source[-12:]}"
    made = alice.post("/transactions/transfer", {**body, "reference": f"R-{source[-8:]}"}, headers={"X-Request-ID": request_id}).json
    post_all()
    return {"id": made["id"], "request_id": request_id, "reference": f"R-{source[-8:]}", "source": source, "target": target}


def rollbacks(app, transaction_id: str) -> int:
    with app.app_context(), reader() as session:
        counted = text("SELECT count(*) FROM transactions WHERE reverses_id = CAST(:id AS uuid)")
        return session.execute(counted, {"id": transaction_id}).scalar_one()


def test_each_role_begins_where_its_work_is(visit, alice, teller, auditor, admin):
    assert visit(alice).get("/").location == "/console/accounts"
    assert visit(teller).get("/").location == "/console/transactions"
    for person in (auditor, admin):
        shown = visit(person).read("/")
        assert "Overview" in shown and "Oldest waits" in shown and "Breaker of database" in shown and 'hx-trigger="every 2s"' in shown


def test_the_tiles_count_what_is_posted(visit, alice, admin, paid, post_all):
    def posted(part: str) -> int:
        return int(re.search(r"<dt>Posted</dt><dd>(\d+)", part)[1])

    visitor = visit(admin)
    before = posted(visitor.read("/live"))
    alice.post("/transactions/debit", {"account_id": paid["source"], "amount": "1.00", "currency": "USD"})
    post_all()
    assert posted(visitor.read("/live")) == before + 1
    assert "html" not in visitor.read("/live").partition("<dl")[0]


@pytest.mark.parametrize("path", ["/live", "/batches"])
def test_what_is_for_staff_is_not_for_customers(visit, alice, path):
    assert visit(alice).get(path).status_code == 403


def test_a_transaction_is_found_by_its_id_its_request_and_its_reference(visit, alice, auditor, carol, paid):
    where = f"/console/transactions/{paid['id']}"
    for visitor in (visit(alice), visit(auditor)):
        for asked in (paid["id"], paid["id"].upper(), paid["request_id"], paid["reference"]):
            assert visitor.get("/find", query_string={"q": asked}).location == where
    stranger = visit(carol)
    for asked in (paid["id"], paid["request_id"], paid["reference"]):
        assert where not in stranger.read(f"/find?q={asked}")
    assert stranger.get(f"/transactions/{paid['id']}").status_code == 404


def test_other_things_are_found_by_their_ids_and_users_by_name(visit, alice, teller, paid):
    visitor = visit(teller)
    assert visitor.get("/find", query_string={"q": paid["source"]}).location == f"/console/accounts/{paid['source']}"
    assert visitor.get("/find", query_string={"q": alice.id}).location == f"/console/accounts?user_id={alice.id}"
    assert alice.id in visitor.read(f"/find?q={alice.username}")
    assert alice.id not in visit(alice).read(f"/find?q={alice.username}")
    assert visitor.get("/find?q=").status_code == 404
    assert visitor.get("/find?q=%00").status_code == 404


def test_a_transaction_is_followed_from_its_request_to_its_seal(app, visit, alice, auditor, paid):
    visitor = visit(auditor)
    assert "is not sealed yet" in visitor.read(f"/transactions/{paid['id']}")
    seal_up_to(app, last_position(app))
    shown = visitor.read(f"/transactions/{paid['id']}")
    for told in (
        paid["request_id"],
        alice.id,
        "-12.34",
        "87.66",
        "TransactionSubmitted",
        "transaction.transfer",
        "Save the receipt",
        "funds",
    ):
        assert told in shown, told
    assert "<b>Rent" not in shown and "&lt;b&gt;Rent &amp; more" in shown
    receipt = visitor.get(f"/transactions/{paid['id']}/receipt")
    assert receipt.json["transaction_id"] == paid["id"] and "attachment" in receipt.headers["Content-Disposition"]


def test_a_party_sees_neither_the_log_nor_the_others_balance(visit, alice, bob, paid):
    shown = visit(bob).read(f"/transactions/{paid['id']}")
    assert "112.34" in shown and "87.66" not in shown and "TransactionSubmitted" not in shown and alice.id not in shown


def test_a_receiver_refunds_and_only_once_for_a_form_that_is_sent_twice(app, visit, bob, paid, post_all):
    visitor, path = visit(bob), f"/transactions/{paid['id']}/rollback"
    form = {**visitor.hidden(path), "amount": "2.34", "reason": "Returned goods"}
    answers = [visitor.browser.post(f"/console{path}", data=form, headers=OWN) for _ in range(2)]
    post_all()
    assert [answer.status_code for answer in answers] == [303, 303] and answers[0].location == answers[1].location
    assert rollbacks(app, paid["id"]) == 1
    assert "2.34 USD" in visitor.read(f"/transactions/{paid['id']}")


def test_what_is_wrong_with_a_form_is_said(visit, bob, paid, post_all):
    visitor, path = visit(bob), f"/transactions/{paid['id']}/rollback"
    for fields, told in (
        ({"amount": "1e9", "reason": "x"}, "/amount"),
        ({"amount": "1.00"}, "/reason"),
        ({"reason": "x", "more": "1"}, "/more"),
    ):
        answer = visitor.send(path, **fields)
        assert answer.status_code == 422 and told in answer.text and 'role="alert"' in answer.text
    form = {**visitor.hidden(path), "reason": "x"}
    for key in ("", "1", "\0"):
        assert visitor.browser.post(f"/console{path}", data={**form, "key": key}, headers=OWN).status_code == 422
    twice = {**form, "amount": ["1.00", "2.00"]}
    assert visitor.browser.post(f"/console{path}", data=twice, headers=OWN).status_code == 422
    # What the ledger refuses is a transaction that failed.
    failed = visitor.send(path, reason="x", amount="1000.00").location
    post_all()
    assert 'class="state failed"' in visitor.browser.get(failed).text


@pytest.mark.parametrize("key", ["", "\0", "made up", "ü" * 36, "0" * 37])
def test_a_form_comes_with_the_key_it_was_made_with(visit, bob, paid, key):
    answer = visit(bob).send(f"/transactions/{paid['id']}/rollback", reason="Returned goods", key=key)
    assert answer.status_code == 422 and "/key" in answer.text


def test_what_has_no_way_back_offers_none(visit, bob, teller, paid, post_all):
    visitor = visit(teller)
    assert "Roll back …" in visitor.read(f"/transactions/{paid['id']}")
    made = visit(bob).send(f"/transactions/{paid['id']}/rollback", reason="Returned goods", amount="1.00").location
    post_all()
    assert 'class="state completed"' in visitor.browser.get(made).text and "Roll back …" not in visitor.browser.get(made).text
    assert "Roll back …" in visitor.read(f"/transactions/{paid['id']}")


def test_who_may_not_move_money_is_not_asked_and_not_obeyed(visit, alice, auditor, paid):
    for person in (alice, auditor):
        visitor = visit(person)
        assert "Roll back" not in visitor.read(f"/transactions/{paid['id']}")
    assert visit(auditor).get(f"/transactions/{paid['id']}/rollback").status_code == 403
    visitor = visit(alice)
    form = {**visitor.hidden("/accounts"), "reason": "I want it back", "key": paid["id"]}
    answer = visitor.browser.post(f"/console/transactions/{paid['id']}/rollback", data=form, headers=OWN)
    assert answer.status_code == 403


def test_an_account_shows_its_balance_its_line_and_its_entries(visit, alice, bob, paid):
    shown = visit(alice).read(f"/accounts/{paid['source']}")
    assert "87.66 USD" in shown and 'class="line"' in shown and "-12.34" in shown and "Freeze" not in shown
    assert "between 0.00 and 87.66 USD" in shown
    assert visit(bob).get(f"/accounts/{paid['source']}").status_code == 404


def test_entries_are_paged(visit, alice, paid):
    first = visit(alice).read(f"/accounts/{paid['source']}?limit=1")
    further = re.search(r'rel="next" href="([^"]+)"', first)[1].replace("&amp;", "&")
    visitor = visit(alice)
    second = visitor.browser.get(further).text
    assert "-12.34</td>" in first and "-12.34</td>" not in second and "100.00</td>" in second
    assert visitor.get(f"/accounts/{paid['source']}?cursor=made-up").status_code == 422


@pytest.mark.parametrize(("kind", "begins"), [("csv", b"kind,"), ("pdf", b"%PDF"), ("camt053", b"<?xml")])
def test_a_statement_is_saved(visit, alice, bob, paid, kind, begins):
    today = datetime.now(UTC).date()
    path = f"/accounts/{paid['source']}/statement?from={today - timedelta(days=1)}&to={today + timedelta(days=1)}&format={kind}"
    answer = visit(alice).get(path)
    assert answer.status_code == 200 and answer.data.startswith(begins) and "attachment" in answer.headers["Content-Disposition"]
    assert visit(bob).get(path).status_code == 404
    assert visit(alice).get(f"/accounts/{paid['source']}/statement").status_code == 422


def test_a_teller_freezes_and_unfreezes_and_the_audit_log_says_why(visit, alice, teller, auditor, paid):
    visitor, path = visit(teller), f"/accounts/{paid['source']}"
    for fields in ({}, {"reason": ""}, {"reason": " "}):
        answer = visitor.send(f"{path}/freeze", **fields)
        assert answer.status_code == 422 and "/reason" in answer.text
    assert visitor.send(f"{path}/freeze", reason="Card was stolen").location == f"/console{path}"
    assert alice.get(f"/accounts/{paid['source']}").json["status"] == "frozen"
    [row] = auditor.get(f"/audit-logs?entity_type=account&entity_id={paid['source']}&action=account.changed").json["data"]
    assert row["details"] == {"status": "frozen", "reason": "Card was stolen"} and row["actor_id"] == teller.id
    assert visitor.send(f"{path}/freeze", reason="Once more").status_code == 409
    assert visitor.send(f"{path}/unfreeze").status_code == 422
    assert visitor.send(f"{path}/unfreeze", reason="Found").status_code == 303
    assert alice.get(f"/accounts/{paid['source']}").json["status"] == "active"
    assert visit(auditor).get(f"{path}/freeze").status_code == 403
    assert visit(alice).get(f"{path}/freeze").status_code == 403


def test_a_teller_neither_sees_nor_freezes_what_is_a_colleagues(visit, person, teller):
    account = person("other", Role.TELLER).open_account()["id"]
    visitor = visit(teller)
    form = {**visitor.hidden("/accounts"), "reason": "Joke"}
    assert visitor.browser.post(f"/console/accounts/{account}/freeze", data=form, headers=OWN).status_code == 404
    for path in (f"/accounts/{account}", f"/accounts/{account}/freeze", f"/accounts/{account}/statement?from=2026-01-01&to=2026-01-02"):
        assert visitor.get(path).status_code == 404, path
    assert account not in visitor.read("/accounts") and account not in visitor.read(f"/find?q={account}").replace(f"“{account}”", "")


@pytest.mark.parametrize(("decision", "becomes"), [("approve", "completed"), ("reject", "failed")])
def test_an_admin_ends_a_review(visit, alice, bob, admin, funded, post_all, decision, becomes):
    source, target = funded(alice), funded(bob)
    rule = {"name": "Large", "expression": "transaction.amount == 543", "effect": "review"}
    made = admin.post("/rules", rule)
    assert made.status_code == 201, made.json
    waiting = alice.post(
        "/transactions/transfer", {"from_account_id": source, "to_account_id": target, "amount": "5.43", "currency": "USD"}
    ).json["id"]
    post_all()
    assert alice.get(f"/transactions/{waiting}").json["review"] == "open"
    visitor = visit(admin)
    assert waiting in visitor.read("/")
    for fields in ({}, {"reason": ""}, {"reason": " "}):
        answer = visitor.send(f"/transactions/{waiting}/{decision}", **fields)
        assert answer.status_code == 422 and "/reason" in answer.text
    assert visitor.send(f"/transactions/{waiting}/{decision}", reason="Called back").location == f"/console/transactions/{waiting}"
    assert f'class="state {becomes}"' in visitor.read(f"/transactions/{waiting}")
    assert visitor.send(f"/transactions/{waiting}/{decision}", reason="Again").status_code == 409
    admin.request("DELETE", f"/rules/{made.json['id']}")


def test_schedules_show_their_next_runs(visit, alice, bob, carol, funded):
    source = funded(alice)
    body = {
        "name": "Rent",
        "transfer": {"from_account_id": source, "to_user_id": bob.id, "amount": "1.00", "currency": "USD"},
        "recurrence": {"rrule": "FREQ=DAILY", "time_zone": "UTC", "start": "2031-01-01T08:00:00Z"},
    }
    made = alice.post("/schedules", body).json["id"]
    assert made in visit(alice).read("/schedules")
    shown = visit(alice).read(f"/schedules/{made}")
    assert "2031-01-01 08:00:00" in shown and "2031-01-05 08:00:00" in shown and "FREQ=DAILY" in shown
    assert made not in visit(carol).read("/schedules") and visit(carol).get(f"/schedules/{made}").status_code == 404


def test_a_batch_shows_how_far_it_is(visit, alice, bob, carol, auditor, funded, post_all):
    source = funded(alice)
    transfer = {"type": "transfer", "from_account_id": source, "to_user_id": bob.id, "amount": "1.00", "currency": "USD"}
    batch = alice.post("/transactions/batch", {"mode": "independent", "transactions": [transfer] * 3}).json["id"]
    visitor = visit(alice)
    assert 'max="3" value="0"' in visitor.read(f"/batches/{batch}") and 'hx-trigger="every 1s"' in visitor.read(f"/batches/{batch}")
    post_all()
    final = visitor.get(f"/batches/{batch}/progress")
    assert final.status_code == 286 and 'max="3" value="3"' in final.text
    assert batch in visit(auditor).read("/batches")
    assert visit(carol).get(f"/batches/{batch}").status_code == 404


def test_who_is_paid_by_a_batch_or_a_schedule_is_led_to_neither(app, visit, alice, bob, auditor, funded, post_all):
    source, target, now = funded(alice), funded(bob), datetime.now(UTC)
    transfer = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD"}
    batch = alice.post("/transactions/batch", {"mode": "independent", "transactions": [{"type": "transfer", **transfer}]}).json["id"]
    due = {"transfer": transfer, "run_at": f"{now + timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"}
    schedule = alice.post("/schedules", due).json["id"]
    with app.app_context():
        assert jobs.run_due(now + timedelta(minutes=2)) > 0
    post_all()
    made = {each["batch_id"] or each["schedule_id"]: each["id"] for each in bob.get("/transactions/history?type=transfer").json["data"]}
    for person, led in ((alice, True), (auditor, True), (bob, False)):
        visitor = visit(person)
        for order, path in ((batch, f"/batches/{batch}"), (schedule, f"/schedules/{schedule}")):
            shown = visitor.read(f"/transactions/{made[order]}")
            assert order in shown and (f'href="/console{path}"' in shown) == led
            assert visitor.get(path).status_code == (200 if led else 404)


def test_filters_are_those_of_the_api(visit, alice, auditor, paid):
    visitor = visit(alice)
    assert paid["id"] in visitor.read("/transactions?status=completed&type=transfer")
    assert paid["id"] not in visitor.read("/transactions?status=failed&type=")
    assert visitor.get("/transactions?status=gone").status_code == 422
    assert visitor.get(f"/transactions?user_id={auditor.id}").status_code == 403
    assert visitor.get(f"/accounts?user_id={auditor.id}").status_code == 403
    assert visit(auditor).get(f"/accounts?user_id={alice.id}").status_code == 200


def test_a_dead_link_is_a_page(client, visit, alice):
    for answer in (client.get("/console/nowhere"), visit(alice).get("/accounts/00000000-0000-7000-8000-000000000000")):
        assert answer.status_code == 404 and answer.mimetype == "text/html" and answer.headers["X-Request-ID"] in answer.text
    # What the API answers by a problem.
    assert visit(alice).get("/transactions?limit=0").mimetype == "text/html"


def test_a_bug_is_a_page_that_tells_nothing_of_it(visit, alice, monkeypatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("planted-detail")

    visitor = visit(alice)
    monkeypatch.setattr("bank.console.accounts.service.search", broken)
    answer = visitor.get("/accounts")
    assert answer.status_code == 500 and "planted-detail" not in answer.text and answer.headers["X-Request-ID"] in answer.text


def test_a_transaction_moves_on_its_page_until_it_is_final(visit, alice, bob, funded, post_all):
    body = {"from_account_id": funded(alice), "to_account_id": funded(bob), "amount": "1.00", "currency": "USD"}
    made = alice.post("/transactions/transfer", body).json["id"]
    visitor = visit(alice)
    assert f'hx-get="/console/transactions/{made}/followed"' in visitor.read(f"/transactions/{made}")
    assert visitor.get(f"/transactions/{made}/followed").status_code == 200
    post_all()
    final = visitor.get(f"/transactions/{made}/followed")
    assert final.status_code == 286 and 'class="state completed"' in final.text and "<html" not in final.text
    assert "hx-get" not in visitor.read(f"/transactions/{made}")


def test_an_item_of_a_batch_names_who_asked_for_it(visit, alice, bob, auditor, funded, post_all):
    transfer = {"type": "transfer", "from_account_id": funded(alice), "to_user_id": bob.id, "amount": "1000.00", "currency": "USD"}
    batch = alice.post(
        "/transactions/batch", {"mode": "independent", "transactions": [transfer]}, headers={"X-Request-ID": "payroll-7"}
    ).json
    post_all()
    [item] = alice.get(f"/transactions/batch/{batch['id']}").json["data"]
    shown = visit(auditor).read(f"/transactions/{item['id']}")
    assert f'by <span class="id">{alice.id}</span>' in shown and '<span class="id" id="request">payroll-7</span>' in shown


def test_a_log_that_was_changed_is_an_alarm(app, visit, auditor, paid, monkeypatch):
    def changed(*args: object, **kwargs: object) -> None:
        raise NotAsSealed("Event 7 is not what was sealed.")

    monkeypatch.setattr("bank.transactions.service.receipts.make", changed)
    assert '<p class="refusal" role="alert">The log is not what was sealed. Event 7' in visit(auditor).read(f"/transactions/{paid['id']}")


def test_a_part_of_a_page_that_cannot_be_had_says_so_in_its_place(visit, admin, monkeypatch):
    def away() -> None:
        raise Unavailable("The database cannot be reached or is too slow.")

    visitor = visit(admin)
    monkeypatch.setattr("bank.console.views.stats.gather", away)
    answer = visitor.get("/live", headers={"HX-Request": "true"})
    assert answer.status_code == 503 and 'role="alert"' in answer.text and "<html" not in answer.text
    assert '"code": "[45]..", "swap": true' in visitor.read("/accounts")


EVERYBODY = frozenset(role.value for role in Role)
# Who may ask for what; who may not is refused whatever else is right.
MAY = {
    **dict.fromkeys(("console.roll_back", "console.ask_rollback"), EVERYBODY - {"auditor"}),
    **dict.fromkeys(("console.end_review", "console.ask_review"), frozenset({"admin"})),
    **dict.fromkeys(("console.freeze", "console.ask_freeze"), frozenset({"teller", "admin"})),
    "console.live": {"auditor", "admin"},
    "console.list_batches": EVERYBODY - {"customer"},
    **dict.fromkeys(
        (
            "console.log_out",
            "console.home",
            "console.find",
            "console.list_accounts",
            "console.show_account",
            "console.save_statement",
            "console.list_transactions",
            "console.show_transaction",
            "console.follow_transaction",
            "console.save_receipt",
            "console.list_schedules",
            "console.show_schedule",
            "console.show_batch",
            "console.show_progress",
        ),
        EVERYBODY,
    ),
}
OPEN = {"console.static", "console.nowhere", "console.log_in", "console.begin_login"}


@pytest.mark.parametrize("role", list(Role))
def test_every_page_and_form_is_for_who_may_have_it(app, visit, person, role):
    visitor = visit(person(f"a-{role.value}", role))
    form = visitor.hidden("/accounts")
    seen = set()
    for rule in app.url_map.iter_rules():
        if not rule.endpoint.startswith("console.") or rule.endpoint in OPEN:
            continue
        seen.add(rule.endpoint)
        path = re.sub(r"<any\((\w+).*?>", r"\1", re.sub(r"<uuid:\w+>", "019b2f6e-8a00-7000-8000-000000000001", rule.rule))
        for method in rule.methods & {"GET", "POST"}:
            if rule.endpoint == "console.log_out":
                continue
            answer = visitor.browser.open(path, method=method, data=form if method == "POST" else None, headers=OWN)
            assert (answer.status_code == 403) == (role.value not in MAY[rule.endpoint]), (method, path, answer.status_code)
    assert seen == set(MAY)
