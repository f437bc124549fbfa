"""Some thousands of made-up requests, as everybody, in every run of the suite; `make fuzz` sends more."""

from collections.abc import Callable, Iterator, Mapping

import pytest
from flask import Flask, request
from schemathesis.checks import CHECKS as SCHEMATHESIS
from schemathesis.checks import load_all_checks

from bank import create_app
from bank.config import Config
from bank.db import db, unit_of_work
from bank.errors import NotFound
from tests.processes import fresh_database
from tests.security.fuzzing import CHECKS, LEFT_OUT, Fuzzer, Report, chains_of

# The same in every run: what is new is found by `make fuzz`, and not by who changes something else.
SEED = 20260131

# Enough for each operation, as everybody, with what fits the document and what does not, and for some chains as each.
CASES = 2_500


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
    # A request that is refused at once reaches little of the bank.
    assert report.chained >= 150, str(report)
    assert len(report.links) >= 25, sorted(report.links)
    assert report.succeeded()["all"] > 0.1, str(report)


def test_every_check_of_schemathesis_is_on_or_has_a_reason() -> None:
    load_all_checks()
    on = {check.__name__ for check in CHECKS}
    assert on | LEFT_OUT.keys() == {*SCHEMATHESIS.get_all_names(), "max_response_time"}
    assert on.isdisjoint(LEFT_OUT)


# What goes wrong in a planted bug, and what is told of it.
def _raises(*_: object, **__: object) -> None:
    raise RuntimeError("planted")


def _answers_unsaid(*_: object, **__: object) -> None:
    raise NotFound


@pytest.mark.parametrize(("planted", "told"), [(_raises, "500 is a bug"), (_answers_unsaid, "UndefinedStatusCode")])
def test_a_planted_bug_is_found(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch, planted: object, told: str) -> None:
    monkeypatch.setattr("bank.accounts.service.search", planted)
    only(monkeypatch, fuzzer, "accounts_list_accounts")
    report = as_admin(monkeypatch, fuzzer, 30, chunk=10)
    assert any(told in what for _, what in report.finds), str(report)


def _open_to_everybody(monkeypatch: pytest.MonkeyPatch, app: Flask) -> None:
    monkeypatch.setitem(app.view_functions, "accounts.list_accounts", lambda: {"data": [], "next_cursor": None, "has_more": False})


def _any_method(monkeypatch: pytest.MonkeyPatch, app: Flask) -> None:
    def answer() -> str | None:
        return "" if request.method == "QUERY" else None

    monkeypatch.setitem(app.before_request_funcs, None, [answer, *app.before_request_funcs[None]])


@pytest.mark.parametrize(
    ("plant", "operation_id", "told"),
    [
        (_open_to_everybody, "accounts_list_accounts", "IgnoredAuth"),
        # The first of its path is asked by the methods that the path does not have.
        (_any_method, "accounts_open_account", "UnsupportedMethodResponse"),
    ],
)
def test_an_open_door_is_found(
    fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch, Flask], None], operation_id: str, told: str
) -> None:
    plant(monkeypatch, fuzzer.app)
    only(monkeypatch, fuzzer, operation_id)
    # Enough for all that is sent at the boundaries.
    report = as_admin(monkeypatch, fuzzer, 150, chunk=50)
    assert any(told in what for _, what in report.finds), str(report)


def test_a_case_that_names_no_host_is_sent(fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, fuzzer, "accounts_list_accounts")
    [operation] = fuzzer.operations
    monkeypatch.setitem(fuzzer.boundaries, operation.label, [operation.Case(headers={"host": ""})])
    report = as_admin(monkeypatch, fuzzer, 3, chunk=1)
    assert (report.cases, report.finds) == (3, {})


def _not_there(*_: object, **__: object) -> None:
    raise NotFound


def _does_nothing(*_: object, **__: object) -> None:
    return


@pytest.mark.parametrize(
    ("planted", "names", "told"),
    [(_not_there, ("limit", "rule"), "EnsureResourceAvailability"), (_does_nothing, ("remove_limit", "remove_rule"), "UseAfterFree")],
)
def test_what_only_a_chain_shows_is_found(
    fuzzer: Fuzzer, monkeypatch: pytest.MonkeyPatch, planted: object, names: tuple[str, ...], told: str
) -> None:
    for name in names:
        monkeypatch.setattr(f"bank.limits.service.{name}", planted)
    only(monkeypatch, fuzzer, "none")
    monkeypatch.setattr(fuzzer, "chains", chains_of(fuzzer.schema.include(path_regex="/(limits|rules)")))
    report = as_admin(monkeypatch, fuzzer, 300, chunk=10)
    assert report.chained == report.cases
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
    report = as_admin(monkeypatch, fuzzer, 30, chunk=10)
    assert any("yet it wrote to events" in what for _, what in report.finds), str(report)


def only(monkeypatch: pytest.MonkeyPatch, fuzzer: Fuzzer, operation_id: str) -> None:
    """Let the fuzzer know of one operation only, and of no chains."""
    monkeypatch.setattr(fuzzer, "operations", [each for each in fuzzer.operations if each.definition.raw["operationId"] == operation_id])
    monkeypatch.setattr(fuzzer, "chains", None)


def as_admin(monkeypatch: pytest.MonkeyPatch, fuzzer: Fuzzer, cases: int, chunk: int) -> Report:
    """Fuzz as an admin only, who may do most."""
    monkeypatch.setattr("tests.security.fuzzing.COLUMNS", ("admin",))
    if fuzzer.chains is None:
        monkeypatch.setattr(fuzzer, "_chain", lambda *_: None)
    return fuzzer.run(cases, SEED, chunk=chunk)
