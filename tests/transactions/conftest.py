"""Moving money and looking what became of it."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from bank.processing.queue import bells
from tests.conftest import Person


@pytest.fixture
def outcome(post_all: Callable[[], None]) -> Callable[[Person, TestResponse], dict[str, Any]]:
    """Post what waits, and read what became of an accepted transaction."""

    def read(who: Person, accepted: TestResponse) -> dict[str, Any]:
        assert accepted.status_code == 202, accepted.text
        assert accepted.json["status"] == "pending"
        post_all()
        found = who.get(accepted.headers["Location"].removeprefix("/api/v1"))
        assert found.status_code == 200
        return dict(found.json)

    return read


@pytest.fixture
def balance() -> Callable[[Person, str], str]:
    """The balance of one account, as its owner reads it."""

    def read(who: Person, account_id: str) -> str:
        (row,) = who.get(f"/balances/current?account_id={account_id}").json["data"]
        return str(row["amount"])

    return read


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch, app: Flask, post_all: Callable[[], None]) -> None:
    """A worker that answers each bell at once, in a thread of its own."""

    def answer(lane: int, **_: Any) -> bool:
        Thread(target=post_all).start()
        return True

    monkeypatch.setattr(bells, "ring", answer)
