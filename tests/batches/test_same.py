"""The same batch by JSON, by CSV, asked twice, or only tried out."""

import csv
import io
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from sqlalchemy import text

from bank.db import reader
from tests.batches.conftest import read, submit, transfer
from tests.contract.problems import check_problem

TABLES = ("batches", "transactions", "entries", "events", "audit_logs", "idempotency_keys", "accounts", "balances")

# What a preview cannot know, or is by its nature another.
OTHER = {"id", "batch_id", "created_at", "completed_at", "effective_at"}


@pytest.fixture
def counts(app):
    def count():
        with app.app_context(), reader() as session:
            sums = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
            return tuple(session.execute(text(f"SELECT {sums}, (SELECT sum(amount * amount) FROM balances)")).one())

    return count


def as_csv(items):
    names = list(dict.fromkeys(name for item in items for name in item))
    written = io.StringIO()
    writer = csv.DictWriter(written, names)
    writer.writeheader()
    for item in items:
        writer.writerow({name: orjson.dumps(value).decode() if isinstance(value, dict) else value for name, value in item.items()})
    return written.getvalue()


def upload(who, mode, data, **kwargs):
    return who.request("POST", f"/transactions/batch?mode={mode}", data=data, content_type="text/csv", **kwargs)


@pytest.fixture
def items(alice, bob, funded):
    """Of every kind, and with everything that a spreadsheet may break."""
    mine, bobs = funded(alice), funded(bob, None)
    return [
        transfer(mine, bobs, "1.50", description='He said "no",\nand left', reference="INV-1", metadata={"ünï": 'c,ö"dé', "order": "1"}),
        {"type": "credit", "account_id": mine, "amount": "2", "currency": "USD", "effective_at": "2024-02-29T12:00:00Z"},
        {"type": "debit", "user_id": alice.id, "amount": "0.25", "currency": "USD"},
        transfer(mine, bobs, "1000.00", description="=1+1"),
        {"type": "transfer", "to_username": bob.username, "amount": "3.00", "currency": "USD"},
    ]


def test_an_upload_does_what_the_same_json_does(alice, items, post_all):
    accepted = submit(alice, "independent", items), upload(alice, "independent", as_csv(items))
    assert [each.status_code for each in accepted] == [202, 202]
    post_all()
    by_json, by_csv = (read(alice, each)["data"] for each in accepted)
    for one, other in zip(by_json, by_csv, strict=True):
        assert {name: value for name, value in one.items() if name not in OTHER} == {
            name: value for name, value in other.items() if name not in OTHER
        }
    assert by_csv[0]["metadata"] == items[0]["metadata"]
    assert by_csv[1]["effective_at"] == "2024-02-29T12:00:00.000000Z"


def test_lines_may_end_either_way_and_begin_with_a_mark(alice, items):
    data = as_csv(items[1:2])
    for same in (data, data.replace("\r\n", "\n"), "\ufeff" + data, data.rstrip()):
        assert upload(alice, "atomic", same.encode()).status_code == 202


def test_the_same_again_is_the_first_answer_and_by_csv_too(alice, items, counts, post_all):
    key = {"Idempotency-Key": "payroll-5"}
    first = submit(alice, "atomic", items, headers=key)
    before = counts()
    again = submit(alice, "atomic", items, headers=key), upload(alice, "atomic", as_csv(items), headers=key)
    for each in again:
        assert (each.status_code, each.data, each.headers["Location"]) == (202, first.data, first.headers["Location"])
        assert each.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    assert counts() == before
    post_all()


def test_a_key_is_not_used_for_anything_else(alice, items, counts, post_all):
    key = {"Idempotency-Key": "payroll-6"}
    assert submit(alice, "atomic", items, headers=key).status_code == 202
    before = counts()
    for other in (submit(alice, "independent", items, headers=key), submit(alice, "atomic", items[:-1], headers=key)):
        assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")
    assert counts() == before
    # Of another route it is another key.
    assert alice.post("/transactions/credit", {k: v for k, v in items[1].items() if k != "type"}, headers=key).status_code == 202
    post_all()


def test_of_many_at_once_with_one_key_one_is_taken(app, alice, items, counts, post_all):
    key = {"Idempotency-Key": "payroll-7", "Authorization": f"Bearer {alice.token}"}
    before = counts()[:2]

    def ask(_):
        return app.test_client().post("/api/v1/transactions/batch", json={"mode": "atomic", "transactions": items}, headers=key)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(16)))
    assert {(each.status_code, each.data) for each in answers} == {(202, answers[0].data)}
    assert [after - was for after, was in zip(counts()[:2], before, strict=True)] == [1, len(items)]
    post_all()


@pytest.mark.parametrize("mode", ["atomic", "independent"])
def test_a_dry_run_tells_what_then_happens_and_writes_nothing(alice, items, counts, post_all, mode):
    key = {"Idempotency-Key": f"dry-{mode}"}
    before = counts()
    previews = [
        alice.post("/transactions/batch?dry_run=true", {"mode": mode, "transactions": items}, headers=key),
        upload(alice, f"{mode}&dry_run=true", as_csv(items), headers=key),
    ]
    assert counts() == before
    accepted = submit(alice, mode, items, headers=key)
    assert "Idempotent-Replayed" not in accepted.headers
    post_all()
    found = read(alice, accepted)
    for response in previews:
        assert response.status_code == 200 and "Location" not in response.headers
        shown = response.json
        assert shown["dry_run"] is True and shown["id"] is None
        assert [shown[name] for name in ("mode", "status", "counts")] == [found[name] for name in ("mode", "status", "counts")]
        assert (
            (shown["failure"] or {}).get("code")
            == (found["failure"] or {}).get("code")
            == ("insufficient_funds" if mode == "atomic" else None)
        )
        for one, other in zip(shown["data"], found["data"], strict=True):
            assert {name: value for name, value in one.items() if name not in OTHER} == {
                name: value for name, value in other.items() if name not in OTHER
            }


def test_a_dry_run_opens_no_account_and_refuses_what_is_bad(alice, bob, funded, counts):
    funded(alice)
    to_bob = {"type": "transfer", "to_user_id": bob.id, "amount": "1.00", "currency": "USD"}
    before = counts()
    response = alice.post("/transactions/batch?dry_run=true", {"mode": "atomic", "transactions": [to_bob, to_bob]})
    assert (response.status_code, response.json["counts"]["completed"]) == (200, 2)
    check_problem(alice.post("/transactions/batch?dry_run=true", {"mode": "atomic", "transactions": [{**to_bob, "amount": "0"}]}), 422)
    assert counts() == before
