"""An account that is opened while a drain waits for its locks is no way round a limit."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from sqlalchemy import Connection

from bank.ledger.decide import Command
from bank.ledger.system import lane_of
from bank.limits import store
from bank.processing.processor import drain_once
from tests.conftest import Person
from tests.limits.test_limits import failures


def test_what_was_paid_from_it_before_the_locks_were_had_counts(
    app, alice: Person, accounts, funded: Callable[..., str], set_limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = accounts
    lanes = app.config["BANK"].lanes
    set_limit(user_id=alice.id, kind="sum", window="day", amount="100.00")
    made: list[str] = []

    def ask(source: str) -> None:
        body = {"from_account_id": source, "to_account_id": theirs, "amount": "100.00", "currency": "USD"}
        made.append(alice.post("/transactions/transfer", body).json["id"])

    def pay_from_another() -> None:
        while lane_of(another := funded(alice), lanes) == lane_of(ours, lanes):
            pass
        ask(another)
        with app.app_context():
            assert drain_once(lane_of(another, lanes)) == 1

    look_up = store.applicable

    def and_then_wait(connection: Connection, commands: list[Command]) -> Any:
        found = look_up(connection, commands)
        monkeypatch.undo()
        other = Thread(target=pay_from_another)
        other.start()
        other.join()
        return found

    ask(ours)
    monkeypatch.setattr(store, "applicable", and_then_wait)
    with app.app_context():
        drain_once(lane_of(ours, lanes))
    told = [alice.get(f"/transactions/{each}").json for each in made]
    assert failures(*told) == ["limit_exceeded", None]
