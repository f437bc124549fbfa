"""Limits and rules for one test at a time, on the suite's database."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from flask import Flask

from bank.config import Config
from bank.users.models import Role
from tests.conftest import Person

Pay = Callable[..., dict[str, Any]]
Set = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def chief(person: Callable[..., Person]) -> Person:
    """The admin who sets limits and rules."""
    return person("chief", Role.ADMIN)


@pytest.fixture(autouse=True)
def _only_here(chief: Person) -> Iterator[None]:
    """What a test sets for a role or for everybody is no other test's."""
    yield
    for path in ("/limits", "/rules"):
        while rows := chief.get(path).json["data"]:
            for row in rows:
                assert chief.request("DELETE", f"{path}/{row['id']}").status_code == 204


@pytest.fixture
def set_limit(chief: Person) -> Set:
    """Set a limit in dollars unless told otherwise, and return it."""

    def make(**body: Any) -> dict[str, Any]:
        answer = chief.post("/limits", {"currency": "USD", **body})
        assert answer.status_code == 201, answer.json
        return dict(answer.json)

    return make


@pytest.fixture
def set_rule(chief: Person) -> Set:
    """Set a rule, and return it."""

    def make(expression: str, effect: str, name: str = "A rule") -> dict[str, Any]:
        answer = chief.post("/rules", {"name": name, "expression": expression, "effect": effect})
        assert answer.status_code == 201, answer.json
        return dict(answer.json)

    return make


@pytest.fixture
def pay(post_all: Callable[[], None]) -> Pay:
    """Transfer some dollars (or debit them, without a target), let it be decided, and read what became of it."""

    def transfer(who: Person, source: str, target: str | None, amount: str, **more: Any) -> dict[str, Any]:
        body = {"amount": amount, "currency": "USD", **more}
        if target is None:
            answer = who.post("/transactions/debit", {"account_id": source, **body})
        else:
            answer = who.post("/transactions/transfer", {"from_account_id": source, "to_account_id": target, **body})
        assert answer.status_code == 202, answer.json
        post_all()
        return dict(who.get(f"/transactions/{answer.json['id']}").json)

    return transfer


@pytest.fixture
def explain() -> Callable[[Person, dict[str, Any]], dict[str, Any]]:
    """Why it was refused or passed."""

    def read(who: Person, transaction: dict[str, Any]) -> dict[str, Any]:
        answer = who.get(f"/transactions/{transaction['id']}/explanation")
        assert answer.status_code == 200, answer.json
        return {**answer.json, "checks": plain(answer.json["checks"])}

    return read


def plain(checks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The checks without what they are not about."""
    return [{name: value for name, value in check.items() if value is not None} for check in checks]


@pytest.fixture
def move_back(app: Flask, config: Config, as_superuser: Callable[[str], str]) -> Callable[[str, str], None]:
    """Let what was posted on an account have been posted so much earlier, and what it was added up for be forgotten."""

    def move(account_id: str, interval: str) -> None:
        url = as_superuser(config.database_url).replace("postgresql+psycopg2://", "postgresql://")
        with psycopg2.connect(url) as connection, connection.cursor() as cursor:
            # Entries never change, to anybody else.
            cursor.execute("SET session_replication_role = replica")
            cursor.execute(
                """UPDATE entries SET posted_at = posted_at - %(by)s::interval, effective_at = effective_at - %(by)s::interval
                    WHERE account_id = %(id)s::uuid""",
                {"id": account_id, "by": interval},
            )

    return move


@pytest.fixture
def accounts(alice: Person, bob: Person, funded: Callable[..., str]) -> tuple[str, str]:
    """An account of Alice's with a thousand dollars, and an empty one of Bob's."""
    return funded(alice, "1000.00"), funded(bob, None)
