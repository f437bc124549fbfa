"""Asking for batches and looking what became of them."""

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.conftest import Person
from tests.contract.conftest import nothing_written  # noqa: F401 - a fixture, for here too


def transfer(source: str, target: str, amount: str, **more: Any) -> dict[str, Any]:
    """An item of a batch."""
    return {"type": "transfer", "from_account_id": source, "to_account_id": target, "amount": amount, "currency": "USD", **more}


def submit(who: Person, mode: str, items: list[Any], **kwargs: Any) -> TestResponse:
    """Ask for a batch."""
    return who.post("/transactions/batch", {"mode": mode, "transactions": items}, **kwargs)


def read(who: Person, accepted: TestResponse, query: str = "") -> dict[str, Any]:
    """The batch as it is now."""
    response = who.get(accepted.headers["Location"].removeprefix("/api/v1") + query)
    assert response.status_code == 200, response.text
    return dict(response.json)


@pytest.fixture
def outcome(post_all: Callable[[], None]) -> Callable[..., dict[str, Any]]:
    """Ask for a batch, post what waits, and read the batch."""

    def run(who: Person, mode: str, items: list[Any]) -> dict[str, Any]:
        accepted = submit(who, mode, items)
        assert accepted.status_code == 202, accepted.text
        post_all()
        return read(who, accepted)

    return run
