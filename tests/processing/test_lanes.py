"""A lane: one drain at a time, nothing skipped, nothing twice."""

from collections.abc import Callable, Iterator
from threading import Event, Thread

import pytest
from flask import Flask
from sqlalchemy import Connection, text

from bank.db import reader, unit_of_work
from bank.events.types import Origin, TransactionSubmitted
from bank.ledger import store as ledger
from bank.ledger.decide import decide
from bank.ledger.system import lane_of
from bank.processing.processor import drain_once
from bank.transactions import store
from bank.web.context import new_id
from tests.conftest import Person, open_transaction

LANES = 4

pytestmark = pytest.mark.usefixtures("context")


def fund(person: Person, post_all: Callable[[], None]) -> str:
    """An account with 100 dollars; its id."""
    account_id = str(person.open_account()["id"])
    person.post("/transactions/credit", {"account_id": account_id, "amount": "100.00", "currency": "USD"})
    post_all()
    return account_id


def submit(connection: Connection, person: Person, account_id: str) -> str:
    """Take in a debit of one dollar on this very connection; its id."""
    event = TransactionSubmitted(
        lane=lane_of(account_id, LANES),
        type="debit",
        from_user_id=person.id,
        to_user_id=None,
        from_account_id=account_id,
        to_account_id=None,
        amount=100,
        currency="USD",
        to_amount=100,
        to_currency="USD",
        rate=None,
        description=None,
        reference=None,
        metadata=None,
        reverses_id=None,
        awaited=False,
        effective_at=None,
    )
    transaction_id = new_id()
    store.submit(connection, transaction_id, event, "transaction.debit", Origin(actor_id=person.id), None)
    return transaction_id


def status(transaction_id: str) -> str:
    with reader() as session:
        row = store.get(session, transaction_id)
    assert row is not None
    return str(row.status)


def test_a_row_that_commits_late_is_posted_although_later_numbers_were(alice: Person, post_all: Callable[[], None]) -> None:
    account_id = fund(alice, post_all)
    with open_transaction() as late:
        held_open = submit(late, alice, account_id)
        for _ in range(5):
            with unit_of_work() as session:
                before = submit(session.connection(), alice, account_id)
            post_all()
            assert status(before) == "completed"
        late.commit()
    post_all()
    assert status(held_open) == "completed"


def test_a_row_that_commits_late_is_posted_although_its_transaction_began_last(alice: Person, post_all: Callable[[], None]) -> None:
    account_id = fund(alice, post_all)
    with open_transaction() as early:
        # Takes its transaction id first and its number last, as an account that is opened on the way does.
        early.execute(text("SELECT pg_current_xact_id()"))
        with open_transaction() as late:
            held_open = submit(late, alice, account_id)
            seen = submit(early, alice, account_id)
            early.commit()
            # No other lane is drained in between: what they do would end later transaction ids.
            for _ in range(6):
                drain_once(lane_of(account_id, LANES))
                with unit_of_work() as session:
                    submit(session.connection(), alice, account_id)
            assert status(seen) == "completed"
            late.commit()
        post_all()
    assert status(held_open) == "completed"


def test_the_lane_moves_on_once_no_smaller_number_can_come(alice: Person, post_all: Callable[[], None]) -> None:
    account_id = fund(alice, post_all)
    for _ in range(8):
        with unit_of_work() as session:
            submit(session.connection(), alice, account_id)
        post_all()
    with reader() as session:
        behind = session.execute(
            text("SELECT count(*) FROM transactions t JOIN lanes l USING (lane) WHERE lane = :lane AND t.seq > l.position"),
            {"lane": lane_of(account_id, LANES)},
        ).scalar_one()
    assert behind <= 4


def test_a_second_drain_finds_the_lane_taken(alice: Person, app: Flask, post_all: Callable[[], None]) -> None:
    account_id = fund(alice, post_all)
    lane = lane_of(account_id, LANES)
    with open_transaction() as first:
        assert ledger.claim(first, lane, 10) is not None
        assert drain_once(lane) is None
    assert drain_once(lane) == 0


def test_a_batch_that_lost_its_lane_writes_nothing(alice: Person, post_all: Callable[[], None]) -> None:
    account_id = fund(alice, post_all)
    lane = lane_of(account_id, LANES)
    with unit_of_work() as session:
        transaction_id = submit(session.connection(), alice, account_id)
    with open_transaction() as sleeper:
        claimed = ledger.claim(sleeper, lane, 10)
        assert claimed is not None and len(claimed.pending) == 1
        # As if the lane's lock were gone: the row is made final behind the sleeper's back.
        with unit_of_work() as session:
            session.execute(
                text("UPDATE transactions SET status = 'failed', failure_code = 'insufficient_funds' WHERE id = :id"),
                {"id": transaction_id},
            )
        commands = [pending.command for pending in claimed.pending]
        states = ledger.load_states(sleeper, commands)
        with pytest.raises(ledger.LaneLost):
            ledger.write(sleeper, claimed, states, decide(commands, states.accounts, states.originals))


@pytest.fixture
def refused_by_the_database(app: Flask) -> Iterator[str]:
    """A description that no entry's transaction may have: the database refuses to write what decides for it."""
    marked = f"poison-{new_id()}"
    with app.app_context():
        with unit_of_work() as session:
            session.execute(
                text(
                    f"""CREATE FUNCTION refuse_marked() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                        IF EXISTS (SELECT FROM transactions WHERE id = NEW.transaction_id AND description = '{marked}') THEN
                            RAISE EXCEPTION 'refused' USING ERRCODE = 'data_exception';
                        END IF;
                        RETURN NEW; END $$"""
                )
            )
            session.execute(text("CREATE TRIGGER refuse_marked BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION refuse_marked()"))
        yield marked
        with unit_of_work() as session:
            session.execute(text("DROP TRIGGER refuse_marked ON entries"))
            session.execute(text("DROP FUNCTION refuse_marked()"))


def test_a_transaction_that_cannot_be_written_fails_alone_and_stops_nobody_behind_it(
    alice: Person, post_all: Callable[[], None], refused_by_the_database: str
) -> None:
    account_id = fund(alice, post_all)
    body = {"account_id": account_id, "amount": "1.00", "currency": "USD"}
    descriptions = ["before", refused_by_the_database, "behind"]
    ids = [alice.post("/transactions/debit", {**body, "description": description}).json["id"] for description in descriptions]
    assert drain_once(lane_of(account_id, LANES)) == 3
    outcomes = [alice.get(f"/transactions/{transaction_id}").json for transaction_id in ids]
    assert [(outcome["status"], outcome["failure_code"], len(outcome["entries"])) for outcome in outcomes] == [
        ("completed", None, 2),
        ("failed", "internal_error", 0),
        ("completed", None, 2),
    ]
    assert alice.get(f"/accounts/{account_id}").json["balance"] == "98.00"


def test_what_was_posted_stays_posted_when_it_cannot_be_counted(
    alice: Person, post_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = fund(alice, post_all)
    ids = [alice.post("/transactions/debit", {"account_id": account_id, "amount": "1.00", "currency": "USD"}).json["id"] for _ in range(5)]

    def no_space(batch: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bank.processing.processor.counters.batch_done", no_space)
    assert drain_once(lane_of(account_id, LANES)) == 5
    assert {status(transaction_id) for transaction_id in ids} == {"completed"}


def test_an_error_that_is_nobodys_fault_leaves_every_row_pending(
    alice: Person, post_all: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    account_id = fund(alice, post_all)
    transaction_id = alice.post("/transactions/debit", {"account_id": account_id, "amount": "1.00", "currency": "USD"}).json["id"]

    def broken(*_: object) -> None:
        raise LookupError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("bank.processing.processor.decide", broken)
        with pytest.raises(LookupError):
            drain_once(lane_of(account_id, LANES))
    assert status(transaction_id) == "pending"
    post_all()
    assert status(transaction_id) == "completed"


def test_drains_of_all_lanes_at_once_meet_on_two_accounts_without_deadlock(
    app: Flask, alice: Person, bob: Person, post_all: Callable[[], None]
) -> None:
    ours, theirs = fund(alice, post_all), fund(bob, post_all)
    for person, source, target in ((alice, ours, theirs), (bob, theirs, ours)) * 40:
        body = {"from_account_id": source, "to_account_id": target, "amount": "1.00", "currency": "USD"}
        assert person.post("/transactions/transfer", body).status_code == 202
    failures: list[BaseException] = []
    go = Event()

    def drain(lane: int) -> None:
        go.wait()
        try:
            with app.app_context():
                while drain_once(lane):
                    pass
        except BaseException as error:
            failures.append(error)

    threads = [Thread(target=drain, args=(lane,)) for lane in (*range(LANES), *range(LANES))]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    post_all()
    assert failures == []
    assert [person.get("/balances/current").json["data"][0]["amount"] for person in (alice, bob)] == ["100.00", "100.00"]
