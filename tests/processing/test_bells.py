"""The bell: heard once, never lost between two drains, and rung again by the sweeper."""

import json
import zlib
from collections.abc import Callable, Iterator

import pytest
from flask import Flask

from bank.errors import Unavailable
from bank.ledger.system import lane_of
from bank.processing import processor as processing
from bank.processing.processor import Processor, drain_once
from bank.processing.queue import bells, queue, redis
from bank.processing.tasks import sweep
from tests.conftest import Person

pytestmark = pytest.mark.usefixtures("context")


@pytest.fixture(autouse=True)
def _silence(context: None) -> Iterator[None]:
    """No bells from the tests before, and none for those after."""

    def silence() -> None:
        queue().empty()
        lanes = range(4)
        bells.put_back(lanes, bells.rings(lanes))

    silence()
    yield
    silence()


@pytest.fixture
def processor(app: Flask) -> Iterator[Processor]:
    processor = Processor(app, 2)
    yield processor
    processor.close()


def waiting_jobs() -> list[tuple[str, list[int]]]:
    return [(job.func_name, list(job.args)) for job in queue().jobs]


def test_a_lane_has_one_bell_however_often_it_is_rung_for() -> None:
    for _ in range(5):
        bells.ring(3)
    bells.ring(2)
    assert waiting_jobs() == [("bank.processing.tasks.drain", [3]), ("bank.processing.tasks.drain", [2])]


def test_while_a_bell_waits_in_the_queue_there_is_no_second_however_busy_the_lane(alice: Person, processor: Processor) -> None:
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    for _ in range(10):
        alice.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
        processing.drain_once(lane)
    assert waiting_jobs() == [("bank.processing.tasks.drain", [lane])]


def test_a_bell_that_was_heard_can_be_rung_again() -> None:
    bells.ring(3)
    bells.put_back([3], bells.rings([3]))
    bells.ring(3)
    assert len(waiting_jobs()) == 2


def test_a_ring_while_a_drain_ends_is_still_heard(alice: Person, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    body = {"account_id": account_id, "amount": "1.00", "currency": "USD"}
    looks = []

    def drain_and_be_rung(which: int) -> int | None:
        size = drain_once(which)
        if which == lane and not looks:
            # Right after the claim that found nothing; its bell is answered by a worker that finds the lane taken.
            alice.post("/transactions/credit", body)
            queue().empty()
        looks.append(size)
        return size

    monkeypatch.setattr(processing, "drain_once", drain_and_be_rung)
    processor.drain(lane)
    assert alice.get("/balances/current").json["data"][0]["amount"] == "1.00"


def test_one_bell_makes_the_pool_drain_every_lane_that_was_rung_for(person: Callable[..., Person], processor: Processor) -> None:
    people = [person(f"saver{number}") for number in range(8)]
    for saver in people:
        account = saver.open_account()
        saver.post("/transactions/credit", {"account_id": account["id"], "amount": "1.00", "currency": "USD"})
    lanes = {lane for _, [lane] in waiting_jobs()}
    assert len(lanes) > 1
    assert processor.drain(min(lanes)) >= 8
    assert {saver.get("/balances/current").json["data"][0]["amount"] for saver in people} == {"1.00"}


def test_a_lane_that_another_lanes_bell_helps_keeps_its_own_and_gets_no_second(person: Callable[..., Person], processor: Processor) -> None:
    people = [person(f"saver{number}") for number in range(8)]
    accounts = [saver.open_account()["id"] for saver in people]
    for _ in range(3):
        for saver, account_id in zip(people, accounts, strict=True):
            saver.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
        mine = min(lane for _, [lane] in waiting_jobs())
        processor.drain(mine)
    others = [lane for _, [lane] in waiting_jobs() if lane != mine]
    assert len(others) == len(set(others)) > 0


def test_a_bell_answered_where_the_lane_is_taken_leaves_no_mark(processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    bells.ring(2)
    queue().empty()
    monkeypatch.setattr(processing, "drain_once", lambda lane: None)
    assert processor.drain(2) == 0
    bells.ring(2)
    assert waiting_jobs() == [("bank.processing.tasks.drain", [2])], "the next ring must be heard at once, not when the mark runs out"


def test_a_drain_that_is_to_stop_rings_for_what_it_leaves(alice: Person, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    processor.stop()
    for _ in range(2):
        alice.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
    bells.ring(lane)
    queue().empty()

    # The bell that is rung while the drain works makes it look once more, and it may not.
    def rung_for_meanwhile(which: int) -> int | None:
        size = drain_once(which)
        bells.ring(which)
        return size

    monkeypatch.setattr(processing, "drain_once", rung_for_meanwhile)
    processor.drain(lane)
    assert ("bank.processing.tasks.drain", [lane]) in waiting_jobs()


def test_the_sweeper_rings_for_what_nobody_heard(alice: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bank.processing.tasks._UNHEARD_SECONDS", 0.0)
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    alice.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
    # The job is lost with Redis's queue; its mark stays for some seconds, and as long the sweeper takes it for heard.
    queue().empty()
    assert lane in sweep()
    assert waiting_jobs() == []
    redis().delete(f"bank:bell:{lane}")
    assert lane in sweep()
    assert ("bank.processing.tasks.drain", [lane]) in waiting_jobs()


def test_jobs_are_json_in_redis() -> None:
    bells.ring(0)
    [job_id] = queue().job_ids
    raw = redis().hget(f"rq:job:{job_id}", "data")
    assert json.loads(zlib.decompress(raw)) == ["bank.processing.tasks.drain", None, [0], {}]


def test_a_helper_whose_turn_ends_rings_for_the_lane_it_helped(
    alice: Person, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    other = (lane + 1) % 4
    alice.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
    processor.stop()

    # More waits than the turn lasts for; and meanwhile the lane's own bell is answered by a worker that finds the lane taken.
    def full(which: int) -> int:
        if which == lane:
            queue().empty()
            bells.put_back([lane], bells.rings([lane]))
        return 500 if which == lane else 0

    monkeypatch.setattr(processing, "drain_once", full)
    processor.drain(other)
    assert ("bank.processing.tasks.drain", [lane]) in waiting_jobs()


def test_a_lane_that_cannot_be_drained_keeps_no_other_from_being_finished(
    alice: Person, processor: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    alice.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})

    def locked_elsewhere(which: int) -> int | None:
        if which != lane:
            raise Unavailable(sqlstate="55P03")
        return drain_once(which)

    monkeypatch.setattr(processing, "drain_once", locked_elsewhere)
    with pytest.raises(Unavailable):
        processor.drain((lane + 1) % 4)
    assert alice.get("/balances/current").json["data"][0]["amount"] == "1.00"
    # Its marks are gone, so the next ring is heard.
    queue().empty()
    bells.ring((lane + 1) % 4)
    assert waiting_jobs() == [("bank.processing.tasks.drain", [(lane + 1) % 4])]


def test_a_ring_at_the_very_last_look_is_still_heard(alice: Person, processor: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    account_id = str(alice.open_account()["id"])
    lane = lane_of(account_id, 4)
    monkeypatch.setattr(processing, "_QUIET_SECONDS", 0.0)
    looks = []
    rings = bells.rings

    def rung_just_before(lanes: list[int]) -> dict[int, int]:
        looks.append(lanes)
        if len(looks) == 2:
            alice.post("/transactions/credit", {"account_id": account_id, "amount": "1.00", "currency": "USD"})
            assert ("bank.processing.tasks.drain", [lane]) not in waiting_jobs(), "the drain is awake: a ring is only counted"
        return rings(lanes)

    monkeypatch.setattr(bells, "rings", rung_just_before)
    processor.drain(lane)
    assert alice.get("/balances/current").json["data"][0]["amount"] == "1.00"
