"""A small bank of its own: the suite's log holds what tests have put there, and a replay reads all of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from click.testing import CliRunner, Result
from flask import Flask

from bank import create_app
from bank.cli import main
from bank.config import Config
from bank.db import db
from bank.processing.processor import drain_once
from bank.users.models import Role
from tests.conftest import PASSWORD, Person
from tests.processes import ADMIN_PASSWORD, fresh_database, query


@dataclass
class Books:
    """A bank that posts in this process, and those who work on it."""

    app: Flask
    environ: Mapping[str, str]
    # Past every trigger and key.
    superuser: str

    def __post_init__(self) -> None:
        self.admin = self.log_in("admin", ADMIN_PASSWORD)

    def log_in(self, username: str, password: str) -> Person:
        client = self.app.test_client()
        answer = client.post("/api/v1/auth/login", json={"username": username, "password": password})
        assert answer.status_code == 200, answer.json
        nobody = Person("", username, client, answer.json["access_token"])
        return Person(nobody.get("/auth/me").json["id"], username, client, nobody.token)

    def person(self, name: str, role: Role = Role.CUSTOMER) -> Person:
        body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
        user_id = self.admin.post("/auth/register", body).json["id"]
        assert self.admin.request("PUT", f"/users/{user_id}", json={"role": role}).status_code == 200
        return self.log_in(name, PASSWORD)

    def post_all(self) -> None:
        with self.app.app_context():
            for lane in range(self.app.config["BANK"].lanes):
                while drain_once(lane):
                    pass

    def query(self, statement: str, **values: object) -> list[tuple]:
        return query(self.environ, statement, **values)

    def harm(self, statements: str) -> None:
        query({"DATABASE_URL": self.superuser}, f"SET session_replication_role = replica; {statements}")

    def end(self) -> int:
        return self.query("SELECT max(position) FROM events")[0][0]

    def run(self, *arguments: str) -> Result:
        """Run `bank` with these arguments. A traceback fails the test."""
        result = CliRunner(env=self.environ).invoke(main, arguments)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result


@pytest.fixture(scope="module")
def books(environ: Mapping[str, str], as_superuser: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Books]:
    with fresh_database(environ, tmp_path_factory.mktemp("books")) as own:
        app = create_app(Config.from_env(own))
        yield Books(app, own, as_superuser(own["DATABASE_URL"]))
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


@pytest.fixture
def within(books: Books) -> Iterator[None]:
    """An application context of the small bank."""
    with books.app.app_context():
        yield
