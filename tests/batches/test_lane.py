"""The lane of the batches: an atomic one is claimed whole, whatever lies between its transactions."""

import threading
import time

import pytest
from sqlalchemy import text

from bank.db import reader, unit_of_work
from bank.events.types import Origin, TransactionSubmitted
from bank.ledger import store as ledger
from bank.ledger.decide import decide, decide_together
from bank.ledger.system import BATCH_LANE
from bank.processing import processor
from bank.processing.processor import Processor, drain_once
from bank.processing.queue import BATCH_QUEUE, QUEUE, bells, queue, redis
from bank.transactions.many import submit_many
from bank.web.context import new_id
from tests.batches.conftest import read, submit, transfer
from tests.conftest import open_transaction

pytestmark = pytest.mark.usefixtures("context")


def add(connection, batch_id, index, who, source, target):
    """One transaction of a batch, which another may lie behind."""
    event = TransactionSubmitted(
        BATCH_LANE,
        "transfer",
        who.id,
        who.id,
        source,
        target,
        1,
        "USD",
        1,
        "USD",
        None,
        None,
        None,
        None,
        None,
        False,
        None,
        batch_id,
        index,
    )
    submit_many(connection, [(new_id(), event)], Origin(actor_id=who.id))


def status(batch_id):
    with reader() as session:
        rows = session.execute(text("SELECT status FROM transactions WHERE batch_id = :id ORDER BY batch_index"), {"id": batch_id})
        return list(rows.scalars())


@pytest.fixture
def between(alice, funded, post_all):
    """Two atomic batches and one independent, whose transactions lie between each other; their ids."""
    post_all()
    mine, other = funded(alice), funded(alice, None)
    ids = {new_id(): mode for mode in ("atomic", "independent", "atomic")}
    with unit_of_work() as session:
        for batch_id, mode in ids.items():
            session.execute(
                text("INSERT INTO batches (id, user_id, mode, items) VALUES (:id, :user, :mode, 3)"),
                {"id": batch_id, "user": alice.id, "mode": mode},
            )
        for index in range(3):
            for batch_id in ids:
                add(session.connection(), batch_id, index, alice, mine, other)
    return list(ids)


@pytest.mark.parametrize("limit", [1, 2, 500])
def test_each_claim_takes_what_is_of_one_kind_and_leaves_nothing_behind(between, limit):
    first, independent, last = between
    sizes = []
    for _ in range(20):
        with unit_of_work() as session:
            claimed = ledger.claim(session.connection(), BATCH_LANE, limit)
            assert claimed is not None
            if not claimed.pending:
                break
            batches = [row.batch_id for row in claimed.pending]
            if claimed.atomic:
                assert batches in ([first] * 3, [last] * 3)
            else:
                assert set(batches) == {independent} and len(batches) <= limit
            sizes.append(len(batches))
            commands = [row.command for row in claimed.pending]
            states = ledger.load_states(session.connection(), commands)
            ledger.write(session.connection(), claimed, states, decide(commands, states.accounts, states.originals))
    assert sum(sizes) == 9
    assert [status(batch_id) for batch_id in between] == [["completed"] * 3] * 3


def test_one_that_commits_late_is_posted_although_later_ones_were(alice, bob, funded, post_all):
    mine, bobs = funded(alice), funded(bob, None)
    batch_id = new_id()
    with open_transaction() as late:
        late.execute(
            text("INSERT INTO batches (id, user_id, mode, items) VALUES (:id, :user, 'atomic', 1)"), {"id": batch_id, "user": alice.id}
        )
        add(late, batch_id, 0, alice, mine, funded(alice, None))
        for _ in range(4):
            accepted = submit(alice, "atomic", [transfer(mine, bobs, "0.01")] * 2)
            post_all()
            assert read(alice, accepted)["status"] == "completed"
        late.commit()
    post_all()
    assert status(batch_id) == ["completed"]


def test_what_the_database_refuses_fails_the_whole_of_an_atomic_one(alice, bob, funded, post_all, monkeypatch):
    mine, bobs = funded(alice, "10.00"), funded(bob, None)
    accepted = submit(alice, "atomic", [transfer(mine, bobs, "6.00"), transfer(mine, bobs, "6.00")])
    # A decision that overdraws the account, which the check on its row does not let through.
    monkeypatch.setattr("bank.ledger.decide._objection", lambda *_: None)
    post_all()
    monkeypatch.undo()
    found = read(alice, accepted)
    assert [item["failure_code"] for item in found["data"]] == ["internal_error"] * 2
    assert (found["status"], found["failure"]["code"]) == ("failed", "internal_error")


def test_an_atomic_one_that_takes_longer_than_a_statement_may_holds_up_nothing_behind_it(alice, bob, funded, post_all, monkeypatch):
    mine, bobs = funded(alice), funded(bob, None)
    post_all()
    accepted = submit(alice, "atomic", [transfer(mine, bobs, "1.00")] * 2)
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_LOCK_LANE", "SET LOCAL statement_timeout = '500ms';" + ledger._LOCK_LANE)
        patched.setattr(ledger, "_WRITE", ledger._WRITE.rstrip() + ", pg_sleep(1)")
        assert drain_once(BATCH_LANE) == 2
    assert read(alice, accepted)["status"] == "completed"


def test_an_atomic_one_that_is_decided_for_longer_than_a_connection_may_idle_holds_up_nothing_behind_it(
    alice, bob, funded, post_all, monkeypatch
):
    mine, bobs = funded(alice), funded(bob, None)
    post_all()
    accepted = submit(alice, "atomic", [transfer(mine, bobs, "1.00")] * 2)

    def slowly(*arguments):
        time.sleep(1)
        return decide_together(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(ledger, "_LOCK_LANE", "SET LOCAL idle_in_transaction_session_timeout = '500ms';" + ledger._LOCK_LANE)
        patched.setattr(processor, "decide_together", slowly)
        assert drain_once(BATCH_LANE) == 2
    assert read(alice, accepted)["status"] == "completed"


def test_its_bell_goes_to_a_queue_of_its_own():
    redis().flushdb()
    bells.ring(BATCH_LANE)
    bells.ring(0)
    assert [list(job.args) for job in queue(BATCH_QUEUE).jobs] == [[BATCH_LANE]]
    assert [list(job.args) for job in queue(QUEUE).jobs] == [[0]]
    redis().flushdb()


def test_whoever_drains_it_leaves_the_other_lanes_to_theirs(app, alice, funded):
    mine = funded(alice)
    redis().flushdb()
    single = alice.post("/transactions/debit", {"account_id": mine, "amount": "1.00", "currency": "USD"}).json["id"]
    item = {"type": "debit", "account_id": mine, "amount": "1.00", "currency": "USD"}
    batches = [submit(alice, mode, [item]) for mode in ("atomic", "independent", "atomic")]
    worker = Processor(app, 2)
    done = []
    # In a thread of its own, as a worker's job: no context of ours is there.
    thread = threading.Thread(target=lambda: done.append(worker.drain(BATCH_LANE)))
    thread.start()
    thread.join()
    worker.close()
    # All of them by one bell: a claim that is not full tells nothing here.
    assert done == [3]
    assert [read(alice, each)["status"] for each in batches] == ["completed"] * 3
    assert alice.get(f"/transactions/{single}").json["status"] == "pending"
    while drain_once(BATCH_LANE):
        pass
    redis().flushdb()
