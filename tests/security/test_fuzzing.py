"""More than a thousand made-up requests, as everybody, in every run of the suite; `make fuzz` sends more."""

from collections.abc import Iterator, Mapping

import pytest
from flask import Flask

from bank import create_app
from bank.config import Config
from bank.db import db, unit_of_work
from bank.errors import NotFound
from tests.processes import fresh_database
from tests.security.fuzzing import Fuzzer

# The same in every run: what is new is found by `make fuzz`, and not by who changes something else.
SEED = 20260131

# Enough for each operation, as everybody, with what fits the document and what does not.
CASES = 1_250


@pytest.fixture(scope="module")
def fuzzer(environ: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """A fuzzer with a database of its own, since it makes rules for everybody and ends whom it finds."""
    with fresh_database(environ, tmp_path_factory.mktemp("fuzz")) as own:
        app = create_app(Config.from_env(own))
        yield Fuzzer(app)
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_found(fuzzer: Fuzzer) -> None:
    report = fuzzer.run(CASES, SEED, chunk=2)
    assert report.finds == {}, str(report)
    assert report.cases == CASES


# What goes wrong in a planted bug, and what is told of it.
def _raises(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


def _answers_unsaid(*_: object, **__: object) -> None:
    raise NotFound


@pytest.mark.parametrize(("planted", "told"), [(_raises, "500 is a bug"), (_answers_unsaid, "UndefinedStatusCode")])
def test_a_planted_bug_is_found(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch, planted: object, told: str) -> None:
    monkeypatch.setattr("bank.accounts.service.search", planted)
    only(monkeypatch, fuzzer, "accounts_list_accounts")
    report = fuzzer.run(60, SEED, chunk=5)
    assert any(told in what for _, what in report.finds), str(report)


def test_a_write_by_a_refused_request_is_found(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    app: Flask = fuzzer.app

    def writes(*_: object, **__: object) -> None:
        with app.app_context(), unit_of_work() as session:
            session.connection().exec_driver_sql(
                "INSERT INTO events (stream_id, version, type, data) VALUES (gen_random_uuid(), 1, 'UserRegistered', '{}')"
            )
        raise NotFound

    monkeypatch.setattr("bank.limits.service.limit", writes)
    only(monkeypatch, fuzzer, "limits_get_limit")
    report = fuzzer.run(60, SEED, chunk=5)
    assert any("yet it wrote to events" in what for _, what in report.finds), str(report)


def only(monkeypatch: pytest.MonkeyPatch, fuzzer: Fuzzer, operation_id: str) -> None:
    """Let the fuzzer know of one operation only."""
    monkeypatch.setattr(fuzzer, "operations", [each for each in fuzzer.operations if each.definition.raw["operationId"] == operation_id])
