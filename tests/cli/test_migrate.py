"""What `bank migrate` puts in: the administrator, whose password is held to the rules for everybody's."""

import secrets
from collections.abc import Iterator
from dataclasses import replace

import click
import psycopg2
import pytest
from flask import Flask
from flask_migrate import upgrade
from sqlalchemy import make_url, text

from bank import create_app
from bank.auth import passwords
from bank.cli.migrate import bind, make_administrator
from bank.config import Config
from bank.db import db, reader

GOOD = "four unrelated nouns here"


@pytest.fixture
def empty(config: Config) -> Iterator[Flask]:
    """A bank without users."""
    name = f"administrator_{secrets.token_hex(4)}"
    server = make_url(config.database_url)
    connection = psycopg2.connect(server.set(drivername="postgresql").render_as_string(hide_password=False))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
        app = create_app(replace(config, database_url=server.set(database=name).render_as_string(hide_password=False)))
        bind(app)
        with app.app_context():
            upgrade()
            yield app
            for engine in db.engines.values():
                engine.dispose()
        cursor.execute(f"DROP DATABASE {name}")
    connection.close()


def administrators() -> list[tuple[str, str]]:
    with reader() as session:
        return [tuple(row) for row in session.execute(text("SELECT username, password_hash FROM users"))]  # type: ignore[misc]


@pytest.mark.parametrize("password", ["elevenchars", "password12345678", "administrator", "x" * 257, "admin@bank.example"])
def test_an_administrators_password_is_held_to_the_rules(empty: Flask, password: str) -> None:
    with pytest.raises(click.ClickException, match=r"^BANK_ADMIN_PASSWORD: ") as error:
        make_administrator(password, 12)
    assert password not in error.value.message
    assert administrators() == []


def test_a_good_one_makes_the_administrator_and_later_ones_change_nothing(empty: Flask) -> None:
    make_administrator(None, 12)
    assert administrators() == []
    make_administrator(GOOD, 12)
    [(name, hashed)] = administrators()
    assert name == "admin" and passwords.verify(hashed, GOOD)
    # Who has an administrator starts, whatever stands in the environment since long before there were rules.
    make_administrator("short", 12)
    assert administrators() == [(name, hashed)]
