"""`/limits` and `/rules`: set by admins, read by auditors too, versioned and in the log."""

import pytest

from bank.limits import service
from tests.contract.problems import check_problem

LIMIT = {"role": "teller", "currency": "USD", "kind": "sum", "amount": "1000.00", "window": "day"}
RULE = {"name": "Large", "expression": "transaction.amount > 100000", "effect": "review"}


def test_a_limit_is_told_of_as_it_was_set_and_each_time_it_is_set_is_an_event(chief, auditor):
    made = chief.post("/limits", LIMIT)
    limit = made.json
    assert (made.status_code, made.headers["Location"], made.headers["ETag"]) == (201, f"/api/v1/limits/{limit['id']}", '"1"')
    nothing = dict.fromkeys(("user_id", "account_id", "count", "counterparties", "hours"))
    told = {**LIMIT, **nothing, "id": limit["id"], "scope": "role", "version": 1}
    assert limit == {**told, "created_at": limit["created_at"], "updated_at": limit["created_at"]}
    assert auditor.get(f"/limits/{limit['id']}").json == limit
    changed = chief.patch(f"/limits/{limit['id']}", {"amount": "500", "window": "week"}, headers={"If-Match": '"1"'})
    assert (changed.json["amount"], changed.json["window"], changed.headers["ETag"]) == ("500.00", "week", '"2"')
    same = chief.patch(f"/limits/{limit['id']}", {"amount": "500.00"})
    assert same.json == changed.json
    check_problem(chief.patch(f"/limits/{limit['id']}", {"amount": "1.00"}, headers={"If-Match": '"1"'}), 412)
    check_problem(chief.request("DELETE", f"/limits/{limit['id']}", headers={"If-Match": '"1"'}), 412)
    assert chief.request("DELETE", f"/limits/{limit['id']}", headers={"If-Match": '"2"'}).status_code == 204
    check_problem(chief.get(f"/limits/{limit['id']}"), 404)
    events = auditor.get(f"/events?stream_id={limit['id']}").json["data"]
    assert [(event["type"], event["version"], event["actor_id"]) for event in events] == [
        ("LimitSet", 1, chief.id),
        ("LimitSet", 2, chief.id),
        ("LimitRemoved", 3, chief.id),
    ]
    assert [event["data"].get("amount") for event in events] == [100_000, 50_000, None]
    audited = auditor.get(f"/audit-logs?entity_type=limit&entity_id={limit['id']}").json["data"]
    assert [row["action"] for row in audited] == ["limit.removed", "limit.changed", "limit.set"]


def test_a_rule_is_told_of_as_it_was_set_and_each_time_it_is_set_is_an_event(chief, auditor):
    made = chief.post("/rules", RULE)
    rule = made.json
    assert (made.status_code, made.headers["ETag"]) == (201, '"1"')
    told = {**RULE, "id": rule["id"], "enabled": True, "version": 1}
    assert rule == {**told, "created_at": rule["created_at"], "updated_at": rule["created_at"]}
    changed = chief.patch(f"/rules/{rule['id']}", {"enabled": False, "effect": "flag"}, headers={"If-Match": '"1"'})
    assert auditor.get(f"/rules/{rule['id']}").json == changed.json
    assert (changed.json["enabled"], changed.json["effect"], changed.json["version"]) == (False, "flag", 2)
    check_problem(chief.patch(f"/rules/{rule['id']}", {"enabled": True}, headers={"If-Match": '"1"'}), 412)
    assert chief.request("DELETE", f"/rules/{rule['id']}").status_code == 204
    check_problem(chief.request("DELETE", f"/rules/{rule['id']}"), 404)
    events = auditor.get(f"/events?stream_id={rule['id']}").json["data"]
    assert [event["type"] for event in events] == ["RuleSet", "RuleSet", "RuleRemoved"]
    audited = auditor.get(f"/audit-logs?entity_type=rule&entity_id={rule['id']}").json["data"]
    assert [row["action"] for row in audited] == ["rule.removed", "rule.changed", "rule.set"]


@pytest.mark.parametrize(("path", "body"), [("/limits", LIMIT), ("/rules", RULE)])
def test_only_admins_set_them_and_only_auditors_read_them_too(chief, alice, teller, auditor, path, body):
    made = chief.post(path, body).json["id"]
    for who in (alice, teller, auditor):
        check_problem(who.post(path, body), 403)
        check_problem(who.patch(f"{path}/{made}", {}), 403)
        check_problem(who.request("DELETE", f"{path}/{made}"), 403)
        expected = 200 if who is auditor else 403
        assert [who.get(each).status_code for each in (path, f"{path}/{made}")] == [expected] * 2


def test_limits_are_listed_by_what_they_are_for_page_by_page(chief, alice, accounts):
    subjects = ({"role": "teller"}, {"user_id": alice.id}, {"account_id": accounts[0]})
    for subject in subjects:
        for kind in ({"kind": "single", "amount": "1.00"}, {"kind": "count", "count": 3, "window": "hour"}):
            assert chief.post("/limits", {"currency": "USD", **subject, **kind}).status_code == 201
    for subject in subjects:
        [(name, value)] = subject.items()
        found = chief.get(f"/limits?{name}={value}").json["data"]
        assert [(each[name], each["kind"]) for each in found] == [(value, "single"), (value, "count")]
        assert len(chief.get(f"/limits?{name}={value}&kind=count&currency=USD").json["data"]) == 1
        assert chief.get(f"/limits?{name}={value}&currency=EUR").json["data"] == []
    pages, cursor = [], ""
    while cursor is not None:
        page = chief.get(f"/limits?limit=4{cursor and '&cursor=' + cursor}").json
        pages.append([each["id"] for each in page["data"]])
        cursor = page["next_cursor"]
    assert [len(page) for page in pages] == [4, 2]
    assert [*pages[0], *pages[1]] == sorted([*pages[0], *pages[1]])


def test_there_are_only_so_many(chief, monkeypatch):
    monkeypatch.setattr(service, "_MOST_LIMITS", 1)
    monkeypatch.setattr(service, "_MOST_RULES", 1)
    for path, body, code in (("/limits", LIMIT, "too_many_limits"), ("/rules", RULE, "too_many_rules")):
        assert chief.post(path, body).status_code == 201
        assert check_problem(chief.post(path, body), 409)["code"] == code
    assert chief.post("/limits", {**LIMIT, "role": "auditor"}).status_code == 201


def test_what_a_kind_does_not_say_is_refused_when_it_is_changed_too(chief):
    made = chief.post("/limits", LIMIT).json["id"]
    check_problem(chief.patch(f"/limits/{made}", {"count": 3}), 422, "/count")
    check_problem(chief.patch(f"/limits/{made}", {"amount": "0"}), 422, "/amount")
    check_problem(chief.patch(f"/limits/{made}", {"amount": "1.001"}), 422, "/amount")
    check_problem(chief.patch(f"/limits/{made}", {"kind": "count"}), 422, "/kind")
