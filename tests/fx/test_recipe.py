"""What docs/recipes/exchange.md shows is what happens."""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from bank import create_app
from bank.config import Config
from bank.db import db
from bank.fx.provider import DayOfRates
from bank.fx.service import record
from tests.books import drain
from tests.processes import ADMIN_PASSWORD, fresh_database

RECIPE = Path(__file__).parents[2] / "docs" / "recipes" / "exchange.md"

# Ids that the recipe shows are those of its own run.
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")


@pytest.fixture
def bank(environ: Mapping[str, str], tmp_path: Path) -> Iterator[tuple[FlaskClient, Callable[[], None], dict[str, str]]]:
    """A bank of Alice, who has 150 dollars, and Bob; and the tokens of all, by the names of the recipe's variables."""
    with fresh_database(environ, tmp_path) as own:
        app = create_app(Config.from_env(own))
        client = app.test_client()

        def log_in(username: str, password: str) -> str:
            return str(client.post("/api/v1/auth/login", json={"username": username, "password": password}).json["access_token"])

        tokens = {"ADMIN": log_in("admin", ADMIN_PASSWORD)}
        for name in ("alice", "bob"):
            password = f"a tall ship for {name}"
            client.post("/api/v1/auth/register", json={"username": name, "email": f"{name}@example.com", "password": password})
            tokens[name.upper()] = log_in(name, password)
        alice = {"Authorization": f"Bearer {tokens['ALICE']}"}
        account = client.post("/api/v1/accounts", json={"currency": "USD"}, headers=alice).json["id"]
        money = {"account_id": account, "amount": "150.00", "currency": "USD"}
        assert client.post("/api/v1/transactions/credit", json=money, headers=alice).status_code == 202
        with app.app_context():
            record("ecb", [DayOfRates(date(2026, 1, 30), {"CZK": Decimal("24.31"), "USD": Decimal("1.1919")})])
        drain(app)
        yield client, lambda: drain(app), tokens
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


def steps() -> Iterator[tuple[list[str], str]]:
    """The commands of the recipe as their words, and what it shows that each answers."""
    for language, block in re.findall(r"```(\w*)\n(.*?)```", RECIPE.read_text(), re.DOTALL):
        if language:
            # To be pasted, with what it prints: tests/test_recipes.py does.
            continue
        for step in re.split(r"^\$ ", block.replace("\\\n", ""), flags=re.MULTILINE)[1:]:
            command, _, answer = step.partition("\n")
            yield shlex.split(command), answer.strip()


def ask(client: FlaskClient, words: list[str], tokens: Mapping[str, str]) -> str:
    """What `curl` with these words would print."""
    options = {"-X": "GET", "-d": ""}
    headers, url = {}, ""
    rest = iter(words[1:])
    for word in rest:
        if word == "-H":
            name, _, value = next(rest).partition(": ")
            headers[name] = re.sub(r"\$([A-Z]+)", lambda found: tokens[found[1]], value)
        elif word in options:
            options[word] = next(rest)
        else:
            url = word
    path = url.removeprefix("localhost:8000")
    assert words[0] == "curl" and path != url, words
    return client.open(path, method=options["-X"], data=options["-d"] or None, headers=headers).text


def test_the_recipe_shows_what_happens(bank) -> None:
    client, post_all, tokens = bank
    shown_as: dict[str, str] = {}
    count = 0
    for words, shown in steps():
        answer = ask(client, [_ID.sub(lambda found: shown_as.get(found[0], found[0]), word) for word in words], tokens)
        post_all()
        if shown.startswith('{"id":"'):
            shown_as[_ID.search(shown)[0]] = json.loads(answer)["id"]
        expected = _ID.sub(lambda found: shown_as.get(found[0], found[0]), shown)
        # Between the parts that are shown there may be anything, and before the first and behind the last there is nothing.
        pattern = ".*".join(re.escape(part) for part in expected.split("…"))
        assert re.fullmatch(pattern, answer), f"{' '.join(words)}\n{answer}"
        count += 1
    assert count == 8
