"""Rates to exchange at, and a look at what came of it."""

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from bank.users.models import Role
from tests.conftest import Person

Publish = Callable[..., None]


@pytest.fixture(scope="session")
def publish(person: Callable[..., Person]) -> Publish:
    """Publish a rate for one euro, for today unless another day is named."""
    admin = person("admin", Role.ADMIN)

    def publish(currency: str, rate: str, day: str | None = None) -> None:
        response = admin.post("/fx/rates", {"currency": currency, "rate": rate} | ({"date": day} if day else {}))
        assert response.status_code == 201, response.json

    return publish


@pytest.fixture
def outcome(post_all: Callable[[], None]) -> Callable[[Person, TestResponse], dict[str, Any]]:
    """Post what waits, and read what became of an accepted transaction."""

    def read(who: Person, accepted: TestResponse) -> dict[str, Any]:
        assert accepted.status_code == 202, accepted.text
        post_all()
        return dict(who.get(accepted.headers["Location"].removeprefix("/api/v1")).json)

    return read


@pytest.fixture
def quote() -> Callable[..., dict[str, Any]]:
    """Ask for a quote."""

    def ask(who: Person, amount: str, currency: str, to_currency: str) -> dict[str, Any]:
        response = who.post("/fx/quotes", {"amount": amount, "currency": currency, "to_currency": to_currency})
        assert response.status_code == 201, response.json
        return dict(response.json)

    return ask
