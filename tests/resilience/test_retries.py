"""A read whose connection had died is tried once more, and not without bounds; a write never is: its client decides."""

from collections.abc import Iterator, Mapping

import pytest
from flask import Flask

from bank import create_app
from bank.config import Config
from bank.resilience.replicas import Budget
from bank.users.models import Role
from tests.conftest import Person, people
from tests.processes import fresh_database, query


@pytest.fixture(scope="module")
def own(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with fresh_database(environ, tmp_path_factory.mktemp("retries")) as own:
        yield own


@pytest.fixture
def fresh(own: dict[str, str]) -> Flask:
    return create_app(Config.from_env(own))


@pytest.fixture
def alice(fresh: Flask, password_hash: str) -> Person:
    return people(fresh, password_hash, {"alice": Role.CUSTOMER})["alice"]


def end_connections(own: dict[str, str]) -> None:
    """As a restart of the server does."""
    ended = query(
        own,
        """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'bank' AND pid <> pg_backend_pid()""",
    )
    assert ended


def test_a_read_whose_connection_had_died_is_answered_all_the_same(alice: Person, own: dict[str, str]) -> None:
    account_id = alice.open_account()["id"]
    for _ in range(3):
        assert alice.get(f"/accounts/{account_id}").status_code == 200
        end_connections(own)
        assert alice.get(f"/accounts/{account_id}").status_code == 200


def test_a_read_that_is_wrong_in_itself_is_answered_as_it_would_have_been(alice: Person, own: dict[str, str]) -> None:
    assert alice.get("/accounts?limit=nonsense").status_code == 422
    end_connections(own)
    assert alice.get("/accounts?limit=nonsense").status_code == 422


def test_when_too_much_was_tried_again_nothing_is(alice: Person, own: dict[str, str], fresh: Flask) -> None:
    budget: Budget = fresh.extensions["retries"]
    assert alice.get("/accounts").status_code == 200
    while budget.take():
        pass
    end_connections(own)
    assert alice.get("/accounts").status_code == 503
    assert alice.get("/accounts").status_code == 200


def test_a_write_is_never_tried_again_by_us(alice: Person, own: dict[str, str]) -> None:
    alice.open_account()
    end_connections(own)
    refused = alice.post("/accounts", {"currency": "EUR"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
    assert alice.post("/accounts", {"currency": "EUR"}).status_code == 201


def test_ten_reads_earn_one_try_and_ten_tries_are_the_most() -> None:
    budget = Budget()
    for _ in range(1_000):
        budget.add()
    assert sum(budget.take() for _ in range(100)) == 10
    for _ in range(11):
        budget.add()
    assert [budget.take(), budget.take()] == [True, False]
