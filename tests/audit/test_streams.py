"""The events as a stream: in order, none skipped, and going on; bounded in number and time."""

import http.client
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Connection, text
from werkzeug.test import TestResponse

from bank.audit import following
from bank.db import unit_of_work
from bank.errors import Unauthenticated
from bank.events import horizon
from bank.users.models import Role
from bank.web import streaming
from bank.web.context import new_id
from tests.conftest import Person, open_transaction
from tests.contract.problems import check_problem
from tests.processes import Bank, fresh_database, wait_until

NDJSON = {"Accept": "application/x-ndjson"}


def read(response: TestResponse) -> list[dict[str, Any]]:
    """The events of a stream that ends."""
    assert (response.status_code, response.mimetype) == (200, "application/x-ndjson")
    return [json.loads(line) for line in response.text.splitlines()]


def append(connection: Connection, stream_id: str, version: int) -> None:
    statement = "INSERT INTO events (stream_id, version, type, data) VALUES (:id, :version, 'AccountChanged', '{}')"
    connection.execute(text(statement), {"id": stream_id, "version": version})


def follow(auditor: Person, query: str) -> Iterator[list[int]]:
    """What a follower is told at each look: the versions of the events."""
    response = auditor.get(f"/events?follow=true&{query}", headers=NDJSON)
    assert response.status_code == 200, response.json
    try:
        for piece in response.iter_encoded():
            yield [json.loads(line)["version"] for line in piece.splitlines() if line]
    finally:
        response.close()


@pytest.fixture
def restless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Followers that look often and say each time that there is nothing."""
    monkeypatch.setattr(following, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(following, "_SILENCE_SECONDS", 0.0)


def test_a_stream_holds_all_that_match_in_order(alice: Person, auditor: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PAGE", 3)
    first = alice.open_account()["id"]
    for name in "abcdefg":
        alice.patch(f"/accounts/{first}", {"name": name})
    whole = read(auditor.get(f"/events?stream_id={first}&limit=2", headers=NDJSON))
    assert [event["version"] for event in whole] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert whole == auditor.get(f"/events?stream_id={first}").json["data"]
    position = whole[5]["position"]
    assert read(auditor.get(f"/events?stream_id={first}&from={position}", headers=NDJSON)) == whole[5:]
    assert auditor.get(f"/events?stream_id={first}&from={position}").json["data"] == whole[5:]
    assert read(auditor.get(f"/events?stream_id={first}&type=AccountOpened", headers=NDJSON)) == whole[:1]
    page = auditor.get(f"/events?stream_id={first}&from={whole[2]['position']}&limit=2").json
    rest = f"/events?stream_id={first}&from={whole[2]['position']}&limit=2&cursor={page['next_cursor']}"
    assert page["data"] + read(auditor.get(rest, headers=NDJSON)) == whole[2:]
    assert auditor.get(f"/events?type=AccountOpened&from={position}").json["data"] == []
    assert read(auditor.get(f"/events?from={2**63 - 1}", headers=NDJSON)) == []


@pytest.mark.usefixtures("context", "restless")
def test_a_follower_is_told_of_an_event_that_commits_late_before_those_behind_it(auditor: Person) -> None:
    stream_id = new_id()
    with unit_of_work() as session:
        append(session.connection(), stream_id, 1)
    told = follow(auditor, f"stream_id={stream_id}")
    assert next(told) == [1]
    with open_transaction() as oldest, open_transaction() as early:
        for connection in (oldest, early):
            connection.execute(text("SELECT pg_current_xact_id()"))
        with unit_of_work() as session:
            append(session.connection(), new_id(), 1)
        # Twice, since the first was due before it looked again.
        assert [next(told) for _ in range(2)] == [[]] * 2
        with open_transaction() as late:
            append(late, stream_id, 2)
            append(early, stream_id, 3)
            early.commit()
            # What came before the two is settled by this, and they are not.
            oldest.rollback()
            assert [next(told) for _ in range(5)] == [[]] * 5
            late.commit()
    assert next(found for found in told if found) == [2, 3]
    with unit_of_work() as session:
        append(session.connection(), stream_id, 4)
    assert next(found for found in told if found) == [4]


@pytest.mark.usefixtures("context")
def test_a_stream_that_ends_waits_for_what_commits_late_or_says_that_it_cannot(auditor: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    stream_id = new_id()
    query = f"/events?stream_id={stream_id}"
    with open_transaction() as late:
        append(late, stream_id, 1)
        with unit_of_work() as session:
            append(session.connection(), stream_id, 2)
        with monkeypatch.context() as impatient:
            impatient.setattr(following, "settled", lambda: horizon.settled(0.0))
            problem = auditor.get(query, headers=NDJSON)
            check_problem(problem, 503)
            assert int(problem.headers["Retry-After"]) > 0
        # It commits while the stream waits.
        monkeypatch.setattr(following.time, "sleep", lambda _: late.commit())
        assert [event["version"] for event in read(auditor.get(query, headers=NDJSON))] == [1, 2]


def test_only_a_stream_follows(auditor: Person) -> None:
    check_problem(auditor.get("/events?follow=true"), 422, "/follow")
    assert auditor.get("/events?follow=false&limit=1").status_code == 200
    check_problem(auditor.get("/events", headers={"Accept": "text/csv"}), 406)


@pytest.mark.usefixtures("restless")
def test_a_follower_is_cut_off_with_its_login(auditor: Person) -> None:
    told = follow(auditor, f"stream_id={new_id()}")
    assert next(told) == []
    assert auditor.post("/auth/logout").status_code == 204
    with pytest.raises(Unauthenticated):
        list(told)


def test_an_export_is_cut_off_with_its_readers_role(person: Callable[..., Person], admin: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PAGE", 1)
    auditor = person("auditor", Role.AUDITOR)
    pieces = auditor.get("/audit-logs", headers=NDJSON).iter_encoded()
    assert next(pieces)
    assert admin.request("PUT", f"/users/{auditor.id}", json={"role": "customer"}).status_code == 200
    with pytest.raises(Unauthenticated):
        list(pieces)


def test_a_follower_ends_in_time(auditor: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_FOLLOW_SECONDS", 0.0)
    assert read(auditor.get("/events?follow=true", headers=NDJSON)) == []


def test_a_process_sends_a_few_streams_and_no_more(app: Flask, auditor: Person) -> None:
    def open_stream(method: str = "GET") -> TestResponse:
        return auditor.request(method, f"/events?follow=true&stream_id={new_id()}", headers=NDJSON)

    places = app.config["BANK"].web_threads // 4
    # One whose body is not asked for gives its place back.
    unread = [open_stream("HEAD") for _ in range(places)]
    for stream in unread:
        stream.close()
    streams = [open_stream() for _ in range(places)]
    refused = open_stream()
    check_problem(refused, 503)
    assert int(refused.headers["Retry-After"]) > 0
    assert check_problem(auditor.get("/audit-logs", headers={"Accept": "text/csv"}), 503)
    assert auditor.get("/events?limit=1").status_code == 200
    streams.pop().close()
    assert auditor.get("/audit-logs?action=login.ended", headers={"Accept": "text/csv"}).status_code == 200
    for stream in streams:
        stream.close()


@pytest.mark.slow
def test_a_follower_that_goes_leaves_its_thread_and_one_that_stays_holds_up_no_stop(environ: Mapping[str, str], tmp_path: Any) -> None:
    with fresh_database(environ, tmp_path) as own:
        # Four threads have one place.
        bank = Bank({**own, "BANK_WEB_THREADS": "4"}, tmp_path, web_workers=1, workers=0, scheduler=False)
        with bank:
            headers = {"Authorization": f"Bearer {bank.log_in()}", **NDJSON}

            def begin() -> http.client.HTTPResponse | None:
                connection = http.client.HTTPConnection("127.0.0.1", bank.port, timeout=30)
                connection.request("GET", "/api/v1/events?follow=true", headers={**headers, "Connection": "close"})
                response = connection.getresponse()
                if response.status == 503:
                    connection.close()
                    return None
                assert response.status == 200
                # A blank line comes first while a transaction, of whatever database of the server, keeps the log from being settled.
                line = next(line for line in iter(response.readline, b"") if line.strip())
                assert json.loads(line)["position"] == 1
                return response

            gone = begin()
            assert gone is not None
            assert begin() is None
            gone.close()
            stays = wait_until(begin, "the place is free")
            started = time.monotonic()
            bank.web.signal(signal.SIGTERM)
            bank.web.child.wait(20)
            # The last chunk is there: it was ended and not cut off.
            stays.read()
            assert time.monotonic() - started < 15
