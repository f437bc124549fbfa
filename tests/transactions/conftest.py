"""Moving money and looking what became of it."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import text
from werkzeug.test import TestResponse

from bank.db import reader
from bank.processing.queue import bells
from tests.conftest import Person
from tests.contract.document import Document

TABLES = ("transactions", "entries", "events", "audit_logs", "idempotency_keys", "accounts", "balances")

# What a preview cannot know, or is by its nature another.
OTHER = {"id", "created_at", "completed_at", "effective_at", "expires_at", "dry_run", "entries", "checks"}


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


@pytest.fixture(scope="module")
def document(app: Flask) -> Document:
    return Document(app.test_client().get("/openapi.json").json)


@pytest.fixture
def changes_nothing(app: Flask) -> Callable[..., TestResponse]:
    """Fail when rows were added, or balances changed, by a preview."""

    def state() -> Any:
        with app.app_context(), reader() as session:
            counts = ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES)
            return session.execute(text(f"SELECT {counts}, (SELECT sum(amount * amount + held * held) FROM balances)")).one()

    def call(who: Person, path: str, body: dict[str, Any]) -> TestResponse:
        before = state()
        response = who.post(f"{path}?dry_run=true", body)
        assert state() == before
        assert "Location" not in response.headers
        return response

    return call


@pytest.fixture
def check_it_comes_true() -> Callable[[dict[str, Any], dict[str, Any]], None]:
    """Fail when a preview is not what was found afterwards."""

    def check(preview: dict[str, Any], found: dict[str, Any]) -> None:
        assert preview["dry_run"] is True
        assert preview["id"] is None
        assert {name: value for name, value in preview.items() if name not in OTHER} == {
            name: value for name, value in found.items() if name not in OTHER
        }
        for name in ("completed_at", "expires_at"):
            assert (preview[name] is None) is (found[name] is None)
        kept = ("account_id", "version", "amount", "currency", "balance")
        own = [[entry[name] for name in kept] for entry in preview["entries"]]
        assert own == [[entry[name] for name in kept] for entry in found["entries"]]

    return check
