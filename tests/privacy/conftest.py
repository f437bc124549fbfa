"""A bank of its own, whose log is sealed as the test wants it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import pytest
from click.testing import CliRunner, Result
from flask import Flask

from bank import create_app
from bank.cli import check, rebuild, verify
from bank.config import Config
from bank.users.models import Role
from tests.books import drain
from tests.conftest import Person, people
from tests.processes import fresh_database, query
from tests.proof.conftest import SEED, last_position, seal_up_to

COMMANDS = {"check": check.command, "verify": verify.command, "rebuild": rebuild.command}


@dataclass(frozen=True)
class House:
    """The bank, its environment, the admin and what makes customers."""

    app: Flask
    environ: dict[str, str]
    superuser_url: str
    admin: Person
    customer: Callable[[str], Person]

    def post(self) -> None:
        """Post what is pending."""
        drain(self.app)

    def seal(self) -> None:
        """Seal all that is in the log."""
        seal_up_to(self.app, last_position(self.app))

    def run(self, command: str, *options: str) -> Result:
        """`bank` with this command."""
        return CliRunner(env={**self.environ, "COLUMNS": "200"}).invoke(COMMANDS[command], options)

    def harm(self, statements: str) -> None:
        """Run statements with a superuser's hands, past every trigger."""
        query({"DATABASE_URL": self.superuser_url}, f"SET session_replication_role = replica; {statements}")


@pytest.fixture(scope="module")
def house(
    environ: Mapping[str, str], as_superuser: Callable[[str], str], password_hash: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    with fresh_database({**environ, "BANK_SEAL_KEY": SEED}, tmp_path_factory.mktemp("house")) as own:
        app = create_app(Config.from_env(own))

        def customer(name: str) -> Person:
            return people(app, password_hash, {name: Role.CUSTOMER})[name]

        admin = people(app, password_hash, {"root": Role.ADMIN})["root"]
        yield House(app, own, as_superuser(own["DATABASE_URL"]), admin, customer)
