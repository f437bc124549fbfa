"""A bank of its own for each file of property tests, with a clock that can be put forward."""

from collections.abc import Iterator, Mapping
from typing import Any

import iso4217
import pytest
from flask import Flask
from sqlalchemy import text

from bank import create_app
from bank.config import Config
from bank.db import db, reader, unit_of_work
from bank.events.horizon import settled
from bank.ledger.invariants import CHECKS, Window
from bank.rebuild import shadow
from bank.rebuild.compare import compare
from bank.replay.run import goal, replay
from bank.users.models import Role
from tests.conftest import people
from tests.processes import fresh_database
from tests.properties.both import Both
from tests.properties.clock import Clock, movable
from tests.properties.model import Model

_STAFF = {"teller": Role.TELLER, "admin": Role.ADMIN}
_CUSTOMERS = dict.fromkeys(("alice", "bob", "carol"), Role.CUSTOMER)

# From here on the bank's own account of a currency is too near the end of its range for another run.
_FAR = 5 * 10**18

_DECIMALS = {each.code: each.exponent for each in iso4217.Currency if each.exponent is not None}


class Runs:
    """Runs one script after the other, and checks the books after each."""

    def __init__(self, app: Flask, clock: Clock, password_hash: str) -> None:
        self._app, self._clock, self._password_hash = app, clock, password_hash
        self._staff = people(app, password_hash, _STAFF)
        # What is left for the first currency of a run, and for the second: that has no decimals or three, as long as there are such.
        usual = [code for code, decimals in _DECIMALS.items() if decimals == 2 and code != "EUR"]
        self._currencies = [usual[::2], [code for code, decimals in _DECIMALS.items() if decimals != 2] + usual[1::2]]
        self._own: dict[tuple[str, int], int] = {}
        # Up to this position of the log.
        self._checked = self._position()

    def run(self, script: list[Any]) -> None:
        """Do all of it to a bank and to a model, and compare them."""
        currencies = {pool[0]: _DECIMALS[pool[0]] for pool in self._currencies}
        first, second = currencies
        model = Model(self._own, currencies)
        cast = {**people(self._app, self._password_hash, _CUSTOMERS), **self._staff}
        both = Both(self._app, self._clock, cast, currencies, model)
        try:
            funds = [("alice", 10_000, first), ("alice", 5_000, second), ("bob", 3_000, first), ("bob", 1, second)]
            items = [{"type": "credit", "user": user, "amount": amount, "currency": currency} for user, amount, currency in funds]
            both.ask("teller", "batch", {"atomic": True, "items": items})
            both.post()
            for act in script:
                both.do(act)
            both.post()
            both.compare()
            last = self._position()
            self._check(Window(min(both.accounts), max(both.accounts), self._checked + 1, last))
            self._checked = last
            self._own = model.own
        except BaseException:
            # Nobody knows what the bank's own accounts have now.
            self._currencies = [pool[1:] for pool in self._currencies]
            raise
        finally:
            both.end()
        self._currencies = [pool[1:] if self._is_far(pool[0]) else pool for pool in self._currencies]

    def _is_far(self, currency: str) -> bool:
        return any(abs(amount) > _FAR for (name, _), amount in self._own.items() if name.endswith(currency))

    def _position(self) -> int:
        with self._app.app_context(), reader() as session:
            return int(session.execute(text("SELECT COALESCE(max(position), 0) FROM events")).scalar_one())

    def _check(self, window: Window | None) -> None:
        with self._app.app_context(), reader() as session:
            found = {check.name: check.find(session.connection(), window) for check in CHECKS if check.by_window or window is None}
        assert {name: ids for name, ids in found.items() if ids} == {}

    def check_all(self) -> None:
        """All invariants hold of all runs together, the events make the same tables again, and a replay ends where the bank is."""
        self._check(None)
        with self._app.app_context():
            with unit_of_work() as session:
                shadow.drop(session.connection())
            shadow.fill(shadow.prepare(), settled(shadow.PATIENCE_SECONDS), lambda _: None)
            assert [(table.table, table.first) for table in compare() if table.different] == []
            state = replay(goal(None), lambda _: None, from_start=True)
            with reader() as session:
                rows = session.execute(text("SELECT account_id::text, amount, held, version, status FROM balances")).all()
        replayed = {(key, each.balance, each.held, each.version, each.status) for key, each in state.accounts.items()}
        assert replayed ^ {tuple(row) for row in rows} == set()


@pytest.fixture(scope="module")
def runs(environ: Mapping[str, str], password_hash: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    own = {**environ, "BANK_SELF_SERVICE_DEPOSITS": "false", "BANK_LANES": "2", "BANK_ACCESS_TOKEN_SECONDS": "86400"}
    with fresh_database(own, tmp_path_factory.mktemp("runs")) as own, movable(own["DATABASE_URL"]) as clock:
        app = create_app(Config.from_env(own))
        runs = Runs(app, clock, password_hash)
        yield runs
        runs.check_all()
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()
