"""Small books on a database of their own, for tests that break them with a superuser's hands."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import NullPool, create_engine, text

from bank import create_app
from bank.config import Config
from bank.db import db
from bank.fx.provider import DayOfRates
from bank.fx.service import record
from bank.ledger.system import every_lane
from bank.processing.processor import drain_once
from bank.schedules.jobs import run_due
from tests.processes import ADMIN_PASSWORD, fresh_database


class Teller:
    """The administrator at the counter of a bank, who may do everything."""

    def __init__(self, app: Flask) -> None:
        self._client = app.test_client()
        login = self._client.post("/api/v1/auth/login", json={"username": "admin", "password": ADMIN_PASSWORD})
        self._headers = {"Authorization": f"Bearer {login.json['access_token']}"}

    def post(self, path: str, **body: Any) -> str:
        """POST to `/api/v1` + path; the id of what came to be."""
        response = self._client.post(f"/api/v1{path}", json=body, headers=self._headers)
        assert response.status_code in (201, 202), response.json
        return str(response.json["id"])

    def patch(self, path: str, **body: str) -> None:
        """PATCH `/api/v1` + path."""
        response = self._client.patch(f"/api/v1{path}", json=body, headers=self._headers)
        assert response.status_code == 200, response.json

    def get(self, path: str) -> Any:
        """GET `/api/v1` + path; the body."""
        return self._client.get(f"/api/v1{path}", headers=self._headers).json

    def metrics(self) -> list[str]:
        """The lines of `/metrics`."""
        return self._client.get("/metrics").text.splitlines()


@dataclass(frozen=True)
class Books:
    """A bank that has seen some business, by id: the accounts of Alice and Bob and what happened between them, Carol's,
    to which nothing happened, and Dave's, which was changed twice and closed. `scheduled` failed, and is the run of a schedule."""

    app: Flask
    environ: dict[str, str]
    superuser_url: str
    teller: Teller
    alice: str
    bob: str
    carol: str
    dave: str
    transfer: str
    rolled_back: str
    failed: str
    batch: str
    scheduled: str
    pending: str
    # Of the first hold a part is captured and the rest is open, the second was let go after a part of it had been captured, the
    # third at once.
    held: str
    capture: str
    captured: str
    voided: str
    void: str
    # Alice's dollars on Eva's account in euro, of which a part went back.
    eva: str
    exchanged: str

    def drain(self) -> None:
        """Post what is pending, as the workers would."""
        drain(self.app)

    @contextmanager
    def broken(self, damage: str, repair: str, **parameters: str) -> Iterator[None]:
        """Past all triggers and foreign keys do the damage, and the repair at the end."""
        with create_engine(self.superuser_url, poolclass=NullPool).connect() as connection:
            connection.execute(text("SET session_replication_role = replica"))
            try:
                connection.execute(text(damage), parameters)
                connection.commit()
                yield
            finally:
                connection.rollback()
                connection.execute(text(repair), parameters)
                connection.commit()


def drain(app: Flask) -> None:
    """Post what is pending."""
    with app.app_context():
        for lane in every_lane(app.config["BANK"].lanes):
            while drain_once(lane):
                pass


@contextmanager
def small_books(environ: Mapping[str, str], as_superuser: Callable[[str], str], directory: Path) -> Iterator[Books]:
    """Books with every kind of transaction in them; the last transfer is still pending."""
    with fresh_database(environ, directory) as own:
        app = create_app(Config.from_env(own))
        teller = Teller(app)
        alice, bob, carol, dave = (teller.post("/accounts", currency="USD", name=name) for name in ("alice", "bob", "carol", "dave"))
        teller.patch(f"/accounts/{dave}", name="david", overdraft_limit="5.00")
        teller.patch(f"/accounts/{dave}", status="closed")
        teller.post("/transactions/credit", account_id=alice, amount="100.00", currency="USD", effective_at="2024-03-01T12:00:00Z")
        teller.post("/transactions/credit", account_id=bob, amount="50.00", currency="USD")
        drain(app)
        parties = {"from_account_id": alice, "to_account_id": bob, "currency": "USD"}
        transfer = teller.post("/transactions/transfer", amount="30.00", **parties)
        rolled_back = teller.post("/transactions/transfer", amount="20.00", **parties)
        failed = teller.post("/transactions/transfer", amount="1000.00", **parties)
        drain(app)
        teller.post(f"/transactions/{rolled_back}/rollback", reason="by mistake")
        teller.post(f"/transactions/{transfer}/rollback", reason="too much", amount="5.00")
        teller.post("/transactions/debit", account_id=alice, amount="1.00", currency="USD")
        schedule = teller.post("/schedules", transfer={"amount": "1000.00", **parties}, run_at="2099-01-31T08:00:00Z")
        with app.app_context():
            run_due(datetime.fromisoformat("2099-01-31T08:00:00Z"))
        drain(app)
        with app.app_context():
            today = DayOfRates(datetime.now(UTC).date(), {"USD": Decimal("1.25")})
            record("ecb", [today])
        eva = teller.post("/accounts", currency="EUR", name="eva")
        exchange = {"from_account_id": alice, "to_account_id": eva, "currency": "USD", "to_currency": "EUR"}
        exchanged = teller.post("/transactions/transfer", amount="3.33", **exchange)
        drain(app)
        teller.post(f"/transactions/{exchanged}/rollback", reason="too much", amount="1.00")
        drain(app)
        scheduled = teller.get(f"/schedules/{schedule}/runs")["data"][0]["transaction_id"]
        held, captured, voided = (
            teller.post("/transactions/transfer", amount=amount, hold=True, **parties) for amount in ("10.00", "5.00", "3.00")
        )
        drain(app)
        capture = teller.post(f"/transactions/{held}/capture", amount="4.00")
        teller.post(f"/transactions/{captured}/capture", amount="2.00")
        teller.post(f"/transactions/{captured}/void")
        void = teller.post(f"/transactions/{voided}/void", reason="Out of stock")
        drain(app)
        refused = {"type": "transfer", **parties, "amount": "1000.00"}
        batch = teller.post("/transactions/batch", mode="independent", transactions=[refused, refused])
        drain(app)
        pending = teller.post("/transactions/transfer", amount="1.00", **parties)
        people, moved = (alice, bob, carol, dave), (transfer, rolled_back, failed, batch, scheduled, pending)
        yield Books(
            app, own, as_superuser(own["DATABASE_URL"]), teller, *people, *moved, held, capture, captured, voided, void, eva, exchanged
        )
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()
