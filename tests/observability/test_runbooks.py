"""What a runbook tells somebody to type can be typed: its calls, its statements and its commands are there."""

import re
from urllib.parse import parse_qsl

import pytest
from click import Context
from sqlalchemy import text

from bank.cli import main
from tests.conftest import open_transaction
from tests.processes import ROOT

PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs" / "runbooks").glob("*.md"))}


def told(pattern: str) -> list[tuple[str, str]]:
    """What stands in a page's code and is like `pattern`, with the name of the page."""
    return [(page, code) for page, content in PAGES.items() for code in re.findall(rf"`({pattern})`", content)]


CALLS = told(r"(?:GET|POST|PUT|PATCH|DELETE) /[^`]+")
STATEMENTS = told("SELECT [^`]+")
COMMANDS = told("bank [a-z-]+")


def test_there_is_something_to_look_at() -> None:
    assert len(CALLS) > 5
    assert len(STATEMENTS) > 3
    assert len(COMMANDS) > 3


@pytest.mark.parametrize(("page", "call"), CALLS, ids=str)
def test_a_call_of_a_runbook_is_one_of_the_api(app, client, page: str, call: str) -> None:
    method, target = call.split(" ", 1)
    path, _, query = target.partition("?")
    paths = client.get("/openapi.json").json["paths"]
    # The names within braces are nobody's business.
    known = {re.sub(r"\{\w+\}", "{}", each): operations for each, operations in paths.items()}
    operation = known[re.sub(r"\{\w+\}", "{}", path)][method.lower()]
    taken = {each["name"] for each in operation.get("parameters", []) if each["in"] == "query"}
    assert {name for name, _ in parse_qsl(query)} <= taken


@pytest.mark.parametrize(("page", "statement"), STATEMENTS, ids=str)
def test_a_statement_of_a_runbook_is_understood_by_the_database(context, page: str, statement: str) -> None:
    with open_transaction() as connection:
        connection.execute(text(statement))


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=str)
def test_a_command_of_a_runbook_is_there(page: str, command: str) -> None:
    assert main.get_command(Context(main), command.removeprefix("bank ")) is not None
