"""A stage that requests are made on, and a watch over what they write."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
from flask import Flask
from sqlalchemy import text

from bank.db import reader
from bank.replay import jobs
from bank.users.models import Role
from tests.conftest import Person

TABLES = (
    "transactions",
    "entries",
    "events",
    "audit_logs",
    "idempotency_keys",
    "accounts",
    "balances",
    "users",
    "logins",
    "second_factors",
    "recovery_codes",
    "replays",
    "batches",
    "schedules",
    "schedule_runs",
    "fx_rates",
    "fx_quotes",
    "limits",
    "rules",
)


@dataclass(frozen=True)
class Stage:
    """Alice and Bob have an account and a schedule each; `transaction` moved money to Alice, `hold` keeps Bob's for her; `replay` is
    finished, `batch` is Alice's, as `login` is. There are a limit of Bob's, and a rule that is off."""

    alice: Person
    bob: Person
    teller: Person
    auditor: Person
    admin: Person
    account: str
    bobs_account: str
    transaction: str
    hold: str
    replay: str
    batch: str
    schedule: str
    bobs_schedule: str
    limit: str
    rule: str
    login: str
    bobs_login: str

    def fill(self, path: str) -> str:
        """A path or body with its {names} replaced by ids of the stage."""
        for name, value in {
            "account": self.account,
            "bobs_account": self.bobs_account,
            "transaction": self.transaction,
            "hold": self.hold,
            "replay": self.replay,
            "batch": self.batch,
            "schedule": self.schedule,
            "bobs_schedule": self.bobs_schedule,
            "limit": self.limit,
            "rule": self.rule,
            "login": self.login,
            "bobs_login": self.bobs_login,
            "alice": self.alice.id,
            "bob": self.bob.id,
        }.items():
            path = path.replace("{" + name + "}", value)
        return path


@pytest.fixture(scope="module")
def stage(app: Flask, person: Callable[..., Person], post_all: Callable[[], None]) -> Stage:
    alice, bob = person("alice"), person("bob")
    account, bobs_account = alice.open_account()["id"], bob.open_account()["id"]
    response = alice.post("/transactions/credit", {"account_id": account, "amount": "100.00", "currency": "USD"})
    bob.post("/transactions/credit", {"account_id": bobs_account, "amount": "10.00", "currency": "USD"})
    hold = bob.post("/transactions/transfer", {"to_account_id": account, "amount": "5.00", "currency": "USD", "hold": True})
    post_all()
    admin = person("admin", Role.ADMIN)
    # Of the beginning, whatever other tests have put into the log.
    replay = admin.post("/admin/replays", {"until_position": 0}).json["id"]
    with app.app_context():
        assert jobs.run(replay)
    item = {"type": "transfer", "to_account_id": bobs_account, "amount": "0.01", "currency": "USD"}
    batch = alice.post("/transactions/batch", {"mode": "independent", "transactions": [item] * 3}).json["id"]
    transfers = ((alice, bobs_account), (bob, account))
    schedule, bobs_schedule = (
        who.post("/schedules", {"transfer": {"to_account_id": to, "amount": "1.00", "currency": "USD"}, "run_at": "2099-01-31T08:00:00Z"})
        for who, to in transfers
    )
    post_all()
    limit = admin.post("/limits", {"user_id": bob.id, "currency": "USD", "kind": "sum", "amount": "1000.00", "window": "day"})
    rule = admin.post("/rules", {"name": "Off", "expression": "transaction.amount > 1", "effect": "deny", "enabled": False})
    return Stage(
        alice=alice,
        bob=bob,
        teller=person("teller", Role.TELLER),
        auditor=person("auditor", Role.AUDITOR),
        admin=admin,
        account=account,
        bobs_account=bobs_account,
        transaction=response.json["id"],
        hold=hold.json["id"],
        replay=replay,
        batch=batch,
        schedule=schedule.json["id"],
        bobs_schedule=bobs_schedule.json["id"],
        limit=limit.json["id"],
        rule=rule.json["id"],
        login=alice.get("/auth/logins").json["data"][0]["id"],
        bobs_login=bob.get("/auth/logins").json["data"][0]["id"],
    )


@pytest.fixture
def nothing_written(app: Flask) -> Callable[[], AbstractContextManager[None]]:
    """Fail when the block changes how many rows any table has."""
    query = text("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES))

    def count() -> dict[str, int]:
        with app.app_context(), reader() as session:
            return dict(zip(TABLES, session.execute(query).one(), strict=True))

    @contextmanager
    def watch() -> Iterator[None]:
        before = count()
        yield
        assert count() == before

    return watch
