"""Every route, asked as everybody, answers what the table says."""

import json
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, event, text
from werkzeug.test import TestResponse

from bank.db import db, reader
from bank.replay import jobs
from bank.users.models import Role
from bank.web.context import new_id
from tests.conftest import PASSWORD
from tests.contract.conftest import TABLES
from tests.proof.conftest import last_position, seal_up_to
from tests.security.authorization import COLLEAGUES, EXCEPTIONS, TABLE, Line, lines
from tests.security.cast import COLUMNS, Cast, add_rule, cast

API = "/api/v1"
ROUTES = lines(TABLE)
OF_COLLEAGUES = lines(COLLEAGUES)

CELLS = [(line, column) for line in ROUTES for column in COLUMNS]
CELLS_OF_COLLEAGUES = [(line, column) for line in OF_COLLEAGUES for column in line.expected]


def test_every_route_is_in_the_table(app: Flask) -> None:
    told = {(line.method, _shape(line.path)) for line in ROUTES}
    there = {
        (method, _shape(re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)).removeprefix(API))
        for rule in app.url_map.iter_rules()
        if rule.endpoint not in EXCEPTIONS and not rule.endpoint.startswith("console.")
        # Of these two nothing is known that a GET does not tell: HEAD is one without its body.
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert there - told == set()
    assert told - there == set(), "the table has routes that are gone"
    assert {rule.endpoint for rule in app.url_map.iter_rules()} >= EXCEPTIONS, "an exception is gone"


def _shape(path: str) -> str:
    """The path without its query and without the names of its ids."""
    return re.sub(r"\{\w+\}", "{}", path.partition("?")[0])


@pytest.fixture(scope="module")
def fresh(app: Flask, password_hash: str, post_all: Callable[[], None]) -> Callable[[Role], Cast]:
    """A cast with what only these tests need besides."""

    def make(owner: Role = Role.CUSTOMER) -> Cast:
        made = cast(app, password_hash, post_all, owner)
        mine = made.people["owner"]
        paid = mine.post("/transactions/transfer", {"to_account_id": made.ids["payer_account_id"], "amount": "1.00", "currency": "USD"})
        post_all()
        made.ids["payment_id"] = paid.json["id"]
        return made

    return make


@pytest.fixture(scope="module")
def readers(app: Flask, fresh: Callable[[Role], Cast]) -> dict[Role, Cast]:
    """A cast for all that is only read, of a customer's things and of a teller's."""
    made = {role: fresh(role) for role in (Role.CUSTOMER, Role.TELLER)}
    # Something is sealed, and not what is asked for.
    position = last_position(app)
    made |= {role: fresh(role) for role in made}
    seal_up_to(app, position)
    for each in made.values():
        started = each.people["admin"].post("/admin/replays", {"until_position": 0})
        each.ids["replay_id"] = started.json["id"]
        with app.app_context():
            # Three may be open at once.
            assert jobs.run(started.json["id"])
        add_rule(each)
        assert each.people["admin"].post("/fx/rates", {"currency": "USD", "rate": "1.25"}).status_code == 201
    return made


def send(who: Cast, line: Line, column: str, ids: dict[str, str] | None = None) -> TestResponse:
    """Send a line as the person of a column, with other ids in the place of some."""
    name = f"new-{secrets.token_hex(5)}"
    made = Cast(who.people, {**who.ids, **(ids or {}), "new_name": name, "password": PASSWORD})
    if column == "nobody":
        client = who.people["other"].client
        return client.open(API + made.fill(line.path), method=line.method, json=made.fill(line.body))
    # The same request to the byte, but for the id that is asked about.
    headers = {"X-Request-ID": "the-same"}
    return who.people[column].request(line.method, made.fill(line.path), json=made.fill(line.body), headers=headers)


def _asked(line: Line, column: str, role: Role, readers: dict[Role, Cast], fresh: Callable[[Role], Cast]) -> Cast:
    # What changes nothing that is there can share one cast; each of the others has one to spend.
    if line.method == "GET" or line.expected[column] >= 400 or ("{" not in line.path and line.path != "/auth/logout"):
        return readers[role]
    made = fresh(role)
    if "{rule_id}" in line.path:
        add_rule(made)
    return made


@pytest.mark.parametrize(("line", "column"), CELLS, ids=str)
def test_a_route_answers_what_the_table_says(line: Line, column: str, readers: dict[Role, Cast], fresh: Callable[[Role], Cast]) -> None:
    response = send(_asked(line, column, Role.CUSTOMER, readers, fresh), line, column)
    assert response.status_code == line.expected[column], response.text


@pytest.mark.parametrize(("line", "column"), CELLS_OF_COLLEAGUES, ids=str)
def test_what_is_a_colleagues_is_not_a_tellers(line: Line, column: str, readers: dict[Role, Cast], fresh: Callable[[Role], Cast]) -> None:
    response = send(_asked(line, column, Role.TELLER, readers, fresh), line, column)
    assert response.status_code == line.expected[column], response.text


HIDDEN = [
    *((line, column, Role.CUSTOMER) for line, column in CELLS if line.expected[column] == 404),
    *((line, column, Role.TELLER) for line, column in CELLS_OF_COLLEAGUES if line.expected[column] == 404),
]


@pytest.fixture
def statements(app: Flask) -> Iterator[list[str]]:
    """What is sent to the database while the test runs."""
    sent: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    with app.app_context():
        engines: list[Engine] = list(db.engines.values())
    for engine in engines:
        event.listen(engine, "before_cursor_execute", note)
    yield sent
    for engine in engines:
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(("line", "column", "role"), HIDDEN, ids=str)
def test_what_is_anothers_is_told_of_as_what_is_not_there(
    line: Line, column: str, role: Role, readers: dict[Role, Cast], statements: list[str]
) -> None:
    """To the byte; and to customers after as much work, which is counted: a clock would be wrong on a busy machine now and then."""
    who = readers[role]
    named = set(re.findall(r"\{(\w+)\}", line.path + json.dumps(line.body))) & who.ids.keys() - {"payer_account_id"}
    assert named
    nowhere = {name: new_id() for name in named}

    def told(ids: dict[str, str]) -> tuple[int, bytes, list[tuple[str, str]], int]:
        del statements[:]
        response = send(who, line, column, ids)
        body = response.data
        for name, value in ids.items():
            body = body.replace(value.encode(), name.encode())
        return (
            response.status_code,
            body,
            [header for header in response.headers if header[0] != "Date"],
            len(statements) if column == "other" else 0,
        )

    assert told({name: who.ids[name] for name in named}) == told(nowhere)


@pytest.mark.parametrize("line", [line for line in ROUTES if "{" in line.path and "?user_id" not in line.path], ids=str)
def test_an_id_that_is_nobodys_is_404_for_who_may_do_it_to_others(line: Line, readers: dict[Role, Cast]) -> None:
    who = readers[Role.CUSTOMER]
    nowhere = {name: new_id() for name in re.findall(r"\{(\w+)\}", line.path)}
    for column, expected in line.expected.items():
        status = send(who, line, column, nowhere).status_code
        # A role that may not do it to anything is told so before anything is looked for. A user that one may read is another matter.
        by_role = line.expected["other"] == 403 or (column == "auditor" and not line.path.startswith("/users"))
        assert status == (expected if expected == 401 or (expected == 403 and by_role) else 404), column


def test_an_auditor_changes_nothing(app: Flask, readers: dict[Role, Cast]) -> None:
    """But for themselves, and for a replay, which is a way of reading."""
    query = text("SELECT " + ", ".join(f"(SELECT count(*) FROM {table})" for table in TABLES))

    def counts() -> list[int]:
        with app.app_context(), reader() as session:
            return list(session.execute(query).one())

    before = counts()
    for line in ROUTES:
        if line.method != "GET" and not line.path.startswith(("/auth/", "/admin/replays")):
            assert send(readers[Role.CUSTOMER], line, "auditor").status_code == 403, line
    assert counts() == before


def test_lists_leave_out_what_is_a_colleagues(readers: dict[Role, Cast]) -> None:
    ours, theirs = readers[Role.CUSTOMER], readers[Role.TELLER]
    for path, key, name in (
        ("/accounts?limit=200&user_id={user_id}", "id", "account_id"),
        ("/balances/current?limit=200&user_id={user_id}", "account_id", "account_id"),
        ("/schedules?limit=200&user_id={user_id}", "id", "schedule_id"),
        ("/transactions/history?limit=200&user_id={user_id}", "id", "transaction_id"),
        ("/users?limit=200&q={username}", "id", "user_id"),
    ):
        for who, seen in ((ours, {"teller", "auditor", "admin"}), (theirs, {"auditor", "admin"})):
            for column in ("teller", "auditor", "admin"):
                rows = who.people[column].get(who.fill(path)).json["data"]
                assert (who.ids[name] in [row[key] for row in rows]) == (column in seen), (path, column)


def test_a_teller_sees_their_own(readers: dict[Role, Cast]) -> None:
    who = readers[Role.TELLER]
    for path, key, name in (
        ("/accounts?limit=200", "id", "account_id"),
        ("/balances/current?limit=200", "account_id", "account_id"),
        ("/schedules?limit=200", "id", "schedule_id"),
        ("/transactions/history?limit=200", "id", "transaction_id"),
    ):
        found, cursor = set(), None
        while True:
            page = who.people["owner"].get(path + (f"&cursor={cursor}" if cursor else "")).json
            found |= {row[key] for row in page["data"]}
            cursor = page["next_cursor"]
            if cursor is None or who.ids[name] in found:
                break
        assert who.ids[name] in found, path


def test_of_money_between_a_customer_and_a_colleague_a_teller_sees_the_customers_side(
    fresh: Callable[[Role], Cast], post_all: Callable[[], None]
) -> None:
    who = fresh(Role.CUSTOMER)
    colleague, teller, admin = who.people["admin"], who.people["teller"], who.people["auditor"]
    account = colleague.open_account()["id"]
    paid = who.people["owner"].post("/transactions/transfer", {"to_account_id": account, "amount": "1.00", "currency": "USD"}).json["id"]
    post_all()
    balances = {
        column: {entry["account_id"] == account: entry["balance"] for entry in person.get(f"/transactions/{paid}").json["entries"]}
        for column, person in (("teller", teller), ("auditor", admin))
    }
    assert balances["auditor"][True] == "1.00"
    assert balances["teller"] == {True: None, False: balances["auditor"][False]}
    # A dry run must not tell it either.
    mine = teller.open_account()["id"]
    colleague.post("/transactions/credit", {"account_id": mine, "amount": "1.00", "currency": "USD"})
    post_all()
    tried = teller.post("/transactions/transfer?dry_run=true", {"to_account_id": account, "amount": "1.00", "currency": "USD"}).json
    assert [entry["balance"] for entry in tried["entries"]] == ["0.00", None]
