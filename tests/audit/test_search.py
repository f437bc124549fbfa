"""The audit log is searched by what, which, how, who and when, and exported whole."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from bank.audit import service
from bank.db import db
from bank.web import streaming
from tests.conftest import Person

CSV, NDJSON = {"Accept": "text/csv"}, {"Accept": "application/x-ndjson"}


@pytest.fixture
def renamed(alice: Person) -> dict[str, Any]:
    """An account of Alice's that had four names, one after the other."""
    account = alice.open_account()
    for name in ("Rent", "Food", "Trips"):
        alice.patch(f"/accounts/{account['id']}", {"name": name}, headers={"X-Request-ID": f"-{name}"})
    return account


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that read two rows and one at a time."""
    monkeypatch.setattr(streaming, "PAGE", 2)


def test_each_filter_narrows_the_search(renamed: dict[str, Any], alice: Person, auditor: Person) -> None:
    def names(query: str) -> list[str]:
        rows = auditor.get(f"/audit-logs?entity_type=account&entity_id={renamed['id']}{query}").json["data"]
        return [row["details"].get("name", row["action"]) for row in rows]

    assert names("") == ["Trips", "Food", "Rent", "account.opened"]
    assert names("&action=account.opened") == ["account.opened"]
    assert names("&action=account.closed") == []
    assert names(f"&actor_id={alice.id}&action=account.changed") == ["Trips", "Food", "Rent"]
    assert names(f"&actor_id={auditor.id}") == []
    whole = auditor.get(f"/audit-logs?entity_type=account&entity_id={renamed['id']}").json["data"]
    food, rent = whole[1]["created_at"], whole[2]["created_at"]
    # From a moment on, and up to a moment and not including it.
    assert names(f"&from={food}") == ["Trips", "Food"]
    assert names(f"&to={food}") == ["Rent", "account.opened"]
    assert names(f"&from={rent}&to={food}") == ["Rent"]
    assert {row["entity_type"] for row in auditor.get("/audit-logs?entity_type=user").json["data"]} == {"user"}


def test_pages_of_a_search_hang_together(renamed: dict[str, Any], alice: Person, auditor: Person) -> None:
    query = f"/audit-logs?actor_id={alice.id}&action=account.changed"
    whole = auditor.get(query).json["data"]
    first = auditor.get(f"{query}&limit=2").json
    second = auditor.get(f"{query}&limit=2&cursor={first['next_cursor']}").json
    assert first["data"] + second["data"] == whole
    assert (len(whole), second["has_more"]) == (3, False)


@pytest.mark.usefixtures("small_pages")
def test_an_export_holds_all_that_a_search_finds(renamed: dict[str, Any], auditor: Person) -> None:
    query = f"/audit-logs?entity_type=account&entity_id={renamed['id']}"
    whole = auditor.get(query).json["data"]
    # A limit is of pages, and an export has none.
    lines = auditor.get(f"{query}&limit=1", headers=NDJSON)
    assert [json.loads(line) for line in lines.text.splitlines()] == whole
    records = list(csv.DictReader(io.StringIO(auditor.get(f"{query}&limit=1", headers=CSV).text)))
    assert [{**record, "id": int(record["id"]), "details": json.loads(record["details"])} for record in records] == [
        # No formula: Alice's request ids begin with a minus, but for the first.
        {**row, "request_id": f"'{row['request_id']}" if row["request_id"].startswith("-") else row["request_id"]}
        for row in whole
    ]
    assert sum(record["request_id"].startswith("'-") for record in records) == 3


def test_an_export_of_nothing_is_a_header_or_empty(alice: Person, auditor: Person) -> None:
    query = f"/audit-logs?actor_id={alice.id}&action=account.opened"
    header = auditor.get(query, headers=CSV).data
    assert header == b"id,created_at,entity_type,entity_id,action,actor_id,address,request_id,details\r\n"
    assert auditor.get(query, headers=NDJSON).data == b""
    assert auditor.get(query, headers={"Accept": "text/csv; charset=utf-8"}).headers["Content-Type"] == "text/csv; charset=utf-8"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start: str) -> None:
    pages = [[{"text": f"{start}1+cmd|'/C calc'!A0"}, {"text": f"1{start}1"}]]
    records = list(csv.reader(io.StringIO(b"".join(streaming.csv_lines(["text"], pages)).decode(), newline="")))
    assert records == [["text"], [f"'{start}1+cmd|'/C calc'!A0"], [f"1{start}1"]]


def test_numbers_and_nothing_stay_what_they_are_in_a_cell() -> None:
    assert b"".join(streaming.csv_lines(["a", "b", "c"], [[{"a": -1, "b": None, "c": 'x,"y"'}]])) == b'a,b,c\r\n-1,,"x,""y"""\r\n'


@pytest.mark.usefixtures("small_pages", "renamed")
def test_an_export_reads_as_its_client_does_and_keeps_no_connection(
    app: Flask, alice: Person, auditor: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    monkeypatch.setattr(service, "read", lambda *args, real=service.read: reads.append(args) or real(*args))
    response = auditor.get(f"/audit-logs?actor_id={alice.id}", headers=NDJSON)
    pieces: Iterator[bytes] = response.iter_encoded()
    assert len(next(pieces).splitlines()) == 3
    with app.app_context():
        assert db.engines["reader"].pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len(reads) == 1
    assert len(b"".join(pieces).splitlines()) == 1
    assert len(reads) == 2


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("text/*", "text/csv"),
        ("text/csv; charset=utf-8", "text/csv"),
        ("TEXT/CSV", "text/csv"),
        ("application/x-ndjson, application/json;q=0.5", "application/x-ndjson"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("text/html", None),
        ("text/csv;q=0", None),
        ("json", None),
        ("/", None),
        ("*/csv", None),
        (",;=q,\xff", None),
    ],
)
def test_the_media_type_is_what_the_client_accepts(auditor: Person, accept: str | None, answer: str | None) -> None:
    response = auditor.get("/audit-logs?limit=1", headers={} if accept is None else {"Accept": accept})
    if answer is None:
        assert (response.status_code, response.mimetype, response.json["code"]) == (406, "application/problem+json", "not_acceptable")
    else:
        assert (response.status_code, response.mimetype, response.headers["Vary"]) == (200, answer, "Accept")
