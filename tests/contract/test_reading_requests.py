"""Requests that try to be read differently than they were sent."""

import http.client
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import Person
from tests.processes import HOST, Bank, fresh_database


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[Bank]:
    """A real server: the test client cannot send chunks."""
    with fresh_database(environ, tmp_path) as own, Bank(own, tmp_path, web_workers=1, workers=0, scheduler=False) as bank:
        yield bank


def test_a_chunked_body_over_the_limit_is_refused_and_not_cut(bank: Bank) -> None:
    token = bank.log_in()
    body = b'{"currency": "USD"}' + b" " * 70_000 + b"GARBAGE"
    connection = http.client.HTTPConnection(HOST, bank.port, timeout=20)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/accounts", iter([body[:40_000], body[40_000:]]), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_a_query_parameter_that_comes_twice_is_refused(alice: Person) -> None:
    answer = alice.get("/transactions/history?status=completed&status=failed")
    assert (answer.status_code, answer.json["errors"][0]["pointer"]) == (422, "/status")


@pytest.mark.parametrize("name", [" ", "Rent \u202etxt", "Rent \u200ftxt"])
def test_a_text_that_is_blank_or_turns_itself_around_is_refused(alice: Person, name: str) -> None:
    assert alice.post("/accounts", {"currency": "USD", "name": name}).status_code == 422
