"""What is wrong with a batch is told with the place where it stands, and nothing of the batch is accepted."""

import json
import tracemalloc

import pytest

from bank.web.context import new_id
from tests.batches.conftest import submit, transfer
from tests.contract.problems import check_problem


@pytest.fixture
def good(alice, bob, funded):
    """A transfer that is good, again and again."""
    mine, bobs = funded(alice), funded(bob, None)

    def make(number, **more):
        return transfer(mine, bobs, "0.01", **more)

    return make


def errors(response):
    return {error["pointer"]: error["message"] for error in check_problem(response, 422)["errors"]}


def test_the_last_of_ten_thousand_is_named(alice, good, nothing_written):
    items = [good(number) for number in range(10_000)]
    items[9_999]["amount"] = "0.001"
    with nothing_written():
        assert errors(submit(alice, "atomic", items)).keys() == {"/transactions/9999/amount"}
        items[9_999] = good(0, to_account_id=new_id())
        assert errors(submit(alice, "independent", items)) == {"/transactions/9999/to_account_id": "There is no such thing here"}


def test_all_that_are_bad_are_named_up_to_a_hundred(alice, good, nothing_written):
    shapeless = [{**good(0), "amount": "x"}, good(1), {**good(2), "lane": 1}, 7, {"type": "rollback"}, {"type": ["credit"]}, {}]
    with nothing_written():
        assert errors(submit(alice, "atomic", shapeless)).keys() == {
            "/transactions/0/amount",
            "/transactions/2/lane",
            "/transactions/3",
            "/transactions/4/type",
            "/transactions/5/type",
            "/transactions/6/type",
        }
        for bad in ({"amount": "0"}, {"to_account_id": new_id()}):
            many = check_problem(submit(alice, "atomic", [{**good(0), **bad}] * 300), 422)["errors"]
            assert [error["pointer"] for error in many] == [f"/transactions/{index}/{next(iter(bad))}" for index in range(100)]


@pytest.mark.parametrize(
    ("item", "where"),
    [
        ({"type": "credit", "user_id": "{bob}", "amount": "1", "currency": "USD"}, "user_id"),
        ({"type": "debit", "user_id": "{alice}", "amount": "1", "currency": "CHF"}, "user_id"),
        ({"type": "credit", "account_id": "{mine}", "amount": "1", "currency": "EUR"}, "currency"),
        (
            {"type": "credit", "account_id": "{mine}", "amount": "1", "currency": "USD", "effective_at": "2999-01-01T00:00:00Z"},
            "effective_at",
        ),
        ({"type": "credit", "account_id": "{mine}", "amount": "1", "currency": "USD", "to_user_id": "{bob}"}, "to_user_id"),
        ({"type": "credit", "amount": "1", "currency": "USD"}, "account_id"),
        ({"type": "transfer", "to_user_id": "{nobody}", "amount": "1", "currency": "USD"}, "to_user_id"),
        ({"type": "transfer", "to_username": "nobody-of-this-name", "amount": "1", "currency": "USD"}, "to_username"),
        ({"type": "transfer", "to_user_id": "{bob}", "amount": "1", "currency": "SEK"}, "from_account_id"),
        ({"type": "transfer", "from_account_id": "{mine}", "to_user_id": "{bob}", "amount": "1", "currency": "SEK"}, "currency"),
        ({"type": "transfer", "to_account_id": "{mine}", "to_user_id": "{bob}", "amount": "1", "currency": "USD"}, "to_account_id"),
    ],
)
def test_what_would_be_refused_by_itself_refuses_the_batch(alice, bob, good, nothing_written, item, where):
    names = {"{alice}": alice.id, "{bob}": bob.id, "{mine}": good(0)["from_account_id"], "{nobody}": new_id()}
    named = {name: names.get(value, value) for name, value in item.items()}
    with nothing_written():
        for mode in ("atomic", "independent"):
            assert errors(submit(alice, mode, [good(0), named])).keys() == {f"/transactions/1/{where}"}


def test_a_reference_is_used_once_in_a_batch(alice, good, nothing_written):
    with nothing_written():
        told = errors(submit(alice, "independent", [good(0, reference="A"), good(1, reference="B"), good(2, reference="A")]))
    assert told == {"/transactions/2/reference": "Transaction 0 has it too."}


@pytest.mark.parametrize("items", [None, [], {}, "x", 1, [None]])
def test_a_batch_has_transactions(alice, nothing_written, items):
    with nothing_written():
        assert all(pointer.startswith("/transactions") for pointer in errors(submit(alice, "atomic", items)))


@pytest.mark.parametrize("mode", [None, "", "ATOMIC", "both", 1, ["atomic"]])
def test_a_batch_has_a_mode(alice, good, nothing_written, mode):
    with nothing_written():
        assert errors(submit(alice, mode, [good(0)])).keys() == {"/mode"}
        assert errors(alice.post("/transactions/batch?mode=atomic", {"mode": "atomic", "transactions": [good(0)]})).keys() == {"/mode"}


def test_ten_thousand_and_no_more(alice, good, nothing_written):
    with nothing_written():
        assert errors(submit(alice, "atomic", [good(0)] * 10_001)) == {"/transactions": "Must be a list of 1 to 10,000 transactions."}


def test_a_body_past_eight_megabytes_is_refused(alice, good, nothing_written):
    large = json.dumps({"mode": "atomic", "transactions": [good(0)], "x": "x" * 8 * 1024 * 1024})
    with nothing_written():
        for kind in ("application/json", "text/csv"):
            check_problem(alice.request("POST", "/transactions/batch", data=large, content_type=kind), 413)


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.999])
def test_a_body_that_is_cut_off_is_refused(alice, good, nothing_written, cut):
    whole = json.dumps({"mode": "atomic", "transactions": [good(number) for number in range(100)]})
    with nothing_written():
        data = whole[: int(len(whole) * cut)]
        check_problem(alice.request("POST", "/transactions/batch", data=data, content_type="application/json"), 400)
        # The client had said how long it would be.
        environ = {"CONTENT_LENGTH": str(len(whole))}
        check_problem(
            alice.request("POST", "/transactions/batch", data=data, content_type="application/json", environ_overrides=environ), 400
        )


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        ("type,amount\ntransfer", 400, "Line 2: 1 fields under a header of 2."),
        ("type,amount\n\ntransfer,1\n", 400, "Line 2: 1 fields under a header of 2."),
        ('type,amount\ntransfer,"1\n', 400, "Line 2: a quote where none belongs, or one that is never closed."),
        ('type,amount\n"tr\nansfer","1""\n', 400, "Line 3: a quote where none belongs, or one that is never closed."),
        ('type,amount\ntrans"fer",1\n', 400, "Line 2: a quote where none belongs, or one that is never closed."),
        ("type,amount\rtransfer,1\r", 400, "Line 1: a quote where none belongs, or one that is never closed."),
        ("type,type\ntransfer,transfer\n", 400, "Line 1: the header has a name twice."),
        (b"type,amount\ntransfer,1\ntransfer,\xff\n", 400, "Line 3: not UTF-8."),
        ('type,metadata\ntransfer,"{""a"": ""b"", ""a"": 1}"\n', 400, "Line 2: the metadata is not JSON."),
        ("type,amount,colour\ntransfer,1,red\n", 422, "Line 1: there is no field 'colour'."),
        ("", 422, "Line 1: there is no field ''."),
        ("type,amount,currency\n", 422, "Must be a list of 1 to 10,000 transactions."),
        ("type,amount,currency\r\nnothing,1,USD\r\n", 422, "Line 2: Must be one of: credit, debit, transfer."),
        ('type,amount,currency,description,user_id\ntransfer,1,USD,"a\nb",\ncredit,1.5e3,USD,,{alice}\n', 422, "Line 4: "),
    ],
)
def test_a_bad_upload_is_told_its_line(alice, nothing_written, data, status, told):
    sent = data if isinstance(data, bytes) else data.replace("{alice}", alice.id)
    with nothing_written():
        response = alice.request("POST", "/transactions/batch?mode=atomic", data=sent, content_type="text/csv; charset=utf-8")
        problem = check_problem(response, status)
    assert told in json.dumps([problem["detail"], problem.get("errors")], ensure_ascii=False)


def test_of_an_upload_no_more_is_read_than_a_batch_may_have(alice, nothing_written):
    def told(data):
        response = alice.request("POST", "/transactions/batch?mode=atomic", data=data, content_type="text/csv")
        return check_problem(response, 422)["errors"]

    lines = "type\n" + "\n" * 1_000_000
    tracemalloc.start()
    with nothing_written():
        assert [error["message"] for error in told(lines)] == ["Must be a list of 1 to 10,000 transactions."]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000
    assert len(told(",".join(f"x{n}" for n in range(1_000)))) == 100


def test_an_upload_says_its_mode_in_the_query(alice, nothing_written):
    data = f"type,user_id,amount,currency\ncredit,{alice.id},1,USD\n"
    with nothing_written():
        assert errors(alice.request("POST", "/transactions/batch", data=data, content_type="text/csv")).keys() == {"/mode"}
        assert errors(alice.request("POST", "/transactions/batch?mode=x", data=data, content_type="text/csv")).keys() == {"/mode"}
        unknown = data.replace(alice.id, new_id())
        response = alice.request("POST", "/transactions/batch?mode=atomic", data=unknown, content_type="text/csv")
        assert errors(response) == {"/transactions/0/user_id": "Line 2: There is no such thing here"}
