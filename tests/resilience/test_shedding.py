"""A lane in which something waits for too long takes no more, and says when to come again."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from flask import Flask
from prometheus_client import REGISTRY

from bank import create_app
from bank.config import Config
from bank.ledger.system import BATCH_LANE, lane_of
from bank.processing.processor import drain_once
from bank.users.models import Role
from tests.conftest import Person, people
from tests.processes import fresh_database, query, wait_until

LANES = 4


@pytest.fixture(scope="module")
def own(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with fresh_database({**environ, "BANK_SHED_AFTER_SECONDS": "1"}, tmp_path_factory.mktemp("shedding")) as own:
        yield own


@pytest.fixture(scope="module")
def impatient(own: dict[str, str]) -> Flask:
    return create_app(Config.from_env(own))


@pytest.fixture
def alice(impatient: Flask, password_hash: str) -> Person:
    return people(impatient, password_hash, {"alice": Role.CUSTOMER})["alice"]


@pytest.fixture
def drain(impatient: Flask) -> Callable[[int], None]:
    def drain(lane: int) -> None:
        with impatient.app_context():
            while drain_once(lane):
                pass

    return drain


def credit(who: Person, account_id: str, key: str | None = None) -> int:
    body = {"account_id": account_id, "amount": "1.00", "currency": "USD"}
    answer = who.post("/transactions/credit", body, headers={"Idempotency-Key": key} if key else {})
    if answer.status_code == 503:
        assert answer.json["code"] == "unavailable"
        assert 5 <= int(answer.headers["Retry-After"]) <= 10
    return int(answer.status_code)


def test_a_lane_takes_no_more_while_something_in_it_waits_for_too_long(
    alice: Person, own: dict[str, str], drain: Callable[[int], None]
) -> None:
    accounts = [alice.open_account()["id"] for _ in range(20)]
    lane = lane_of(accounts[0], LANES)
    other = next(each for each in accounts if lane_of(each, LANES) != lane)
    before = REGISTRY.get_sample_value("bank_transactions_shed_total", {"lane": str(lane)}) or 0
    assert credit(alice, accounts[0], "first") == 202
    wait_until(lambda: credit(alice, accounts[0]) == 503, "the lane is closed", 10)
    assert REGISTRY.get_sample_value("bank_transactions_shed_total", {"lane": str(lane)}) == before + 1
    # What was refused left nothing behind; what was accepted is answered as it was; other lanes go on.
    [(count,)] = query(own, "SELECT count(*) FROM transactions WHERE to_account_id = %s", accounts[0])
    assert credit(alice, accounts[0], "first") == 202
    assert credit(alice, accounts[0], "second") == 503
    assert [(count,)] == query(own, "SELECT count(*) FROM transactions WHERE to_account_id = %s", accounts[0])
    assert credit(alice, other) == 202
    drain(lane)
    wait_until(lambda: credit(alice, accounts[0], "second") == 202, "the lane is open", 10)
    for each in range(LANES):
        drain(each)


def test_a_batch_is_not_taken_while_another_waits_for_too_long(alice: Person, drain: Callable[[int], None]) -> None:
    account_id = alice.open_account()["id"]
    items = [{"type": "credit", "account_id": account_id, "amount": "1.00", "currency": "USD"}]

    def batch() -> int:
        return int(alice.post("/transactions/batch", {"mode": "independent", "transactions": items}).status_code)

    assert batch() == 202
    wait_until(lambda: batch() == 503, "the lane is closed", 10)
    assert credit(alice, account_id) == 202
    drain(BATCH_LANE)
    wait_until(lambda: batch() == 202, "the lane is open", 10)
    drain(BATCH_LANE)
