"""One PostgreSQL and one Redis for the whole run, real ones; a database with the schema; a cast of users.

Nothing is cleaned between tests: each makes its own users and accounts, as in production.
"""

import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import settings
from sqlalchemy import Connection, make_url, text
from werkzeug.test import TestResponse

from bank import create_app, embedded
from bank.auth import passwords, tokens
from bank.cli.migrate import add_lanes, bind
from bank.config import Config
from bank.db import db, unit_of_work
from bank.events.types import Origin
from bank.ledger.system import every_lane
from bank.processing.processor import drain_once
from bank.users import service as users
from bank.users.models import Role
from bank.web.context import new_id

# A test that reads a database takes as long as it takes on a busy machine.
settings.register_profile("bank", deadline=None)
settings.load_profile("bank")

PASSWORD = "correct horse battery staple"


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    """Where the two servers keep their data and secrets."""
    # Not pytest's tmp_path: the database's own user must be able to reach it.
    with tempfile.TemporaryDirectory(prefix="bank-tests-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture(scope="session")
def servers(servers_directory: Path) -> Iterator[tuple[str, str]]:
    """The URLs of PostgreSQL and Redis."""
    with embedded.servers(servers_directory) as urls:
        yield urls


@pytest.fixture(scope="session")
def as_superuser(servers: tuple[str, str], servers_directory: Path) -> Callable[[str], str]:
    """Turn the URL of a database into that of its superuser, who gets past everything that the schema forbids."""
    password = embedded.secret(servers_directory / "secrets" / "postgres-superuser")

    def url(database_url: str) -> str:
        return make_url(database_url).set(username="postgres", password=password).render_as_string(hide_password=False)

    return url


@pytest.fixture(scope="session")
def environ(servers: tuple[str, str]) -> dict[str, str]:
    """The environment that a process of the bank needs in a test."""
    return environ_of(*servers)


def environ_of(database_url: str, redis_url: str) -> dict[str, str]:
    """The same, of a bank on these two servers."""
    return {
        "BANK_ENV": "test",
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "JWT_SECRET_KEY": secrets.token_hex(32),
        "BANK_SELF_SERVICE_DEPOSITS": "true",
        "RATELIMIT_ENABLED": "false",
        "BANK_LOG_LEVEL": "WARNING",
        "BANK_LANES": "4",
        # Tests leave behind what nobody posts, and put clocks forward by hundreds of hours.
        "BANK_SHED_AFTER_SECONDS": "31536000",
    }


@pytest.fixture(scope="session")
def config(environ: dict[str, str]) -> Config:
    """The configuration of the tests."""
    return Config.from_env(environ)


@pytest.fixture(scope="session")
def app(config: Config) -> Flask:
    """The application on a migrated database."""
    from flask_migrate import upgrade

    app = create_app(config)
    with app.app_context():
        bind(app)
        upgrade()
        add_lanes(config)
    return app


@pytest.fixture
def context(app: Flask) -> Iterator[None]:
    """An application context, for tests that call services."""
    with app.app_context():
        yield


@contextmanager
def open_transaction() -> Iterator[Connection]:
    """A connection in a transaction that the test commits, or not."""
    with db.engine.connect() as connection, connection.begin() as transaction:
        yield connection
        if transaction.is_active:
            transaction.rollback()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client nobody is logged in with."""
    return app.test_client()


def poster(app: Flask) -> Callable[[], None]:
    """What empties every lane of an application right here, as the workers would."""

    def post() -> None:
        with app.app_context():
            for lane in every_lane(app.config["BANK"].lanes):
                while drain_once(lane):
                    pass

    return post


@pytest.fixture(scope="session")
def post_all(app: Flask) -> Callable[[], None]:
    """Empty every lane right here, as the workers would."""
    return poster(app)


@dataclass
class Person:
    """A user with a login, who calls the API."""

    id: str
    username: str
    client: FlaskClient
    token: str

    def request(self, method: str, path: str, **kwargs: Any) -> TestResponse:
        """Call `/api/v1` + path with the person's token."""
        headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
        return self.client.open(f"/api/v1{path}", method=method, headers=headers, **kwargs)

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.request("GET", path, **kwargs)

    def post(self, path: str, body: Any = None, **kwargs: Any) -> TestResponse:
        return self.request("POST", path, json=body, **kwargs)

    def patch(self, path: str, body: Any, **kwargs: Any) -> TestResponse:
        return self.request("PATCH", path, json=body, **kwargs)

    def open_account(self, currency: str = "USD", **fields: Any) -> dict[str, Any]:
        """Open an account and return it."""
        response = self.post("/accounts", {"currency": currency, **fields})
        assert response.status_code == 201, response.json
        return dict(response.json)


@pytest.fixture(scope="session")
def password_hash() -> str:
    """The hash of PASSWORD, made once: it is meant to be slow."""
    return passwords.hash(PASSWORD)


def people(app: Flask, password_hash: str, roles: Mapping[str, Role]) -> dict[str, Person]:
    """Make users with these roles and log them in, all in one unit of work; their usernames begin with their names here."""
    made = {name: (f"{name}-{secrets.token_hex(5)}", new_id(), new_id()) for name in roles}
    with app.app_context():
        with unit_of_work() as session:
            ids = {}
            for name, (username, login_id, refresh_id) in made.items():
                user = users.create_user(
                    session,
                    username=username,
                    email=f"{username}@example.com",
                    password_hash=password_hash,
                    role=roles[name],
                    origin=Origin(),
                )
                session.execute(
                    text("INSERT INTO logins (id, user_id, refresh_jti) VALUES (:id, :user_id, :refresh)"),
                    {"id": login_id, "user_id": user.id, "refresh": refresh_id},
                )
                ids[name] = user.id
        return {
            name: Person(ids[name], username, app.test_client(), tokens.pair(ids[name], login_id, refresh_id)["access_token"])
            for name, (username, login_id, refresh_id) in made.items()
        }


@pytest.fixture(scope="session")
def person(app: Flask, password_hash: str) -> Callable[..., Person]:
    """Make a user of any role and log them in."""

    return lambda name="person", role=Role.CUSTOMER: people(app, password_hash, {name: role})[name]


@pytest.fixture(scope="session")
def funded(post_all: Callable[[], None]) -> Callable[..., str]:
    """Open an account for somebody, with money in it, and return its id."""

    def open_and_fund(who: Person, amount: str | None = "100.00", currency: str = "USD") -> str:
        account_id: str = who.open_account(currency)["id"]
        if amount is not None:
            body = {"account_id": account_id, "amount": amount, "currency": currency}
            response = who.post("/transactions/credit", body)
            assert response.status_code == 202, response.json
            post_all()
        return account_id

    return open_and_fund


@pytest.fixture
def alice(person: Callable[..., Person]) -> Person:
    return person("alice")


@pytest.fixture
def bob(person: Callable[..., Person]) -> Person:
    return person("bob")


@pytest.fixture
def carol(person: Callable[..., Person]) -> Person:
    return person("carol")


@pytest.fixture
def teller(person: Callable[..., Person]) -> Person:
    return person("teller", Role.TELLER)


@pytest.fixture
def auditor(person: Callable[..., Person]) -> Person:
    return person("auditor", Role.AUDITOR)


@pytest.fixture
def admin(person: Callable[..., Person]) -> Person:
    return person("admin", Role.ADMIN)


@pytest.fixture(scope="session", autouse=True)
def _books_balance(app: Flask) -> Iterator[None]:
    """Whatever the tests did, at their end the sum over all accounts of a currency is zero."""
    yield
    with app.app_context(), unit_of_work() as session:
        sums = session.execute(text("SELECT currency, sum(amount) FROM balances GROUP BY 1")).all()
    assert all(total == 0 for _, total in sums), sums
